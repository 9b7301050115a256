"""The best that a map could score: no more than boxes, the grid of a layer, or another reader allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medsal.errors import InputError
from medsal.evaluation import METRICS
from medsal.evaluation.ceiling import brought_back, ellipsoid, reader_ceiling
from medsal.evaluation.layers import GRADED
from medsal.scoring.case import ScoredCase
from medsal.scoring.questions import Question

NONE = (math.nan, "")


class Ceilings:
    """Ceilings of one case, each computed once.

    Args:
        case: the case.
    """

    def __init__(self, case: ScoredCase) -> None:
        self.case = case
        self.ignore = None if case.ignore is None else case.checked("ignore", case.ignore)
        self.known: dict[tuple[int, tuple[int, ...]], tuple[float, str]] = {}

    def of(self, question: Question, method: str) -> tuple[float, str]:
        """The ceiling of a question for the maps of a method: the lowest of those that are known.

        Args:
            question: the question.
            method: whose map is scored; a CAM's is no finer than its layer.

        Returns:
            The ceiling and what sets it: ``outline``, ``box geometry``, ``layer grid 11x7x6``, ``reader``, ``layers``;
            NaN and nothing where there is none.

        Raises:
            InputError: if the layer's grid has another number of axes than the image or is finer.
        """
        grid = tuple(self.case.grids.get(method, ()))
        key = (id(question), grid)
        if key not in self.known:
            self.known[key] = self._of(question, method, grid)
        return self.known[key]

    def _of(self, question: Question, method: str, grid: tuple[int, ...]) -> tuple[float, str]:
        if question.truth is None:
            return NONE
        family = METRICS[question.metric].family
        if family == "layers":
            return _of_layers(question)
        if family != "localisation":
            return NONE
        outline = (float(METRICS[question.metric].range[1]), "outline")
        return min(self._candidates(question, method, grid), default=outline)

    def _candidates(self, question: Question, method: str, grid: tuple[int, ...]) -> list[tuple[float, str]]:
        def metric(relevance: Tensor, _: Tensor) -> Tensor:
            return _uncut(question, relevance).scores(relevance, self.ignore)[0]

        truth = question.truth if question.truth is not None else torch.zeros(1)
        found = []
        if self.case.boxes or grid:
            perfect, what = self._perfect(truth, method, grid)
            found.append((float(metric(perfect, truth)[0]), what))
        if self.case.readers:
            readers = [self.case.checked("reader", reader) for reader in self.case.readers]
            found.append((float(reader_ceiling(metric, truth, readers)[0]), "reader"))
        return [one for one in found if not math.isnan(one[0])]

    def _perfect(self, truth: Tensor, method: str, grid: tuple[int, ...]) -> tuple[Tensor, str]:
        """The best map: findings that fill their boxes as ellipses do, no finer than a layer's grid."""
        names = ["box geometry"] if self.case.boxes else []
        found = in_boxes(truth.bool()).float() if self.case.boxes else truth.float()
        if grid:
            space = self.case.space
            if len(grid) != len(space) or any(not 1 <= g <= n for g, n in zip(grid, space, strict=True)):
                raise InputError(
                    f"{self.case.case}: {method}: wanted the grid of a layer of {len(space)} axes no finer than the "
                    f"image {space}, got {grid}"
                )
            found = brought_back(torch.nn.functional.interpolate(found, size=grid, mode="area"), space, "linear")
            names.append(f"layer grid {'x'.join(map(str, grid))}")
        return found, ", ".join(names)


def _uncut(question: Question, perfect: Tensor) -> Question:
    """A mask is cut between 0 and 1 whatever the threshold; a number that was meant for maps cuts no perfect one."""
    if question.metric not in {"iou", "dice"}:
        return question
    cut = question.options.get("threshold", "area")
    if ((perfect == 0) | (perfect == 1)).all():
        cut = 0.5
    return replace(question, options={"threshold": "area" if not isinstance(cut, str) and cut != 0.5 else cut})


def in_boxes(mask: Tensor) -> Tensor:
    """The ellipse or ellipsoid in the box of each connected part of a mask; boxes that overlap count as one.

    Args:
        mask: drawn from boxes, boolean ``(1, 1, *space)``.

    Returns:
        Boolean, of that shape, nothing outside of the mask.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask[0, 0].numpy())
    boxes: Sequence[Sequence[tuple[int, int]]] = [
        [(axis.start, axis.stop) for axis in box] for box in ndimage.find_objects(labels)
    ]
    return ellipsoid(boxes, mask.shape[2:]) & mask


def _of_layers(question: Question) -> tuple[float, str]:
    """All relevance in the layers that count most, none in the background."""
    if question.metric == "layer_coverage":
        part = question.options.get("part", "mean")
        return _coverage(question) if part == "weighted" else (float(part != "background"), "layers")
    scores, other = question.options.get("scores", GRADED), question.options.get("other", -1)
    codes = torch.unique(question.truth).tolist()
    return float(max(scores.get(code, other) for code in codes)), "layers"


def _coverage(question: Question) -> tuple[float, str]:
    truth = question.truth if question.truth is not None else torch.zeros(1)
    return float(question.scores(torch.ones(truth.shape), None)[0, 0]), "layers"
