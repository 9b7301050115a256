"""The cases of a study: what is explained, in batches of one shape, and what is known of each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medsal.errors import InputError, UsageError

_LOG = logging.getLogger("medsal")


@dataclass(frozen=True)
class Keys:
    """Under which names a dataset's items hold what a study reads.

    Attributes:
        image: ``(C, *space)``, preprocessed as the networks want it; no random transform.
        case: a name of its own for each item.
        patient: whose it is; ``subject`` where an item has nothing there, else the case itself.
        label: the class; below 0 where it is not known. A study of performance needs it.
        truth: ``(1, *space)``, not 0 where the finding is; on the image's grid, or on one of its own with an affine.
    """

    image: str = "image"
    case: str = "case"
    patient: str = "patient"
    label: str = "label"
    truth: str = "mask"


@dataclass(frozen=True)
class Batch:
    """Images that are explained together.

    Attributes:
        number: from 0.
        at: their places among all cases.
    """

    number: int
    at: tuple[int, ...]


class Cases:
    """All cases of a study; images are read when they are needed.

    Args:
        items: a dataset of mappings.
        keys: their names.
        batch_size: most images in a batch; images of another shape begin a new one.

    Attributes:
        names: of the cases.
        patients: whose each is.
        labels: class of each, None where an item does not say.
        shapes: ``(C, *space)`` of each image.
        scored: whether each has a truth that a map can be scored against.
        digest: of all names, images, labels and truths.
        batches: in order.
        left_out: items that are no case -> why: they have ``fault`` or ``error`` (as ``medsal.data.CaseDataset`` has
            it), no image or name, an image that is not finite, a truth on another grid, or a label that is no class.

    Raises:
        InputError: if every item is left out; why the first one is.
        UsageError: if there is no item, or two have one name.
    """

    def __init__(self, items: Sequence[Mapping[str, Any]], keys: Keys | None = None, batch_size: int = 8) -> None:
        self.items, self.keys = items, keys or Keys()
        self.names: list[str] = []
        self.patients: list[str] = []
        self.labels: list[int | None] = []
        self.shapes: list[tuple[int, ...]] = []
        self.scored: list[bool] = []
        self.left_out: dict[str, str] = {}
        self._places: list[int] = []
        digest = hashlib.sha256()
        for number in range(len(items)):
            self._take(number, digest)
        if not self.names:
            for name, why in self.left_out.items():
                raise InputError(f"study: {name}: {why}")
            raise UsageError("study: wanted at least one case, got none")
        self.digest = digest.hexdigest()
        self.batches = self._batched(batch_size)

    def _take(self, number: int, digest: Any) -> None:
        """Take an item for a case, or put down why it is none."""
        item = self.items[number]
        name = str(item.get(self.keys.case, f"item {number}"))
        try:
            self._learn(name, item, digest)
        except InputError as error:
            self.left_out[name] = str(error)
            _LOG.warning("study: left out %s: %s", name, error)
        else:
            self._places.append(number)

    def _learn(self, name: str, item: Mapping[str, Any], digest: Any) -> None:
        why = item.get("fault") or item.get("error")
        if why or self.keys.image not in item or self.keys.case not in item:
            raise InputError(why or f"it has no {self.keys.image!r} or no {self.keys.case!r}")
        image, truth = _plain(item[self.keys.image]), self._truth(item)
        if name in self.names:
            raise UsageError(f"study: two cases are called {name!r}")
        if not image.isfinite().all():
            raise InputError("the image has values that are not finite")
        label, patient = _label(item.get(self.keys.label)), item.get(self.keys.patient)
        owner = next((one for one in (patient, item.get("subject")) if not _blank(one)), name)
        self.names.append(name)
        self.patients.append(str(owner))
        self.labels.append(label)
        self.shapes.append(tuple(image.shape))
        self.scored.append(truth is not None and bool(truth.any()) and not bool(truth.all()))
        digest.update(f"{name}/{self.patients[-1]}/{self.labels[-1]}/{tuple(image.shape)}".encode())
        digest.update(image.contiguous().numpy().tobytes())
        if truth is not None:
            digest.update(truth.numpy().tobytes())

    def item(self, at: int) -> Mapping[str, Any]:
        """The item of a case.

        Args:
            at: its place among the cases.

        Returns:
            What the dataset has.
        """
        return self.items[self._places[at]]

    def _batched(self, size: int) -> list[Batch]:
        found: list[list[int]] = []
        for at, shape in enumerate(self.shapes):
            if not found or len(found[-1]) >= size or self.shapes[found[-1][0]] != shape:
                found.append([])
            found[-1].append(at)
        return [Batch(number, tuple(places)) for number, places in enumerate(found)]

    def __len__(self) -> int:
        return len(self.names)

    def images(self, batch: Batch) -> Tensor:
        """Images of a batch.

        Args:
            batch: one of ``batches``.

        Returns:
            ``(B, C, *space)``, plain.
        """
        return torch.stack([_plain(self.item(at)[self.keys.image]) for at in batch.at])

    def truth(self, at: int) -> Tensor | None:
        """The truth of a case, on its image's grid.

        Args:
            at: its place.

        Returns:
            ``(1, 1, *space)``, boolean; None where there is none.
        """
        found = self._truth(self.item(at))
        return None if found is None else found[None]

    def _truth(self, item: Mapping[str, Any]) -> Tensor | None:
        truth, image = item.get(self.keys.truth), item[self.keys.image]
        if truth is None:
            return None
        if tuple(truth.shape[1:]) != tuple(image.shape[1:]):
            from medsal.geometry import to_grid

            if not (hasattr(truth, "affine") and hasattr(image, "affine")):
                raise InputError(f"the truth is {tuple(truth.shape)}, the image {tuple(image.shape)}")
            truth = to_grid(truth, image.affine, image.shape[1:], mode="nearest")
        return _plain(truth).gt(0).any(0, keepdim=True)


def _blank(value: Any) -> bool:
    return value is None or str(value).strip() in {"", "nan"}


def _label(value: Any) -> int | None:
    """A class; a table's empty cell and numbers below 0 are none."""
    if _blank(value):
        return None
    try:
        found = int(value)
        if found == float(value):
            return found if found >= 0 else None
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InputError(f"wanted the label to be the number of a class, got {value!r}")


def _plain(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().as_subclass(Tensor).cpu()
