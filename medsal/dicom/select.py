"""Which series a model gets, by rules: the JSON of MONAI Deploy's series selector, and what geometry must be.

    {"selections": [{"name": "T1",
                     "conditions": {"Modality": "MR", "SeriesDescription": "T1|MPRAGE", "SliceThickness": [0.5, 2.0]},
                     "require": {"min_slices": 60, "regular_spacing": true, "exclude": "LOCALIZER|SCOUT"}}]}

``conditions`` mean what MONAI Deploy says, but must hold for every file of the series, not for the first. ``require``
is medsal's: see `REQUIREMENTS`. Where several series of a study are left, none is taken.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsal.dicom.matching import REQUIREMENTS, condition_met
from medsal.dicom.phi import pseudonym, sealed
from medsal.dicom.reasons import Reason, Refusal
from medsal.dicom.scan import Series
from medsal.dicom.uids import is_own
from medsal.errors import UsageError

_NO_LOCALIZER = "LOCALI[SZ]ER|SCOUT|PILOT|SURVEY|TOPOGRAM|PROJECTION|(?<![A-Z])(MIP|MPR)(?![A-Z])"  # not MPRAGE

PRESETS: dict[str, dict[str, Any]] = {
    "mr_volume": {
        "selections": [
            {
                "name": "MR volume",
                "conditions": {"Modality": "^MR$"},
                "require": {"regular_spacing": True, "min_slices": 10, "exclude": _NO_LOCALIZER},
            }
        ]
    },
    "chest_film": {
        "selections": [
            {
                "name": "chest film",
                "conditions": {},
                "require": {
                    "modality": ["CR", "DX"],
                    "view": ["PA", "AP"],
                    "colour": False,
                    "burned_in": False,
                    "max_slices": 1,
                },
            }
        ]
    },
}
"""Rules for the two common cases; copy one and make it your own."""


@dataclass(frozen=True)
class Rule:
    """One selection.

    Attributes:
        name: of what is selected.
        conditions: keyword of an attribute -> wanted value.
        require: name of one of `REQUIREMENTS` -> wanted value.
    """

    name: str
    conditions: Mapping[str, Any]
    require: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Rejected:
    """A series that was not taken, or a study without one.

    Attributes:
        rule: name of the selection.
        subject: pseudonym of the series, or of the study.
        refusal: why.
        series: None where it is a study.
    """

    rule: str
    subject: str
    refusal: Refusal
    series: Series | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """What was selected.

    Attributes:
        chosen: name of the selection and series.
        rejected: everything else, each with its reason.
    """

    chosen: tuple[tuple[str, Series], ...]
    rejected: tuple[Rejected, ...]

    def lines(self) -> list[str]:
        """What was taken and what was not, for a log.

        Returns:
            One line each, without anything of the patient's.
        """
        taken = [f"{name}: {series.name} taken ({series.slices} slices)" for name, series in self.chosen]
        return taken + [f"{one.rule}: {one.subject} not taken: {one.refusal}" for one in self.rejected]


def load_rules(rules: str | Path | Mapping[str, Any]) -> list[Rule]:
    """Read and check selection rules.

    Args:
        rules: the name of one of `PRESETS`, a JSON text, the path of a JSON file, or its content.

    Returns:
        The selections.

    Raises:
        UsageError: no such file, no JSON, an unknown attribute or requirement, or a condition that cannot be.
    """
    given = _as_mapping(rules)
    unknown = set(given) - {"selections"}
    selections = given.get("selections")
    if unknown or not isinstance(selections, list) or not selections:
        raise UsageError(f"selection rules: wanted an object with a list 'selections', got {sorted(given)}")
    return [_rule(number, entry) for number, entry in enumerate(selections, 1)]


def _as_mapping(rules: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(rules, Mapping):
        return rules
    text = str(rules)
    if text in PRESETS:
        return PRESETS[text]
    try:
        if not text.lstrip().startswith("{"):
            text = Path(rules).read_text(encoding="utf-8")
        parsed = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"selection rules: wanted JSON, a file of JSON, or one of {', '.join(PRESETS)}; got {str(rules)[:80]!r} "
            f"({error})"
        ) from error
    if not isinstance(parsed, dict):
        raise UsageError(f"selection rules: wanted an object with a list 'selections', got {type(parsed).__name__}")
    return parsed


def _rule(number: int, entry: Any) -> Rule:
    from pydicom.datadict import tag_for_keyword

    if not isinstance(entry, Mapping) or set(entry) - {"name", "conditions", "require"}:
        raise UsageError(f"selection {number}: wanted name, conditions and require, got {entry!r:.80}")
    name = str(entry.get("name") or f"selection {number}").strip()
    conditions, require = dict(entry.get("conditions") or {}), dict(entry.get("require") or {})
    if not conditions and not require:
        raise UsageError(f"selection '{name}': wanted conditions or requirements, got none")
    for keyword, wanted in conditions.items():
        if tag_for_keyword(keyword) is None:
            raise UsageError(f"selection '{name}': '{keyword}' is no DICOM attribute")
        _check_pattern(name, keyword, wanted)
    for key, wanted in require.items():
        if key not in REQUIREMENTS:
            near = difflib.get_close_matches(key, REQUIREMENTS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(REQUIREMENTS)}"
            raise UsageError(f"selection '{name}': no requirement '{key}'{hint}")
        if not isinstance(wanted, REQUIREMENTS[key].kind) or (
            isinstance(wanted, bool) and REQUIREMENTS[key].kind is int
        ):
            raise UsageError(f"selection '{name}': {key}: wanted {REQUIREMENTS[key].says}, got {wanted!r}")
    _check_pattern(name, "exclude", require.get("exclude", ""))
    return Rule(name, conditions, require)


def _check_pattern(name: str, keyword: str, wanted: Any) -> None:
    for text in wanted if isinstance(wanted, list) else [wanted]:
        if isinstance(text, str):
            try:
                re.compile(text)
            except re.error as error:
                raise UsageError(f"selection '{name}': {keyword}: no regular expression: {text!r} ({error})") from error


@sealed
def select_series(
    series: Sequence[Series], rules: str | Path | Mapping[str, Any], *, all_matched: bool = False
) -> Selection:
    """Choose series, study by study.

    Args:
        series: from `medsal.dicom.scan_folder`.
        rules: as `load_rules` takes them.
        all_matched: take every series that meets a selection; otherwise it must be exactly one in a study.

    Returns:
        What was taken, and why everything else was not.

    Raises:
        UsageError: as `load_rules` says.
    """
    checked = load_rules(rules)
    chosen: list[tuple[str, Series]] = []
    rejected: list[Rejected] = []
    for study in dict.fromkeys(one.study_uid for one in series):
        own = [one for one in series if one.study_uid == study]
        for rule in checked:
            matching: list[Series] = []
            for one in own:
                refusal = _why_not(one, rule)
                if refusal is None:
                    matching.append(one)
                else:
                    rejected.append(Rejected(rule.name, one.name, refusal, one))
            if not matching:
                rejected.append(Rejected(rule.name, pseudonym(study, "study"), Refusal(Reason.NO_MATCH)))
            elif len(matching) > 1 and not all_matched:
                refusal = Refusal(Reason.AMBIGUOUS, f"{len(matching)} series")
                rejected += [Rejected(rule.name, one.name, refusal, one) for one in matching]
            else:
                chosen += [(rule.name, one) for one in matching]
    return Selection(tuple(chosen), tuple(rejected))


def _why_not(series: Series, rule: Rule) -> Refusal | None:
    """The first thing that speaks against a series."""
    try:
        return _first_objection(series, rule)
    except Refusal as refusal:
        return refusal


@sealed
def _first_objection(series: Series, rule: Rule) -> Refusal | None:
    if any(is_own(one.header) for one in series.files):
        return Refusal(Reason.OWN_RESULT)
    for keyword, wanted in rule.conditions.items():
        if not condition_met(series, keyword, wanted):
            return Refusal(Reason.RULE, keyword)
    for key, wanted in rule.require.items():
        REQUIREMENTS[key].check(series, wanted)
    return None
