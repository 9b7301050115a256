"""Planted truth: do the maps of a network find what was put into the images, and do those of random weights not?"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medsal.attribution.explain import explain
from medsal.errors import MedsalError, UsageError
from medsal.evaluation import average_precision, pointing_game, prevalence
from medsal.geometry import to_grid

if TYPE_CHECKING:
    from monai.data import MetaTensor

_LOG = logging.getLogger("medsal")
FEWEST = 3
"""Fewer planted cases than this decide nothing."""


def random_weights(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a network with every weight and statistic drawn anew by the modules' own initialisation.

    Args:
        network: any network made of modules with ``reset_parameters``.
        seed: of the draw; the caller's random state is left as found.

    Returns:
        The copy.

    Raises:
        UsageError: if a parameter belongs to a module that cannot be initialised anew.
    """
    fresh = copy.deepcopy(network)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise UsageError(f"random weights: {name} ({type(module).__name__}) has no reset_parameters")
    return fresh


class PlantedTruth:
    """The gate of a planted-truth set: average precision and pointing of each method, trained and with random weights.

    Relevance is scored on the network's grid, against the mask brought there by nearest neighbour; unsigned by its
    magnitude, since evidence for either class may be what was planted. Only cases that have something planted count,
    and fewer than three of them decide nothing. A method passes by its average precision: above that of random weights
    and twice chance; how often its peak hits (pointing) is shown beside it.

    Args:
        network: trained.
        dataset: items with ``image`` after preprocessing and a mask, on any grid, under ``truth_key``.
        methods: names, or one string with commas.
        output_dir: where ``gate.json`` is written.
        truth_key: which entry of an item is its mask.
        options: method -> options.
        seed: of random methods and of the random weights.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        methods: str | Sequence[str],
        output_dir: str,
        truth_key: str = "lesion",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
    ) -> None:
        self.networks = {"trained": network, "random": random_weights(network, seed)}
        self.dataset = dataset
        names = methods.split(",") if isinstance(methods, str) else methods
        self.methods = [name.strip() for name in names]
        self.output_dir = Path(output_dir)
        self.truth_key = truth_key
        self.options = {name: dict(given) for name, given in (options or {}).items() if name in self.methods}
        self.seed = seed

    def scores(self) -> list[dict[str, Any]]:
        """Score every case.

        Returns:
            One row per case, method and weights: ``average_precision``, ``pointing``, ``prevalence``.

        Raises:
            MedsalError: if no case has anything planted.
        """
        rows = []
        for item in self.dataset:
            if item.get("error"):
                raise MedsalError(f"{item.get('case')}: {item['error']}")
            if self.truth_key not in item:
                continue
            image = item["image"]
            mask = to_grid(item[self.truth_key], image.affine, image.shape[1:], mode="nearest").as_tensor()[None] > 0
            if mask.any():
                rows += [
                    row for weights in self.networks for row in self._case(weights, str(item["case"]), image, mask)
                ]
        if not rows:
            raise MedsalError(f"no case has a mask with anything in it under {self.truth_key!r}")
        return rows

    def run(self) -> dict[str, dict[str, float]]:
        """Score, print the table, write ``gate.json``.

        Returns:
            Method -> mean scores.

        Raises:
            MedsalError: if a method does not find what was planted better than random weights and chance do.
            UsageError: if too few cases have something planted.
        """
        rows = self.scores()
        table = {method: self._means(rows, method) for method in self.methods}
        cases = len({row["case"] for row in rows})
        passed = {
            method: cases >= FEWEST and means["trained_ap"] > max(2 * means["prevalence"], means["random_ap"])
            for method, means in table.items()
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "gate.json").write_text(
            json.dumps({"means": table, "passed": passed, "cases": rows}, indent=1)
        )
        _LOG.info("Planted truth, %d cases (AP: average precision; chance is the share of planted voxels)", cases)
        _LOG.info("%-28s %8s %9s %9s %12s %12s", "method", "chance", "AP", "AP random", "pointing", "p. random")
        verdicts = ("too few", "too few") if cases < FEWEST else ("FAIL", "PASS")
        for method, m in table.items():
            _LOG.info(
                "%-28s %8.4f %9.3f %9.3f %12.2f %12.2f  %s", method, m["prevalence"], m["trained_ap"], m["random_ap"],
                m["trained_pointing"], m["random_pointing"], verdicts[passed[method]],
            )  # fmt: skip
        if cases < FEWEST:
            raise UsageError(f"gate: wanted at least {FEWEST} cases with something planted, got {cases}; give more")
        failed = [method for method, good in passed.items() if not good]
        if failed:
            raise MedsalError(f"gate: {', '.join(failed)} did not find what was planted better than chance")
        return table

    def _case(self, weights: str, case: str, image: MetaTensor, mask: torch.Tensor) -> list[dict[str, Any]]:
        batch = image.as_tensor()[None]
        found = explain(self.networks[weights], batch, self.methods, options=self.options, seed=self.seed)
        return [
            {
                "case": case,
                "method": method,
                "weights": weights,
                "average_precision": average_precision(relevance.abs(), mask).item(),
                "pointing": pointing_game(relevance.abs(), mask).item(),
                "prevalence": prevalence(mask).item(),
            }
            for method, relevance in found.items()
        ]

    @staticmethod
    def _means(rows: list[dict[str, Any]], method: str) -> dict[str, float]:
        def mean(weights: str, score: str) -> float:
            values = [row[score] for row in rows if row["method"] == method and row["weights"] == weights]
            return float(sum(values) / len(values))

        return {
            "prevalence": mean("trained", "prevalence"),
            **{f"{w}_ap": mean(w, "average_precision") for w in ("trained", "random")},
            **{f"{w}_pointing": mean(w, "pointing") for w in ("trained", "random")},
        }
