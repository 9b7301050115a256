"""Evaluation: scores of relevance against truth, each with what chance gives. ``METRICS`` is the table of all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from medsal.evaluation.complexity import entropy, sparseness
from medsal.evaluation.confidence import drop_in_confidence, increase_in_confidence
from medsal.evaluation.faithfulness import deletion, infidelity, insertion, sensitivity_max
from medsal.evaluation.layers import layer_coverage, layer_hit_rate, mean_score
from medsal.evaluation.localisation import (
    auprc_trapezoid,
    average_precision,
    pointing_chance,
    pointing_game,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from medsal.evaluation.overlap import best_iou, dice, iou
from medsal.evaluation.regions import region_scores
from medsal.evaluation.similarity import (
    spearman,
    spearman_corrected,
    ssim,
    ssim_corrected,
    top_k_overlap,
    top_k_overlap_corrected,
)
from medsal.evaluation.truth import no_answer, prevalence

INF = float("inf")
INCREASING, SCALE, FLIP, PERMUTE = "increasing transform", "positive factor", "flip of axes", "order of voxels"
"""What may be done to a map (and to its truth, where places change) without another score."""
MASK, LAYERS, LABELS = ("relevance", "mask"), ("relevance", "layers"), ("relevance", "labels")
NETWORK = ("network", "image", "relevance")
PAIR = ("relevance", "other")
WANG, SPEARMAN = "Wang 2004, doi:10.1109/TIP.2003.819861", "Spearman 1904, doi:10.2307/1412159"
AGARWAL = "Agarwal 2022, arXiv:2206.11104"
NOTHING_THERE = "no relevance on the side that is read"


@dataclass(frozen=True)
class Metric:
    """One row of the table: a metric and what is true of it, with default options.

    Attributes:
        function: gives ``(B,)`` in float64, NaN where there is no answer; ``region_scores`` gives ``(B, R)``.
        family: ``localisation``, ``layers``, ``regions``, ``similarity``, ``complexity``, ``confidence`` or
            ``faithfulness``.
        paper: where it was published.
        range: lowest and highest value.
        better: which end is better, ``higher`` or ``lower``; of a part that has another, see ``better_end``.
        chance: what a map that knows nothing scores: a function of the truth, or words.
        signed: how signs are read: ``positive part``, ``magnitude`` or ``as is``.
        takes: what it is a function of.
        invariances: of ``INCREASING``, ``SCALE``, ``FLIP``, ``PERMUTE``.
        no_answer: when it is NaN for a finite map, in words.
        cost: forwards of the network for one image; backwards of a method count too.
        legacy: whether it is kept for comparison with published numbers only.
        reversed_parts: parts of it, or the words that they begin with, of which the other end is better.
    """

    function: Callable[..., Tensor]
    family: str
    paper: str
    range: tuple[float, float]
    better: str
    chance: str | Callable[..., Tensor]
    signed: str = "as is"
    takes: tuple[str, ...] = MASK
    invariances: frozenset[str] = frozenset()
    no_answer: str = "truth empty or everywhere"
    cost: float = 0.0
    legacy: bool = False
    reversed_parts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The metric's name, that of its function."""
        return self.function.__name__

    def better_end(self, part: str = "") -> str:
        """Which end is better of a part of the metric.

        Args:
            part: its name; nothing where the metric is one number.

        Returns:
            ``higher`` or ``lower``.

        Example:
            >>> METRICS["layer_coverage"].better_end(), METRICS["layer_coverage"].better_end("background")
            ('higher', 'lower')
        """
        other = "lower" if self.better == "higher" else "higher"
        return other if {part, part.partition(" ")[0]} & set(self.reversed_parts) else self.better

    def chance_value(self, truth: Tensor, **options: Any) -> Tensor | None:
        """What a map that knows nothing scores against this truth.

        Args:
            truth: the second of what the metric takes, ``(B, 1, *space)``.
            **options: those of the metric; the ones that do not change chance are left out.

        Returns:
            ``(B,)`` in float64; None where it is not a function of the truth alone.
        """
        if not callable(self.chance):
            return None
        known = inspect.signature(self.chance).parameters
        return self.chance(truth, **{name: value for name, value in options.items() if name in known})

    def reasons(
        self, scores: Tensor, relevance: Tensor, truth: Tensor | None = None, ignore: Tensor | None = None
    ) -> list[str]:
        """Say why scores are NaN.

        Args:
            scores: ``(B,)``, what the metric gave.
            relevance: ``(B, 1, *space)``.
            truth: the mask, layers or labels, where the metric takes any.
            ignore: voxels that did not count.

        Returns:
            For each image ``""`` where there is a score, or the reason.
        """
        masked = truth is not None and self.takes == MASK
        blank = torch.zeros_like(relevance, dtype=torch.bool)
        known = no_answer(relevance, truth if masked and truth is not None else blank, ignore)
        found = [why if masked or why == "map not finite" else "" for why in known]
        missing = scores.reshape(len(found), -1).isnan().any(1).tolist()
        return [(why or self.no_answer) if gone else "" for why, gone in zip(found, missing, strict=True)]


def one_half(mask: Tensor) -> Tensor:
    """One half, whatever the truth.

    Args:
        mask: ``(B, 1, *space)``.

    Returns:
        ``(B,)`` in float64.
    """
    return torch.full((len(mask),), 0.5, dtype=torch.float64, device=mask.device)


def _blank_trapezoid(mask: Tensor, ignore: Tensor | None = None) -> Tensor:
    return (1 + prevalence(mask, ignore)) / 2


def _blank_dice(mask: Tensor, ignore: Tensor | None = None) -> Tensor:
    return 2 * prevalence(mask, ignore) / (1 + prevalence(mask, ignore))


def _mask_row(function: Callable[..., Tensor], paper: str, *invariances: str, **facts: Any) -> Metric:
    facts = {"range": (0, 1), "better": "higher", "chance": prevalence, **facts}
    return Metric(function, "localisation", paper, invariances=frozenset({SCALE, FLIP, *invariances}), **facts)


def _pair_row(function: Callable[..., Tensor], paper: str, *invariances: str, **facts: Any) -> Metric:
    facts = {"range": (-INF, 1), "better": "higher", "chance": "0", "no_answer": "a map is constant", **facts}
    return Metric(function, "similarity", paper, takes=PAIR, invariances=frozenset(invariances), **facts)


def _network_row(function: Callable[..., Tensor], family: str, paper: str, **facts: Any) -> Metric:
    facts = {"takes": NETWORK, "no_answer": "", "chance": "the map in other places: shifted_control", **facts}
    return Metric(function, family, paper, **facts)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            # localisation: against a mask or boxes
            _mask_row(average_precision, "Davis 2006, doi:10.1145/1143844.1143874", INCREASING, PERMUTE),
            _mask_row(
                auprc_trapezoid, "Arun 2021, doi:10.1148/ryai.2021200267", INCREASING, PERMUTE,
                chance=_blank_trapezoid, legacy=True,
            ),
            _mask_row(
                roc_auc, "Hanley 1982, doi:10.1148/radiology.143.1.7063747", INCREASING, PERMUTE, chance=one_half
            ),
            _mask_row(pointing_game, "Zhang 2016, arXiv:1608.00507", INCREASING, PERMUTE, chance=pointing_chance),
            _mask_row(
                relevance_mass, "Arras 2022, arXiv:2003.07258", PERMUTE,
                signed="positive part", no_answer=f"truth empty or everywhere; {NOTHING_THERE}",
            ),
            _mask_row(relevance_rank, "Arras 2022, arXiv:2003.07258", INCREASING, PERMUTE),
            _mask_row(iou, "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x", INCREASING, PERMUTE),
            _mask_row(dice, "Dice 1945, doi:10.2307/1932409", INCREASING, PERMUTE, chance=_blank_dice),
            _mask_row(best_iou, "Choe 2020, arXiv:2001.07437", INCREASING, PERMUTE),
            # layers: against a map of codes
            Metric(
                layer_hit_rate, "layers", "Czajkowska 2021, doi:10.3390/s21175846", (-1, 3), "higher", mean_score,
                "positive part", LAYERS, frozenset({SCALE, FLIP, PERMUTE}), NOTHING_THERE,
            ),
            Metric(
                layer_coverage, "layers", "Czajkowska 2021, doi:10.3390/s21175846", (0, 1), "higher",
                "the mean of the map over its peak: mean_cover", "positive part", LAYERS,
                frozenset({SCALE, FLIP, PERMUTE}), f"the layer is not in the image; {NOTHING_THERE}",
                reversed_parts=("background",),
            ),
            # regions: of a label map
            Metric(
                region_scores, "regions", "Sümer 2023, PMLR 219:712-736", (-INF, INF), "higher",
                "the mean of the map; a share of the region's size: region_sizes", "as is", LABELS,
                frozenset({FLIP, PERMUTE}), "the region is not in the image; no relevance to share",
            ),
            # complexity: of the map alone
            Metric(
                sparseness, "complexity", "Chalasani 2020, arXiv:1810.06583", (0, 1), "higher",
                "no truth: 0 of a constant map", "magnitude", ("relevance",), frozenset({SCALE, FLIP, PERMUTE}),
                "the map is zero everywhere",
            ),
            Metric(
                entropy, "complexity", "Bhatt 2020, arXiv:2005.00631", (0, INF), "lower",
                "no truth: the logarithm of the number of voxels of a constant map", "magnitude", ("relevance",),
                frozenset({SCALE, FLIP, PERMUTE}), "the map is zero everywhere",
            ),
            # similarity: of two maps, both of 0 to 1 for ssim
            _pair_row(
                ssim, WANG, FLIP, range=(-1, 1), chance="depends on the maps: ssim_corrected",
                no_answer="both maps of one value, or smaller than the window",
            ),
            _pair_row(
                ssim_corrected, WANG, no_answer="both maps of one value, or smaller than the window",
            ),
            _pair_row(
                spearman, SPEARMAN, INCREASING, SCALE, FLIP, PERMUTE, range=(-1, 1),
            ),
            _pair_row(spearman_corrected, SPEARMAN, INCREASING, SCALE),
            _pair_row(
                top_k_overlap, AGARWAL, INCREASING, SCALE, FLIP, PERMUTE, range=(0, 1), chance="the share taken",
            ),
            _pair_row(top_k_overlap_corrected, AGARWAL, INCREASING, SCALE),
            # confidence and faithfulness: of the network
            _network_row(
                drop_in_confidence, "confidence", "Chattopadhay 2018, arXiv:1710.11063", range=(0, 1), better="lower",
                signed="positive part", invariances=frozenset({SCALE}), no_answer="confidence is 0", cost=2,
                reversed_parts=("remove",),
            ),
            _network_row(
                increase_in_confidence, "confidence", "Chattopadhay 2018, arXiv:1710.11063", range=(0, 1),
                better="higher", signed="positive part", invariances=frozenset({SCALE}), cost=2,
                reversed_parts=("remove",),
            ),
            _network_row(
                insertion, "faithfulness", "Petsiuk 2018, arXiv:1806.07421", range=(0, 1), better="higher",
                invariances=frozenset({SCALE, INCREASING}), cost=52,
            ),
            _network_row(
                deletion, "faithfulness", "Petsiuk 2018, arXiv:1806.07421", range=(0, 1), better="lower",
                invariances=frozenset({SCALE, INCREASING}), cost=52,
            ),
            _network_row(
                infidelity, "faithfulness", "Yeh 2019, arXiv:1901.09392", range=(0, INF), better="lower",
                chance="the value of a map of zeros", cost=51,
            ),
            _network_row(
                sensitivity_max, "faithfulness", "Yeh 2019, arXiv:1901.09392", range=(0, INF), better="lower",
                chance="0 of a method that does not look at the image", takes=("network", "image", "method"),
                no_answer="the map is zero everywhere or not finite", cost=22,
            ),
        )
    }
)  # fmt: skip
"""Name -> row, for every metric."""

__all__ = ["METRICS", "Metric", "average_precision", "pointing_game", "prevalence"]
