"""``python -m monai.bundle run --workflow_name medsal.bundle.Workflow``: MONAI's own workflow, with its eyes open."""

from __future__ import annotations

import importlib.resources
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from medsal.bundle import exits
from medsal.bundle.audit import refuse_unsafe
from medsal.bundle.command_line import check_words, is_bundle_run, read_config
from medsal.bundle.fingerprint import NO_CASES
from medsal.bundle.options import check_options, configured
from medsal.bundle.values import read_values, truth
from medsal.errors import NothingToDoError, UsageError

PACKAGED = "medsal:"
"""``medsal:explain.yaml`` names a config fragment inside the installed package, from any folder."""


class Workflow(ConfigWorkflow):  # type: ignore[misc]  # MONAI has no type information
    """A ``ConfigWorkflow`` that refuses what MONAI takes in silence.

    Before anything of the config is evaluated: unknown options, with a suggestion; a config that the static audit does
    not know as harmless; a missing ``run``. Before anything is computed: an empty data list. On a command line every
    error becomes one line and an exit code.

    Args:
        config_file: path(s), merged in order; ``medsal:<name>`` is a fragment of the package; commas separate several.
        meta_file: as in MONAI.
        workflow_type: as in MONAI, here for inference by default.
        audit: False runs a config that the audit refuses. It may then run any code.
        **kwargs: further arguments of ``ConfigWorkflow`` and overrides, id -> value.

    Raises:
        UsageError: in one line, with a suggestion.
    """

    def __init__(
        self,
        config_file: str | Sequence[str],
        meta_file: str | Sequence[str] | None = None,
        workflow_type: str | None = "infer",
        *,
        audit: bool | str = True,
        **kwargs: Any,
    ) -> None:
        if is_bundle_run(sys.argv):
            exits.install(quiet=True)
            check_words(sys.argv)
        files = config_paths(config_file)
        merged = read_config(files, meta_file)
        config = check_options(merged, kwargs)
        kwargs = read_values(merged, kwargs)
        if truth("audit", audit):
            refuse_unsafe(config)
        run_id = kwargs.get("run_id") or "run"
        if run_id not in config:
            raise UsageError(f"run_id: the config has no {run_id!r}; is an overlay missing from --config_file?")
        super().__init__(config_file=files, meta_file=meta_file, workflow_type=workflow_type, **kwargs)
        self.configuration = config

    def initialize(self) -> Any:
        """Run the steps of ``initialize``.

        Returns:
            What they returned.
        """
        with configured(self.configuration):
            return super().initialize()

    def finalize(self) -> Any:
        """Run the steps of ``finalize``.

        Returns:
            What they returned.
        """
        with configured(self.configuration):
            return super().finalize()

    def run(self) -> Any:
        """Run the config.

        Returns:
            What the steps of ``run`` returned.

        Raises:
            NothingToDoError: if there is a data list and it is empty.
        """
        with configured(self.configuration):
            if "datalist" in self.parser:
                found = self.parser.get_parsed_content("datalist")
                if hasattr(found, "__len__") and not len(found):
                    raise NothingToDoError(NO_CASES)
            return super().run()


def config_paths(files: str | Sequence[str]) -> list[str]:
    """Find config files.

    Args:
        files: a path, several with commas, or a sequence.

    Returns:
        Paths of existing files.

    Raises:
        UsageError: if one does not exist.
    """
    given = files.split(",") if isinstance(files, str) else files
    found = []
    for name in map(str.strip, given):
        path = Path(name)
        if name.startswith(PACKAGED):
            path = Path(str(importlib.resources.files("medsal.configs"))) / name.removeprefix(PACKAGED)
        if not path.is_file():
            raise UsageError(f"config_file: no file {path} (seen from {Path.cwd()})")
        found.append(str(path))
    return found
