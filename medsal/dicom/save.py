"""All results of one image in one folder: written whole or not at all, under names that say nothing of the patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from medsal.dicom.capture import captures
from medsal.dicom.checks import check_result
from medsal.dicom.film import read_film
from medsal.dicom.grid import NativeGrid
from medsal.dicom.parametric import parametric_map
from medsal.dicom.phi import pseudonym
from medsal.dicom.segmentation import segmentation
from medsal.dicom.series import read_series
from medsal.dicom.sources import SERIES_NUMBERS, Study, open_study
from medsal.dicom.structured import report
from medsal.dicom.uids import Provenance
from medsal.errors import UsageError
from medsal.files import write_file

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from pydicom import Dataset

FILM_KINDS, SERIES_KINDS = ("sc", "sr"), ("sc", "seg", "sr")
"""What is written where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a model said of an image.

    Attributes:
        prediction: its class.
        probabilities: class -> probability.
        scores: name -> number, for example of the map's metrics.
    """

    prediction: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """What stands in pictures."""
        said = [f"prediction {self.prediction}"] if self.prediction else []
        return said + [f"{name} {value:.3f}" for name, value in {**self.probabilities, **self.scores}.items()][:4]


def results(
    study: Study,
    image: MetaTensor,
    relevance: MetaTensor,
    findings: Findings | None = None,
    kinds: Sequence[str] | None = None,
) -> list[Dataset]:
    """Make the objects for one map.

    Args:
        study: from `medsal.dicom.open_study`.
        image: as it was read.
        relevance: its map, on any grid.
        findings: what the model said.
        kinds: of ``sc`` (overlays), ``seg`` (region of highest attribution), ``pm`` (the whole map, series only),
            ``sr`` (report); None: overlays and report, and the region for series.

    Returns:
        The objects, each checked.

    Raises:
        UsageError: an unknown kind.
    """
    said = findings or Findings()
    wanted = tuple(kinds) if kinds is not None else (FILM_KINDS if len(study.grid.shape) == 2 else SERIES_KINDS)
    unknown = sorted(set(wanted) - set(SERIES_NUMBERS))
    if unknown:
        raise UsageError(f"kinds of DICOM results: wanted of {', '.join(SERIES_NUMBERS)}, got {', '.join(unknown)}")
    made: list[Dataset] = []
    if "sc" in wanted:
        made += captures(study, image, relevance, lines=said.lines)
    if "seg" in wanted:
        made.append(segmentation(study, relevance))
    if "pm" in wanted:
        made.append(parametric_map(study, relevance))
    if "sr" in wanted:
        made.append(report(study, said.prediction, said.probabilities, said.scores))
    for result in made:
        check_result(result, study)
    return made


def write_dicom(
    relevance: MetaTensor,
    folder: str | Path,
    provenance: Provenance,
    findings: Findings | None = None,
    kinds: Sequence[str] | None = None,
) -> list[Path]:
    """Write the results for one map; the images are read again from where they lie, as they are.

    Args:
        relevance: a map whose meta came along from `medsal.dicom.read_series` or `read_film`, on any grid.
        folder: where; a folder for the series is made in it.
        provenance: what the map was made by.
        findings: what the model said.
        kinds: as `results` takes them.

    Returns:
        The files.
    """
    grid = NativeGrid.of(relevance)
    film = len(grid.shape) == 2
    image = read_film(grid.files[0], voi=grid.facts.get("voi")) if film else read_series(grid.files)
    study = open_study(grid, provenance)
    name = pseudonym(grid.instances[0], "film") if film else pseudonym(grid.series_uid)
    return save_results(results(study, image, relevance, findings, kinds), Path(folder) / name)


def save_results(made: Sequence[Dataset], folder: str | Path) -> list[Path]:
    """Write objects into a folder, named by kind, series and number; a file that is there is replaced.

    Args:
        made: from `results`.
        folder: where.

    Returns:
        The files.
    """
    files = []
    for result in made:
        kind = next(kind for kind, number in SERIES_NUMBERS.items() if number == result.SeriesNumber)
        name = f"{pseudonym(result.SeriesInstanceUID, kind)}_{int(result.InstanceNumber):03d}.dcm"

        def content(file: IO[bytes], whole: Dataset = result) -> None:
            whole.save_as(file, enforce_file_format=True)

        files.append(write_file(Path(folder) / name, content))
    return files
