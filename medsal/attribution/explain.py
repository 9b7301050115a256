"""One call, many methods, shared passes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medsal.attribution import Method, memory
from medsal.attribution.choice import MethodsLike, chosen_methods
from medsal.attribution.classifier import borrowed
from medsal.attribution.features import layer_names
from medsal.attribution.images import as_volume, dress, laid_out, plain_image, runs, spacings_of
from medsal.attribution.passes import HALF
from medsal.attribution.presets import Preset
from medsal.attribution.probe import Probe
from medsal.attribution.shared_pass import SHARED
from medsal.attribution.target import Target, TargetLike
from medsal.errors import UsageError


class Explanation(dict[str, Tensor]):
    """Relevance by method, with what was explained and how.

    Attributes:
        logits: logits of the images, ``(B, K)``.
        target: the class that each image was explained for; None where the target was a callable, or all classes.
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
    methods: MethodsLike,
    *,
    target: TargetLike | Literal["all"] = None,
    target_layer: Any = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    spacing: Sequence[float] | Sequence[Sequence[float]] | None = None,
    memory_budget: int | None = None,
    memory_format: torch.memory_format | None = None,
    autocast: torch.dtype | None = None,
) -> Explanation:
    """Explain the scores of images by any number of methods.

    What several methods need is computed once. The image, the network and the random state are left as found. A batch
    that does not fit into memory is explained in parts, with the same result.

    Args:
        network: a classifier; called with ``(B, C, *space)`` it gives logits ``(B, K)``, alone or first in a tuple.
            One that takes the slices of a volume as channels declares so by an attribute ``slice_axis``.
        image: ``(B, C, *space)`` in 2D or 3D, a ``MetaTensor`` or a tensor; for a network with ``slice_axis`` a volume
            ``(B, 1, *space)``, or its slices ``(B, S, H, W)``.
        methods: names of ``METHODS``, or their aliases. A mapping gives maps names of their own, with options beside
            the name of the method: ``{"occlusion_w30": {"method": "occlusion", "window": 30}}``. A preset brings its
            target, where no other is given.
        target: None (each image's predicted class), a class, a class per image, a callable from logits ``(N, K)``
            to scores ``(N,)``, or ``"all"`` for every class.
        target_layer: layer(s) of the CAM methods: a dotted name, a module, a callable from the network, or several of
            these; None takes the last layer with spatial extent.
        options: method -> its options by keyword.
        seed: of the methods that draw random numbers.
        spacing: mm per voxel along each axis of space, for all images or for each; None takes it from the affine of a
            ``MetaTensor`` (of a batch too), and 1 mm where there is none.
        memory_budget: bytes that loops over steps and samples may use; None takes half of what is free.
        memory_format: layout of the images in memory, e.g. ``torch.channels_last_3d``; None is contiguous,
            than which nothing was measured to be faster on a CPU.
        autocast: precision of the network's operations, ``torch.bfloat16`` or ``torch.float16``; None leaves it to the
            network. Good enough for CAM methods; voxel maps lose much of their detail.

    Returns:
        Name -> relevance ``(B, 1, *space)``, raw, signed where the method is, on the image's grid, in single precision
        at least; a ``MetaTensor`` with the image's meta where the image is one. Several target layers give several
        entries, ``name@layer``. With ``target="all"`` relevance is ``(B, K, *space)``, one channel per class, and
        the claims in the records are lists with an entry per class.

    Raises:
        UsageError: if a method, option, layer or target does not exist.
        InputError: if the image has values that are not finite.
        medsal.errors.MedsalError: if even one image does not fit into memory.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        >>> relevance = explain(network, torch.rand(1, 1, 8, 8), ["saliency", "gradcam"], target=1)
        >>> {name: tuple(value.shape) for name, value in relevance.items()}
        {'saliency': (1, 1, 8, 8), 'gradcam': (1, 1, 8, 8)}
    """
    rows, wanted = chosen_methods(methods, options)
    target = methods.target if target is None and isinstance(methods, Preset) else target
    _check(seed, memory_budget, memory_format, autocast)
    network = getattr(network, "_orig_mod", network)  # of a compiled network the one that was written
    slice_axis = getattr(network, "slice_axis", None)
    needs = frozenset().union(*(row.needs for row in rows.values()))
    with torch.inference_mode(False), borrowed(network):
        plain = as_volume(plain_image(image), slice_axis)
        plain = laid_out(plain, memory_format)
        layers = layer_names(network, target_layer)
        spacings, wants = spacings_of(image, plain, spacing), _first_target(target, len(plain))
        parts: list[_Part] = []

        def body(part: slice) -> None:
            probe = Probe(network, plain[part], wants.of(part), needs & SHARED, layers, seed, memory_budget)
            probe.spacing, probe.autocast, probe.more_targets = spacings[part.start], autocast, isinstance(target, str)
            parts.append(_maps(probe, rows, {n: _of_part(given, part, len(plain)) for n, given in wanted.items()}))

        for alike in runs(spacings):
            memory.in_chunks(alike.stop, alike.stop - alike.start, body, alike.start)
    maps, logits, names = parts[0]
    for more, more_logits, more_names in parts[1:]:
        for name in rows:
            _add_images(maps[name], more[name], isinstance(target, str))
        logits, names = torch.cat([logits, more_logits]), names + more_names
    result = Explanation(logits, names)
    choices = {"autocast": autocast, "memory_format": memory_format}
    how = {choice: str(value) for choice, value in choices.items() if value is not None}
    for name, found in maps.items():
        for key, (relevance, record) in found.items():
            full = name + key
            result[full] = dress(relevance, image)
            paper = {"method": rows[name].name, "paper": rows[name].paper, "seed": seed}
            result.records[full] = {**paper, **how, **record}
    return result


Maps = dict[str, tuple[Tensor, dict[str, Any]]]
"""``""`` or ``@layer`` -> relevance and record."""

_Part = tuple[dict[str, Maps], Tensor, list[int | None]]


def _maps(probe: Probe, rows: Mapping[str, Method], options: Mapping[str, dict[str, Any]]) -> _Part:
    """All maps of some images, their logits and the classes explained; for every class if more targets follow."""
    found = {name: _run(probe, row, options[name]) for name, row in rows.items()}
    if not probe.more_targets:
        return found, probe.logits, probe.target.names(len(probe.rows))
    for k in range(1, max(probe.logits.shape[1], 2)):
        probe.turn_to(Target(k, len(probe.rows)))
        for name, row in rows.items():
            _add_class(found[name], _run(probe, row, options[name]))
    return found, probe.logits, [None] * len(probe.rows)


def _first_target(target: TargetLike | Literal["all"], batch: int) -> Target:
    if isinstance(target, str):
        if target != "all":
            raise UsageError(f"target: wanted None, a class, a class per image, a callable or all, got {target!r}")
        return Target(0, batch)
    return Target(target, batch)


def _check(seed: Any, budget: Any, memory_format: Any, autocast: Any) -> None:
    """Refuse settings of the wrong kind."""
    if not isinstance(seed, int):
        raise UsageError(f"seed: wanted a whole number, got {seed!r}")
    if budget is not None and not (isinstance(budget, int) and budget >= 0):
        raise UsageError(f"memory_budget: wanted a number of bytes, got {budget!r}")
    if memory_format is not None and not isinstance(memory_format, torch.memory_format):
        raise UsageError(f"memory_format: wanted a torch.memory_format, got {memory_format!r}")
    if autocast not in {None, *HALF}:
        raise UsageError(f"autocast: wanted torch.bfloat16 or torch.float16, got {autocast!r}")


def _run(probe: Probe, row: Method, options: dict[str, Any]) -> Maps:
    """One method's maps on the image's grid."""
    probe.claims = {}
    raw = row.function(probe, **options)
    record = {"options": {k: _jsonable(v) for k, v in _all_options(row, options).items()}, "claims": probe.claims}
    if isinstance(raw, Tensor):
        return {"": (raw, record)}
    shape = probe.image.shape[2:]
    slice_axis = getattr(probe.network, "slice_axis", None)
    found = {}
    for layer, layer_map in raw.items():
        extra: dict[str, Any] = {"layer": layer, "layer_shape": list(probe.features[layer].shape[2:])}
        if slice_axis is not None and layer_map.ndim == probe.image.ndim - 1:
            extra["repeated_over_slices"] = shape[slice_axis]
        found[f"@{layer}" if len(raw) > 1 else ""] = (probe.on_image(layer_map), {**record, **extra})
    return found


def _add_class(maps: Maps, more: Maps) -> None:
    """Add the maps and claims of another class; claims become lists with an entry per class."""
    for key, (relevance, record) in more.items():
        before, kept = maps[key]
        old = {name: value if before.shape[1] > 1 else [value] for name, value in kept["claims"].items()}
        claims = {name: [*old[name], value] for name, value in record["claims"].items()}
        maps[key] = torch.cat([before, relevance], 1), {**kept, "claims": claims}


def _add_images(maps: Maps, more: Maps, every: bool) -> None:
    """Add the maps and claims of other images, of one class or of every one."""
    for key, (relevance, record) in more.items():
        before, kept = maps[key]
        claims = {
            name: [_both(*pair) for pair in zip(value, record["claims"][name], strict=True)]
            if every
            else _both(value, record["claims"][name])
            for name, value in kept["claims"].items()
        }
        maps[key] = torch.cat([before, relevance]), {**kept, "claims": claims}


def _both(one: Any, other: Any) -> Any:
    """A claim of two parts of a batch: values of images in a row, by layer where it is; the rest stays."""
    if isinstance(one, list):
        return one + other
    return {key: _both(value, other[key]) for key, value in one.items()} if isinstance(one, dict) else one


def _of_part(options: dict[str, Any], part: slice, batch: int) -> dict[str, Any]:
    """The options for a part of a batch; those that hold something for each image cannot be divided."""
    if (part.start, part.stop) == (0, batch):
        return options
    for name, value in options.items():
        if isinstance(value, Tensor | np.ndarray) and value.ndim and len(value) > 1:
            raise UsageError(
                f"{name}: the {batch} images have to be explained in parts, for memory or as their spacing differs, "
                "and what this option has for each of them cannot be divided; give fewer images"
            )
    return options


def _all_options(row: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options given and defaults."""
    parameters = inspect.signature(row.function).parameters.values()
    return {p.name: options.get(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _jsonable(value: Any) -> Any:
    """An option as it can stand in a record."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)}"
    return value if isinstance(value, int | float | str | bool | None) else repr(value)
