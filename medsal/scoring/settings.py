"""What is scored and how: metrics with their options, what is read of signed maps, nulls, intervals, verdicts."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

import torch

from medsal.errors import UsageError
from medsal.evaluation import METRICS, Metric
from medsal.evaluation.corrections import CORRECTIONS
from medsal.evaluation.layers import GRADED, SIGNED

SIDES = ("absolute", "positive", "negative", "as is")
BASELINES = (
    "constant", "random", "centre prior", "edges", "mean training mask", "another patient", "untrained",
)  # fmt: skip
"""Maps that know nothing of the network or of this image; each is scored where a case has what it is made from."""
FAMILIES = ("localisation", "layers", "regions", "complexity")
"""What can be scored from stored maps; the other metrics need the network or a second map."""
SCORED = {name: row for name, row in METRICS.items() if row.family in FAMILIES}
SEVERAL = ("part", "threshold", "ties", "scores", "reduce")
"""Options that may be lists: one row for each value, which ``part`` then names."""
OF_THE_CASE = ("relevance", "mask", "layers", "labels", "ignore", "regions")
EACH = "each"
"""The value of the option ``codes`` that asks for every layer by itself."""
WITHOUT_NEGATIVES = ("relevance_mass", "layer_hit_rate", "layer_coverage")
"""Metrics that divide by all relevance, or by its peak: one side must be chosen."""
LAYER_SCORES = {"graded": GRADED, "signed": SIGNED}
"""The two published hit rates of layers by name, for the option ``scores``."""
DEFAULT = ("average_precision", "relevance_mass", "pointing_game", "relevance_rank")


@dataclass(frozen=True)
class Settings:
    """What is scored and how; checked when it is made.

    Attributes:
        metrics: names of ``METRICS``, or name -> options; besides the metric's own, ``side``. ``part``, ``threshold``,
            ``ties``, ``scores`` and ``reduce`` may be lists: one row for each value.
        side: what is read of signed relevance: ``absolute``, ``positive``, ``negative``, ``as is``.
        shifts: places of the truth that a sampled null looks at.
        seed: of nulls, random baselines and bootstraps.
        level: of intervals.
        alpha: of verdicts and of shares of significant images.
        resamples: of the bootstrap.
        correction: of several p-values: ``holm``, ``bonferroni``, ``bh`` or ``by``.
        primary: the metric that verdicts are about; ``average_precision`` where it is scored, else the first.
        baselines: of ``BASELINES``; each is scored where a case has what it is made from.
        adversaries: whether adversarial maps and a planted perfect one are scored beside the methods.
        compared: whether every two methods are compared; of thirty methods that is 435 pairs for each part of a metric.
    """

    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {name: {} for name in DEFAULT})
    side: str = "absolute"
    shifts: int = 199
    seed: int = 0
    level: float = 0.95
    alpha: float = 0.05
    resamples: int = 2000
    correction: str = "holm"
    primary: str = ""
    baselines: tuple[str, ...] = BASELINES
    adversaries: bool = False
    compared: bool = True

    def __post_init__(self) -> None:
        """Bring to one form, and refuse what cannot be scored.

        Raises:
            UsageError: for an unknown metric, option, side, correction or baseline, or a number out of range.
        """
        object.__setattr__(self, "metrics", _metrics(self.metrics))
        one = isinstance(self.baselines, str)
        object.__setattr__(self, "baselines", (self.baselines,) if one else tuple(self.baselines))
        object.__setattr__(self, "primary", self.primary or _first(self.metrics))
        self._check_names()
        self._check_numbers()

    def _check_names(self) -> None:
        _known("side", self.side, SIDES)
        _known("correction", self.correction, CORRECTIONS)
        _known("primary", self.primary, self.metrics)
        for name in self.baselines:
            _known("baselines", name, BASELINES)
        for name in self.metrics:
            side = self.side_of(name)
            _known(f"{name}: side", side, SIDES)
            if side == "as is" and name in WITHOUT_NEGATIVES:
                raise UsageError(f"{name}: side: wanted absolute, positive or negative, got 'as is'")
            for _, options in self.variants(name):
                _try_out(SCORED[name], options)
        row = SCORED[self.primary]
        if row.legacy or row.family == "complexity":
            why = "a legacy metric" if row.legacy else "without a chance level"
            raise UsageError(f"primary: wanted a metric that verdicts can be about, got {self.primary}, {why}")

    def _check_numbers(self) -> None:
        for name, least in {"shifts": 1, "seed": 0, "resamples": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}: wanted a whole number, {least} or more, got {value!r}")
        for name in ("level", "alpha"):
            value = getattr(self, name)
            most = {"level": 1, "alpha": 0.5}[name]
            if not isinstance(value, float) or not 0 < value < most:
                raise UsageError(f"{name}: wanted a number between 0 and {most}, got {value!r}")
        for name in ("adversaries", "compared"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: wanted true or false, got {getattr(self, name)!r}")

    def side_of(self, metric: str) -> str:
        """What is read of signed relevance for a metric.

        Args:
            metric: one of ``metrics``.

        Returns:
            The metric's own ``side`` if given, else that of all.
        """
        return str(self.metrics[metric].get("side", self.side))

    def variants(self, metric: str) -> list[tuple[str, dict[str, Any]]]:
        """The options that a metric is scored with, once for each value of those given as lists.

        Args:
            metric: one of ``metrics``.

        Returns:
            What names the variant (empty where there is one only) and its options, without ``side``.

        Example:
            >>> Settings({"iou": {"threshold": ["area", "otsu"]}}).variants("iou")
            [('area', {'threshold': 'area'}), ('otsu', {'threshold': 'otsu'})]
        """
        given = {name: value for name, value in self.metrics[metric].items() if name != "side"}
        lists = [name for name in SEVERAL if isinstance(given.get(name), list)]
        chosen = [dict(zip(lists, values, strict=True)) for values in product(*(given[name] for name in lists))]
        return [(" ".join(_word(value) for value in one.values()), {**given, **one}) for one in chosen]

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them.

        Returns:
            Name -> value; ``from_dict`` gives the same settings back.
        """
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        found["metrics"] = {name: _plain(options) for name, options in self.metrics.items()}
        return {**found, "baselines": list(self.baselines)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Settings:
        """Settings from what ``as_dict`` or a configuration file gave.

        Args:
            given: name -> value; defaults for what is not there.

        Returns:
            The settings.

        Raises:
            UsageError: for a name that is no setting, and as the settings themselves.
        """
        for name in given:
            _known("settings", name, [one.name for one in fields(cls)])
        return cls(**given)


def _metrics(given: Any) -> dict[str, dict[str, Any]]:
    asked = [given] if isinstance(given, str) else given
    if not isinstance(asked, Iterable) or not asked:
        raise UsageError(f"metrics: wanted names, or name: options, got {given!r}")
    pairs = asked.items() if isinstance(asked, Mapping) else [(name, {}) for name in asked]
    found: dict[str, dict[str, Any]] = {}
    for name, options in pairs:
        if name in METRICS and name not in SCORED:
            raise UsageError(f"metrics: {name} needs {' and '.join(METRICS[name].takes)}, not stored maps alone")
        _known("metrics", name, SCORED)
        if name in found:
            raise UsageError(f"metrics: {name} came twice; give an option as a list for several of its values")
        found[name] = _options(SCORED[name], options)
    return found


def _options(row: Metric, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"metrics: {row.name}: wanted option: value, got {given!r}")
    options = dict(given or {})
    known = [name for name in inspect.signature(row.function).parameters if name not in OF_THE_CASE]
    for name in options:
        _known(f"metrics: {row.name}", name, [*known, "side"])
    for name in SEVERAL:
        if name in options:
            options[name] = _each(row.name, name, options[name])
    return options


def _each(metric: str, option: str, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return _scores(metric, value) if option == "scores" else value
    if not value:
        raise UsageError(f"metrics: {metric}: {option}: wanted at least one value, got none")
    return [_scores(metric, one) if option == "scores" else one for one in value]


def _scores(metric: str, value: Any) -> Any:
    """Scores of layers by code; JSON has made text of the codes."""
    if isinstance(value, str) and value in LAYER_SCORES:
        return value
    try:
        return {int(code): float(score) for code, score in value.items()}
    except (AttributeError, TypeError, ValueError):
        raise UsageError(f"metrics: {metric}: scores: wanted graded, signed or code: score, got {value!r}") from None


def _try_out(row: Metric, options: Mapping[str, Any]) -> None:
    """Call a metric once, on eight voxels, so that a value that it refuses stops a run before it starts."""
    tried = {name: LAYER_SCORES.get(str(value), value) for name, value in options.items() if name != "spacing"}
    codes = tried.pop("codes", EACH)
    if codes != EACH:
        tried["codes"] = codes
        whole = [codes] if isinstance(codes, int) else codes
        if not isinstance(whole, list | tuple) or not all(isinstance(code, int) for code in whole):
            raise UsageError(f"metrics: {row.name}: codes: wanted {EACH}, a code or a list of codes, got {codes!r}")
    relevance = torch.arange(8.0).view(1, 1, 2, 2, 2) + 1
    truth = [(relevance > 6) * 255] if len(row.takes) > 1 else []
    try:
        row.function(relevance, *truth, **tried)
    except UsageError as error:
        raise UsageError(f"metrics: {row.name}: {error}") from None
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"metrics: {row.name}: wanted values that it can be called with, got {options}") from None


def _first(metrics: Mapping[str, Any]) -> str:
    usable = [name for name in metrics if not SCORED[name].legacy and SCORED[name].family != "complexity"]
    return "average_precision" if "average_precision" in metrics else next(iter([*usable, *metrics]))


def _known(what: str, name: Any, known: Iterable[str]) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(str(name), names, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(f"{what}: unknown {name!r}.{hint} There are {', '.join(names) or 'none'}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _word(value: Any) -> str:
    return ",".join(f"{code}:{score:g}" for code, score in value.items()) if isinstance(value, dict) else str(value)
