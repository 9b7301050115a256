"""Maps that know nothing of the network: what a method must beat, and what a metric must not be fooled by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medsal.errors import UsageError

TRAIN = "train"


def constant(image: Tensor) -> Tensor:
    """A map that says nothing.

    Args:
        image: ``(B, C, *space)``.

    Returns:
        Zeros, ``(B, 1, *space)``.
    """
    return torch.zeros(len(image), 1, *image.shape[2:])


def random(image: Tensor, *, seed: int = 0) -> Tensor:
    """Noise, uniform between 0 and 1.

    Args:
        image: ``(B, C, *space)``.
        seed: each image of a batch is given the noise that it has alone.

    Returns:
        ``(B, 1, *space)``.
    """
    one = torch.rand(1, 1, *image.shape[2:], generator=torch.Generator().manual_seed(seed))
    return one.expand(len(image), *one.shape[1:]).clone()


def centre_prior(image: Tensor, *, spread: float = 0.25) -> Tensor:
    """A Gaussian in the middle of the image: where findings lie when one knows no more.

    Args:
        image: ``(B, C, *space)``.
        spread: standard deviation as a share of each axis.

    Returns:
        ``(B, 1, *space)``, from 0 to 1.
    """
    found = torch.ones([1] * image.ndim)
    for axis in range(2, image.ndim):
        size = image.shape[axis]
        offset = (torch.arange(size) - (size - 1) / 2) / (spread * size)
        found = found * torch.exp(-(offset**2) / 2).view([-1 if at == axis else 1 for at in range(image.ndim)])
    return found.expand(len(image), *found.shape[1:]).clone()


def edge_filter(image: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient, the greatest of all channels: what a map that traces the image scores.

    Args:
        image: ``(B, C, *space)``.

    Returns:
        ``(B, 1, *space)``, not negative.
    """
    from scipy import ndimage

    plain = image.detach().as_subclass(Tensor).cpu().float().numpy()
    found = np.zeros((len(plain), 1, *plain.shape[2:]), dtype=np.float32)
    for row, channels in zip(found, plain, strict=True):
        for channel in channels:
            np.maximum(row[0], ndimage.generic_gradient_magnitude(channel, ndimage.sobel), out=row[0])
    return torch.from_numpy(found)


@dataclass(frozen=True)
class MaskPrior:
    """Where findings lay in the training cases.

    Attributes:
        relevance: ``(1, 1, *space)``, share of the training cases with a finding there.
        cases: the cases it was made from.
    """

    relevance: Tensor
    cases: frozenset[str]

    def __call__(self, case: str) -> Tensor:
        """The prior as the map of a case to be scored.

        Args:
            case: must not be one of those that the prior was made from.

        Returns:
            ``(1, 1, *space)``.

        Raises:
            UsageError: if the prior was made from this case's own truth.
        """
        if case in self.cases:
            raise UsageError(
                f"the mean training mask was made from {case}: it cannot be scored with its own truth in it"
            )
        return self.relevance


def mean_training_mask(masks: Iterable[tuple[str, Tensor]], splits: Mapping[str, str]) -> MaskPrior:
    """Mean of the training masks. Truth of any other split is refused: it would score itself.

    Args:
        masks: ``(case, mask)``, each ``(1, *space)`` on one common grid; only their sum is kept.
        splits: case -> split; the training split is called ``"train"``.

    Returns:
        The prior.

    Raises:
        UsageError: if a case is of another split or unknown, comes twice, lies on another grid, or none came.
    """
    total: Tensor | None = None
    cases: set[str] = set()
    for case, mask in masks:
        if splits.get(case) != TRAIN:
            raise UsageError(
                f"mean training mask: wanted cases of the split {TRAIN!r}, got {case} of {splits.get(case)!r}"
            )
        if case in cases:
            raise UsageError(f"mean training mask: {case} came twice")
        binary = (mask.as_subclass(Tensor) > 0).float()
        if total is not None and binary.shape != total.shape:
            raise UsageError(
                f"mean training mask: wanted the grid {tuple(total.shape)}, got {tuple(binary.shape)} for {case}"
            )
        total = binary if total is None else total.add_(binary)
        cases.add(case)
    if total is None:
        raise UsageError("mean training mask: wanted at least one training case, got none")
    return MaskPrior((total / len(cases))[None], frozenset(cases))


def other_patient(patients: Sequence[str], *, seed: int = 0) -> list[int]:
    """For each case, which other patient's map stands in for its own.

    Args:
        patients: whose each case is.
        seed: of the draw.

    Returns:
        An index for each case, of a case of another patient.

    Raises:
        UsageError: if all cases are one patient's.
    """
    owners = np.array(patients, dtype=str)
    if len(set(patients)) < 2:
        raise UsageError(f"another patient's map: wanted two patients or more, got {len(set(patients))}")
    generator = np.random.default_rng(seed)
    return [int(generator.choice(np.flatnonzero(owners != owner))) for owner in owners]


def shuffled(relevance: Tensor, *, seed: int = 0) -> Tensor:
    """The same values in other places.

    Args:
        relevance: ``(B, 1, *space)``.
        seed: each map of a batch is shuffled as it is alone.

    Returns:
        Of the same shape.
    """
    order = torch.randperm(relevance[0].numel(), generator=torch.Generator().manual_seed(seed))
    return relevance.flatten(1)[:, order].view(relevance.shape)


def checkerboard(image: Tensor) -> Tensor:
    """A pattern of 0 and 1 in turns along every axis: what strided layers leave in gradients.

    Args:
        image: ``(B, C, *space)``.

    Returns:
        ``(B, 1, *space)``.
    """
    places = torch.meshgrid(*(torch.arange(size) for size in image.shape[2:]), indexing="ij")
    one = (torch.stack(places).sum(0) % 2).float()
    return one.expand(len(image), 1, *one.shape).clone()


def one_outlier(image: Tensor, *, seed: int = 0) -> Tensor:
    """One voxel far above all others: what normalising by the maximum makes of a map.

    Args:
        image: ``(B, C, *space)``.
        seed: of the voxel's place.

    Returns:
        ``(B, 1, *space)``.
    """
    found = random(image, seed=seed)
    at = int(torch.randint(found[0].numel(), (1,), generator=torch.Generator().manual_seed(seed)))
    found.view(len(found), -1)[:, at] = 1e3
    return found


def adversaries(image: Tensor, other_mask: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Maps that no metric may take for an explanation.

    Args:
        image: ``(B, C, *space)``.
        other_mask: another patient's truth, ``(B, 1, *space)``.
        seed: of the random ones.

    Returns:
        Name -> map ``(B, 1, *space)``.
    """
    edges = edge_filter(image)
    return {
        "constant": constant(image),
        "all ones": torch.ones(len(image), 1, *image.shape[2:]),
        "one outlier": one_outlier(image, seed=seed),
        "checkerboard": checkerboard(image),
        "centre blob": centre_prior(image, spread=0.1),
        "edges": edges,
        "shuffled": shuffled(edges, seed=seed),
        "another patient's mask": other_mask.float(),
    }
