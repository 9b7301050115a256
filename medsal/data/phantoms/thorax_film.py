"""Planted chest films: a person, a finding, and what the machine that took the film adds.

Intensity follows Beer and Lambert: a ray that crosses thickness t of tissue with attenuation mu keeps exp(-sum mu t).
Then come scatter, the detector's blur, quantum noise, the logarithm, an enhancement of detail, a window, a marker and a
collimator, each drawn from the film's seed. The same seed with ``label=0`` and ``label=1`` gives twins that differ at
the finding alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsal.data.phantoms.chest import Chest
from medsal.data.phantoms.thorax import FIELD, Tissue, View, draw_chest, draw_view, project
from medsal.data.phantoms.thorax_details import Line, draw_lines, foreign_bodies, harmless, marker, vessels
from medsal.data.phantoms.thorax_findings import FINDINGS, Change, pneumonia, pneumothorax, smooth_field
from medsal.errors import UsageError

__all__ = ["FilmImages", "PlantedFilm", "planted_film"]

# The streams of random numbers of one seed: a change in one part of a film leaves the others as they were.
_PERSON, _VIEW, _DETAILS, _FINDING, _MACHINE, _NOISE, _VESSELS, _SHUTTER = range(8)
_SOFT, _LUNG, _BONE = 0.19, 0.05, 0.45  # attenuation per cm at diagnostic energies
_SIZES = (64, 4096)


@dataclass(frozen=True)
class FilmImages:
    """One film, each (size, size), uint8.

    Attributes:
        image: grey values; dense is bright, the patient's left is on the image's right.
        parts: 0, and 1, 2, ... inside each part of the finding.
        lungs: 1 in the left lung's field, 2 in the right one's (`medsal.data.phantoms.thorax.LUNGS`).
    """

    image: np.ndarray
    parts: np.ndarray
    lungs: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """1 inside the finding, uint8."""
        return (self.parts > 0).astype(np.uint8)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Half-open boxes (x0, y0, x1, y1) around the parts of the finding, in pixels."""
        found = []
        for part in np.unique(self.parts[self.parts > 0]):
            rows, columns = np.nonzero(self.parts == part)
            found.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
        return found


@dataclass(frozen=True)
class PlantedFilm:
    """One frontal chest film.

    Attributes:
        seed: every random number of the film follows from it.
        finding: ``"pneumothorax"`` or ``"pneumonia"``, what label 1 means.
        label: 1 with the finding, 0 without.
        visit: another visit is another film of the same person: new pose, exposure, noise, devices and finding.
    """

    seed: int
    finding: str
    label: int
    visit: int = 1

    def sample(self, size: int = 256) -> FilmImages:
        """The film at a size; anatomy and finding are the same at every size, the noise is drawn for each.

        Args:
            size: pixels along each side.

        Returns:
            image, parts of the finding and lung fields.

        Raises:
            UsageError: a size below 64 or above 4096.
        """
        if not _SIZES[0] <= size <= _SIZES[1]:
            raise UsageError(f"planted film: wanted a size of {_SIZES[0]} to {_SIZES[1]} pixels, got {size}")
        chest = draw_chest(self._random(_PERSON, per_visit=False))
        view = draw_view(self._random(_VIEW), size)
        tissue = project(chest, view)
        tree = vessels(chest, self._random(_VESSELS, per_visit=False))
        change = None
        if self.label:
            rng = self._random(_FINDING)
            if self.finding == "pneumothorax":
                change = pneumothorax(chest, view, tissue, rng)
            else:
                change = pneumonia(chest, view, tissue, tree, rng)
        plain, changed = self._attenuation(chest, view, tissue, tree, change)
        image = self._develop(view, tissue, plain, changed)
        opening = _opening(view, self._random(_SHUTTER))
        parts = np.zeros_like(tissue.fields) if change is None else change.parts
        return FilmImages(image * opening, parts * opening, tissue.fields * opening)

    def _random(self, stream: int, *, per_visit: bool = True) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, self.visit if per_visit else 0])

    def _attenuation(
        self, chest: Chest, view: View, tissue: Tissue, tree: dict[int, list[Line]], change: Change | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attenuation along each ray, without and with the finding."""
        rng = self._random(_DETAILS)
        lines, discs = foreign_bodies(chest, rng)
        soft, air = harmless(chest, view, rng)
        x, y = view.places()
        metal = draw_lines(view, lines, lambda _: 0.5)
        for place, radius in discs:
            metal = np.maximum(metal, 0.6 * np.clip((radius - np.hypot(x - place[0], y - place[1])) / 0.1, 0, 1))
        full = np.clip(tissue.lung / (0.4 * chest.depth), 0, 1)
        drawn = draw_lines(view, [line for lines in tree.values() for line in lines], lambda width: 5.2 * width)
        texture = 0.035 * smooth_field(view, rng, 0.45) + 0.035 * smooth_field(view, rng, 0.2)
        markings = full * (drawn + texture)
        flesh = np.clip(tissue.body - tissue.lung - tissue.air - air, 0, None) + soft * (tissue.body > 0)
        rest = _SOFT * flesh + (_BONE - _SOFT) * tissue.bone + metal
        plain = rest + _LUNG * tissue.lung + (_SOFT - _LUNG) * markings
        if change is None:
            return plain, plain
        changed = (
            rest + _LUNG * tissue.lung * change.lung + (_SOFT - _LUNG) * (markings * change.markings + change.soft)
        )
        return plain, changed

    def _develop(self, view: View, tissue: Tissue, plain: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """From attenuation to grey values; all but the rays themselves is set by the film without the finding."""
        from scipy.ndimage import gaussian_filter  # here: only the embedded set needs it

        rng = self._random(_MACHINE)
        primary = np.exp(-plain)
        scatter = rng.uniform(0.25, 0.7) * _blurred(primary, 2.5) + 0.004
        blur = rng.uniform(0.02, 0.07) * view.size / FIELD
        seen = gaussian_filter(np.exp(-changed), blur) + scatter
        grain = np.random.default_rng([self.seed, _NOISE, self.visit, view.size])
        noise = grain.standard_normal(seen.shape, dtype=np.float32) * rng.uniform(0.0015, 0.005)
        level = -np.log(np.clip(seen + noise * np.sqrt(seen), 1e-4, None))
        quiet = -np.log(primary + scatter)
        flatten = rng.uniform(0.25, 0.7) * _blurred(quiet, rng.uniform(2.0, 4.5))  # large shades weaker than detail
        level, quiet = level - flatten, quiet - flatten
        low, high = np.percentile(quiet[tissue.body > 0.4 * tissue.body.max()], [0.5, 99.5])
        low, high = low - (high - low) * rng.uniform(-0.05, 0.5), high + (high - low) * rng.uniform(-0.05, 0.4)
        value = np.clip((level - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.35)
        value = np.maximum(value, rng.uniform(0.8, 1) * marker(view, rng))
        return np.asarray(np.rint(255 * value), dtype=np.uint8)


def planted_film(seed: int, *, finding: str = "pneumothorax", label: int | None = None, visit: int = 1) -> PlantedFilm:
    """The film of an integer: even seeds are without the finding, odd ones with it.

    Args:
        seed: every random number of the film follows from it.
        finding: ``"pneumothorax"`` or ``"pneumonia"``.
        label: 0 or 1, instead of the seed's own.
        visit: number of the film of this person.

    Returns:
        the film; nothing is computed before it is sampled.

    Raises:
        UsageError: an unknown finding.

    Example:
        >>> film = planted_film(3)
        >>> film.label, planted_film(3, label=0).label, film.sample(64).image.shape
        (1, 0, (64, 64))
    """
    if finding not in FINDINGS:
        raise UsageError(f"planted film: unknown finding '{finding}'; there are {', '.join(FINDINGS)}")
    return PlantedFilm(seed, finding, seed % 2 if label is None else label, visit)


def _blurred(values: np.ndarray, centimetres: float) -> np.ndarray:
    """A wide blur, computed on a coarse copy."""
    from PIL import Image  # here: only the embedded set needs it
    from scipy.ndimage import gaussian_filter

    size = values.shape[0]
    coarse = np.asarray(Image.fromarray(values.astype(np.float32)).resize((64, 64), Image.Resampling.BOX))
    smooth = gaussian_filter(coarse, centimetres * 64 / FIELD, mode="nearest")
    return np.asarray(Image.fromarray(smooth).resize((size, size), Image.Resampling.BICUBIC))


def _opening(view: View, rng: np.random.Generator) -> np.ndarray:
    """1 where the collimator let the rays through; it is wide open on half of the films."""
    share = np.arange(view.size) / view.size
    left, right, top, bottom = rng.uniform(0, 0.05, 4) * (rng.uniform() < 0.5)
    across, down = (share >= left) & (share < 1 - right), (share >= top) & (share < 1 - bottom)
    return np.asarray(across[None] & down[:, None], dtype=np.uint8)
