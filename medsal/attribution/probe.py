"""The probe: a batch of images under study, with the network's costly passes done once and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution import memory
from medsal.attribution.classifier import (
    FeatureReader,
    first_tensor,
    gradients_of,
    known_last_layer,
    remember_last_layer,
)
from medsal.attribution.target import Target
from medsal.errors import MedsalError, UsageError

IMAGE_GRADIENT = "image gradient"
FEATURES = "features"
BASELINE = "baseline"
SEED = "seed"
RULES = "rules"


class Probe:
    """What every method is a function of: images, their targets, and a borrowed network.

    One forward and one backward serve every method that reads the image gradient, the features or the feature
    gradients of the target layers: the first of them to be read triggers both, for all that was announced in ``needs``.

    Args:
        network: a network in evaluation mode without weight gradients (see ``classifier.borrowed``).
        image: plain tensor ``(B, C, *space)``.
        target: what is explained.
        needs: what the methods to come will read: ``IMAGE_GRADIENT``, ``FEATURES``.
        layers: target layers by name; None finds the last one with spatial extent in the same pass.
        seed: seed of the methods that draw random numbers.
        budget: bytes that chunked loops may use; None takes half of the free memory.

    Attributes:
        claims: what the method at work says about itself; ``explain`` collects it after each method.
    """

    def __init__(
        self,
        network: nn.Module,
        image: Tensor,
        target: Target,
        needs: frozenset[str] = frozenset(),
        layers: tuple[str, ...] | None = None,
        seed: int = 0,
        budget: int | None = None,
    ) -> None:
        self.network = network
        self.image = image
        self.target = target
        self.needs = needs
        self.layers = layers
        self.seed = seed
        self.budget = budget
        self.claims: dict[str, Any] = {}
        self.rows = torch.arange(len(image), device=image.device)
        self._pass: dict[str, Any] = {}
        self._bytes = 0

    # What one forward and one backward give, remembered.

    @property
    def logits(self) -> Tensor:
        """Logits of the images, ``(B, K)``."""
        if "logits" not in self._pass:
            self._run()
        logits: Tensor = self._pass["logits"]
        return logits

    @property
    def score(self) -> Tensor:
        """The target's score of each image, ``(B,)``."""
        return self.target.score(self.logits, self.rows)

    @property
    def image_gradient(self) -> Tensor:
        """Gradient of each image's score with respect to that image, ``(B, C, *space)``."""
        return self._read("gradient", IMAGE_GRADIENT)[""]

    @property
    def features(self) -> dict[str, Tensor]:
        """Target layer -> its output, ``(B, C, *layer_space)``."""
        return self._read("features", FEATURES)

    @property
    def feature_gradients(self) -> dict[str, Tensor]:
        """Target layer -> gradient of each image's score with respect to that output."""
        return self._read("feature_gradients", FEATURES)

    def _read(self, part: str, need: str) -> dict[str, Tensor]:
        if need not in self.needs:
            self.needs |= {need}
            self._pass.clear()  # it was not announced, so a pass that has run already did without it
        if part not in self._pass:
            self._run()
        found: dict[str, Tensor] = self._pass[part]
        return found

    def _run(self) -> None:
        """One forward, and one backward that stops at what was asked for."""
        wants_image, wants_features = IMAGE_GRADIENT in self.needs, FEATURES in self.needs
        shape = self.image.shape[1:]
        layers = self.layers or known_last_layer(self.network, shape) if wants_features else ()
        reader = FeatureReader(self.network, layers, detach=not wants_image)
        image = self.image.detach().requires_grad_(wants_image or layers is None)
        with torch.set_grad_enabled(wants_image or wants_features), reader.reading(), self._measured():
            logits = self.forward(image)
            self.target.resolve(logits)
            score = self.target.score(logits, self.rows)
        self._check(logits, reader, wants_features)
        sources = ([image] if wants_image else []) + list(reader.features.values())
        gradients = gradients_of(score, sources) if sources else []
        self._pass["logits"] = logits.detach()
        if wants_image:
            self._pass["gradient"] = {"": gradients.pop(0)}
        if wants_features:
            self._pass["features"] = {name: value.detach() for name, value in reader.features.items()}
            self._pass["feature_gradients"] = dict(zip(reader.features, gradients, strict=True))
            if self.layers is None:
                remember_last_layer(self.network, shape, next(iter(reader.features)))

    def _check(self, logits: Tensor, reader: FeatureReader, wants_features: bool) -> None:
        if len(logits) != len(self.image):
            raise UsageError(f"network: wanted logits of {len(self.image)} images, got shape {tuple(logits.shape)}")
        if not torch.isfinite(logits).all():
            raise MedsalError("the network's logits are not finite for this image")
        missing = set(reader.layers or ()) - set(reader.features) if wants_features else set()
        if missing:
            raise UsageError(f"target_layer {missing.pop()!r}: the network did not run it for this image")
        if wants_features and not reader.features:
            raise UsageError("target_layer: no layer of the network has an output with spatial extent; name one")

    def _measured(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Count the bytes that the forward keeps for its backward, as the price of one more image."""
        seen: set[int] = set()

        def pack(tensor: Tensor) -> tuple[Tensor, int]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen and not isinstance(tensor, nn.Parameter):
                seen.add(storage.data_ptr())
                self._bytes += storage.nbytes() // len(self.image)
            return tensor, tensor._version

        def unpack(packed: tuple[Tensor, int]) -> Tensor:
            tensor, version = packed
            if tensor._version != version:  # autograd's own check does not run where hooks do
                raise UsageError("the network overwrites, in place, an activation that its gradient needs")
            return tensor

        self._bytes = 0
        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    # Passes at other points than the image itself.

    def forward(self, image: Tensor) -> Tensor:
        """Run the network once.

        Args:
            image: ``(N, C, *space)``; it is copied first, for networks whose first operation is in place.

        Returns:
            Logits ``(N, K)``.
        """
        return first_tensor(self.network(image.clone()))

    def scores(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores at other images, without a graph.

        Args:
            images: ``(N, C, *space)``.
            rows: the image of the batch that each belongs to; None where they are the batch's own, in order.

        Returns:
            ``(N,)``.
        """
        rows = self.rows if rows is None else rows
        self.logits  # noqa: B018  the targets are those of the images themselves
        found: list[Tensor] = []

        def body(part: slice) -> None:
            with torch.no_grad():
                found.append(self.target.score(self.forward(images[part]), rows[part]))

        memory.in_chunks(len(images), self.chunk(), body)
        return torch.cat(found)

    def mean_gradient(self, steps: int, point: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Average gradients of the score over steps for every image, chunk by chunk.

        Args:
            steps: number of steps per image.
            point: maps rows ``(N,)`` and steps ``(N,)`` to the images to look at and the factor of each gradient,
                both broadcastable to ``(N, C, *space)``.

        Returns:
            ``sum over steps of factor * gradient / steps``, shape ``(B, C, *space)``.
        """
        self.logits  # noqa: B018  the targets are those of the images themselves
        total = torch.zeros_like(self.image)
        rows = self.rows.repeat_interleave(steps)
        indices = torch.arange(steps, device=rows.device).repeat(len(self.image))

        def body(part: slice) -> None:
            images, factor = point(rows[part], indices[part])
            images = images.detach().requires_grad_()
            with torch.enable_grad():
                score = self.target.score(self.forward(images), rows[part])
            (gradient,) = gradients_of(score, [images])
            total.index_add_(0, rows[part], gradient * factor / steps)

        memory.in_chunks(len(rows), self.chunk(), body)
        return total

    def chunk(self) -> int:
        """How many images go through the network at once in a loop.

        Returns:
            At least 1.
        """
        if not self._bytes:  # no pass with a graph has been measured yet
            self._bytes = 64 * self.image[0].numel() * self.image.element_size()
        return memory.chunk_size(self.image[0].numel(), self._bytes, self.image.device, self.budget)

    # What methods share.

    def draw(self, stream: int, steps: Tensor | None = None) -> Tensor:
        """Standard normal noise that depends on the seed, the stream and the step alone.

        Every image of a batch, alone or not and in whatever chunk, meets the same numbers on every device.

        Args:
            stream: which of a method's random quantities this is.
            steps: ``(N,)``, the step of each row; None draws once.

        Returns:
            ``(N, C, *space)``, or ``(C, *space)``.
        """
        shape, device, dtype = self.image.shape[1:], self.image.device, self.image.dtype
        drawn = {
            step: torch.randn(shape, generator=torch.Generator().manual_seed(hash((self.seed, stream, step)))).to(dtype)
            for step in ([0] if steps is None else dict.fromkeys(steps.tolist()))
        }
        noise = drawn[0] if steps is None else torch.stack([drawn[step] for step in steps.tolist()])
        return noise.to(device)

    def uniform(self, count: int) -> Tensor:
        """Numbers between 0 and 1 that depend on the seed alone.

        Args:
            count: how many.

        Returns:
            ``(count,)``, on the images' device.
        """
        drawn = torch.rand(count, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return drawn.to(self.image)

    def claim(self, **facts: Any) -> None:
        """Record what a method can check about itself.

        Args:
            **facts: JSON-able values; tensors become lists.
        """
        self.claims.update({k: v.tolist() if isinstance(v, Tensor) else v for k, v in facts.items()})

    def claim_completeness(self, attribution: Tensor, difference: Tensor) -> None:
        """Record how far the sum of an attribution is from the difference of scores that it explains.

        Args:
            attribution: ``(B, C, *space)``, before any reduction that loses its sum.
            difference: ``(B,)``, score of the image minus score of the baseline.
        """
        gap = attribution.double().flatten(1).sum(1) - difference.double()
        scale = difference.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
        self.claim(score_difference=difference, completeness_gap=gap, relative_gap=gap.abs() / scale)
