"""What every result takes over from the images that it was made from, and says about itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from medsal.dicom.grid import NativeGrid
from medsal.dicom.phi import sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, open_file
from medsal.dicom.uids import MANUFACTURER, Provenance, derived_uid

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from pydicom import Dataset

NOTICE = "RESEARCH - NOT FOR DIAGNOSTIC USE"
"""Stands in every picture and in every report."""

SERIES_NUMBERS = {"sc": 9001, "seg": 9002, "pm": 9003, "sr": 9004}
"""Kind of object -> number of its series."""

_WORDS = {"sc": "overlay", "seg": "top region", "pm": "attribution map", "sr": "report"}
_COPIED = ("BodyPartExamined", "InstitutionName", "StudyDescription")
_AGE = re.compile(r"\d{3}[DWMY]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The images that results are made for, and what the results are made by.

    Attributes:
        grid: of the images.
        headers: of the objects, in the order of ``grid.instances``, texts in UTF-8.
        provenance: what the results are made by.
        created: when; stands in the objects, and does not change their UIDs.
    """

    grid: NativeGrid
    headers: Sequence[Dataset]
    provenance: Provenance
    created: datetime

    @property
    def first(self) -> Dataset:
        """The first header."""
        return self.headers[0]

    def series_uid(self, kind: str) -> str:
        """UID of the series of a kind of result; the same for the same images and provenance.

        Args:
            kind: of `SERIES_NUMBERS`.

        Returns:
            A UID.
        """
        return derived_uid(self.grid.series_uid, *self.grid.instances, self.provenance.digest, kind)

    def uid(self, kind: str, index: int = 1) -> str:
        """UID of one object.

        Args:
            kind: of `SERIES_NUMBERS`.
            index: instance number, from 1.

        Returns:
            A UID.
        """
        return derived_uid(self.series_uid(kind), index)

    def identity(self, kind: str, index: int = 1) -> dict[str, Any]:
        """What highdicom's constructors ask of every object.

        Args:
            kind: of `SERIES_NUMBERS`.
            index: instance number, from 1.

        Returns:
            Keyword arguments.
        """
        return {
            "series_instance_uid": self.series_uid(kind),
            "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": self.uid(kind, index),
            "instance_number": index,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": MANUFACTURER,
            "software_versions": self.provenance.version,
            "device_serial_number": (self.provenance.model_sha256 or "0")[:16],
        }

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """Who made a result: bundle, version, and everything that `Provenance` holds as parameters.

        Returns:
            An item for SEG.
        """
        import highdicom
        from pydicom.sr.codedict import codes

        return highdicom.AlgorithmIdentificationSequence(
            name=f"{MANUFACTURER} {self.provenance.method or 'attribution'}"[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=f"{self.provenance.version} {self.provenance.bundle} {self.provenance.bundle_version}".strip()[:64],
            source=MANUFACTURER,
            parameters={key: value for key, value in self.provenance.as_dict().items() if value},
        )

    def dress(self, result: Dataset, kind: str) -> Dataset:
        """Complete an object: description, equipment, body part, the day it was made.

        Args:
            result: from highdicom; is changed.
            kind: of `SERIES_NUMBERS`.

        Returns:
            It.
        """
        import highdicom
        from pydicom.sr.codedict import codes

        what = " ".join(part for part in (self.provenance.method, _WORDS[kind]) if part)
        result.SeriesDescription = f"{MANUFACTURER} {what[:46].strip()} (research)"  # at most 64 characters
        result.Manufacturer = MANUFACTURER
        result.ManufacturerModelName = self.provenance.bundle[:64] or MANUFACTURER
        result.SoftwareVersions = self.provenance.version
        for keyword in _COPIED:
            if self.first.get(keyword) and not result.get(keyword):
                setattr(result, keyword, self.first.get(keyword))
        if kind == "sc" and not result.get("BodyPartExamined"):
            result.Laterality = self.first.get("Laterality") or ""  # wanted where the body part may be one of two
        for keyword, text in (("SeriesDate", "%Y%m%d"), ("SeriesTime", "%H%M%S")):
            setattr(result, keyword, self.created.strftime(text))
        item = highdicom.ContributingEquipment(
            manufacturer=MANUFACTURER,
            manufacturer_model_name=self.provenance.bundle[:64] or MANUFACTURER,
            software_versions=self.provenance.version,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            contribution_description=("; ".join(self.provenance.parameters))[:1024],
        )
        result.ContributingEquipmentSequence = [*(result.get("ContributingEquipmentSequence") or []), item]
        return result


@sealed
def open_study(
    grid: NativeGrid, provenance: Provenance, *, created: datetime | None = None, limits: Limits = LIMITS
) -> Study:
    """Read the headers that results refer to.

    Args:
        grid: of the images, with the files that they lie in.
        provenance: what the results are made by.
        created: when; now if None.
        limits: what is read.

    Returns:
        The study.

    Raises:
        Refusal: ``missing``, or ``not_native`` where another object lies in a file than when it was read.
    """
    headers = []
    for path, uid in zip(grid.files, grid.instances, strict=True):
        opened = open_file(path, limits)
        if opened.uid != uid or opened.series_uid != grid.series_uid:
            raise Refusal(Reason.NOT_NATIVE, "another object than when it was read", opened.path)
        headers.append(_in_unicode(opened.header))
    return Study(grid=grid, headers=headers, provenance=provenance, created=created or datetime.now(UTC))


def _in_unicode(header: Dataset) -> Dataset:
    """Texts in UTF-8: highdicom knows no character sets by code extension, as Japanese files have them."""
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    if not _AGE.fullmatch(str(header.get("PatientAge") or "")):
        header.pop("PatientAge", None)  # results would copy what is no age
    return header
