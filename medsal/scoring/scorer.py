"""The scores of one case among others: its own files, another patient's maps, the prior of a training split."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medsal._version import __version__
from medsal.bundle.exits import reason
from medsal.bundle.fingerprint import digest, file_sha256
from medsal.errors import InputError
from medsal.evaluation import METRICS
from medsal.scoring.arrays import oriented, stretched
from medsal.scoring.case import ScoredCase
from medsal.scoring.cases import CaseFiles, Cases
from medsal.scoring.prior import Prior, training_prior
from medsal.scoring.reading import CaseReader, LazyMaps
from medsal.scoring.score import score_case
from medsal.scoring.settings import Settings
from medsal.scoring.table import COLUMNS

_LOG = logging.getLogger("medsal")
_SUMMARY_ONLY = ("level", "alpha", "resamples", "correction", "primary", "compared")


class Scorer:
    """Scores the cases of an evaluation one by one.

    Args:
        cases: all of them.
        settings: how.
        prior: for the mean training mask, see ``training_prior``; None for none.

    Attributes:
        prior: the mean training mask, None where it is not asked for.
        partners: case -> the case of another patient whose maps stand in for its own.
    """

    def __init__(self, cases: Cases, settings: Settings, prior: Any = None) -> None:
        self.cases, self.settings = cases, settings
        wanted = prior is not None and "mean training mask" in settings.baselines
        self.prior: Prior | None = training_prior(prior, cases) if wanted else None
        self._by_name = {files.case: files for files in cases.found}
        self.partners = self._partners()

    def score(self, files: CaseFiles) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Score a case; without the other patient's map where that cannot be read.

        Args:
            files: the case.

        Returns:
            Its rows, and what was resampled to reach one grid -> how.

        Raises:
            InputError: if the case cannot be read or scored.
        """
        partner = self._by_name.get(self.partners.get(files.case, ""))
        try:
            return self._scored(files, partner)
        except InputError:
            why = _unreadable(partner, resample=self.cases.resample) if partner else ""
            if not why:
                raise
            rows, resampled = self._scored(files, None)
            _LOG.warning("%s: no map of another patient beside it: %s", files.case, why)
            return rows, {**resampled, "another patient": f"left out: {why}"}

    def _scored(self, files: CaseFiles, partner: CaseFiles | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The rows of a case, and what was resampled."""
        reader = CaseReader(files, resample=self.cases.resample)
        other = CaseReader(partner, resample=self.cases.resample) if partner else None
        if other is not None and len(other.space) != len(reader.space):
            reader.resampled["another patient"] = f"left out: its map has {len(other.space)} axes"
            other = None
        case = ScoredCase(
            **self._truth(reader),
            case=files.case,
            patient=files.patient,
            maps=LazyMaps(list(files.maps), reader.map),
            grids=files.grids,
            prior=self.prior.at(reader.like) if self.prior else None,
            untrained=LazyMaps([name for name in files.maps if name in files.untrained], reader.untrained),
            others=_others(other, reader) if other else {},
            other_mask=_other_mask(other, reader) if other and self.settings.adversaries else None,
            missing={name: "no map of this method" for name in self.cases.methods if name not in files.maps},
            spacing=reader.spacing,
        )
        rows = score_case(case, self.settings)
        return [{name: row[name] for name in COLUMNS} for row in rows], dict(reader.resampled)

    def _truth(self, reader: CaseReader) -> dict[str, Any]:
        """Truth and image of a case."""
        looks = "edges" in self.settings.baselines or self.settings.adversaries
        families = {METRICS[name].family for name in self.settings.metrics}
        mask = reader.mask()
        labels = {
            kind: reader.labels(kind) if mask is None or kind in families else None for kind in ("layers", "regions")
        }
        return {
            **labels,
            "mask": mask,
            "boxes": reader.files.boxes is not None,
            "region_names": self.cases.region_names,
            "ignore": reader.binary("ignore"),
            "body": reader.binary("body"),
            "readers": reader.readers(),
            "image": reader.image() if looks else None,
        }

    def fingerprint(self, files: CaseFiles) -> str:
        """Digest of everything that the scores of a case depend on.

        Args:
            files: the case.

        Returns:
            64 hexadecimal digits.
        """
        partner = self._by_name.get(self.partners.get(files.case, ""))
        settings = {name: value for name, value in self.settings.as_dict().items() if name not in _SUMMARY_ONLY}
        return digest(
            [
                __version__,
                settings,
                content_of(files),
                content_of(partner) if partner else None,
                _prior_digest(self.prior) if self.prior else None,
                sorted(set(self.cases.methods)),
                [self.cases.resample, {str(code): name for code, name in self.cases.region_names.items()}],
            ]
        )

    def _partners(self) -> dict[str, str]:
        """For each case, whose map and mask stand in: another patient's, with a finding where one has any."""
        found = self.cases.found
        if len({files.patient for files in found}) < 2:
            _LOG.warning("all cases are of one patient: no other patient's map is there to compare with")
            return {}
        if not self.settings.adversaries and "another patient" not in self.settings.baselines:
            return {}
        donors = [files for files in found if self._has_finding(files)]
        draw, chosen = np.random.default_rng(self.settings.seed), {}
        for files in found:
            others = [one.case for one in donors if one.patient != files.patient]
            others = others or [one.case for one in found if one.patient != files.patient]
            chosen[files.case] = str(draw.choice(others))
        return chosen

    def _has_finding(self, files: CaseFiles) -> bool:
        """Whether the mask of a case can be read and is not empty."""
        try:
            mask = CaseReader(files, resample=self.cases.resample).mask()
        except InputError:
            return False
        return mask is not None and bool(mask.any())


def _others(other: CaseReader, own: CaseReader) -> LazyMaps:
    """Another patient's maps on the grid of a case."""
    names = [name for name in own.files.maps if name in other.files.maps]
    affines = other.like.affine, own.like.affine
    return LazyMaps(names, lambda name: stretched(oriented(other.map(name), *affines), own.space))


def _other_mask(other: CaseReader, own: CaseReader) -> Tensor | None:
    """Another patient's truth on the grid of a case."""
    mask = other.mask()
    if mask is None:
        return None
    return stretched(oriented(mask.float(), other.like.affine, own.like.affine), own.space, "nearest") > 0


def _unreadable(files: CaseFiles, *, resample: bool) -> str:
    """Why a map or the mask of a case cannot be read; empty where all can."""
    try:
        reader = CaseReader(files, resample=resample)
        reader.mask()
        for name in files.maps:
            reader.map(name)
    except InputError as error:
        return reason(error)
    return ""


def content_of(files: CaseFiles) -> dict[str, Any]:
    """A case by the content of its files.

    Args:
        files: the case.

    Returns:
        What a fingerprint is made of.
    """
    plain = replace(files, maps={}, truth={}, untrained={}, readers=(), image=None)
    return {
        "files": {
            what: _digest(path, path.stat().st_mtime_ns) for what, path in files.files().items() if path.is_file()
        },
        "image": "prepared" if callable(files.image) else "",
        "rest": repr(plain),
    }


@lru_cache(maxsize=4096)
def _digest(path: Path, changed: int) -> str:  # noqa: ARG001  another time of change is another file
    return file_sha256(path)


@lru_cache(maxsize=4)
def _prior_digest(prior: Prior) -> str:
    return hashlib.sha256(prior.prior.relevance.numpy().tobytes()).hexdigest()
