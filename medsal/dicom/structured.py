"""Prediction, scores and the model's identity as a Comprehensive SR with template TID 1500."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medsal.dicom.phi import sealed
from medsal.dicom.segmentation import SCHEME
from medsal.dicom.sources import NOTICE, Study
from medsal.dicom.uids import MANUFACTURER, derived_uid

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept
    from pydicom import Dataset


@sealed
def report(
    study: Study, prediction: str, probabilities: Mapping[str, float], scores: Mapping[str, float] | None = None
) -> Dataset:
    """Write a report: preliminary, unverified, for research only.

    Args:
        study: from `medsal.dicom.open_study`.
        prediction: class that the model says.
        probabilities: class -> what the model says, 0 to 1.
        scores: name -> number, for example of the metrics of the map.

    Returns:
        A Comprehensive SR object (TID 1500 Measurement Report).
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    made = study.provenance
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", MANUFACTURER, made.version),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=made.bundle or MANUFACTURER,
        ),
    )
    numbers = {f"probability of {name}": value for name, value in probabilities.items()} | dict(scores or {})
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=_code("attribution of a classifier"),
        imaging_measurements=[_measured(study, prediction, numbers)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    identity = study.identity("sr")
    result = sr.ComprehensiveSR(
        evidence=list(study.headers),
        content=content[0],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        is_complete=False,
        is_final=False,
        is_verified=False,
        **{name: value for name, value in identity.items() if name not in _NOT_ASKED},
    )
    result.PreliminaryFlag = "PRELIMINARY"
    result.CompletionFlagDescription = NOTICE
    return study.dress(result, "sr")


_NOT_ASKED = {"manufacturer_model_name", "software_versions", "device_serial_number"}


def _measured(study: Study, prediction: str, numbers: Mapping[str, float]) -> Any:
    """What the model says, and which model says it."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    made = study.provenance
    algorithm = sr.AlgorithmIdentification(
        name=made.bundle or MANUFACTURER,
        version=made.bundle_version or made.version,
        parameters=made.parameters,
        manufacturer=MANUFACTURER,
    )
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(derived_uid(study.uid("sr"), "group"), "classification"),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(name=_code(name), value=float(value), unit=codes.UCUM.NoUnits)
            for name, value in numbers.items()
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("predicted class"), _code(prediction or "not given")),
            sr.QualitativeEvaluation(_code("intended use"), _code("Research only")),
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(header) for header in study.headers[:1]],
    )


def _code(meaning: str) -> CodedConcept:
    """A concept of ours: the code value follows from its meaning."""
    from highdicom.sr import CodedConcept as Concept

    value = "".join(character if character.isalnum() else "-" for character in meaning.upper())
    if len(value) > 16 or not value.isascii():
        value = derived_uid("code", meaning).removeprefix("2.25.")[:16]
    return Concept(value, SCHEME, meaning[:64])
