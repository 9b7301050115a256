"""Dictionary transforms that score maps: a value, what chance gives, and the reason where there is no answer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medsal.errors import UsageError
from medsal.evaluation.scorer import Answer, Scorer, unanswered

__all__ = [
    "SSIMD",
    "AuprcTrapezoidD",
    "AuprcTrapezoidDict",
    "AuprcTrapezoidd",
    "AveragePrecisionD",
    "AveragePrecisionDict",
    "AveragePrecisiond",
    "BestIoUD",
    "BestIoUDict",
    "BestIoUd",
    "DiceD",
    "DiceDict",
    "Diced",
    "EntropyD",
    "EntropyDict",
    "Entropyd",
    "IoUD",
    "IoUDict",
    "IoUd",
    "LayerCoverageD",
    "LayerCoverageDict",
    "LayerCoveraged",
    "LayerHitRateD",
    "LayerHitRateDict",
    "LayerHitRated",
    "PointingGameD",
    "PointingGameDict",
    "PointingGamed",
    "RegionScoresD",
    "RegionScoresDict",
    "RegionScoresd",
    "RelevanceMassD",
    "RelevanceMassDict",
    "RelevanceMassd",
    "RelevanceRankD",
    "RelevanceRankDict",
    "RelevanceRankd",
    "RocAucD",
    "RocAucDict",
    "RocAucd",
    "SSIMCorrectedD",
    "SSIMCorrectedDict",
    "SSIMCorrectedd",
    "SSIMDict",
    "SSIMd",
    "Scored",
    "SparsenessD",
    "SparsenessDict",
    "Sparsenessd",
    "SpearmanCorrectedD",
    "SpearmanCorrectedDict",
    "SpearmanCorrectedd",
    "SpearmanD",
    "SpearmanDict",
    "Spearmand",
    "TopKOverlapCorrectedD",
    "TopKOverlapCorrectedDict",
    "TopKOverlapCorrectedd",
    "TopKOverlapD",
    "TopKOverlapDict",
    "TopKOverlapd",
]

SCORES = "scores"
"""Key of a case under which the rows of all its scores are gathered."""


class Scored(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Score maps of a case by a row of ``medsal.METRICS`` that needs no network; the maps stay as they are.

    Under the output key comes the value, NaN where there is no answer; with ``_chance`` added what a map that knows
    nothing scores, NaN where the truth alone does not tell; with ``_reason`` added why there is no answer. They are
    numbers and text, of ``region_scores`` a tensor with one value for each region. Every score is also a row of the
    list under the key ``scores``, which ``medsal.handlers.ScoreTable`` writes.

    Args:
        keys: relevance maps ``(1, *space)``, without batch.
        metric: name of the metric.
        truth: key of what maps are held against, on their grid: by default ``mask``, ``layers``, ``labels`` or, for
            another map, ``other``, whichever the metric takes.
        ignore: key of the voxels that do not count.
        side: of signed relevance: ``absolute``, ``positive``, ``negative`` or ``as is``.
        output: output key, of ``{key}`` and ``{metric}``.
        allow_missing_keys: pass where a map is missing; a missing truth is then the reason of no answer, and where
            there is nothing to ignore nothing is ignored.
        **options: of the metric. Without ``spacing`` a distance in mm is measured by the affine of the map.

    Raises:
        UsageError: if there is no such metric, side or option, the metric takes no such truth, or the output key has
            other fields.

    Example:
        >>> case = {"saliency": torch.tensor([[0.1, 0.9, 0.5]]), "mask": torch.tensor([[0, 1, 0]])}
        >>> scored = Scored("saliency", "pointing_game")(case)
        >>> scored["saliency_pointing_game"], round(scored["saliency_pointing_game_chance"], 3)
        (1.0, 0.333)
    """

    def __init__(
        self,
        keys: KeysCollection,
        metric: str,
        *,
        truth: str | None = None,
        ignore: str | None = None,
        side: str = "absolute",
        output: str = "{key}_{metric}",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scorer = Scorer(metric, side, options)
        for given, taken, what in ((truth, self.scorer.truth, "truth"), (ignore, self.scorer.ignores, "ignore")):
            if given and not taken:
                raise UsageError(f"{metric} takes no {what}, got {given!r}")
        self.truth = truth or self.scorer.truth
        self.ignore = ignore
        self.output = output
        self._name("")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Score the maps of one case.

        Args:
            data: the case.

        Returns:
            A copy with the scores.
        """
        case = dict(data)
        rows = list(case.get(SCORES, ()))
        for key in self.key_iterator(case):
            answer = self._answer(case, key)
            values, chance = answer.values[0], answer.chance[0]
            several = self.scorer.truth == "labels"
            name = self._name(key)
            case[name] = values if several else values.item()
            case[f"{name}_chance"] = chance if several else chance.item()
            case[f"{name}_reason"] = "; ".join(dict.fromkeys(filter(None, answer.reasons[0])))
            rows += self._rows(str(key), answer)
        case[SCORES] = rows
        return case

    def _answer(self, case: Mapping[Hashable, Any], key: Hashable) -> Answer:
        wanted = {"truth": self.truth, "ignore": self.ignore}
        given = {what: torch.as_tensor(case[name])[None] for what, name in wanted.items() if name in case}
        for what, name in wanted.items():
            if name and what not in given and not self.allow_missing_keys:
                raise UsageError(f"{self.scorer.metric} of {key}: the case has no {name!r}")
        if self.truth and "truth" not in given:
            return unanswered(1, f"no {self.truth}")
        return self.scorer(torch.as_tensor(case[key])[None], **given)

    def _rows(self, key: str, answer: Answer) -> list[dict[str, Any]]:
        """The scores of one map as rows of the table."""
        what = {"method": key, "metric": self.scorer.metric, "side": self.scorer.side}
        columns = zip(
            answer.parts, answer.values[0].tolist(), answer.chance[0].tolist(), answer.reasons[0], strict=True
        )
        return [
            {**what, "part": part, "value": value, "null": null, "reason": why} for part, value, null, why in columns
        ]

    def _name(self, key: Hashable) -> str:
        try:
            return self.output.format(key=key, metric=self.scorer.metric)
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(f"output: wanted text with {{key}} and {{metric}}, got {self.output!r}") from error


class _Named(Scored):
    """A transform of the family."""

    metric = ""

    def __init__(self, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, self.metric, **kwargs)


def _family(name: str, metric: str) -> type[_Named]:
    told = f"``Scored`` by ``{metric}``; takes its other arguments."
    return type(name, (_Named,), {"metric": metric, "__doc__": told, "__module__": __name__})


AveragePrecisionD = AveragePrecisionDict = AveragePrecisiond = _family("AveragePrecisiond", "average_precision")
AuprcTrapezoidD = AuprcTrapezoidDict = AuprcTrapezoidd = _family("AuprcTrapezoidd", "auprc_trapezoid")
RocAucD = RocAucDict = RocAucd = _family("RocAucd", "roc_auc")
PointingGameD = PointingGameDict = PointingGamed = _family("PointingGamed", "pointing_game")
RelevanceMassD = RelevanceMassDict = RelevanceMassd = _family("RelevanceMassd", "relevance_mass")
RelevanceRankD = RelevanceRankDict = RelevanceRankd = _family("RelevanceRankd", "relevance_rank")
IoUD = IoUDict = IoUd = _family("IoUd", "iou")
DiceD = DiceDict = Diced = _family("Diced", "dice")
BestIoUD = BestIoUDict = BestIoUd = _family("BestIoUd", "best_iou")
LayerHitRateD = LayerHitRateDict = LayerHitRated = _family("LayerHitRated", "layer_hit_rate")
LayerCoverageD = LayerCoverageDict = LayerCoveraged = _family("LayerCoveraged", "layer_coverage")
RegionScoresD = RegionScoresDict = RegionScoresd = _family("RegionScoresd", "region_scores")
SparsenessD = SparsenessDict = Sparsenessd = _family("Sparsenessd", "sparseness")
EntropyD = EntropyDict = Entropyd = _family("Entropyd", "entropy")
SSIMD = SSIMDict = SSIMd = _family("SSIMd", "ssim")
SSIMCorrectedD = SSIMCorrectedDict = SSIMCorrectedd = _family("SSIMCorrectedd", "ssim_corrected")
SpearmanD = SpearmanDict = Spearmand = _family("Spearmand", "spearman")
SpearmanCorrectedD = SpearmanCorrectedDict = SpearmanCorrectedd = _family("SpearmanCorrectedd", "spearman_corrected")
TopKOverlapD = TopKOverlapDict = TopKOverlapd = _family("TopKOverlapd", "top_k_overlap")
TopKOverlapCorrectedD = TopKOverlapCorrectedDict = TopKOverlapCorrectedd = _family(
    "TopKOverlapCorrectedd", "top_k_overlap_corrected"
)
