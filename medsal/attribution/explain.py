"""One call, many methods, shared passes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsal.attribution import ALIASES, METHODS, Method
from medsal.attribution.classifier import borrowed, layer_names
from medsal.attribution.probe import Probe
from medsal.attribution.relevance import repeat_slices, resize
from medsal.attribution.target import Target, TargetLike
from medsal.errors import InputError, UsageError


class Explanation(dict[str, Tensor]):
    """Relevance by method, with what was explained and how.

    Attributes:
        logits: logits of the images, ``(B, K)``.
        target: the class that each image was explained for; None where the target was a callable.
        records: method -> what went into its map and what it says about itself, JSON-able.
    """

    def __init__(self, logits: Tensor, target: list[int | None]) -> None:
        super().__init__()
        self.logits = logits
        self.target = target
        self.records: dict[str, dict[str, Any]] = {}


def explain(  # noqa: PLR0913  the public door
    network: nn.Module,
    image: Tensor,
    methods: str | Iterable[str],
    *,
    target: TargetLike = None,
    target_layer: Any = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    memory_budget: int | None = None,
    memory_format: torch.memory_format | None = None,
) -> Explanation:
    """Explain the scores of images by any number of methods.

    What several methods need is computed once. The image, the network and the random state are left as found.

    Args:
        network: a classifier; called with ``(B, C, *space)`` it gives logits ``(B, K)``, alone or first in a tuple.
            One that takes the slices of a volume as channels declares so by an attribute ``slice_axis``.
        image: ``(B, C, *space)`` in 2D or 3D, a ``MetaTensor`` or a tensor; for a network with ``slice_axis`` a volume
            ``(B, 1, *space)``, or its slices ``(B, S, H, W)``.
        methods: names of ``METHODS``, or their aliases.
        target: None (each image's predicted class), a class, a class per image, or a callable from logits ``(N, K)``
            to scores ``(N,)``. Class 0 of a network with one logit is the negative of that logit.
        target_layer: layer(s) of the CAM methods: a dotted name, a module, a callable from the network, or several of
            these; None takes the last layer with spatial extent.
        options: method -> its options by keyword.
        seed: of the methods that draw random numbers.
        memory_budget: bytes that loops over steps and samples may use; None takes half of what is free.
        memory_format: layout of the images in memory, e.g. ``torch.channels_last_3d``; None is contiguous,
            than which nothing was measured to be faster on a CPU.

    Returns:
        Name -> relevance ``(B, 1, *space)``, raw, signed where the method is, on the image's grid; a ``MetaTensor``
        with the image's meta where the image is one. Several target layers give several entries,
        ``name@layer``.

    Raises:
        UsageError: if a method, option, layer or target does not exist.
        InputError: if the image has values that are not finite.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> relevance = explain(network, torch.rand(1, 1, 8, 8), ["saliency", "gradcam"], target=1)
        >>> {name: tuple(value.shape) for name, value in relevance.items()}
        {'saliency': (1, 1, 8, 8), 'gradcam': (1, 1, 8, 8)}
    """
    rows = method_rows(methods)
    wanted = {name: method_options(name, row, (options or {}).get(name)) for name, row in rows.items()}
    unknown = set(options or {}) - set(rows)
    if unknown:
        raise UsageError(f"options: given for {', '.join(sorted(unknown))}, which is not among the methods")
    slice_axis = getattr(network, "slice_axis", None)
    needs = frozenset().union(*(row.needs for row in rows.values()))
    with torch.inference_mode(False), borrowed(network):
        plain = _as_volume(plain_image(image), slice_axis)
        plain = plain.contiguous(memory_format=memory_format or torch.contiguous_format)
        layers = layer_names(network, target_layer)
        probe = Probe(network, plain, Target(target, len(plain)), needs, layers, seed, memory_budget)
        maps = {name: _run(probe, rows[name], wanted[name], slice_axis) for name in rows}
        result = Explanation(probe.logits, probe.target.names(len(plain)))
    for name, found in maps.items():
        for key, (relevance, record) in found.items():
            full = name + key
            result[full] = _dress(relevance, image)
            result.records[full] = {"method": rows[name].name, "paper": rows[name].paper, "seed": seed, **record}
    return result


def _run(
    probe: Probe, row: Method, options: dict[str, Any], slice_axis: int | None
) -> dict[str, tuple[Tensor, dict[str, Any]]]:
    """One method's maps on the image's grid: ``""`` or ``@layer`` -> relevance and record."""
    probe.claims = {}
    raw = row.function(probe, **options)
    record = {"options": {k: _jsonable(v) for k, v in _all_options(row, options).items()}, "claims": probe.claims}
    if isinstance(raw, Tensor):
        return {"": (raw, record)}
    shape = probe.image.shape[2:]
    found = {}
    for layer, layer_map in raw.items():
        extra: dict[str, Any] = {"layer": layer, "layer_shape": list(layer_map.shape[2:])}
        if slice_axis is not None and layer_map.ndim == probe.image.ndim - 1:
            plane = torch.Size([n for axis, n in enumerate(shape) if axis != slice_axis])
            relevance = repeat_slices(resize(layer_map, plane), shape, slice_axis)
            extra["repeated_over_slices"] = shape[slice_axis]
        else:
            relevance = resize(layer_map, shape)
        found[f"@{layer}" if len(raw) > 1 else ""] = (relevance, {**record, **extra})
    return found


def method_rows(methods: str | Iterable[str]) -> dict[str, Method]:
    """Look methods up.

    Args:
        methods: a name, or names, of ``METHODS`` or ``ALIASES``.

    Returns:
        Name as given -> row, each once, in the order given.

    Raises:
        UsageError: if there is none, or one is not known; the error says which exist.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if ALIASES.get(name, name) not in METHODS:
            near = difflib.get_close_matches(str(name), [*METHODS, *ALIASES], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"methods: unknown method {name!r}.{hint} There are {', '.join(METHODS)}")
    if not names:
        raise UsageError(f"methods: wanted at least one of {', '.join(METHODS)}, got none")
    return {name: METHODS[ALIASES.get(name, name)] for name in names}


def method_options(name: str, row: Method, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the options of a method.

    Args:
        name: the method's name as given.
        row: its row.
        options: what the user gave.

    Returns:
        The options.

    Raises:
        UsageError: if the method has no such option; the error says which it has.
    """
    allowed = [p.name for p in inspect.signature(row.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in options or {}:
        if key not in allowed:
            raise UsageError(f"options: {name} has no option {key!r}; it has {', '.join(allowed) or 'none'}")
    return dict(options or {})


def plain_image(image: Tensor) -> Tensor:
    """Strip and check what a user gave as image.

    Args:
        image: a ``MetaTensor`` or tensor ``(B, C, *space)``.

    Returns:
        A plain tensor without a graph.

    Raises:
        UsageError: if it is not a batch of images with channels.
        InputError: if a value is not finite; the error names the first such place.
    """
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim not in {4, 5} or not image.numel():
        came = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise UsageError(f"image: wanted floating point (B, C, *space) in 2D or 3D, got {came}")
    plain = image.detach().as_subclass(Tensor)
    if plain.is_inference():
        plain = plain.clone()
    bad = ~torch.isfinite(plain)
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise InputError(
            f"image: {int(bad.sum())} values are not finite, the first at (image, channel, *voxel) {place}"
        )
    return plain


def _as_volume(image: Tensor, slice_axis: int | None) -> Tensor:
    """Slices ``(B, S, H, W)`` of a network that takes slices as channels, as a volume ``(B, 1, *space)``."""
    if slice_axis is None or image.ndim == 5:
        return image
    return image.movedim(1, slice_axis + 1).unsqueeze(1)


def _dress(relevance: Tensor, image: Tensor) -> Tensor:
    """Give relevance the meta of the image, where the image has any."""
    relevance = relevance.detach().contiguous()
    if type(image) is Tensor or not hasattr(image, "copy_meta_from"):
        return relevance
    from monai.data import MetaTensor

    dressed: Tensor = MetaTensor(relevance).copy_meta_from(image)
    return dressed


def _all_options(row: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options given and defaults."""
    parameters = inspect.signature(row.function).parameters.values()
    return {p.name: options.get(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _jsonable(value: Any) -> Any:
    """An option as it can stand in a record."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)}"
    return value if isinstance(value, int | float | str | bool | None) else repr(value)
