"""Classifiers of pictures by name: torchvision's architectures with a head of one's own, and two small ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medsal.errors import UsageError

SMALL = ("densenet_small", "resnet_small")
"""Networks of 30 000 and 80 000 weights for the embedded sets: MONAI's, with few layers and channels."""
_RATES = {"resnet_small": 0.01, "densenet_small": 0.004}
"""Found by trial on the planted films; 0.01 teaches ``densenet_small`` nothing."""
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


def film_classifier(
    architecture: str = "densenet_small",
    *,
    num_classes: int = 2,
    in_channels: int = 3,
    pretrained: str | Path | None = None,
) -> nn.Module:
    """Make a classifier; nothing is downloaded.

    The auxiliary heads of ``inception_v3`` and ``googlenet`` are left out: they take no part in a prediction, and
    training without them needs no loss of its own.

    Args:
        architecture: one of ``SMALL``, or a classifier of ``torchvision.models`` such as ``inception_v3``,
            ``densenet121``, ``densenet201``, ``googlenet``, ``mobilenet_v2``, ``resnet18``, ``resnet101``.
        num_classes: how many logits it gives.
        in_channels: of the image; torchvision's take 3.
        pretrained: a file with torchvision's ImageNet weights of this very architecture; random weights without it.

    Returns:
        The network, in training mode.

    Raises:
        UsageError: if the architecture is unknown, is given other channels than it takes, or the weights do not fit it.

    Example:
        >>> network = film_classifier("resnet_small", num_classes=4, in_channels=1)
        >>> network(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 4])
    """
    if architecture in SMALL:
        if pretrained:
            raise UsageError(f"pretrained: there are no ImageNet weights of {architecture}; leave it out")
        return _small(architecture, num_classes, in_channels)
    if in_channels != 3:
        raise UsageError(f"in_channels: {architecture} takes 3, got {in_channels}")
    network = _torchvision(architecture)
    if pretrained:
        _load(network, architecture, Path(pretrained))
    name, head = _head(network, architecture)
    network.set_submodule(name, nn.Linear(head.in_features, num_classes))
    return network


def learning_rate(architecture: str, pretrained: str | Path | None = None) -> float:
    """A learning rate to begin with: the highest of one cycle of AdamW with batches of 16.

    Args:
        architecture: as `film_classifier` takes it.
        pretrained: given where training begins with ImageNet weights.

    Returns:
        That of a small network; 0.001 for any other, 0.0001 where it is pretrained.

    Example:
        >>> learning_rate("densenet_small"), learning_rate("densenet121")
        (0.004, 0.001)
    """
    return _RATES.get(architecture, 1e-4 if pretrained else 1e-3)


def _small(architecture: str, num_classes: int, in_channels: int) -> nn.Module:
    from monai.networks.nets import DenseNet, ResNet

    if architecture == "densenet_small":
        dense: nn.Module = DenseNet(
            2, in_channels, num_classes, init_features=16, growth_rate=8, block_config=(2, 2, 2, 2), bn_size=2
        )
        return dense
    residual: nn.Module = ResNet(
        "basic", [1, 1, 1, 1], [8, 16, 32, 64], spatial_dims=2, n_input_channels=in_channels, num_classes=num_classes,
        conv1_t_size=7, conv1_t_stride=2,
    )  # fmt: skip
    return residual


def _torchvision(architecture: str) -> nn.Module:
    from torchvision import models

    known = sorted({*SMALL, *models.list_models(module=models)})
    if architecture not in known:
        from difflib import get_close_matches

        near = get_close_matches(architecture, known, n=3) or ["densenet121", "inception_v3", "resnet18"]
        raise UsageError(
            f"architecture: wanted a classifier of torchvision such as {', '.join(near)}, got {architecture!r}"
        )
    heads = {"inception_v3": {"aux_logits": False}, "googlenet": {"aux_logits": False}}
    options: dict[str, Any] = {"init_weights": True, **heads[architecture]} if architecture in heads else {}
    network: nn.Module = models.get_model(architecture, weights=None, **options)
    return network


def _load(network: nn.Module, architecture: str, path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"pretrained: no file {str(path)!r}; wanted torchvision's ImageNet weights of {architecture}")
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise UsageError(f"pretrained: {path} holds no state dict; wanted torchvision's weights of {architecture}")
    state = {name: value for name, value in found.items() if not name.startswith(_AUXILIARY)}
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UsageError(f"pretrained: {path} does not fit {architecture}: {first[:200]}") from error


def _head(network: nn.Module, architecture: str) -> tuple[str, nn.Linear]:
    """The last linear layer and its name: what gives the logits in torchvision's classifiers."""
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"architecture: {architecture} has no linear layer at its end that could be replaced")
    return linear[-1]
