"""Maps that another tool made, as cases to be scored: from folders by patterns of names, or from a table."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from medsal.data.tables import read_table
from medsal.errors import NothingToDoError, UsageError
from medsal.scoring.boxes import read_boxes
from medsal.scoring.cases import TRUTH, CaseFiles, Cases

_LOG = logging.getLogger("medsal")
FIELDS = ("case", "patient", "method", "reader")
"""What stands in braces in a pattern."""
JUDGED = ("mask", "boxes", "layers", "regions")
"""Truth that a map can be scored against."""
_COLUMNS = ("case", "patient", "method", "map", *TRUTH, "boxes", "image", "reader")
_FIELD = re.compile(r"\{(\w*)\}")


def folder_cases(
    maps: str | None = None,
    truth: Mapping[str, str | None] | None = None,
    *,
    table: str | Path | None = None,
    resample: bool = False,
) -> Cases:
    """Cases from maps that any tool made: NIfTI, NPY or grey PNG.

    Args:
        maps: pattern of the maps' paths with ``{case}``, and ``{method}`` and ``{patient}`` where they tell, such as
            ``maps/{method}/{case}.nii.gz``; ``*`` stands for any characters within a name.
        truth: kind -> pattern with ``{case}`` (and ``{patient}``): ``mask``, ``layers``, ``regions``, ``ignore``,
            ``body``, ``image``; ``reader`` with ``{reader}`` for several; ``boxes``: a table, see ``read_boxes``.
        table: in place of the patterns, a table with the columns case, method, map, one of mask, boxes, layers or
            regions, and where known patient, ignore, body, image, reader (several with ;); paths are relative to it.
        resample: whether what lies on another grid than the first map of its case is resampled.

    Returns:
        The cases. One that has a map and no truth, or truth and no map, is left out with the reason. Without patients
        each case is a patient of its own.

    Raises:
        UsageError: if patterns or table cannot be understood.
        NothingToDoError: if there is no map.
    """
    given = {kind: str(value) for kind, value in (truth or {}).items() if value not in {None, ""}}
    unknown = [kind for kind in given if kind not in {*TRUTH, "boxes", "image", "reader"}]
    if unknown:
        raise UsageError(f"truth: wanted {', '.join([*TRUTH, 'boxes', 'image', 'reader'])}, got {', '.join(unknown)}")
    if (table is None) == (maps is None):
        raise UsageError("wanted a table, or a pattern of maps such as maps/{method}/{case}.nii.gz; give one of them")
    if {"mask", "boxes"} <= set(given):
        raise UsageError(
            "truth: wanted masks or boxes, got both: which of them is a finding? Score them one after the other"
        )
    if table is not None and given:
        raise UsageError(f"the table names the truth: leave {', '.join('--' + kind for kind in given)} out")
    if table is not None:
        found, excluded = _from_table(Path(table).expanduser())
    else:
        found, excluded = _from_patterns(str(maps), given)
    kept = [files for files in found if files.case not in excluded]
    if not any(files.maps for files in found):
        raise NothingToDoError(f"no map matches {maps}" if maps else f"'{table}': no row has a map")
    known = any(files.patient != files.case for files in kept)
    if not known:
        _LOG.warning("no patients are named: every case counts as a patient of its own")
    facts = {
        "patients_known": known,
        "kind": "table" if table else "folders",
        "maps": str(table or maps),
        "truth": given,
    }
    return Cases(found=tuple(kept), excluded=excluded, facts=facts, resample=resample)


def matches(pattern: str, but: Container[Path] = (), /, **known: str) -> list[tuple[Path, dict[str, str]]]:
    """Find the files that a pattern means.

    Args:
        pattern: a path with fields in braces; ``*`` stands for any characters within a name.
        but: files that are left out.
        **known: what fields hold.

    Returns:
        Each file, by name, with what its other fields hold.

    Raises:
        UsageError: if a field is unknown, or a name can be read in two ways.

    Example:
        >>> matches("nowhere/{method}/{case}.png")
        []
    """
    wrong = [name for name in _FIELD.findall(pattern) if name not in FIELDS]
    if wrong:
        fields = ", ".join("{" + name + "}" for name in FIELDS)
        raise UsageError(f"{pattern}: wanted the fields {fields}, got {wrong[0]!r}")
    path = Path(pattern).expanduser()
    lazy, greedy = (_expression(path.as_posix(), many, known) for many in ("+?", "+"))
    literal = _FIELD.sub(lambda field: known.get(field[1], "*"), path.relative_to(path.anchor).as_posix())
    found = []
    for file in sorted(Path(path.anchor).glob(glob.escape(literal).replace("[*]", "*"))):
        one, other = lazy.fullmatch(file.as_posix()), greedy.fullmatch(file.as_posix())
        if one is None or other is None or file in but:
            continue
        if one.groupdict() != other.groupdict():
            raise UsageError(
                f"{pattern}: {file.name} may mean {_words(one.groupdict())} or {_words(other.groupdict())}; "
                "put the method into the name of a folder, or give a table"
            )
        found.append((file, one.groupdict()))
    return found


def _expression(pattern: str, many: str, known: Mapping[str, str]) -> re.Pattern[str]:
    """A pattern as a regular expression; a field that comes twice must hold the same twice."""
    parts: list[str] = []
    for index, part in enumerate(_FIELD.split(pattern)):
        if index % 2 == 0:
            parts.append(re.escape(part).replace(r"\*", "[^/]*"))
        elif part in known:
            parts.append(re.escape(known[part]))
        else:
            again = any(f"(?P<{part}>" in one for one in parts)
            parts.append(f"(?P={part})" if again else f"(?P<{part}>[^/]{many})")
    return re.compile("".join(parts))


def _from_patterns(maps: str, truth: Mapping[str, str]) -> tuple[list[CaseFiles], dict[str, str]]:
    if "{case}" not in maps:
        raise UsageError(f"{maps}: wanted {{case}} in the pattern of the maps, such as maps/{{method}}/{{case}}.nii.gz")
    made: dict[str, dict[str, Path]] = {}
    patients: dict[str, str] = {}
    for path, fields in matches(maps):
        case, method = fields["case"], fields.get("method", "map")
        if method in made.setdefault(case, {}):
            raise UsageError(f"{maps}: case {case!r} has two maps of {method!r}: {made[case][method]} and {path}")
        made[case][method] = path
        _same(patients, case, fields.get("patient", ""), "patient")
    boxes = read_boxes(Path(truth["boxes"])) if "boxes" in truth else None
    found = []
    for case, files in made.items():
        own = {
            kind: _one(pattern, case, patients[case])
            for kind, pattern in truth.items()
            if kind not in {"boxes", "reader"}
        }
        readers = tuple(path for path, _ in _of_case(truth.get("reader", ""), case, patients[case]))
        found.append(
            CaseFiles(
                case=case,
                patient=patients[case] or case,
                maps=files,
                truth={kind: path for kind, path in own.items() if path and kind in TRUTH},
                boxes=None if boxes is None else boxes.get(case),
                image=own.get("image"),
                readers=readers,
            )
        )
    kinds = [kind for kind in truth if kind in JUDGED]
    excluded = {files.case: why for files in found if (why := _without_truth(files, kinds))}
    for kind in kinds:
        used = {files.truth[kind] for files in found if kind in files.truth}
        cases = list(boxes or ()) if kind == "boxes" else [_whose(fields) for _, fields in matches(truth[kind], used)]
        excluded |= {case: f"has {kind}, but no map" for case in cases if case not in made}
    return found, excluded


def _from_table(path: Path) -> tuple[list[CaseFiles], dict[str, str]]:
    header, lines = read_table(path)
    missing = [name for name in ("case", "map") if name not in header]
    unknown = [name for name in header if name not in _COLUMNS and name != "split"]
    if missing or unknown or len(set(header)) < len(header):
        came = f"no column {missing[0]!r}" if missing else f"columns {', '.join(unknown) or 'of one name'}"
        raise UsageError(f"'{path}': {came}; wanted {', '.join(_COLUMNS)}, of which case and map must be there")
    kinds = [kind for kind in JUDGED if kind in header]
    if not kinds:
        raise UsageError(f"'{path}': wanted one of the columns {', '.join(JUDGED)}, the truth")
    found: dict[str, CaseFiles] = {}
    excluded: dict[str, str] = {}
    for number, line in lines:
        if not line["case"]:
            raise UsageError(f"'{path}' row {number}: no case")
        files = _row(path, line)
        found[files.case] = (
            _joined(found[files.case], files, f"'{path}' row {number}") if files.case in found else files
        )
    for case, files in found.items():
        why = "has truth, but no map" if not files.maps else _without_truth(files, kinds)
        if why:
            excluded[case] = why
    return list(found.values()), excluded


def _row(table: Path, line: Mapping[str, str]) -> CaseFiles:
    """One row of a table: one map of one case."""

    def at(name: str) -> Path | None:
        return table.parent / Path(line[name]).expanduser() if line.get(name) else None

    case, map_file, boxes = line["case"], at("map"), at("boxes")
    if boxes and at("mask"):
        raise UsageError(f"'{table}' case {case!r}: wanted a mask or boxes, got both")
    return CaseFiles(
        case=case,
        patient=line.get("patient") or case,
        maps={line.get("method") or "map": map_file} if map_file else {},
        truth={kind: path for kind in TRUTH if (path := at(kind))},
        boxes=read_boxes(boxes).get(case) if boxes else None,
        image=at("image"),
        readers=tuple(table.parent / part.strip() for part in line.get("reader", "").split(";") if part.strip()),
    )


def _joined(one: CaseFiles, other: CaseFiles, where: str) -> CaseFiles:
    """Two rows of one case: maps of two methods, everything else the same."""
    twice = [method for method in other.maps if method in one.maps]
    if twice:
        raise UsageError(f"{where}: case {one.case!r} has two maps of {twice[0]!r}")
    if replace(one, maps={}) != replace(other, maps={}):
        raise UsageError(f"{where}: wanted the same patient, truth and image in every row of case {one.case!r}")
    return replace(one, maps={**one.maps, **other.maps})


def _whose(fields: Mapping[str, str]) -> str:
    """The case of a file, or the patient where its name tells no more."""
    return fields.get("case") or fields.get("patient", "")


def _of_case(pattern: str, case: str, patient: str) -> list[tuple[Path, dict[str, str]]]:
    """The files of a case among those of a pattern."""
    if not pattern:
        return []
    if "{case}" not in pattern and "{patient}" not in pattern:
        raise UsageError(f"{pattern}: wanted {{case}} or {{patient}} in the pattern of the truth")
    return matches(pattern, case=case, **({"patient": patient} if patient else {}))


def _one(pattern: str, case: str, patient: str) -> Path | None:
    """The one file of a case; None where there is none."""
    found = _of_case(pattern, case, patient)
    if len(found) > 1:
        raise UsageError(f"{pattern}: wanted one file for case {case!r}, got {found[0][0]} and {found[1][0]}")
    return found[0][0] if found else None


def _without_truth(files: CaseFiles, kinds: Iterable[str]) -> str:
    """Why a case has nothing to be scored against; empty where it has."""
    there = {kind for kind in kinds if kind in files.truth or (kind == "boxes" and files.boxes is not None)}
    return "" if there or not list(kinds) else f"has maps, but no {' or '.join(kinds)}"


def _same(known: dict[str, str], case: str, value: str, what: str) -> None:
    if known.setdefault(case, value) != value:
        raise UsageError(f"case {case!r}: wanted one {what}, got {known[case]!r} and {value!r}")


def _words(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in fields.items())
