"""The loader of a bundle, and medsal.dicom in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai.transforms import LoadImaged

from medsal.data import LoadFilmd
from medsal.dicom.listing import read
from medsal.dicom.scan import Series
from medsal.dicom.transforms import LoadDicomFilmd, LoadDicomSeriesd
from medsal.errors import UsageError
from medsal.transforms import LoadVolumed

if TYPE_CHECKING:
    from monai.data import MetaTensor

KNOWN = (LoadVolumed, LoadFilmd, LoadDicomFilmd, LoadDicomSeriesd, LoadImaged)
"""Loaders that medsal.dicom can stand in for."""


@dataclass(frozen=True)
class Loader:
    """How a bundle reads images, as medsal.dicom does it in place of the bundle's own loader.

    Attributes:
        film: as films; otherwise as volumes.
        voi: of films, as `medsal.dicom.read_film` takes it.
        scaled: likewise.
        channels: of what the chain gets; 0: an image without a channel, as ``LoadImaged`` gives it by default.
    """

    film: bool
    voi: int | str | None = "any"
    scaled: bool = True
    channels: int = 1

    def read(self, series: Series) -> MetaTensor:
        """Read a series.

        Args:
            series: of `medsal.dicom.units.find`.

        Returns:
            ``(1, *space)`` as it is shown beside its map.

        Raises:
            Refusal: as `read_film` and `read_series` say.
        """
        return read(series, film=self.film, voi=self.voi, scaled=self.scaled)

    def given(self, image: MetaTensor) -> MetaTensor:
        """What the chain gets in place of a file.

        Args:
            image: ``(1, *space)``.

        Returns:
            A copy with as many channels as the bundle's loader gives.
        """
        if not self.channels:
            return image[0].clone()
        return image.clone() if self.channels == 1 else image.repeat(self.channels, *[1] * (image.ndim - 1))

    @classmethod
    def like(cls, step: Any) -> Loader:
        """Read as a step of a chain does.

        Args:
            step: one of the loaders that are known here.

        Returns:
            How.
        """
        if isinstance(step, LoadDicomFilmd):
            return cls(True, step.loader.voi, step.loader.scaled)
        if isinstance(step, LoadFilmd):
            return cls(True, channels=3 if step.load.colour == "keep" else 1)
        if isinstance(step, LoadImaged):
            return cls(False, channels=int(step._loader.ensure_channel_first))
        return cls(False)


def without_loader(chain: Any) -> tuple[tuple[Any, ...], Loader]:
    """Take the loader of the image out of a chain: medsal.dicom has read it already.

    Args:
        chain: a ``Compose``, other chains inside it too.

    Returns:
        The other steps, and how to read in its place.

    Raises:
        UsageError: there is no loader that is known here, or several.
    """
    steps = _flat(chain)
    loaders = [step for step in steps if isinstance(step, KNOWN) and "image" in step.keys]
    if len(loaders) != 1:
        names = ", ".join(one.__name__ for one in KNOWN)
        raise UsageError(f"bundle: wanted one loader of 'image' in its preprocessing ({names}), got {len(loaders)}")
    return tuple(step for step in steps if step is not loaders[0]), Loader.like(loaders[0])


def _flat(chain: Any) -> Sequence[Any]:
    """The steps of a chain, those of chains inside it too."""
    steps = getattr(chain, "transforms", None)
    if type(chain).__name__ == "Compose" and steps is not None:
        return [step for part in steps for step in _flat(part)]
    return [chain]
