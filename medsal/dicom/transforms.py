"""MONAI transforms that read and write DICOM, instead of ``LoadImaged``, whose readers guess where medsal refuses.

The configuration of a bundle names them: ``{"_target_": "medsal.dicom.transforms.LoadDicomSeriesd", "keys": "image"}``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from medsal.dicom.film import read_film
from medsal.dicom.safe import LIMITS, Limits
from medsal.dicom.save import Findings, write_dicom
from medsal.dicom.series import read_series
from medsal.dicom.uids import Provenance

__all__ = [
    "LoadDicomFilm",
    "LoadDicomFilmD",
    "LoadDicomFilmDict",
    "LoadDicomFilmd",
    "LoadDicomSeries",
    "LoadDicomSeriesD",
    "LoadDicomSeriesDict",
    "LoadDicomSeriesd",
    "SaveDicomD",
    "SaveDicomDict",
    "SaveDicomd",
]


class LoadDicomSeries(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Read an MR or CT series as a volume; `medsal.dicom.read_series` says how.

    Args:
        limits: what is read; the usual ones if None.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or LIMITS

    def __call__(self, source: str | Path | Sequence[str | Path]) -> MetaTensor:
        """Read one series.

        Args:
            source: its folder, a DICOMDIR, or its files.

        Returns:
            ``(1, columns, rows, slices)`` float32 with affine and native grid.
        """
        return read_series(source, limits=self.limits)


class LoadDicomFilm(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Read a CR or DX film as it is meant to be seen; `medsal.dicom.read_film` says how.

    Args:
        voi: number of the window to apply, ``any`` for the first where there is one, None for none: what the model was
            trained on.
        scaled: from 0 (black) to 1 (white) also without a window; with ``any``, as `medsal.data.LoadFilm` gives films.
        limits: what is read; the usual ones if None.
    """

    def __init__(self, voi: int | str | None = None, scaled: bool = False, limits: Limits | None = None) -> None:
        self.voi = voi
        self.scaled = scaled
        self.limits = limits or LIMITS

    def __call__(self, source: str | Path) -> MetaTensor:
        """Read one film.

        Args:
            source: its file.

        Returns:
            ``(1, rows, columns)`` float32.
        """
        return read_film(source, voi=self.voi, scaled=self.scaled, limits=self.limits)


class LoadDicomSeriesd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Dictionary version of `LoadDicomSeries`.

    Args:
        keys: of the folders, DICOMDIRs or lists of files.
        limits: what is read; the usual ones if None.
        allow_missing_keys: pass over keys that a case does not have.
    """

    def __init__(self, keys: KeysCollection, limits: Limits | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadDicomSeries(limits)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the series of a case.

        Args:
            data: the case.

        Returns:
            It, with images.
        """
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.loader(case[key])
        return case


class LoadDicomFilmd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Dictionary version of `LoadDicomFilm`.

    Args:
        keys: of the files.
        voi: number of the window to apply, ``any`` or None.
        scaled: from 0 (black) to 1 (white) also without a window.
        limits: what is read; the usual ones if None.
        allow_missing_keys: pass over keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        voi: int | str | None = None,
        scaled: bool = False,
        limits: Limits | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadDicomFilm(voi, scaled, limits)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the films of a case.

        Args:
            data: the case.

        Returns:
            It, with images.
        """
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.loader(case[key])
        return case


class SaveDicomd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Write maps as DICOM objects for the images that they belong to; `medsal.dicom.write_dicom` says how.

    Args:
        keys: of the maps, ``(1, *space)``, whose meta came along from `LoadDicomSeriesd` or `LoadDicomFilmd`.
        output_dir: where; a folder with a pseudonym for each series is made in it.
        provenance: what made them: a `medsal.dicom.Provenance` or its entries; the method is the key where it has none.
        kinds: of ``sc``, ``seg``, ``pm``, ``sr``; None: overlays and report, and the region for series.
        findings_key: of a `medsal.dicom.Findings` or its entries in the case.
        allow_missing_keys: pass over keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        provenance: Provenance | Mapping[str, str],
        kinds: Sequence[str] | None = None,
        findings_key: str = "findings",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.provenance = provenance if isinstance(provenance, Provenance) else Provenance(**provenance)
        self.kinds = kinds
        self.findings_key = findings_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the maps of a case.

        Args:
            data: the case.

        Returns:
            It, with the list of files of each map under ``<key>_dicom``.
        """
        case = dict(data)
        given = case.get(self.findings_key)
        findings = given if given is None or isinstance(given, Findings) else Findings(**given)
        for key in self.key_iterator(case):
            made = self.provenance if self.provenance.method else replace(self.provenance, method=str(key))
            case[f"{key}_dicom"] = write_dicom(case[key], self.output_dir, made, findings, self.kinds)
        return case


SaveDicomD = SaveDicomDict = SaveDicomd
LoadDicomSeriesD = LoadDicomSeriesDict = LoadDicomSeriesd
LoadDicomFilmD = LoadDicomFilmDict = LoadDicomFilmd
