"""Score one case: every map by every metric, each number beside its chance level and its ceiling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medsal.errors import InputError, UsageError
from medsal.evaluation.chance import Null
from medsal.evaluation.truth import plain, side_of
from medsal.scoring.case import ScoredCase
from medsal.scoring.ceilings import Ceilings
from medsal.scoring.nulls import UNKNOWN, Chance
from medsal.scoring.questions import Question, questions_of
from medsal.scoring.rivals import Candidate, candidates, case_seed, other_grid
from medsal.scoring.settings import Settings

__all__ = ["ScoredCase", "score_case"]

Row = dict[str, Any]


def score_case(case: ScoredCase, settings: Settings) -> list[Row]:
    """Score all maps of a case: methods, baselines and, where asked for, adversarial maps.

    One map is held at a time. Each is read by its side (maps without signs as they are), scored, and held against
    chance: all shifts of the truth for ``relevance_mass``, ``settings.shifts`` of them for metrics that rank voxels,
    closed forms for hits; with a ``body``, only shifts inside it. Layers and regions fill the image: no body there.
    ``p`` is the share of places where the map does as well or better.

    Args:
        case: the case.
        settings: what is scored and how.

    Returns:
        Rows with the keys of ``table.COLUMNS``, in the order of maps, metrics and parts.

    Raises:
        InputError: if a map lies on another grid than the truth, or a metric refuses the truth; it names the case.
    """
    ask = _Scorer(case, settings)
    return [row for candidate in candidates(case, settings) for row in ask.rows(candidate)]


class _Scorer:
    """What all maps of a case share."""

    def __init__(self, case: ScoredCase, settings: Settings) -> None:
        parts = {name: getattr(case, name) for name in ("mask", "ignore", "body")}
        found = {name: None if part is None else case.checked(name, part) for name, part in parts.items()}
        seed = case_seed(settings.seed, case.case)
        self.case, self.ignore = case, found["ignore"]
        self.questions = questions_of(case, settings)
        self.chance = Chance(**found, shifts=settings.shifts, seed=seed)
        self.ceilings = Ceilings(case)

    def rows(self, candidate: Candidate) -> list[Row]:
        """Score one map.

        Args:
            candidate: the map.

        Returns:
            A row for each metric and part.

        Raises:
            InputError: naming the case and the map.
        """
        relevance = candidate.make()
        reason = candidate.reason or ("no map" if relevance is None else "")
        if relevance is not None:
            reason = other_grid(candidate, relevance, self.case.space)
        found: dict[int, list[Row]] = {}
        for side in dict.fromkeys(one.side for one in self.questions):
            asked = {key: one for key, one in enumerate(self.questions) if one.side == side}
            if relevance is None or reason:
                found |= {key: self._unanswered(candidate, one, reason) for key, one in asked.items()}
                continue
            values = plain(self.case.checked(candidate.name, relevance))
            try:
                found |= self._read(candidate, _side(values, side, signed=candidate.signed), asked)
            except UsageError as error:
                raise InputError(f"{self.case.case}: {candidate.name}: {error}") from error
        return [row for key in sorted(found) for row in found[key]]

    def _read(self, candidate: Candidate, read: Tensor, asked: dict[int, Question]) -> dict[int, list[Row]]:
        answers = {key: one.answers(read, self.ignore) for key, one in asked.items()}
        known = {key: any(not math.isnan(value) for value, _ in answer) for key, answer in answers.items()}
        nulls = self.chance.of(read, {key: one for key, one in asked.items() if known[key]})
        found: dict[int, list[Row]] = {}
        for key, one in asked.items():
            ceiling = self.ceilings.of(one, candidate.name) if known[key] else (math.nan, "")
            levels = nulls.get(key, [UNKNOWN] * len(one.parts))
            parts = zip(one.parts, answers[key], levels, strict=True)
            found[key] = [self._row(candidate, one, *part, ceiling) for part in parts]
        return found

    def _unanswered(self, candidate: Candidate, one: Question, reason: str) -> list[Row]:
        none = (math.nan, reason)
        return [self._row(candidate, one, part, none, UNKNOWN, (math.nan, "")) for part in one.parts]

    def _row(
        self, candidate: Candidate, one: Question, part: str, answer: tuple[float, str], null: Null,
        ceiling: tuple[float, str],
    ) -> Row:  # fmt: skip
        value, reason = answer
        known = not math.isnan(value)
        mean, sd, p = (null.mean, null.sd, null.p) if known else (math.nan,) * 3
        best, what = ceiling if known else (math.nan, "")
        return {
            "case": self.case.case, "patient": self.case.patient, "kind": candidate.kind, "method": candidate.name,
            "metric": one.metric, "part": part, "side": one.side, "value": value, "null": mean, "null_sd": sd, "p": p,
            "ceiling": best, "ceiling_of": what, "reason": reason,
        }  # fmt: skip


def _side(relevance: Tensor, side: str, *, signed: bool) -> Tensor:
    """What is read of a map; a new tensor only where a sign has to go."""
    if side == "as is" or not signed or (side != "negative" and not (relevance < 0).any()):
        return relevance
    return torch.as_tensor(side_of(relevance, side))
