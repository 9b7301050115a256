"""Everything that is written for one case, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsal._version import __version__
from medsal.errors import MedsalError, UsageError
from medsal.export.case import Array, CaseResult, ExportedCase, finite, spatial
from medsal.export.choice import Sliceable, parse_slices, select
from medsal.export.colours import grey_levels, largest
from medsal.export.layout import Names, check_layout, check_unique, inside, names_of, repeated_subjects
from medsal.export.slices import Tile, cut_tile, draw_slice, draw_summary, png_bytes
from medsal.export.tables import statistics_row
from medsal.export.views import Cut, view_of
from medsal.export.volumes import save_nifti, save_npy
from medsal.files import json_bytes, write_file
from medsal.geometry import position_known

PARTS = ("nifti", "npy", "slices", "summary", "report")
_LIMITS = ("volume", "slice")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written, and how.

    Attributes:
        layout: ``seed``, ``bids`` or ``flat``.
        slices: which slices are drawn; everything that `medsal.export.parse_slices` reads.
        write: parts to write, of ``nifti``, ``npy``, ``slices``, ``summary``, ``report``.
        scale: pixels per voxel in the pictures of slices.
        limits: ends of the colour scale are ±max|relevance| of the ``volume``, so that slices compare, or of each
            ``slice`` drawn by itself.
        model: facts on the network for sidecar files: ``name``, ``sha256``.
        repeated_subjects: filled in by `prepare_export`; None names every case by its own name.
    """

    layout: str = "seed"
    slices: Any = None
    write: tuple[str, ...] = PARTS
    scale: float = 3.0
    limits: str = "volume"
    model: Mapping[str, str] = field(default_factory=dict)
    repeated_subjects: frozenset[str] | None = None

    def __post_init__(self) -> None:
        """Read the slices and refuse what does not exist."""
        check_layout(self.layout)
        object.__setattr__(self, "slices", parse_slices(self.slices))
        object.__setattr__(self, "write", tuple(self.write))
        unknown = [part for part in self.write if part not in PARTS]
        if unknown:
            raise UsageError(f"write: wanted any of {', '.join(PARTS)}, got {', '.join(map(repr, unknown))}")
        if self.limits not in _LIMITS or not 0 < self.scale <= 20:
            raise UsageError(
                f"wanted limits volume or slice and a scale from above 0 to 20, got {self.limits!r} and {self.scale!r}"
            )


def prepare_export(
    output_dir: Path | str, cases: Iterable[Mapping[str, Any]], options: ExportOptions | None = None
) -> ExportOptions:
    """Check, before anything is computed, that the files of a run can be written and none overwrites another.

    Args:
        output_dir: made if it is missing; in the layout ``bids`` it is the root of the derivative dataset.
        cases: all rows of the data list, with ``case``, ``subject`` and ``session``; also those of other runs that lie
            in the folder, with the ``name`` of their files.
        options: what is to be written.

    Returns:
        The same options, knowing which subjects have several cases.
    """
    rows, options, root = list(cases), options or ExportOptions(), Path(output_dir)
    options = replace(options, repeated_subjects=repeated_subjects(rows))
    check_unique(rows, options.layout, options.repeated_subjects)
    if options.layout == "bids":
        description = {
            "Name": "medsal attribution maps",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "medsal", "Version": __version__}],
        }
        ignored = (
            "*_attr.*",
            "*_slices.png",
            "figures/",
            "cases/",
            "evaluation/",
            "report/",
            "attribution_*",
            "index*.html",
            "run.json",
        )
        write_file(root / "dataset_description.json", json_bytes(description))
        write_file(root / ".bidsignore", ("\n".join(ignored) + "\n").encode())
    else:
        write_file(root / ".medsal-write-test", b"").unlink(missing_ok=True)
    return options


def export_case(result: CaseResult, output_dir: Path | str, options: ExportOptions | None = None) -> ExportedCase:
    """Write the files of one case; each appears whole or not at all.

    Args:
        result: the case.
        output_dir: the run's folder.
        options: what is written, and how.

    Returns:
        The files, one row of statistics per method, and the seconds spent drawing, writing and on the report.

    Raises:
        MedsalError: if a file cannot be written, an option is wrong, or the case does not hold what is asked for.
    """
    options = options or ExportOptions()
    desk = _Desk(result, Path(output_dir), options)
    for method in result.maps:
        missing = method not in result.native_maps and "nifti" in options.write
        if missing:
            raise MedsalError(f"case {result.case}: there is no map {method!r} on the patient's grid")
        desk.volumes(method)
        desk.pictures(method)
    if "report" in options.write:
        desk.report()
    rows = [statistics_row(result, method, desk.names.name) for method in result.maps]
    seconds = {part: round(value, 6) for part, value in desk.seconds.items()}
    maps = {method: desk.map_files(method) for method in result.maps}
    return ExportedCase(files=desk.files, statistics=rows, seconds=seconds, maps=maps)


class _Desk:
    """One case at work: its names, the files written so far, the time they took."""

    def __init__(self, result: CaseResult, root: Path, options: ExportOptions) -> None:
        self.result, self.root, self.options = result, root, options
        self.names: Names = names_of(result.case, result.subject, result.session, repeated=options.repeated_subjects)
        self.files: list[Path] = []
        self.seconds = {"draw": 0.0, "write": 0.0, "report": 0.0}
        self.image = spatial(result.image)
        self._grey: Array | None = None

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def path(self, kind: str, method: str, cut: str = "") -> Path:
        """Where a file goes."""
        return self.names.path(self.root, self.options.layout, kind, method=method, cut=cut)

    def volumes(self, method: str) -> None:
        """Write the map as NIfTI and NPY, with the sidecar where the layout has one."""
        result, write = self.result, self.options.write
        with self.clock("write"):
            if "nifti" in write:
                text = f"medsal {method}, case {self.names.case}"
                path = self.path("nifti", method)
                self.files.append(save_nifti(path, result.native_maps[method], description=text, intent=method))
                if self.options.layout == "bids":
                    facts = json_bytes(_sidecar(result, method, self.options.model))
                    self.files.append(write_file(self.path("sidecar", method), facts))
            if "npy" in write:
                self.files.append(save_npy(self.path("npy", method), result.maps[method], result.slice_axis))

    def map_files(self, method: str) -> dict[str, str]:
        """Where the files of a map lie in the output folder."""
        kinds = [kind for kind in ("nifti", "npy") if kind in self.options.write]
        return {kind: self.path(kind, method).relative_to(self.root).as_posix() for kind in kinds}

    def pictures(self, method: str) -> None:
        """Draw the slices and the summary."""
        if not {"slices", "summary"} & set(self.options.write):
            return
        with self.clock("draw"):
            relevance = finite(spatial(self.result.maps[method], f"map {method}"))
            tiles = self._tiles(relevance)
            limit = largest(relevance)
            title = self._title(method)
        if "slices" in self.options.write:
            for tile in tiles:
                own = largest(tile.relevance) if self.options.limits == "slice" else limit
                with self.clock("draw"):
                    picture = draw_slice(tile, own, f"slice {tile.name} · {title}", self.options.scale)
                    content = png_bytes(picture)
                self._put(self.path("slice", method, tile.name), content)
        if "summary" in self.options.write:
            with self.clock("draw"):
                content = png_bytes(draw_summary(tiles, limit, title, self.options.scale / 2))
            self._put(self.path("summary", method), content)

    def report(self) -> None:
        """Write what the page of the run shows of this case."""
        from medsal.report.case import case_page

        files = {m: str(self.path("nifti", m).relative_to(self.root).as_posix()) for m in self.result.maps}
        with self.clock("report"):
            content = json_bytes(case_page(self.result, files if "nifti" in self.options.write else {}, self._asked()))
            path = inside(self.root, f"report/{self.names.case}.json")
            self.files.append(write_file(path, content))

    def _asked(self) -> list[Cut]:
        """The slices that the user asked for; none where the choice was left open."""
        if self.options.slices == parse_slices(None):
            return []
        result, image = self.result, self.result.image
        maps = [finite(spatial(relevance)) for relevance in result.maps.values()]
        regions = None if result.regions is None else spatial(result.regions, "regions")
        grids = [Sliceable(image.affine, self.image.shape, result.slice_axis, map_, regions) for map_ in maps]
        return [cut for grid in grids for cut in select(self.options.slices, grid)]

    def _put(self, path: Path, content: bytes) -> None:
        with self.clock("write"):
            self.files.append(write_file(path, content))

    def _tiles(self, relevance: Array) -> list[Tile]:
        """Cut the asked slices out of image and map."""
        result = self.result
        if relevance.shape != self.image.shape:
            raise MedsalError(
                f"case {result.case}: wanted a map of the image's shape {self.image.shape}, got {relevance.shape}"
            )
        if self._grey is None:
            self._grey = grey_levels(self.image)
        regions = None if result.regions is None else spatial(result.regions, "regions")
        affine = result.image.affine
        grid = Sliceable(affine, self.image.shape, result.slice_axis, relevance, regions)
        known = position_known(result.image.meta)
        cuts = select(self.options.slices, grid)
        return [cut_tile(self._grey, relevance, view_of(affine, c, known=known), c) for c in cuts]

    def _title(self, method: str) -> str:
        """Case, method, prediction and truth in one line."""
        result = self.result
        truth = "unknown" if result.label is None else f"{result.label_name or ''} ({result.label})".strip()
        return f"{result.case} · {method} · prediction {result.prediction:.3f} · true label {truth}"


def _sidecar(result: CaseResult, method: str, model: Mapping[str, str]) -> dict[str, Any]:
    """What a BIDS reader wants to know of a map."""
    record = result.records.get(method, {})
    return {
        "Sources": [result.source.name],
        "Method": method,
        "Parameters": record.get("options", {}),
        "ModelName": model.get("name", ""),
        "ModelHash": model.get("sha256", ""),
        "Target": result.target,
        "Units": "arbitrary: change of the target's score",
        "CompletenessDelta": record.get("claims", {}).get("completeness_gap"),
        "SoftwareVersion": __version__,
    }
