"""De-identified copies for research: PS3.15's basic profile by dicom-anonymizer, and what that leaves.

Results for the PACS (`medsal.dicom.write_dicom`) keep the patient's identity. Needs the extra ``deid``.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medsal.dicom.phi import PhiFilter, pseudonym, sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.safe import LIMITS, Limits, Opened, open_file
from medsal.errors import UsageError
from medsal.files import write_file

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

_SHOWS_TEXT = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1")
"""Secondary capture and ultrasound: the patient's name usually stands in the pixels."""

_TEXTS = frozenset("AE CS LO LT PN SH ST UC UT UR".split())
_STANDARD = "1.2.840.10008."  # UIDs that DICOM defines say nothing about anybody


@sealed
def deidentify(source: str | Path | Opened, folder: str | Path, key: bytes, *, limits: Limits = LIMITS) -> Path:
    """Write a copy without the patient's identity.

    The basic profile of PS3.15 with UIDs, patient ID and name made from ``key`` (the same key gives the same, so that
    series and studies stay together over runs and machines), private elements and overlays removed at any depth, and
    every text removed that still holds an identifier of the original.

    Args:
        source: the file.
        folder: where the copy is written, named by its new UID's pseudonym.
        key: a secret of at least 16 bytes; who has it can find the originals.
        limits: what is read.

    Returns:
        The copy.

    Raises:
        UsageError: the key is too short.
        Refusal: ``burned_in``: the annotation says so, or captures and ultrasound, which show names; or what
            `medsal.dicom.open_file` says.
    """
    import pydicom

    if len(key) < 16:
        raise UsageError(f"deidentify: wanted a key of at least 16 bytes, got {len(key)}")
    opened = source if isinstance(source, Opened) else open_file(source, limits)
    refuse_shown(opened)
    dataset = pydicom.dcmread(opened.path)
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    remove_identity(dataset, key)

    def content(file: IO[bytes]) -> None:
        dataset.save_as(file, enforce_file_format=True)

    return write_file(Path(folder) / f"{pseudonym(dataset.SOPInstanceUID, 'image')}.dcm", content)


def refuse_shown(opened: Opened) -> None:
    """Refuse an image whose pixels may show who the patient is.

    Args:
        opened: its header.

    Raises:
        Refusal: ``burned_in``.
    """
    if opened.text("BurnedInAnnotation").upper() == "YES":
        raise Refusal(Reason.BURNED_IN)
    if opened.text("SOPClassUID").startswith(_SHOWS_TEXT):
        raise Refusal(Reason.BURNED_IN, "secondary capture or ultrasound")


def remove_identity(dataset: FileDataset, key: bytes) -> None:
    """Take the identity out of an object.

    Args:
        dataset: is changed, its file meta and preamble too.
        key: as `deidentify` takes it.
    """
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions_2024b, keep

    known = PhiFilter()
    known.learn(dataset)
    patient = _digest(key, "patient", dataset.get("PatientID"), dataset.get("IssuerOfPatientID"))
    dataset.remove_private_tags()
    _remove_overlays(dataset)
    dataset.walk(lambda _, element: _replace_uids(element, key))
    meta = type(dataset.file_meta)()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID  # saving adds the rest
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    actions = initialize_actions_2024b()
    own = {tag: keep for tag in actions if len(tag) == 2 and _is_uid(tag)}
    anonymize_dataset(dataset, own, base_rules_gen=initialize_actions_2024b)
    _remove_known(dataset, known)
    dataset.PatientID = dataset.PatientName = f"R{patient[:15].upper()}"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "PS3.15 Basic Profile; UIDs by keyed hash; private and overlays removed"
    dataset.DeidentificationMethodCodeSequence = [_code("113100", "Basic Application Confidentiality Profile")]
    dataset.BurnedInAnnotation = "NO"


def _digest(key: bytes, *parts: object) -> str:
    text = "|".join(f"{len(str(part))}:{part}" for part in parts)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _replace_uids(element: Any, key: bytes) -> None:
    """Every UID that DICOM does not define itself."""
    if element.VR != "UI" or not element.value:
        return
    values = [element.value] if isinstance(element.value, str) else list(element.value)
    made = [
        uid if str(uid).startswith(_STANDARD) else f"2.25.{int(_digest(key, 'uid', uid)[:32], 16)}" for uid in values
    ]
    element.value = made[0] if len(made) == 1 else made


def _is_uid(tag: tuple[int, ...]) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    number = tag[0] << 16 | tag[1]
    return dictionary_has_tag(number) and dictionary_VR(number) == "UI"


def _remove_overlays(dataset: Dataset) -> None:
    """Groups 50xx (curves) and 60xx (overlays), whose bits and descriptions can hold names."""
    for element in list(dataset):
        if 0x5000 <= element.tag.group <= 0x50FF or 0x6000 <= element.tag.group <= 0x60FF:
            del dataset[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _remove_overlays(item)


def _remove_known(dataset: Dataset, known: PhiFilter) -> None:
    """Texts at any depth that still hold what identified the patient."""
    for element in list(dataset):
        if element.VR == "SQ":
            for item in element.value:
                _remove_known(item, known)
        elif element.VR in _TEXTS and known.clean(str(element.value)) != str(element.value):
            del dataset[element.tag]


def _code(value: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset as New

    item = New()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
