"""A study of layered images: which layer do the maps of a network lie in, and does it need what they show?"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from medsal.errors import NothingToDoError, UsageError
from medsal.files import write_file
from medsal.studies.layer_tables import SIDES, write_tables

_LOG = logging.getLogger("medsal")


class LayerStudy:
    """Scores the maps of one model, and gathers the tables and figures of all models in a folder.

    Below the folder, for each model: an evaluation for each side that is read of signed maps, in ``positive``,
    ``negative`` and ``absolute``, and one of confidence in ``confidence_<side>``; each goes on where it was stopped,
    and ``medsal verify`` computes it again. Over all models: ``study.csv``, ``table.csv`` and ``.md``, ``models.csv``
    and figures, see ``medsal.studies.layer_tables``.

    Args:
        folder: of the study.
        model: name of the model, and of its folder.
        maps_dir: the run whose maps are scored.
        datalist: items with ``image`` and the files of the truth.
        transform: prepares an item as the network saw it.
        network: with its weights, for confidence.
        truth: ``layers``, and ``mask`` where something is known to be -> key of an item; None for none.
        sides: of ``SIDES``.
        settings: of ``medsal.scoring.Settings``; every two methods are not compared.
        prior: items of a training split, for the mean training mask.
        confidence: ``sides``, and options of ``medsal.scoring.ConfidenceEvaluation``; nothing to leave it out.
        config: the raw configuration of the run, for the records.

    Raises:
        UsageError: if there is no such side, or the name of the model cannot be that of a folder.
    """

    def __init__(  # noqa: PLR0913  the parts of a bundle, each under its own id
        self,
        folder: str | Path,
        model: str,
        maps_dir: str | Path,
        datalist: Sequence[Any],
        *,
        transform: Callable[[Any], Any],
        network: nn.Module,
        truth: Mapping[str, Any],
        sides: str | Sequence[str] = SIDES,
        settings: Mapping[str, Any] | None = None,
        prior: Any = None,
        confidence: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        from medsal.scoring import Settings

        self.folder, self.model, self.maps_dir = Path(folder), str(model), Path(maps_dir)
        if not self.model or Path(self.model).name != self.model:
            raise UsageError(f"model_name: wanted a name that a folder can have, got {self.model!r}")
        self.sides = _checked("sides", sides)
        self.settings = {side: Settings(**{**(settings or {}), "side": side, "compared": False}) for side in SIDES}
        self.confidence = dict(confidence or {})
        self.confidence_sides = _checked("confidence: sides", self.confidence.pop("sides", ())) if confidence else ()
        self.datalist, self.transform, self.network = datalist, transform, network
        self.truth, self.prior, self.config = dict(truth), prior, config

    def run(self) -> None:
        """Score, and write the tables and figures.

        Raises:
            NothingToDoError: if no case has a map of layers and maps of relevance.
        """
        from medsal.scoring import ConfidenceEvaluation, Evaluation, run_cases

        own = self.folder / self.model
        cases = run_cases(self.maps_dir, self.datalist, self.truth, transform=self.transform)
        write_file(own / "model.json", json.dumps(self._predictions([one.case for one in cases.found])).encode())
        for side in self.sides:
            _LOG.info("%s: %s relevance", self.model, side)
            Evaluation(cases, self.settings[side], own / side, prior=self.prior, config=self.config).run()
        for side in self.confidence_sides:
            _LOG.info("%s: confidence by %s relevance", self.model, side)
            ConfidenceEvaluation(
                cases, self.settings[side], own / f"confidence_{side}", network=self.network, datalist=self.datalist,
                transform=self.transform, maps_dir=self.maps_dir, options=self.confidence, config=self.config,
            ).run()  # fmt: skip
        write_tables(self.folder)

    def _predictions(self, cases: Sequence[str]) -> dict[str, list[int]]:
        """True and predicted classes of the cases, from the records of the run."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((self.maps_dir / "cases").glob("*"))]
        known = [one for one in records if one.get("case") in cases and (one.get("label") or 0) >= 0]
        if not known:
            raise NothingToDoError(f"{self.maps_dir}: no case with maps and layers")
        logits = [one["logits"] for one in known]
        predicted = [row.index(max(row)) if len(row) > 1 else int(row[0] > 0) for row in logits]
        labels = [-1 if one.get("label") is None else int(one["label"]) for one in known]
        return {"label": labels, "predicted": predicted}


def _checked(what: str, sides: str | Sequence[str]) -> tuple[str, ...]:
    given = (sides,) if isinstance(sides, str) else tuple(sides)
    for side in given:
        if side not in SIDES:
            raise UsageError(f"{what}: wanted {', '.join(SIDES)}, got {side!r}")
    return given
