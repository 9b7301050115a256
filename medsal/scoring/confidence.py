"""Stored maps shown to the network again: what its confidence does when the relevant part is kept, or removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medsal._version import __version__
from medsal.attribution.baseline import Baseline
from medsal.bundle.exits import reason
from medsal.bundle.fingerprint import digest, named_apart
from medsal.bundle.weights import weights_record
from medsal.errors import InputError, UsageError
from medsal.evaluation import METRICS
from medsal.evaluation.confidence import THRESHOLDS, confidences
from medsal.evaluation.forwards import SCORES
from medsal.evaluation.truth import side_of
from medsal.scoring.cases import CaseFiles, Cases
from medsal.scoring.reading import CaseReader
from medsal.scoring.rivals import case_seed
from medsal.scoring.run import Evaluation
from medsal.scoring.scorer import Scorer, content_of
from medsal.scoring.settings import SIDES, Settings

__all__ = ["DIRECTIONS", "ConfidenceEvaluation", "run_targets"]

DIRECTIONS = ("keep", "remove")
DROP, INCREASE = "drop_in_confidence", "increase_in_confidence"
CONSTANT = "constant"
_SHOWN = ("heat map", "at 0.5")


class ConfidenceEvaluation(Evaluation):
    """Scores every map of a run by drop and increase in confidence; goes on where it was stopped.

    For each map, direction (``keep``: the relevant part is shown; ``remove``: it is hidden) and cut (the heat map
    itself, or a mask at a share of its peak) two rows: ``drop_in_confidence`` and ``increase_in_confidence``. Beside
    each stands what the same map in other places gives, and as a baseline a map that is the same everywhere. Files are
    those of ``Evaluation``.

    Args:
        cases: of a run, on the network's grid.
        settings: of the summary; metrics and baselines are not looked at, ``side`` says what is read of signed maps.
        output_dir: where results go.
        network: with its weights.
        datalist: items with ``image``.
        transform: prepares an item as the network wants it.
        maps_dir: the run's folder, for the class that each case was explained for.
        options: ``thresholds``, ``draws`` (shifted maps for chance), ``fill`` (what is seen where the image is hidden:
            a value as the network sees it, or the name of a baseline), ``score`` (``probability``, ``sigmoid`` or
            ``logit``).
        config: the raw configuration of the run, for the record.

    Raises:
        UsageError: if an option is not what it should be.
        NothingToDoError: if no case can be scored.
    """

    def __init__(  # noqa: PLR0913  the parts of a bundle, each under its own id
        self,
        cases: Cases,
        settings: Settings,
        output_dir: str | Path,
        *,
        network: nn.Module,
        datalist: Sequence[Any],
        transform: Callable[[Any], Any],
        maps_dir: str | Path,
        options: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(cases, settings, output_dir, config=config)
        shown = Shown(network, {str(item["case"]): item for item in named_apart(datalist)}, transform)
        self.scorer = _ConfidenceScorer(cases, settings, shown, run_targets(maps_dir), _Options.of(options or {}))

    def _figures(self, scores: Any, summary: Any) -> Iterator[tuple[str, bytes]]:
        """Pictures of the heat map itself and of its upper half: one panel for each cut would be too many."""
        from medsal.scoring.figures import draw_scores

        shown = scores[scores["part"].str.endswith(_SHOWN)]
        for metric in dict.fromkeys(shown["metric"]):
            yield f"{metric}.png", draw_scores(shown, summary, metric)


def run_targets(maps_dir: str | Path) -> dict[str, int | None]:
    """The class that each case of a run was explained for.

    Args:
        maps_dir: the run's folder.

    Returns:
        Case -> class; None where it is the predicted one.
    """
    found = {}
    for path in sorted((Path(maps_dir) / "cases").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[str(record["case"])] = record.get("target")
    return found


class Shown:
    """A network and the images that it saw.

    Args:
        network: with its weights.
        items: case -> item of the data list.
        transform: prepares an item.
    """

    def __init__(self, network: nn.Module, items: Mapping[str, Any], transform: Callable[[Any], Any]) -> None:
        self.network, self.items, self.transform = network, items, transform
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def image(self, case: str) -> Tensor:
        """Read the image of a case as the network saw it.

        Args:
            case: its name.

        Returns:
            ``(1, C, *space)``.

        Raises:
            InputError: if it cannot be prepared.
        """
        try:
            image = self.transform(dict(self.items[case]))["image"]
        except Exception as error:
            raise InputError(f"the image cannot be prepared as the network saw it: {reason(error)}") from error
        return torch.as_tensor(image).as_subclass(Tensor)[None].float().to(self.device)


class _Options:
    """Checked options of ``ConfidenceEvaluation``."""

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = THRESHOLDS,
        draws: int = 10,
        fill: Baseline = 0.0,
        score: str = "probability",
    ) -> None:
        cuts = [float(cut) for cut in thresholds]
        if any(not 0 < cut <= 1 for cut in cuts):
            raise UsageError(f"thresholds: wanted shares of the peak above 0 and up to 1, got {list(thresholds)}")
        if not isinstance(draws, int) or draws < 1:
            raise UsageError(f"draws: wanted a whole number of 1 or more, got {draws!r}")
        if score not in SCORES:
            raise UsageError(f"score: wanted {', '.join(SCORES)}, got {score!r}")
        self.cuts, self.draws, self.fill, self.score = [None, *cuts], draws, fill, score

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> _Options:
        known = ("thresholds", "draws", "fill", "score")
        unknown = [name for name in options if name not in known]
        if unknown:
            raise UsageError(f"options: unknown {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**options)

    def said(self) -> dict[str, Any]:
        return {"cuts": self.cuts, "draws": self.draws, "fill": str(self.fill), "score": self.score}


class _ConfidenceScorer(Scorer):
    """The confidence rows of a case."""

    def __init__(
        self,
        cases: Cases,
        settings: Settings,
        shown: Shown,
        targets: Mapping[str, int | None],
        options: _Options,
    ) -> None:
        super().__init__(cases, settings)
        if settings.side not in SIDES[:3]:
            raise UsageError(f"side: wanted {', '.join(SIDES[:3])}, got {settings.side!r}")
        self.shown, self.targets, self.options = shown, targets, options

    def fingerprint(self, files: CaseFiles) -> str:
        weights = weights_record(self.shown.network)["sha256"]
        facts = [self.settings.side, self.settings.seed, self.options.said(), self.targets.get(files.case)]
        return digest([__version__, "confidence", weights, facts, content_of(files), sorted(self.cases.methods)])

    def score(self, files: CaseFiles) -> tuple[list[dict[str, Any]], dict[str, str]]:
        reader = CaseReader(files)
        image = self.shown.image(files.case)
        maps = {name: side_of(reader.map(name), self.settings.side) for name in files.maps}
        known = {name: bool(one.isfinite().all() and (one > 0).any()) for name, one in maps.items()}
        usable = [one.to(image) for name, one in maps.items() if known[name]]
        constant = torch.ones(1, 1, *image.shape[2:]).to(image)
        rows = [row for name in files.maps if not known[name] for row in self._unanswered(files, name, maps[name])]
        names = [("method", name) for name in files.maps if known[name]] + [("baseline", CONSTANT)]
        stack = torch.cat([*(one[None] for one in usable), constant])
        absent = [name for name in self.cases.methods if name not in files.maps]
        rows += [row for name in absent for row in self._rows(files, "method", name, {}, "no map of this method")]
        numbers = self._numbers(image, stack, case_seed(self.settings.seed, files.case), self.targets.get(files.case))
        for at, (kind, name) in enumerate(names):
            own = {key: tuple(float(part[at]) for part in parts) for key, parts in numbers.items()}
            rows += self._rows(files, kind, name, own, "the network is not confident at all")
        return rows, {}

    def _numbers(
        self, image: Tensor, maps: Tensor, seed: int, target: int | None
    ) -> dict[tuple[str, str], tuple[Tensor, ...]]:
        """Metric and part -> for each map its score, and mean, deviation and p of the same map in other places."""
        generator = torch.Generator().manual_seed(seed)
        space, axes = maps.shape[2:], tuple(range(2, maps.ndim))
        shifts = [[int(torch.randint(n, (), generator=generator)) for n in space] for _ in range(self.options.draws)]
        found: dict[tuple[str, str], tuple[Tensor, ...]] = {}
        for direction in DIRECTIONS:
            for cut in self.options.cuts:
                own = self._changes(image, maps, direction, cut, target)
                others = [self._changes(image, maps.roll(s, axes), direction, cut, target) for s in shifts]
                part = _part(direction, cut)
                for metric, value in own.items():
                    chance = torch.stack([other[metric] for other in others])
                    sign = 1 if METRICS[metric].better_end(part) == "higher" else -1
                    p = (1 + (sign * chance >= sign * value).sum(0)) / (1 + len(chance))
                    deviation = chance.std(0, correction=0)
                    found[metric, part] = (value, chance.mean(0), deviation, p)
        return found

    def _changes(
        self, image: Tensor, maps: Tensor, direction: str, cut: float | None, target: int | None
    ) -> dict[str, Tensor]:
        """Drop and increase of each map, from one pass."""
        images = image.expand(len(maps), *image.shape[1:])
        before, after = confidences(
            self.shown.network, images, maps, target=target, score=self.options.score, direction=direction,
            threshold=cut, fill=self.options.fill,
        )  # fmt: skip
        lost = (before - after).clamp_min(0)
        drop = lost if self.options.score == "logit" else lost / before
        return {DROP: drop.cpu(), INCREASE: (after > before).double().cpu()}

    def _unanswered(self, files: CaseFiles, name: str, relevance: Tensor) -> list[dict[str, Any]]:
        finite = bool(relevance.isfinite().all())
        why = "no relevance on the side that is read" if finite else "map not finite"
        return self._rows(files, "method", name, {}, why)

    def _rows(
        self, files: CaseFiles, kind: str, name: str, numbers: Mapping[tuple[str, str], tuple[float, ...]], why: str
    ) -> list[dict[str, Any]]:
        """The rows of one map; NaN, with the reason, where there are no numbers."""
        parts = [_part(direction, cut) for direction in DIRECTIONS for cut in self.options.cuts]
        nothing = (float("nan"),) * 4
        common: dict[str, Any] = {"case": files.case, "patient": files.patient, "kind": kind, "method": name}
        common |= {"side": self.settings.side, "ceiling": float("nan"), "ceiling_of": ""}
        rows = []
        for metric in (DROP, INCREASE):
            for part in parts:
                value, null, deviation, p = numbers.get((metric, part), nothing)
                known = value == value  # noqa: PLR0124  NaN is not itself
                more = {"value": value, "null": null, "null_sd": deviation, "p": p if known else float("nan")}
                rows.append({**common, "metric": metric, "part": part, **more, "reason": "" if known else why})
        return rows


def _part(direction: str, cut: float | None) -> str:
    return f"{direction} {'heat map' if cut is None else f'at {cut:g}'}"
