"""Planted skin: B-scans of high-frequency ultrasound whose class can be seen in one layer only.

A scan is made of scatterers: complex Gaussian noise, as strong as the tissue at its place echoes, is spread by the
point-spread function of the probe; its magnitude is the envelope, with the Rayleigh statistics of speckle. Depth
weakens it, a logarithm and the gain make grey values of it. The classes differ where `EVIDENCE` says, in nothing else:
the same seed with another label is its twin.

The layer map has the codes and the geometry of the published one: from the skin's surface down the epidermis (255, 29
to 37 pixels), then three bands of 36 pixels each (128, 64, 32); 16 pixels above the surface are 32 too, the rest is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medsal.errors import UsageError

__all__ = ["BAND", "EVIDENCE", "LAYERS", "SKIN_CLASSES", "SKIN_SIZE", "PlantedSkin", "SkinImages", "planted_scan"]

SKIN_SIZE = 224
"""Rows and columns of a scan."""

SKIN_CLASSES = ("normal", "thick_epidermis", "low_echo_band", "lesion")
"""Names of the labels 0 to 3; low_echo_band is the subepidermal low-echogenic band (SLEB)."""

EVIDENCE: Mapping[int, int] = {1: 255, 2: 128, 3: 64}
"""The layer code within which each class but the normal one can be seen."""

LAYERS: Mapping[int, str] = {255: "epidermis", 128: "upper dermis", 64: "middle dermis", 32: "beside", 0: "outside"}
"""What the codes of a layer map mean; 32 is the band below the dermis and the thin one above the skin."""

BAND, _ABOVE, _EPIDERMIS = 36, 16, (29, 37)
_FRAME = slice(5, 222)  # columns that the probe sees

# The streams of random numbers of one seed: a change in one part of a scan leaves the others as they were.
_PERSON, _PROBE, _SKIN, _TISSUE, _MACHINE, _SPECKLE, _EVIDENCE = range(7)


@dataclass(frozen=True)
class SkinImages:
    """One scan, each (224, 224), uint8.

    Attributes:
        image: grey values, the probe above.
        layers: the codes of `LAYERS`.
        evidence: 1 where the scan differs from a normal one.
    """

    image: np.ndarray
    layers: np.ndarray
    evidence: np.ndarray


@dataclass(frozen=True)
class _Depths:
    """Where the layers begin, in rows; one number per column.

    Attributes:
        surface: of the skin.
        epidermis: end of the epidermis layer (code 255).
        echo: end of the bright echo at the epidermis' top.
        fat: beginning of the subcutaneous fat.
    """

    surface: np.ndarray
    epidermis: np.ndarray
    echo: np.ndarray
    fat: np.ndarray


@dataclass(frozen=True)
class PlantedSkin:
    """One B-scan.

    Attributes:
        seed: every random number of the scan follows from it.
        label: index into `SKIN_CLASSES`.
        visit: another visit is another scan of the same skin: new probe position, gain and speckle.
    """

    seed: int
    label: int
    visit: int = 1

    def sample(self) -> SkinImages:
        """Make the scan.

        Returns:
            image, layers and evidence.
        """
        depths = self._depths()
        rows = np.arange(SKIN_SIZE, dtype=np.float32)[:, None]
        change = self._change(rows, depths) if self.label > 1 else np.zeros((SKIN_SIZE, SKIN_SIZE), np.float32)
        end = self._echo_end(depths)
        image = self._scan(rows, depths, change, end)
        framed = np.zeros_like(image)
        framed[:, _FRAME] = 1
        evidence = ((change != 0) | ((rows >= depths.echo) & (rows < end))).astype(np.uint8)
        return SkinImages(image, _layer_map(rows, depths) * framed, evidence * framed)

    def _random(self, stream: int, *, per_visit: bool = True) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, self.visit if per_visit else 0])

    def _depths(self) -> _Depths:
        """Layers of this visit; all of them fit into the scan."""
        person, probe = self._random(_PERSON, per_visit=False), self._random(_PROBE)
        x = np.linspace(-1, 1, SKIN_SIZE)
        bow = (
            probe.uniform(-12, 12) * x
            + probe.uniform(-4, 4) * x**2
            + 1.6 * _wander(probe, 25)
            + 0.5 * _wander(probe, 5)
        )
        thick = np.clip(person.uniform(31, 35) + 1.2 * _wander(probe, 18), *_EPIDERMIS).round()
        lowest = SKIN_SIZE - 3 - (bow + thick).max() - 3 * BAND
        surface = np.round(min(person.uniform(44, 62), lowest) + bow)
        echo = surface + person.uniform(6, 13) + 0.8 * _wander(probe, 12)
        fat = surface + thick + 2 * BAND + person.uniform(2, 34) + 2.5 * _wander(probe, 30)
        return _Depths(surface, surface + thick, echo, fat)

    def _echo_end(self, depths: _Depths) -> np.ndarray:
        """Where the epidermis' bright echo ends; deeper where it is thickened, never below its layer."""
        if self.label != 1:
            return depths.echo
        rng = self._random(_EVIDENCE)
        end = np.ceil(depths.echo) + np.rint(rng.uniform(10, 17) * _along(rng))
        return np.asarray(np.minimum(end, depths.epidermis))

    def _change(self, rows: np.ndarray, depths: _Depths) -> np.ndarray:
        """By how many decibels classes 2 and 3 change the echo, exactly 0 outside of their layer."""
        rng = self._random(_EVIDENCE)
        columns = np.arange(SKIN_SIZE, dtype=np.float32)
        if self.label == 2:
            along = _along(rng)
            deep = rng.uniform(16, 32) + 1.5 * _wander(rng, 20)
            below = rows - depths.epidermis
            inside = np.clip(below / 3, 0, 1) * np.clip((np.clip(deep, 10, BAND) - below) / 4, 0, 1) * along
            return np.asarray(-rng.uniform(11, 19) * inside * (below < BAND), dtype=np.float32)
        place, wide, tall = rng.uniform(65, 159), rng.uniform(26, 52), rng.uniform(11, 17)
        down = rows - depths.epidermis - 1.5 * BAND
        edge = 1 - np.hypot((columns - place) / wide, down / tall) + 0.06 * _wander(rng, 8)
        inside = np.clip(edge / 0.15, 0, 1) * (np.abs(down) < BAND / 2)
        return np.asarray(-rng.uniform(12, 20) * inside, dtype=np.float32)

    def _scan(self, rows: np.ndarray, depths: _Depths, change: np.ndarray, end: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_filter  # here: only the embedded set needs it

        rng, speckle = self._random(_MACHINE), self._random(_SPECKLE)
        level = self._echo(rows, depths, end) + change + self._harmless(rng, rows, depths)
        spread = (rng.uniform(0.7, 1.1), rng.uniform(1.5, 2.6))
        strength = 10 ** (level / 20)
        real, imaginary = (
            gaussian_filter(strength * speckle.standard_normal(strength.shape, dtype=np.float32), spread)
            for _ in range(2)
        )
        floor = speckle.standard_normal((2, SKIN_SIZE, SKIN_SIZE), dtype=np.float32) * 10 ** (
            rng.uniform(-62, -54) / 20
        )
        energy = 1 / (2 * np.sqrt(np.pi * spread[0] * spread[1]))  # what spreading leaves of the deviation
        envelope = np.hypot(real / energy + floor[0], imaginary / energy + floor[1])
        envelope = envelope + 10 ** (self._membrane(rng, rows) / 20)
        span = rng.uniform(44, 56)
        value = (20 * np.log10(envelope) + rng.uniform(-7, 6) + span) / (span + 6)
        image = np.rint(255 * np.clip(value, 0, 1)).astype(np.uint8)
        return _in_frame(image)

    def _echo(self, rows: np.ndarray, depths: _Depths, end: np.ndarray) -> np.ndarray:
        """Strength of the echo in decibels; the epidermis is bright down to ``end``, all else is healthy."""
        person, rng = self._random(_SKIN, per_visit=False), self._random(_TISSUE)
        dermis = person.uniform(-22, -12)
        fine, coarse = person.uniform(2, 4), person.uniform(1.5, 3.5)
        fibres = fine * _texture(rng, (3.0, 9.0)) + coarse * _texture(rng, (14.0, 26.0))
        gel, entry, fat = rng.uniform(-62, -50), rng.uniform(-2, 3), person.uniform(-42, -24)
        dark_top = -person.uniform(0, 4) * np.exp(-np.abs(rows - depths.echo - 6) / 6)
        bright = dermis + rng.uniform(8, 14)
        level = np.where(rows < depths.surface, gel, bright)
        level = np.where((rows >= depths.surface) & (rows < depths.surface + 2.5), entry, level)
        level = np.where(rows >= end, dermis + fibres + dark_top, level)
        septa = 18 * np.clip(_texture(rng, (2.4, 22.0)) - 1.1, 0, 1.2)
        towards = np.clip((rows - depths.fat) / 9, 0, 1)
        level = level + towards * (fat + septa - level)
        level = level - rng.uniform(0.08, 0.2) * np.clip(rows - depths.surface, 0, None)
        # a sheet of connective tissue, as bright as the epidermis and at times as thick: brightness alone says nothing
        fascia = np.maximum(depths.epidermis + 2.6 * BAND, depths.fat + 8) + rng.uniform(0, 20) + 3 * _wander(rng, 70)
        inside = np.clip((rng.uniform(-5, 13) + 2 * _wander(rng, 15) - np.abs(rows - fascia)) / 3, 0, 1)
        return np.asarray(level + inside * (bright + rng.uniform(-4, 3) - level), dtype=np.float32)

    def _harmless(self, rng: np.random.Generator, rows: np.ndarray, depths: _Depths) -> np.ndarray:
        """What every class may have: shadows of hairs, bright spots, small vessels, bubbles in the gel; decibels."""
        columns = np.arange(SKIN_SIZE, dtype=np.float32)
        change = np.zeros((SKIN_SIZE, SKIN_SIZE), np.float32)
        for _ in range(int(rng.poisson(2))):
            shade = np.exp(-(((columns - rng.uniform(10, 214)) / rng.uniform(1.5, 9)) ** 2))
            change -= rng.uniform(4, 14) * shade * (rows > depths.echo)
        for _ in range(int(rng.poisson(7))):
            column = int(rng.integers(8, 216))
            gel = rng.uniform() < 0.5
            row = rng.uniform(18, 44) if gel else depths.surface[column] + rng.uniform(14, 140)
            size = rng.uniform(1, 2.4), rng.uniform(2, 7)
            blob = np.exp(-(((rows - row) / size[0]) ** 2) - ((columns - column) / size[1]) ** 2)
            change += rng.choice([1.0, 1.0, -1.0]) * rng.uniform(8, 16) * (2.2 if gel else 1) * blob
        return np.asarray(change)

    def _membrane(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """The bright line of the probe's window, bent; decibels."""
        x = np.linspace(-1, 1, SKIN_SIZE)
        line = rng.uniform(9, 17) + rng.uniform(2, 9) * (x - rng.uniform(-0.2, 0.2)) ** 2 + 0.3 * _wander(rng, 6)
        return np.asarray(
            rng.uniform(-3, 3)
            - 9 * np.clip(np.abs(rows - line) - rng.uniform(0.5, 5), 0, 8)
            - 2.5 * np.abs(_wander(rng, 2))
        )


def planted_scan(seed: int, *, label: int | None = None, visit: int = 1) -> PlantedSkin:
    """The scan of an integer: the classes take turns.

    Args:
        seed: every random number of the scan follows from it.
        label: index into `SKIN_CLASSES`, instead of the seed's own.
        visit: number of the scan of this skin.

    Returns:
        the scan; nothing is computed before it is sampled.

    Raises:
        UsageError: there is no such class.

    Example:
        >>> planted_scan(6).label, planted_scan(6).sample().image.shape
        (2, (224, 224))
    """
    own = seed % len(SKIN_CLASSES) if label is None else label
    if own not in range(len(SKIN_CLASSES)):
        raise UsageError(f"planted skin: wanted a label from 0 to {len(SKIN_CLASSES) - 1}, got {own}")
    return PlantedSkin(seed, own, visit)


def _layer_map(rows: np.ndarray, depths: _Depths) -> np.ndarray:
    layers = np.zeros((SKIN_SIZE, SKIN_SIZE), np.uint8)
    starts = [depths.surface - _ABOVE, depths.surface, *(depths.epidermis + step * BAND for step in range(4))]
    for start, code in zip(starts, (32, 255, 128, 64, 32, 0), strict=True):
        layers = np.where(rows >= start, np.uint8(code), layers)
    return layers


def _in_frame(image: np.ndarray) -> np.ndarray:
    """The scanner's frame: black at the sides, marks of the depth along the left one."""
    framed = np.zeros_like(image)
    framed[:, _FRAME] = image[:, _FRAME]
    framed[::28, 1:4] = 160
    return framed


def _along(rng: np.random.Generator) -> np.ndarray:
    """How fully a change is there, by column: over a part of the scan, fading at its ends."""
    middle, half = rng.uniform(70, 154), rng.uniform(55, 120)
    return np.asarray(np.clip((half - np.abs(np.arange(SKIN_SIZE) - middle)) / 12, 0, 1))


def _wander(rng: np.random.Generator, grain: float) -> np.ndarray:
    """A smooth random line of unit deviation, one value per column."""
    from scipy.interpolate import CubicSpline  # here: only the embedded set needs it

    count = max(5, int(SKIN_SIZE / grain) + 2)
    knots = rng.standard_normal(count) * 1.2
    return np.asarray(CubicSpline(np.linspace(0, SKIN_SIZE, count), knots)(np.arange(SKIN_SIZE)))


def _texture(rng: np.random.Generator, grain: tuple[float, float]) -> np.ndarray:
    """Smooth random numbers of unit deviation over the scan."""
    from scipy.ndimage import gaussian_filter  # here: only the embedded set needs it

    smooth = gaussian_filter(
        rng.standard_normal((SKIN_SIZE, SKIN_SIZE), dtype=np.float32), [part / 2 for part in grain]
    )
    return np.asarray(smooth / smooth.std())
