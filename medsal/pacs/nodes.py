"""The site as one TOML file describes it: nodes, listener, limits of the work, and what explains the studies."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from medsal.dicom.select import PRESETS
from medsal.errors import UsageError
from medsal.pacs.settings import KINDS, Listening, Node, Tls, Work
from medsal.pacs.wanting import MAPPING, PATH, WORDS, check, nearest, optional

__all__ = ["Listening", "Node", "Site", "Tls", "Work", "load_site"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Site:
    """All of a site's configuration.

    Attributes:
        folder: of the ledger, the spool and the results.
        nodes: by name.
        listener: where studies are sent to us; None without one.
        work: limits.
        bundle: that explains; None where none is set.
        rules: of selection, as `medsal.dicom.load_rules` takes them.
        explain: options of `medsal.dicom.load_model`.
        kinds: of results; the usual ones if None.
        file: it was read from.
    """

    folder: Path
    nodes: Mapping[str, Node] = field(default_factory=dict)
    listener: Listening | None = None
    work: Work = field(default_factory=Work)
    bundle: Path | None = None
    rules: str | None = None
    explain: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        wants = {"folder": PATH, "bundle": optional(PATH), "rules": optional(WORDS), "kinds": optional(KINDS)}
        check(self, {**wants, "explain": MAPPING})
        ports = {node.receive_port: name for name, node in self.nodes.items()}
        if self.listener is not None and self.listener.port in ports:
            name = ports[self.listener.port]
            raise UsageError(
                f"nodes.{name}: receive_port: wanted another than the listener's, got {self.listener.port}"
            )

    def node(self, name: str) -> Node:
        """One of the nodes.

        Args:
            name: of it.

        Returns:
            The node.

        Raises:
            UsageError: there is none of this name.
        """
        if name not in self.nodes:
            place = f"{self.file}: " if self.file else ""
            raise UsageError(f"{place}no node {name!r}{nearest(name, self.nodes)}")
        return self.nodes[name]


_PATHS = frozenset({"folder", "bundle", "ca", "certificate", "key"})


def load_site(path: str | Path) -> Site:
    """Read the configuration of a site.

    Args:
        path: of a TOML file with the tables ``[site]``, ``[explain]``, ``[work]``, ``[listener]``, ``[listener.tls]``,
            ``[nodes.NAME]`` and ``[nodes.NAME.tls]``. Paths in it are relative to its folder.

    Returns:
        The site.

    Raises:
        UsageError: no such file, no TOML, an unknown table or key, or a value that cannot be.
    """
    file = Path(path).expanduser().absolute()
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file} ({type(error).__name__}); wanted the configuration of a site") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: wanted TOML: {error}") from None
    try:
        return _site(given, file)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def _site(given: Mapping[str, Any], file: Path) -> Site:
    _known(given, {"site", "explain", "work", "listener", "nodes"}, "table")
    tables = {name: _table(given, name) for name in given}
    nodes = {
        name: _made(Node, _table(tables["nodes"], name, "nodes."), file.parent, f"nodes.{name}", name=name)
        for name in tables.get("nodes", {})
    }
    listener = _made(Listening, tables["listener"], file.parent, "listener") if "listener" in tables else None
    work = _made(Work, tables.get("work", {}), file.parent, "work")
    site = dict(tables.get("site", {}))
    rules = site.get("rules")
    if isinstance(rules, str) and rules not in PRESETS and not rules.lstrip().startswith("{"):
        site["rules"] = str(file.parent / rules)
    others = {"nodes": nodes, "listener": listener, "work": work, "explain": tables.get("explain", {}), "file": file}
    site.setdefault("folder", "medsal-pacs")
    return _made(Site, site, file.parent, "site", **others)


def _known(given: Mapping[str, Any], known: set[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}{nearest(name, known)}")


def _table(given: Mapping[str, Any], name: str, above: str = "") -> Mapping[str, Any]:
    if not isinstance(given[name], Mapping):
        raise UsageError(f"{above}{name}: wanted a table, got {given[name]!r}")
    found: Mapping[str, Any] = given[name]
    return found


def _made(kind: type[T], given: Mapping[str, Any], folder: Path, where: str, **others: Any) -> T:
    """An object of the values of a table."""
    try:
        every: tuple[Any, ...] = fields(kind)  # type: ignore[arg-type]  # every kind here is a dataclass
        names = {one.name for one in every} - set(others)
        _known(given, names, "key")
        values = {name: _value(name, value, folder, where) for name, value in given.items()}
        _complete(every, {*values, *others})
        return kind(**values, **others)
    except UsageError as error:
        said = str(error)
        raise UsageError(said if said.startswith("[") else f"[{where}] {said}") from None


def _complete(every: tuple[Any, ...], given: set[str]) -> None:
    for one in every:
        if one.default is MISSING and one.default_factory is MISSING and one.name not in given:
            raise UsageError(f"{one.name}: wanted a value, got none")


def _value(name: str, value: Any, folder: Path, where: str) -> Any:
    """A value of TOML as the classes take it."""
    if name in _PATHS:
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name}: wanted a path, got {value!r}")
        try:
            return folder / Path(value).expanduser()
        except RuntimeError:
            raise UsageError(f"{name}: wanted a path, got {value!r}: there is no such user") from None
    if name == "tls":
        if not isinstance(value, Mapping):
            raise UsageError(f"tls: wanted a table, got {value!r}")
        return _made(Tls, value, folder, f"{where}.tls")
    return tuple(value) if isinstance(value, list) else value
