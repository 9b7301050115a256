"""A look at a configuration before anything of it is evaluated.

A MONAI config runs code: ``_target_`` names any importable callable and ``$`` is evaluated by Python. This audit reads
both without evaluating them and names what it does not know as harmless. It is defence in depth, NOT a sandbox: a
determined author gets around any such list. Run only bundles that you trust.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from medsal.errors import UsageError

TARGETS = ("medsal.", "monai.", "ignite.", "torch.nn.", "torch.optim.", "torch.utils.data.")
"""What a ``_target_`` may begin with; a name without a dot is a component of MONAI."""

SINGLE_TARGETS = frozenset({"torch.device", "torch.Generator", "torch.as_tensor", "torch.tensor"})

IMPORTS = frozenset({
    "copy", "functools", "glob", "ignite", "itertools", "json", "math", "medsal", "monai", "np", "numpy", "operator",
    "os", "pathlib", "random", "re", "scipy", "torch",
})  # fmt: skip
"""Packages that an expression may import or name."""

_OS_ALLOWED = frozenset({"path", "sep", "cpu_count", "getcwd", "listdir"})
_NAMES = frozenset({
    "breakpoint", "compile", "delattr", "eval", "exec", "exit", "getattr", "globals", "input", "locals", "open", "quit",
    "setattr", "vars",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "builtins", "bundle", "call", "chmod", "cpp_extension", "ctypes", "download_and_extract", "download_url",
    "exec_module", "fromfile", "hardlink_to", "hub", "import_module", "importlib", "jit", "link_to", "load",
    "load_module", "loads", "makedirs", "memmap", "mkdir", "open", "optional_import", "pickle", "popen", "remove",
    "rename", "rmdir", "rmtree", "run_cmd", "run_path", "save", "savez", "serialization", "shutil", "socket",
    "spawn", "subprocess", "symlink_to", "sys", "system", "touch", "unlink", "write_bytes", "write_text",
})  # fmt: skip
_TARGET_SEGMENTS = _ATTRIBUTES | {
    "apps",
    "fl",
    "np",
    "numpy",
    "os",
    "pathlib",
    "torch",
    "urllib",
    "requests",
    "zipfile",
}
_MODULES_INSIDE = _TARGET_SEGMENTS - {"apps", "fl"}
_REFERENCE = re.compile(r"@#*\w+(?:(?:::|#)\w+)*")


def unsafe_items(config: Any) -> Iterator[tuple[str, str]]:
    """List what in a configuration is not known to be harmless. Nothing is evaluated or imported.

    Args:
        config: a merged configuration, as MONAI's ``ConfigParser`` holds it before it is parsed.

    Yields:
        Config id and what is wrong there.

    Example:
        >>> list(unsafe_items({"a": {"_target_": "LoadImage", "reader": "$__import__('os')"}, "b": "$len(@a) + 1"}))
        [('a::reader', "name '__import__'")]
    """
    for key, value in leaves(without_macros(config)):
        if not isinstance(value, str):
            continue
        if key.rsplit("::", 1)[-1] == "_target_" and not value.startswith("$"):
            if not harmless_target(value):
                yield key, f"{value!r} is not a component of medsal, MONAI, ignite or torch"
        elif value.startswith("$"):
            for problem in _expression_problems(value[1:]):
                yield key, problem


def refuse_unsafe(config: Any) -> None:
    """Refuse a configuration in which ``unsafe_items`` finds anything.

    Args:
        config: a merged configuration.

    Raises:
        UsageError: naming the first finding, how many there are, and how to go on with a bundle that is trusted.
    """
    found = list(unsafe_items(config))
    if found:
        key, problem = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UsageError(f"config audit: {key}: {problem}{more}; to trust this bundle with any code add --audit False")


def without_macros(config: Any) -> Any:
    """Put what ``%file::id`` macros point to in their place, so that it is looked at as well.

    Args:
        config: a merged configuration.

    Returns:
        A copy without macros.

    Raises:
        UsageError: if a macro points to nothing.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser(deepcopy(config), globals=False)
    try:
        parser.resolve_macro_and_relative_ids()
    except Exception as error:
        raise UsageError(f"config: a macro (%file::id) points to nothing ({' '.join(str(error).split())})") from error
    return parser.get()


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """List every value that is no container.

    Args:
        node: a configuration or a part of one.
        key: its id.

    Yields:
        Config id and value.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}::{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{key}::{index}")
    else:
        yield key, node


def harmless_target(target: str) -> bool:
    """Whether a ``_target_`` is inside the allowed packages, and not a way through them to another module.

    Args:
        target: a dotted name, or the name of a component of MONAI.

    Returns:
        True if it is.
    """
    if "." not in target:
        return target.isidentifier()
    segments = target.split(".")
    if any(segment.startswith("__") or not segment.isidentifier() for segment in segments):
        return False
    if target in SINGLE_TARGETS:
        return True
    if segments[0] == "medsal":
        return not set(segments[1:]) & (_TARGET_SEGMENTS - {"bundle"})
    return target.startswith(TARGETS) and not set(segments[1:]) & _TARGET_SEGMENTS


def _expression_problems(source: str) -> Iterator[str]:
    """What is wrong with the text behind a ``$``."""
    try:
        tree = ast.parse(_REFERENCE.sub("ref_", source).strip())
    except SyntaxError as error:
        yield f"not a Python expression ({error.msg})"
        return
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr | ast.Import | ast.ImportFrom):
        yield "wanted one expression or one import"
        return
    modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        yield from _node_problems(node, inside_attribute=id(node) in modules)


def _node_problems(node: ast.AST, *, inside_attribute: bool) -> Iterator[str]:
    """What is wrong with one node of an expression."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _import_problems(node)
    elif isinstance(node, ast.Name):
        if node.id.startswith("__") or node.id in _NAMES:
            yield f"name {node.id!r}"
        elif node.id in IMPORTS and not inside_attribute:
            yield f"module {node.id!r} handed on as a value"
    elif isinstance(node, ast.Attribute):
        yield from _attribute_problems(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "__" in node.value:
        yield f"text with a double underscore, {node.value!r}"


def _attribute_problems(node: ast.Attribute) -> Iterator[str]:
    """What is wrong with ``owner.attribute``."""
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    refused = _MODULES_INSIDE - ({"bundle"} if owner == "medsal" else set())
    if node.attr.startswith("__") or node.attr in refused or (owner == "os" and node.attr not in _OS_ALLOWED):
        yield f"attribute {owner and owner + '.'}{node.attr}"


def _import_problems(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What is wrong with an import."""
    if isinstance(node, ast.Import):
        paths = [alias.name for alias in node.names]
    else:
        paths = [f"{node.module or ''}.{alias.name}" for alias in node.names]
    if any(path.split(".")[0] == "os" for path in paths) and any(alias.asname for alias in node.names):
        yield "import of 'os' under another name"
    for path in paths:
        first, *rest = path.split(".")
        allowed = _ATTRIBUTES - ({"bundle"} if first == "medsal" else set())
        bad_os = first == "os" and rest[:1] not in ([], ["path"])
        if first not in IMPORTS or bad_os or set(rest) & allowed or any(name.startswith("__") for name in rest):
            yield f"import of {path!r}"
