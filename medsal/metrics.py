"""MONAI metrics of relevance: the rows of ``medsal.METRICS`` that need no network, summed up over a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction, evenly_divisible_all_gather
from torch import Tensor

from medsal.errors import UsageError
from medsal.evaluation.scorer import Scorer
from medsal.evaluation.truth import REASONS
from medsal.ledger import rank

__all__ = [
    "AuprcTrapezoidMetric",
    "AveragePrecisionMetric",
    "BestIoUMetric",
    "DiceMetric",
    "EntropyMetric",
    "IoUMetric",
    "LayerCoverageMetric",
    "LayerHitRateMetric",
    "PointingGameMetric",
    "RegionScoresMetric",
    "RelevanceMassMetric",
    "RelevanceMetric",
    "RelevanceRankMetric",
    "RocAucMetric",
    "SSIMCorrectedMetric",
    "SSIMMetric",
    "SparsenessMetric",
    "SpearmanCorrectedMetric",
    "SpearmanMetric",
    "TopKOverlapCorrectedMetric",
    "TopKOverlapMetric",
]

_LOG = logging.getLogger("medsal")


class RelevanceMetric(CumulativeIterationMetric):  # type: ignore[misc]  # MONAI has no type information
    """A metric of ``medsal.METRICS`` as MONAI's metrics are used: called for every batch, then ``aggregate``.

    ``y_pred`` is relevance ``(B, 1, *space)``, ``y`` the truth of the same shape, or of two channels, the second being
    voxels to ignore; both may be lists of channel-first tensors. A call gives ``(B, C)``, one column or one for each of
    ``regions``. Values are kept in float64 and gathered from all processes, also from those that saw no image. Images
    without an answer are NaN in the buffer; ``aggregate`` leaves them out, logs how many they are, and gives NaN, never
    0, where nothing is left.

    Args:
        metric: a name of ``medsal.METRICS``, of a metric that needs no network.
        side: of signed relevance that is read, see ``Scorer``.
        reduction: of MONAI: ``mean``, ``sum``, the same with ``_batch`` or ``_channel``, or ``none``.
        get_not_nans: whether ``aggregate`` also gives how many values there were.
        **options: of the metric.

    Raises:
        UsageError: if there is no such metric, side or option, or ``region_scores`` is not told which regions.

    Example:
        >>> metric = AveragePrecisionMetric()
        >>> metric(torch.tensor([[[0.1, 0.9, 0.5]]]), torch.tensor([[[False, True, False]]])).tolist()
        [[1.0]]
        >>> metric.aggregate().item()
        1.0
    """

    _synced: bool

    def __init__(
        self,
        metric: str,
        *,
        side: str = "absolute",
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.scorer = Scorer(metric, side, options)
        self.reduction = reduction
        self.get_not_nans = get_not_nans
        if self.scorer.truth == "labels" and not options.get("regions"):
            raise UsageError(f"{metric}: name the regions, or the columns of two batches might not be the same regions")
        self._columns = len(options["regions"]) if self.scorer.truth == "labels" else 1

    def __call__(self, y_pred: Tensor | Sequence[Tensor], y: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Score a batch and keep the values.

        Args:
            y_pred: relevance.
            y: the truth.

        Returns:
            ``(B, C)`` in float64.
        """
        values: Tensor = super().__call__(y_pred, y)[0]
        return values

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Score a batch: values, and for each image the number of the reason why it has no answer."""
        name = self.scorer.metric
        truth = ignore = None
        if self.scorer.truth is not None:
            if y is None:
                raise UsageError(f"{name}: wanted a truth for the maps, got none")
            truth, ignore = y[:, :1], y[:, 1:2] if y.shape[1] == 2 and self.scorer.ignores else None
            if y.shape[1] != (1 if ignore is None else 2):
                raise UsageError(f"{name}: wanted a truth of one channel, got {tuple(y.shape)}")
        answer = self.scorer(y_pred, truth, ignore)
        known = ["", *REASONS]
        said = [next(filter(None, reasons), "") for reasons in answer.reasons]
        codes = [known.index(reason) if reason in known else len(known) for reason in said]
        return answer.values, torch.tensor(codes, device=answer.values.device)

    def _sync(self) -> None:
        """As in MONAI, but a process that saw no image takes part: the others would wait for it for ever."""
        if self._synced:
            return
        nothing = [torch.empty(0, self._columns, dtype=torch.float64), torch.empty(0, dtype=torch.int64)]
        local = [torch.stack(values) for values in self._buffers] if self._buffers else nothing
        self._synced_tensors = [evenly_divisible_all_gather(values, concat=True) for values in local]
        self._synced = True

    def get_buffer(self) -> Tensor:
        """The values of all images of all processes.

        Returns:
            ``(images, C)`` in float64, NaN where there is no answer.
        """
        values: Tensor = super().get_buffer()[0]
        return values

    def left_out(self) -> dict[str, int]:
        """Count the images without an answer, of all processes.

        Returns:
            Reason -> how many images.
        """
        known = ["", *REASONS, self.scorer.row.no_answer]
        codes = super().get_buffer()[1].tolist()
        return {reason: codes.count(code) for code, reason in enumerate(known) if code and code in codes}

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Sum up all images of all processes.

        Args:
            reduction: instead of that given at construction.

        Returns:
            The value or values, NaN where there is none to sum up; with ``get_not_nans`` also how many there were.
        """
        values, reduction = self.get_buffer(), reduction or self.reduction
        missing = self.left_out()
        if missing and rank() == 0:
            why = ", ".join(f"{reason} ({count})" for reason, count in missing.items())
            _LOG.warning(
                "%s: %d of %d images have no answer: %s", self.scorer.metric, sum(missing.values()), len(values), why
            )
        found, counted = do_metric_reduction(values, reduction)
        if MetricReduction(reduction) is not MetricReduction.NONE:
            found = found.where(counted > 0, torch.nan)
        return (found, counted) if self.get_not_nans else found


class _Named(RelevanceMetric):
    """A metric of the family."""

    metric = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(self.metric, **kwargs)


def _family(name: str, metric: str) -> type[_Named]:
    told = f"``RelevanceMetric`` of ``{metric}``; takes its other arguments."
    return type(name, (_Named,), {"metric": metric, "__doc__": told, "__module__": __name__})


AveragePrecisionMetric = _family("AveragePrecisionMetric", "average_precision")
AuprcTrapezoidMetric = _family("AuprcTrapezoidMetric", "auprc_trapezoid")
RocAucMetric = _family("RocAucMetric", "roc_auc")
PointingGameMetric = _family("PointingGameMetric", "pointing_game")
RelevanceMassMetric = _family("RelevanceMassMetric", "relevance_mass")
RelevanceRankMetric = _family("RelevanceRankMetric", "relevance_rank")
IoUMetric = _family("IoUMetric", "iou")
DiceMetric = _family("DiceMetric", "dice")
BestIoUMetric = _family("BestIoUMetric", "best_iou")
LayerHitRateMetric = _family("LayerHitRateMetric", "layer_hit_rate")
LayerCoverageMetric = _family("LayerCoverageMetric", "layer_coverage")
RegionScoresMetric = _family("RegionScoresMetric", "region_scores")
SparsenessMetric = _family("SparsenessMetric", "sparseness")
EntropyMetric = _family("EntropyMetric", "entropy")
SSIMMetric = _family("SSIMMetric", "ssim")
SSIMCorrectedMetric = _family("SSIMCorrectedMetric", "ssim_corrected")
SpearmanMetric = _family("SpearmanMetric", "spearman")
SpearmanCorrectedMetric = _family("SpearmanCorrectedMetric", "spearman_corrected")
TopKOverlapMetric = _family("TopKOverlapMetric", "top_k_overlap")
TopKOverlapCorrectedMetric = _family("TopKOverlapCorrectedMetric", "top_k_overlap_corrected")
