"""What lies above a target layer: from replaced features to logits, without running anything below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medsal.attribution import memory
from medsal.attribution.layouts import channels_last, layout
from medsal.attribution.passes import HALF
from medsal.attribution.probe import Probe
from medsal.attribution.replay import Player, Recorder, run_with
from medsal.attribution.tape import CannotReplayError, Recording

ROWS_SHARE = 32
"""Elements that the layers above make, over those that count as one pass on a CPU: few are in its caches at once."""


class Head:
    """The part of a network above a layer, as a function of that layer's output.

    One forward of the images records the operations. After that, other features run through those above the layer
    alone (see ``replay``), as many as fit at once. The features as they are must give the network's own logits back;
    where they do not, or the forward cannot be replayed, features run through full forwards in which a hook replaces
    the layer's output, which is always right.

    Args:
        probe: the images under study.
        layer: name of a layer whose features the probe has.

    Attributes:
        how: ``"replay"`` or ``"full"``.
        affine: whether the logits are known to be an affine function of the features.
        logits: of the features as they are, ``(B, K)``, computed as those of other features will be.
    """

    def __init__(self, probe: Probe, layer: str) -> None:
        self.probe = probe
        self.features = probe.features[layer]
        self.module = dict(probe.network.named_modules())[layer]
        self.how = "replay"
        self._call = 0
        self._raw = torch.empty(0)
        self._recording = self._record()
        self.affine = self.how == "replay" and self._recording.affine
        self._unchanged: Tensor | None = None

    @property
    def logits(self) -> Tensor:  # noqa: D102  see the class
        if self._unchanged is None:
            self._unchanged = self._checked()
        return self._unchanged

    def at(self, rows: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
        """Logits of replaced features.

        Args:
            rows: ``(N,)``, the image that each belongs to, to which everything else in the network is due.
            make: from a part of the rows to features ``(n, C, *layer_space)``, a new tensor each time.

        Returns:
            ``(N, K)``, of which nothing is remembered.
        """
        self.logits  # noqa: B018  now it is known how
        return self._at(rows, make)

    def _at(self, rows: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
        found: list[Tensor] = []

        def body(part: slice) -> None:
            with torch.inference_mode():
                found.append(self._run(lambda: make(part), rows[part]))

        memory.in_chunks(len(rows), self._chunk(), body)
        return torch.cat(found)

    def _chunk(self) -> int:
        if self.how == "full":
            return self.probe.chunk()
        numbers = self._recording.numbers + self.features[0].numel()
        size = max(numbers // ROWS_SHARE, 1)
        return memory.chunk_size(size, numbers * self._raw.element_size(), self._raw.device, self.probe.budget)

    def _record(self) -> Recording:
        """Record one forward; a second one where the layer runs more than once, and its last run counts."""
        while True:
            recorder, last = Recorder(len(self.probe.image)), self._call

            def hand(call: int, output: Any, recorder: Recorder = recorder) -> Tensor | None:
                nonlocal last
                if isinstance(output, Tensor) and output.numel() >= self.features.numel():  # or it is not spatial
                    last = call
                if call != self._call:
                    return None
                with recorder.paused():
                    self._raw = output.detach().clone()
                    return recorder.mark(output.clone())

            try:
                with torch.inference_mode(), recorder:
                    image = recorder.mark(self.probe.image.view_as(self.probe.image), (-1, 0))
                    run_with(self.module, hand, lambda: self.probe.forward(image))  # noqa: B023  called at once
            except CannotReplayError:
                self.how = "full"
                return recorder.recording
            if last == self._call:
                return recorder.recording
            self._call = last

    def _checked(self) -> Tensor:
        """Run the features as they are, beside others, which must not matter; compare with the network's logits."""
        batch, rows = len(self.features), self.probe.rows.repeat(2)

        def make(part: slice) -> Tensor:
            scale = torch.where(torch.arange(2 * batch, device=rows.device) < batch, 1.0, 0.5)[part].to(self.features)
            return self.features[rows[part]] * scale.view(-1, *[1] * (self.features.ndim - 1))

        logits = self._at(rows, make)[:batch]
        if self.how == "replay" and not self._agrees(logits):
            self.how = "full"
            logits = self._at(rows[:batch], make)
        return logits

    def _agrees(self, logits: Tensor) -> bool:
        wanted = self.probe.logits
        half = self.probe.autocast is not None or self._raw.dtype in HALF
        tolerance = 0.05 if half else {torch.float64: 1e-9}.get(wanted.dtype, 1e-4)
        return logits.shape == wanted.shape and bool(((logits - wanted).abs() <= tolerance * wanted.abs().max()).all())

    def _run(self, make: Callable[[], Tensor], rows: Tensor) -> Tensor:
        if self.how == "replay":
            try:
                return self._replay(make(), rows)
            except Exception as error:
                if memory.out_of_memory(error):
                    raise
                self.how = "full"  # whatever went wrong, a whole forward decides whether it is the network's fault
        return self._full(make(), rows)

    def _full(self, features: Tensor, rows: Tensor) -> Tensor:
        given = self.probe.image[rows]

        def hand(call: int, _output: Any) -> Tensor | None:
            return self.in_layout(features, rows) if call == self._call else None

        return run_with(self.module, hand, lambda: self.probe.forward(given))

    def _replay(self, features: Tensor, rows: Tensor) -> Tensor:
        player = Player(self._recording, rows)

        def hand(call: int, _output: Any) -> Tensor | None:
            if call != self._call:
                return None
            with player.paused():
                return player.mark(self.in_layout(features, rows))

        image = player.empty(self.probe.image.shape, self.probe.image, (-1, 0))
        with player:
            return run_with(self.module, hand, lambda: self.probe.forward(image))

    def in_layout(self, features: Tensor, rows: Tensor) -> Tensor:
        """Lay features out as the layer does; the inverse of ``layouts.spatial``.

        Args:
            features: ``(N, C, *layer_space)``.
            rows: ``(N,)``, whose class tokens stand in front of those of the image.

        Returns:
            What the layer could have given.
        """
        network, image, raw = self.probe.network, self.probe.image, self._raw
        features = features.to(raw.dtype)
        if raw.ndim == 3:
            grid = layout(network, raw, image)
            assert grid is not None
            front = raw[rows][:, : raw.shape[1] - math.prod(grid)]
            return torch.cat([front, features.flatten(2).mT], 1)
        return features.movedim(1, -1).contiguous() if channels_last(raw, image) else features


def head_above(probe: Probe, layer: str) -> Head:
    """The head above a layer, made once for a probe.

    Args:
        probe: the images under study.
        layer: name of a layer whose features the probe has.

    Returns:
        The head.
    """
    key: tuple[Any, ...] = ("head", layer)
    if key not in probe.remembered:
        probe.remembered[key] = Head(probe, layer)
    head: Head = probe.remembered[key]
    return head
