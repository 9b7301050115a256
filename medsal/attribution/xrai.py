"""XRAI: regions of an image ranked by the attribution that they hold, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsal.attribution.baseline import Baseline, baseline_images
from medsal.attribution.path import column
from medsal.attribution.path import quadrature as rule
from medsal.attribution.probe import Probe
from medsal.attribution.regions import Regions, region_ranking, regions_of
from medsal.attribution.relevance import reduce_channels
from medsal.attribution.segments import (
    Array,
    Felzenszwalb,
    GivenSegments,
    Segmentation,
    Segments,
)
from medsal.attribution.supervoxels import Supervoxels
from medsal.errors import UsageError

SEGMENTS = "segments"
"""What a method needs that ranks the segments of an image."""


def xrai(
    probe: Probe,
    *,
    mode: str = "full",
    segments: str | Segmentation | Tensor | Array | Sequence[Any] = "auto",
    baselines: Sequence[Baseline] = ("min", "max"),
    steps: int = 100,
    quadrature: str = "midpoint",
    channels: str = "sum",
) -> Tensor:
    r"""Mean attribution of regions, found by ranking overlapping segments by how much they gain.

    Integrated gradients are averaged over the baselines; then :func:`region_ranking` takes segment after segment, each
    with :math:`\mathrm{mean}_{v \in S \setminus T} A(v)` where T is what was taken before. Kapishnikov et al. 2019,
    arXiv:1906.02825, and in 3D with supervoxels. PAIR's own program, in 2D, is ``quadrature="paper_2021"`` and
    ``channels="max"``. The defaults are the rule with the smaller error on ReLU networks at this many steps, which
    never looks at the baseline itself, where all places of a max pool are equal, and the reduction that keeps
    completeness. The claim ``mass_gap`` is the sum of the map minus that of the attribution, ``baseline_gaps`` the
    completeness gap for each baseline, ``regions`` the number of segments.

    Args:
        probe: the images under study.
        mode: ``full``, or ``fast``, which ranks the segments once.
        segments: ``auto`` (``felzenszwalb`` for pictures and volumes of one slice, ``supervoxels`` for volumes), a
            ``Felzenszwalb`` or ``Supervoxels`` with other parameters, ``GivenSegments``, label images (0 is no segment)
            or masks ``(*space)``, one or a sequence, the same for every image; an array ``(B, N, *space)`` gives each
            image its own N. Or a function from an image ``(C, *space)`` and its spacing in mm to any of these, which
            must always give the same for the same.
        baselines: where the paths start, see ``baseline_images``.
        steps: number of points on each path.
        quadrature: a name of ``QUADRATURES``.
        channels: reduction of the channels, a name of ``REDUCTIONS``.

    Returns:
        Signed relevance ``(B, 1, *space)`` in units of the score, constant over regions.
    """
    attribution = reduce_channels(_base_attribution(probe, baselines, steps, quadrature), channels)
    space = tuple(probe.image.shape[2:])
    maps, counts = [], []
    for index in range(len(probe.image)):
        regions = _regions(probe, index, _segmentation(segments, index, space))
        maps.append(region_ranking(attribution[index, 0].double().cpu().numpy(), regions, mode=mode))
        counts.append(regions.members.shape[0])
    relevance = torch.from_numpy(np.stack(maps)).unsqueeze(1).to(attribution)
    gap = relevance.double().flatten(1).sum(1) - attribution.double().flatten(1).sum(1)
    probe.claim(mass_gap=gap, regions=torch.tensor(counts))
    return relevance


def _regions(probe: Probe, index: int, segmentation: Segmentation) -> Regions:
    """Regions of one image, remembered for other classes and modes."""
    key = ("regions", index, segmentation)
    if key not in probe.remembered:
        image = probe.image[index].double().cpu().numpy()
        found = segmentation(image, probe.spacing)
        found = found if isinstance(found, Segments) else GivenSegments(found)(image, probe.spacing)
        probe.remembered[key] = regions_of(found)
    known: Regions = probe.remembered[key]
    return known


def _base_attribution(probe: Probe, baselines: Sequence[Baseline], steps: int, quadrature: str) -> Tensor:
    """Mean of integrated gradients over baselines, ``(B, C, *space)``."""
    if not isinstance(baselines, list | tuple) or not baselines:
        raise UsageError(f"baselines: wanted a list of at least one baseline, got {baselines!r}")
    points, weights = rule(quadrature, steps)
    total, difference, gaps = torch.zeros_like(probe.image), torch.zeros_like(probe.score), []
    for baseline in baselines:
        start = baseline_images(probe, baseline)
        path = probe.image - start

        def point(rows: Tensor, index: Tensor, start: Tensor = start, path: Tensor = path) -> tuple[Tensor, Tensor]:
            alpha, weight = points[index.cpu()], weights[index.cpu()] * steps
            return start[rows] + column(alpha, path) * path[rows], column(weight, path)

        attribution = path * probe.mean_gradient(steps, point)
        explained = probe.score - probe.scores(start)
        gaps.append(attribution.double().flatten(1).sum(1) - explained.double())
        total += attribution / len(baselines)
        difference = difference + explained / len(baselines)
    probe.claim_completeness(total, difference)
    probe.claim(baseline_gaps=torch.stack(gaps, 1))
    return total


def _segmentation(wanted: Any, index: int, space: tuple[int, ...]) -> Segmentation:
    """The segmentation of one image of the batch."""
    if isinstance(wanted, str):
        if wanted == "auto":
            wanted = "felzenszwalb" if len(space) == 2 or 1 in space else "supervoxels"
        if wanted not in SEGMENTATIONS:
            raise UsageError(f"segments: wanted auto, {', '.join(SEGMENTATIONS)}, or segments, got {wanted!r}")
        return SEGMENTATIONS[wanted]
    if callable(wanted):
        found: Segmentation = wanted
        return found
    if isinstance(wanted, Tensor | np.ndarray) and wanted.ndim == len(space) + 2:
        wanted = list(wanted[index])
    elif isinstance(wanted, Tensor | np.ndarray) and wanted.ndim == len(space) + 1:
        wanted = list(wanted)
    return GivenSegments(wanted)


SEGMENTATIONS: dict[str, Segmentation] = {"felzenszwalb": Felzenszwalb(), "supervoxels": Supervoxels()}
"""Name -> segmentation with its default parameters."""
