"""The probe: a batch of images under study, with the network's costly passes done once and remembered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medsal.attribution.bias_terms import BiasTerms
from medsal.attribution.features import known_last_layer, remember_last_layer
from medsal.attribution.passes import Passes
from medsal.attribution.relevance import repeat_slices, resize
from medsal.attribution.shared_pass import BIASES, DECONV, FEATURES, GUIDED, IMAGE_GRADIENT, SharedPass
from medsal.attribution.target import Target

BASELINE = "baseline"
SEED = "seed"
RULES = "rules"


class Probe(Passes):
    """What every method is a function of: images, their targets, and a borrowed network.

    One forward and one backward serve every method that reads gradients or features, for all announced in ``needs``.

    Args:
        network: a network in evaluation mode without weight gradients (see ``classifier.borrowed``).
        image: plain tensor ``(B, C, *space)`` in single or double precision.
        target: what is explained.
        needs: what the methods to come will read, e.g. ``IMAGE_GRADIENT``, ``FEATURES``.
        layers: target layers by name; None finds the last one with spatial extent in the same pass.
        seed: seed of the methods that draw random numbers.
        budget: bytes that chunked loops may use; None takes half of the free memory.

    Attributes:
        more_targets: whether ``turn_to`` will be called, so that the graph of the shared forward is kept.
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
        super().__init__(network, image, target, seed, budget)
        self.needs = needs
        self.layers = layers
        self.more_targets = False
        self._shared: SharedPass | None = None
        self._found: dict[str, Any] | None = None
        self._logits: Tensor | None = None

    def turn_to(self, target: Target) -> None:
        """Explain another target of the same images, with the forwards that do not depend on it kept.

        Args:
            target: what is explained from now on.
        """
        self.target = target
        self.claims = {}
        self._found = None

    # What one forward and one backward give, remembered.

    @property
    def logits(self) -> Tensor:
        """Logits of the images, ``(B, K)``."""
        if self._logits is None:
            self._logits = self._forwarded().logits.detach()
            self.target.resolve(self._logits)
            if not self.more_targets:
                self._backwarded()
        return self._logits

    def offer(self, logits: Tensor) -> None:
        """Take the logits that a method's own forward gave, in place of a forward that would give the same.

        Args:
            logits: of the images, ``(B, K)``.
        """
        if self._logits is None:
            self._logits = logits.detach()
        self.target.resolve(self._logits)

    @property
    def score(self) -> Tensor:
        """The target's score of each image, ``(B,)``."""
        return self.target.score(self.logits, self.rows)

    @property
    def image_gradient(self) -> Tensor:
        """Gradient of each image's score with respect to that image, ``(B, C, *space)``."""
        return torch.as_tensor(self._read(IMAGE_GRADIENT))

    @property
    def guided_gradient(self) -> Tensor:
        """The same with only positive gradients passing each active ReLU."""
        gradient = torch.as_tensor(self._read(GUIDED))
        self.claim(activations=self._backwarded()["activations"])
        return gradient

    @property
    def deconvnet_gradient(self) -> Tensor:
        """The same with only positive gradients passing each ReLU, active or not."""
        gradient = torch.as_tensor(self._read(DECONV))
        self.claim(activations=self._backwarded()["activations"])
        return gradient

    @property
    def bias_terms(self) -> BiasTerms:
        """What the biases do to each image's score."""
        found: BiasTerms = self._read(BIASES)
        return found

    @property
    def features(self) -> dict[str, Tensor]:
        """Target layer -> its output, ``(B, C, *layer_space)``."""
        return {layer: features for layer, (features, _) in self._read(FEATURES).items()}

    @property
    def feature_gradients(self) -> dict[str, Tensor]:
        """Target layer -> gradient of each image's score with respect to that output."""
        return {layer: gradient for layer, (_, gradient) in self._read(FEATURES).items()}

    def _read(self, need: str) -> Any:
        if need not in self.needs:  # it was not announced, so a pass that has run already did without it
            self.needs |= {need}
            self._shared = self._found = self._logits = None
        return self._backwarded()[need]

    def _forwarded(self) -> SharedPass:
        if self._shared is None:
            shape = self.image.shape[1:]
            layers = self.layers or known_last_layer(self.network, shape)
            self._shared = SharedPass(self.network, self.forward, self.image, self.needs, layers)
            self._bytes = self._shared.bytes_per_image
        return self._shared

    def _backwarded(self) -> dict[str, Any]:
        if self._found is None:
            shared = self._forwarded()
            self._logits = shared.logits.detach()
            self.target.resolve(self._logits)
            self._found = shared.backward(self.target.score(shared.logits, self.rows), keep=self.more_targets)
            if self.layers is None and FEATURES in self.needs:
                remember_last_layer(self.network, self.image.shape[1:], next(iter(self._found[FEATURES])))
            if not self.more_targets:
                self._shared = None
        return self._found

    def on_image(self, layer_map: Tensor) -> Tensor:
        """Bring a map of a layer to the grid of the image; over the slices of a network that takes them as channels.

        Args:
            layer_map: ``(B, 1, *layer_space)``.

        Returns:
            ``(B, 1, *space)``.
        """
        space = self.image.shape[2:]
        slice_axis = getattr(self.network, "slice_axis", None)
        if slice_axis is None or layer_map.ndim == self.image.ndim:
            return resize(layer_map, space)
        plane = torch.Size([n for axis, n in enumerate(space) if axis != slice_axis])
        return repeat_slices(resize(layer_map, plane), space, slice_axis)
