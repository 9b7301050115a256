"""What all the classes share: a probe of the borrowed network, outputs chosen as MONAI chooses them, meta kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.classifier import borrowed
from medsal.attribution.features import layer_names
from medsal.attribution.images import plain_image
from medsal.attribution.probe import Probe
from medsal.attribution.target import Target
from medsal.errors import UsageError
from medsal.geometry import layer_affine
from medsal.inferers import WithArguments


class Output(Target):
    """An output of the network, by number as MONAI has it: the one logit of a network with a single output is number 0.

    Args:
        index: None (each image's own largest output), a number, or a number per image.
        batch: number of images.

    Raises:
        UsageError: if there is not one number for each image.
    """

    def __init__(self, index: Any, batch: int) -> None:
        super().__init__(index.detach().cpu() if isinstance(index, Tensor) else index, batch)
        self._single = False

    def resolve(self, logits: Tensor) -> None:
        """Fix the outputs, once the logits of the images are known.

        Args:
            logits: ``(B, K)``.

        Raises:
            UsageError: if an output does not exist.
        """
        if self._single:
            return
        if logits.shape[1] > 1:
            super().resolve(logits)
            return
        if self.classes is not None and self.classes.any():
            raise UsageError(f"class index: the network has the output 0 only, got {self.classes.tolist()}")
        self.classes, self._single = torch.ones(len(logits), dtype=torch.long), True


def network_of(module: Any) -> nn.Module:
    """The network itself.

    Args:
        module: a network, or MONAI's ``ModelWithHooks`` around one.

    Returns:
        The network.

    Raises:
        UsageError: if it is neither.
    """
    found = module.get_wrapped_net() if hasattr(module, "get_wrapped_net") else module
    if not isinstance(found, nn.Module):
        raise UsageError(f"network: wanted a torch.nn.Module, got {type(found).__name__}")
    return found


@contextmanager
def probed(
    network: nn.Module,
    x: Tensor,
    index: Any,
    needs: frozenset[str],
    layers: Any = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Iterator[Probe]:
    """Borrow the network for one batch.

    Args:
        network: the network.
        x: ``(B, C, *space)``, with or without meta.
        index: as ``Output`` takes it.
        needs: what will be read.
        layers: target layers.
        kwargs: further arguments of the network.

    Yields:
        The probe.
    """
    called = WithArguments(network, (), kwargs) if kwargs else network
    with torch.inference_mode(False), borrowed(called):
        plain = plain_image(x).contiguous()
        wanted = called.layer(layers) if isinstance(called, WithArguments) else layers
        yield Probe(called, plain, Output(index, len(plain)), needs, layer_names(called, wanted))


def dressed(maps: Any, x: Tensor, start: tuple[int, ...] | None = None) -> Any:
    """Give maps the meta of the image, with the affine of their own grid.

    Args:
        maps: ``(B, C, *map_space)``: over the field of view of the image, or the part of it that begins at ``start``.
        x: the image.
        start: first voxel of that part.

    Returns:
        A ``MetaTensor`` where the image is one, else the maps.
    """
    if not isinstance(maps, Tensor) or not hasattr(x, "copy_meta_from"):
        return maps
    from monai.data import MetaTensor

    found = MetaTensor(maps.as_subclass(Tensor)).copy_meta_from(x)
    if maps.ndim != x.ndim or (maps.shape[2:] == x.shape[2:] and start is None):
        return found
    affine = torch.as_tensor(x.affine)  # type: ignore[attr-defined]  # a MetaTensor has it
    each = affine if affine.ndim == 3 else affine[None]
    own = []
    for one in each:
        if start is None:
            own.append(layer_affine(one.cpu(), x.shape[2:], maps.shape[2:]))
        else:
            moved = layer_affine(one.cpu(), x.shape[2:], x.shape[2:])
            moved[:3, 3] += moved[:3, : len(start)] @ torch.tensor(start, dtype=moved.dtype)
            own.append(moved)
    found.affine = torch.stack(own) if affine.ndim == 3 else own[0]
    return found
