"""The methods of a study: those of the table, and any function that makes a map, all run on one network at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.choice import chosen_methods
from medsal.attribution.classifier import borrowed, first_tensor
from medsal.attribution.explain import explain
from medsal.attribution.features import layer_names
from medsal.attribution.presets import PRESETS
from medsal.attribution.shared_pass import FEATURES
from medsal.errors import MedsalError, UsageError

Explainer = Callable[[nn.Module, Tensor, list[int]], Tensor]
"""``explainer(network, image (B, C, *space), target) -> relevance (B, 1, *space)``."""
StudyMethods = Iterable[str | Explainer] | Mapping[str, Any]
"""Names and functions; the name of each map -> a name, ``{"method": name, **options}`` or a function; or a preset."""


class Explainers:
    """What a study explains networks with.

    Args:
        methods: as above. One ``explain`` call serves all that are in the table.
        seed: of the methods that draw random numbers.
        memory_budget: bytes that loops over steps and samples may use; fixed, so that sums are added in one order.

    Raises:
        UsageError: if there is no method, one is unknown, or two functions have one name.
    """

    def __init__(self, methods: StudyMethods, seed: int = 0, memory_budget: int = 2**30) -> None:
        methods = PRESETS.get(methods, methods) if isinstance(methods, str) else methods
        given = methods if isinstance(methods, Mapping) else _named(methods)
        if not given:
            raise UsageError("methods: wanted at least one, got none")
        self.names = list(given)
        self.functions: dict[str, Explainer] = {name: m for name, m in given.items() if callable(m)}
        self.table = {name: _spec(name, m) for name, m in given.items() if not callable(m)}
        self.seed, self.memory_budget = seed, memory_budget
        self._reads_features = False
        if self.table:
            rows, _ = chosen_methods(self.table)
            self._reads_features = any(FEATURES in row.needs for row in rows.values())

    def describe(self) -> dict[str, Any]:
        """What goes into the study's fingerprint.

        Returns:
            Name -> method and options, or the name of the function.
        """
        return {name: self.table.get(name) or f"function {_name(self.functions[name])}" for name in self.names}

    def only(self, names: Iterable[str]) -> Explainers:
        """The same with some of the methods.

        Args:
            names: which.

        Returns:
            Explainers that make these maps alone.
        """
        chosen = {name: self.table.get(name) or self.functions[name] for name in names}
        return Explainers(chosen, self.seed, self.memory_budget)

    def layers(self, network: nn.Module, image: Tensor, wanted: Any = None) -> tuple[str, ...]:
        """The target layer of the CAM methods, fixed so that it is the same in every state of a network.

        Args:
            network: trained.
            image: ``(1, C, *space)``.
            wanted: by name, or None for the last layer with spatial extent.

        Returns:
            Its name; nothing where no method reads features.

        Raises:
            UsageError: if several are wanted.
        """
        if not self._reads_features:
            return ()
        names = layer_names(network, wanted)
        if names is None:
            found = explain(network, image, "gradcam", target=0, memory_budget=self.memory_budget)
            names = (str(found.records["gradcam"]["layer"]),)
        if len(names) != 1:
            raise UsageError(f"target_layer: a study takes one layer per architecture, got {', '.join(names)}")
        return names

    def maps(
        self, network: nn.Module, image: Tensor, target: list[int] | None, layers: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Explain images by every method.

        Args:
            network: in any state.
            image: ``(B, C, *space)``.
            target: a class for each image; None for the predicted ones.
            layers: see ``layers``.

        Returns:
            Name -> relevance ``(B, 1, *space)`` on the CPU, in the order of the names; and the logits ``(B, K)``.

        Raises:
            UsageError: if a function's map is not of this shape.
            MedsalError: if the logits are not finite.
        """
        found: dict[str, Tensor] = {}
        if self.table:
            explained = explain(
                network, image, self.table, target=target, target_layer=layers or None, seed=self.seed,
                memory_budget=self.memory_budget,
            )  # fmt: skip
            found, logits = dict(explained), explained.logits
            target = target or [int(k or 0) for k in explained.target]
        else:
            logits = logits_of(network, image)
            if not logits.isfinite().all():
                raise MedsalError("the network's logits are not finite for this image")
        classes = target or predicted(logits)
        for name, function in self.functions.items():
            with borrowed(network):
                found[name] = function(network, image, classes)
            if found[name].shape != (len(image), 1, *image.shape[2:]):
                wanted = (len(image), 1, *image.shape[2:])
                raise UsageError(f"{name}: wanted a map of shape {wanted}, got {tuple(found[name].shape)}")
        return {name: found[name].detach().as_subclass(Tensor).cpu() for name in self.names}, logits.detach().cpu()


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    """Logits of images.

    Args:
        network: borrowed for one forward.
        image: ``(B, C, *space)``.

    Returns:
        ``(B, K)``.
    """
    with borrowed(network), torch.no_grad():
        return first_tensor(network(image.clone()))


def predicted(logits: Tensor) -> list[int]:
    """The predicted class of each image.

    Args:
        logits: ``(B, K)``; a single one is read as binary.

    Returns:
        One class per image.
    """
    scores = torch.cat([-logits, logits], 1) if logits.shape[1] == 1 else logits
    return [int(k) for k in scores.argmax(1)]


def _listed(methods: Iterable[str | Explainer]) -> list[str | Explainer]:
    return [name.strip() for name in methods.split(",")] if isinstance(methods, str) else list(methods)


def _named(methods: Iterable[str | Explainer]) -> dict[str, str | Explainer]:
    found: dict[str, str | Explainer] = {}
    for method in _listed(methods):
        name = _name(method)
        if found.setdefault(name, method) != method:
            raise UsageError(f"methods: two are called {name!r}; give each a name of its own, as a mapping")
    return found


def _name(method: Any) -> str:
    return method if isinstance(method, str) else str(getattr(method, "__name__", type(method).__name__))


def _spec(name: str, method: Any) -> dict[str, Any]:
    if isinstance(method, str):
        return {"method": method}
    if isinstance(method, Mapping):
        return {"method": name, **method}
    raise UsageError(f"methods: wanted {name} to be a name, options or a function, got {type(method).__name__}")
