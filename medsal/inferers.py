"""Attribution as a MONAI inferer: any list of methods in place of ``SaliencyInferer``'s one CAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medsal.attribution.choice import MethodsLike
from medsal.attribution.explain import Explanation, explain
from medsal.attribution.presets import PRESETS
from medsal.errors import UsageError

MEMORY_FORMATS: dict[str, torch.memory_format | None] = {
    "auto": None,
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
"""Layouts of the images in memory, by the names that configs use."""

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of autocast, by the names that configs use."""


def memory_format_of(name: str) -> torch.memory_format | None:
    """Read the layout of images in memory as a config has it.

    Args:
        name: of ``MEMORY_FORMATS``.

    Returns:
        What ``explain`` takes.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in MEMORY_FORMATS:
        raise UsageError(f"memory_format: wanted one of {', '.join(MEMORY_FORMATS)}, got {name!r}")
    return MEMORY_FORMATS[name]


def precision_of(name: str | torch.dtype | None) -> torch.dtype | None:
    """Read the precision of autocast as a config has it.

    Args:
        name: of ``PRECISIONS``, or one of these; None, ``""`` or ``"null"`` is none.

    Returns:
        What ``explain`` takes.

    Raises:
        UsageError: if it is neither.

    Example:
        >>> precision_of("bfloat16")
        torch.bfloat16
    """
    if name is None or name in {"", "null"}:
        return None
    if isinstance(name, torch.dtype) and name in PRECISIONS.values():
        return name
    if name not in PRECISIONS:
        raise UsageError(f"autocast: wanted null, {' or '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[str(name)]


class WithArguments(nn.Module):
    """A network that is always called with the same further arguments.

    Args:
        network: the network.
        args: further positional arguments.
        kwargs: further arguments by keyword.
    """

    def __init__(self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.args, self.kwargs = args, dict(kwargs)
        if hasattr(network, "slice_axis"):
            self.slice_axis = network.slice_axis

    def forward(self, image: Tensor) -> Any:
        """Call the network.

        Args:
            image: ``(N, C, *space)``.

        Returns:
            What the network returns.
        """
        return self.network(image, *self.args, **self.kwargs)

    def layer(self, wanted: Any) -> Any:
        """A target layer as the user names it, as this module knows it.

        Args:
            wanted: what ``explain`` takes as ``target_layer``.

        Returns:
            The same layer or layers.
        """
        if isinstance(wanted, str):
            return f"network.{wanted}"
        if isinstance(wanted, list | tuple):
            return [self.layer(one) for one in wanted]
        if callable(wanted) and not isinstance(wanted, nn.Module):
            return lambda _: wanted(self.network)
        return wanted


class AttributionInferer(Inferer):  # type: ignore[misc]  # MONAI is untyped
    """Gives relevance by any number of methods instead of logits, from shared passes.

    Where MONAI's ``SaliencyInferer`` takes one CAM, this takes every row of ``medsal.METHODS``, or a preset. In a
    bundle it stands under the id ``inferer``; the ``pred`` of the engine is then the explanation, which
    ``FlattenSubKeysd(keys="pred", sub_keys=[...])`` takes apart for ``Invertd`` and ``SaveImaged``.

    Args:
        methods: as ``medsal.explain`` takes them, or the name of a preset.
        **options: further options of ``medsal.explain``: ``target``, ``target_layer``, ``options``, ``seed``,
            ``memory_budget``, ``memory_format`` and ``autocast``, the last two also by name.

    Raises:
        UsageError: if ``memory_format`` or ``autocast`` is no known name.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
        >>> found = AttributionInferer(["saliency", "gradcam"], target=1)(torch.rand(3, 1, 8, 8), network)
        >>> list(found), tuple(found["gradcam"].shape)
        (['saliency', 'gradcam'], (3, 1, 8, 8))
    """

    def __init__(self, methods: MethodsLike, **options: Any) -> None:
        super().__init__()
        self.methods = methods
        if isinstance(methods, str) and methods in PRESETS:
            preset = PRESETS[methods].arguments()
            self.methods, options = preset["methods"], {"target": preset["target"], **options}
        if isinstance(options.get("memory_format"), str):
            options["memory_format"] = memory_format_of(options["memory_format"])
        if "autocast" in options:
            options["autocast"] = precision_of(options["autocast"])
        self.options = options

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
        """Explain a batch.

        Args:
            inputs: ``(B, C, *space)``, a ``MetaTensor`` or a tensor.
            network: a classifier.
            *args: further arguments of the network.
            **kwargs: further arguments of the network, by keyword.

        Returns:
            Name of each map -> relevance ``(B, 1, *space)``, a ``MetaTensor`` where the inputs are one.

        Raises:
            UsageError: if the network is no module: its layers and modes could not be looked after.
        """
        if not isinstance(network, nn.Module):
            raise UsageError(f"network: wanted a torch.nn.Module, got {type(network).__name__}")
        if not args and not kwargs:
            return explain(network, inputs, self.methods, **self.options)
        called = WithArguments(network, args, kwargs)
        options = {**self.options, "target_layer": called.layer(self.options.get("target_layer"))}
        return explain(called, inputs, self.methods, **options)
