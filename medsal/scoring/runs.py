"""The maps of a medsal run as cases to be scored, on the grid that the network saw or on the patient's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medsal.bundle.exits import reason
from medsal.bundle.fingerprint import named_apart
from medsal.bundle.weights import UNTRAINED
from medsal.errors import InputError, UsageError
from medsal.geometry import full_affine
from medsal.scoring.arrays import Volume
from medsal.scoring.cases import TRUTH, CaseFiles, Cases, NetworkGrid

GRIDS = ("network", "patient")
Record = Mapping[str, Any]


def run_cases(
    maps_dir: str | Path,
    datalist: Iterable[Any],
    truth: Mapping[str, Any],
    *,
    grid: str = "network",
    untrained_dir: str | Path | None = None,
    transform: Callable[[Any], Any] | None = None,
    resample: bool = False,
) -> Cases:
    """The cases of a run, with what the data list knows of their truth.

    On the network's grid truth is brought there by nearest neighbour: what the network did not see cannot be judged. A
    case that failed, is of another setup, is in one place only or has no truth is left out, with the reason.

    Args:
        maps_dir: the run's folder.
        datalist: items with ``image`` and, under the keys of ``truth``, files.
        truth: kind (``mask``, ``layers``, ``regions``, ``ignore``, ``body``, ``readers``) -> key of an item; None for
            none.
        grid: ``network`` (NPY files) or ``patient`` (NIfTI files).
        untrained_dir: folder of the same run with ``--ckpt_path untrained``.
        transform: prepares an item's image as the network saw it, for baselines that look at it.
        resample: on the patient's grid, whether truth on another grid is resampled.

    Returns:
        The cases.

    Raises:
        UsageError: if there is no run in a folder, it is not what it should be, or ``grid`` is another word.
    """
    if grid not in GRIDS:
        raise UsageError(f"grid: wanted {' or '.join(GRIDS)}, got {grid!r}")
    keys = {kind: str(key) for kind, key in truth.items() if key}
    items = {str(item["case"]): item for item in named_apart(datalist)}
    records, foreign = _records(Path(maps_dir))
    untrained = _untrained(Path(untrained_dir), records) if untrained_dir else {}
    found, excluded = [], dict(foreign)
    for case in dict.fromkeys([*items, *records]):
        item, record = items.get(case), records.get(case)
        why = foreign.get(case) or _unusable(item, record, keys, grid)
        if why or item is None or record is None:
            excluded[case] = why
            continue
        base = _case(Path(maps_dir), record, grid)
        files = {kind: Path(str(item[key])) for kind, key in keys.items() if item.get(key) and kind in TRUTH}
        readers = item.get(keys.get("readers", "")) or ()
        readers = [readers] if isinstance(readers, str | Path) else readers
        found.append(
            CaseFiles(
                **base,
                truth=files,
                readers=tuple(Path(str(one)) for one in readers),
                image=_prepared(transform, item) if transform and grid == "network" else None,
                untrained=untrained.get(case, {}) if grid == "network" else {},
            )
        )
    facts = {"kind": "run", "grid": grid, "truth": keys, "model": _run(Path(maps_dir)).get("model", {})}
    return Cases(found=tuple(found), excluded=excluded, facts=facts, resample=resample)


def _records(folder: Path) -> tuple[dict[str, Record], dict[str, str]]:
    """The records of a run by case, and the reasons of those that another setup made."""
    if not (folder / "cases").is_dir():
        raise UsageError(f"maps_dir: no run in {folder} (no folder cases): explain first, or set --maps_dir")
    records = {}
    for path in sorted((folder / "cases").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            records[str(record["case"])] = record
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"maps_dir: {path} is no record of a case ({error}); explain again") from error
    setups = {record.get("setup") for record in records.values() if record.get("status") == "done"}
    if len(setups) < 2:
        return records, {}
    own = {entry["case"] for entry in _run(folder).get("cases", ()) if entry.get("this_setup")}
    if not own:
        raise UsageError(f"maps_dir: {folder} holds cases of {len(setups)} setups; explain into a folder of its own")
    other = "explained by an earlier run of another setup"
    return records, {case: other for case, record in records.items() if case not in own and record["status"] == "done"}


def _run(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; nothing where a run was killed before it wrote one."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _unusable(item: Mapping[str, Any] | None, record: Record | None, keys: Mapping[str, str], grid: str) -> str:
    """Why a case cannot be scored; empty where it can."""
    if item is None:
        return "has maps, but is not in the data list"
    if record is None:
        return "is in the data list, but has no maps: not explained"
    judged = [keys[kind] for kind in ("mask", "layers", "regions") if kind in keys]
    kind = {"network": "npy", "patient": "nifti"}[grid]
    faults = {
        f"was not explained: {record.get('error') or record.get('status')}": record.get("status") != "done",
        "its record does not say where its maps lie: explain it again": not (record.get("grid") and record.get("maps")),
        f"its maps were not written as {kind}": any(kind not in files for files in record.get("maps", {}).values()),
        f"has no truth: no {' or '.join(judged)} in the data list": not any(item.get(key) for key in judged),
    }
    return next((why for why, found in faults.items() if found), "")


def _case(folder: Path, record: Record, grid: str) -> dict[str, Any]:
    """What a record says of its case, as arguments of ``CaseFiles``."""
    place, network = record["grid"], grid == "network"
    kind = "npy" if network else "nifti"
    return {
        "case": str(record["case"]),
        "patient": str(record.get("subject") or record["case"]),
        "maps": {method: folder / files[kind] for method, files in record["maps"].items()},
        "grids": {method: tuple(shape) for method, shape in place.get("layers", {}).items()} if network else {},
        "grid": NetworkGrid(
            affine=place["affine"],
            shape=tuple(place["shape"]),
            slice_axis=int(place["slice_axis"]),
            patient_shape=tuple(place.get("patient_shape", ())) or None,
            film=place.get("film"),
        )
        if network
        else None,
        "anonymous": bool(record.get("anonymous")),
        "made": str(record.get("fingerprint", "")),
    }


def _untrained(folder: Path, records: Mapping[str, Record]) -> dict[str, dict[str, Path]]:
    """The maps of a run of untrained weights: case -> method -> file."""
    model = _run(folder).get("model", {})
    if model.get("path") != UNTRAINED:
        raise UsageError(
            f"untrained_dir: wanted a finished run with --ckpt_path {UNTRAINED}, but the weights of {folder} are "
            f"{model.get('path') or 'not known'}"
        )
    others, _ = _records(folder)
    found = {}
    for case, record in records.items():
        other = others.get(case, {})
        if other.get("status") != "done" or "grid" not in other or "grid" not in record:
            continue
        if other["grid"]["affine"] != record["grid"]["affine"] or other["grid"]["shape"] != record["grid"]["shape"]:
            raise UsageError(f"untrained_dir: {case} lies on another grid there; explain both runs with one set-up")
        maps = {method: files["npy"] for method, files in other["maps"].items() if "npy" in files}
        found[case] = {method: folder / path for method, path in maps.items() if method in record.get("maps", {})}
    return found


def _prepared(transform: Callable[[Any], Any], item: Any) -> Callable[[], Volume]:
    """How the image of a case is read as the network saw it."""

    def read() -> Volume:
        try:
            done = transform(dict(item))
        except Exception as error:
            raise InputError(f"the image cannot be prepared as the network saw it: {reason(error)}") from error
        image = done["image"]
        shown = image if len(image) == 1 else image.mean(0, keepdim=True)
        return Volume(shown.as_tensor().float().cpu(), full_affine(image.affine), "image as the network saw it")

    return read


def names_of_regions(given: Any) -> dict[int, str]:
    """Names of regions from a mapping, or from a JSON file of one.

    Args:
        given: code -> name, the path of a JSON file, or None.

    Returns:
        Code -> name.

    Raises:
        UsageError: if it is neither.
    """
    if given is None:
        return {}
    try:
        found = given if isinstance(given, Mapping) else json.loads(Path(str(given)).read_text(encoding="utf-8"))
        return {int(code): str(name) for code, name in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"region_names: wanted code: name, or a JSON file of that, got {given!r} ({error})") from error


def scored_cases(datalist: Any, maps_dir: str | Path, **options: Any) -> Cases:
    """The cases of an ``evaluate.yaml``: those of another tool's maps as they are, else those of a run.

    Args:
        datalist: ``Cases``, or the items of a bundle's data list.
        maps_dir: the run's folder.
        **options: of ``run_cases``, which another tool's maps do not need, and ``region_names``.

    Returns:
        The cases.
    """
    from dataclasses import replace

    names = names_of_regions(options.pop("region_names", None))
    found = datalist if isinstance(datalist, Cases) else run_cases(maps_dir, datalist, **options)
    return replace(found, region_names={**found.region_names, **names})
