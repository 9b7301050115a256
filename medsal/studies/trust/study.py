"""The study of trust: utility, randomisation, repeatability and reproducibility on one set of trained networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medsal._version import __version__
from medsal.errors import UsageError
from medsal.evaluation.baselines import MaskPrior
from medsal.studies.trust.cases import Batch, Cases, Keys
from medsal.studies.trust.comparison import Prepared, compare_maps, jensen_shannon
from medsal.studies.trust.explainers import Explainers, StudyMethods, predicted
from medsal.studies.trust.pairs import compare_pair, pairs, partners, random_pairs
from medsal.studies.trust.randomisation import State, states
from medsal.studies.trust.records import Records, digest, slug, tensor_digest
from medsal.studies.trust.results import write_results
from medsal.studies.trust.settings import PAIRS, RANDOMISATION, UTILITY, StudySettings, named, settings_of
from medsal.studies.trust.steps import Step, do_steps
from medsal.studies.trust.subject import Member, NetworkLike, Subject, Wishes, members_of
from medsal.studies.trust.utility import check_prior, prior_scores, utility_rows

if TYPE_CHECKING:
    import pandas as pd


class Study:
    """Asks of every method whether its maps can be trusted on these networks and cases.

    Four questions with one set of trained networks: do maps find the truth (utility), do they change when weights are
    drawn anew (randomisation), are they the same after training anew (repeatability) and in another architecture
    (reproducibility). Every step is a file; a study that was killed goes on where it stopped, to the same numbers.

    Args:
        networks: architecture -> trained networks, or functions that load them: one for each seed of the training.
        items: dataset of mappings, see ``Keys``.
        methods: names of ``METHODS``, functions, or name of each map -> either, see ``StudyMethods``.
        output_dir: folder of this study alone.
        settings: see ``StudySettings``.
        keys: what the items' entries are called.
        prior: mean mask of training cases, which utility is held against.

    Raises:
        UsageError: if a setting is wrong, or the folder holds another study.
        InputError: if no case can be read.
    """

    def __init__(
        self,
        networks: Mapping[str, Sequence[NetworkLike] | NetworkLike],
        items: Sequence[Mapping[str, Any]],
        methods: StudyMethods,
        output_dir: str,
        settings: StudySettings | Mapping[str, Any] | None = None,
        *,
        keys: Keys | Mapping[str, str] | None = None,
        prior: MaskPrior | None = None,
    ) -> None:
        self.settings = settings_of(settings)
        self.members = members_of(networks)
        self.explainers = Explainers(methods, self.settings.seed, self.settings.memory_budget)
        found = named(Keys, keys, "keys") if isinstance(keys, Mapping) else keys
        self.cases = Cases(items, found, self.settings.batch_size)
        if self.settings.target == "label" and None in self.cases.labels:
            case = self.cases.names[self.cases.labels.index(None)]
            raise UsageError(f"target: {case} has no label; give target 'predicted', a class, or labels")
        self.prior = prior
        if prior is not None and UTILITY in self.settings.parts:
            check_prior(prior, self.cases)
        self.records = Records(output_dir, self._setup())
        self._at_hand: tuple[str, Subject] | None = None
        self._trained: tuple[str, list[Prepared]] | None = None

    def run(self) -> dict[str, pd.DataFrame]:
        """Do what is left of the study, then write tables, figures and verdicts.

        Several processes that run the same study in the same folder share its steps.

        Returns:
            Name -> table, as written to ``output_dir``.
        """
        do_steps(self.records, list(self._first_steps()))
        do_steps(self.records, list(self._steps()))
        self._at_hand = self._trained = None
        with self.records.claim("results", wait=True):
            return write_results(self)

    def _setup(self) -> dict[str, Any]:
        """Everything that the numbers depend on."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "figures"}
        return {
            "version": __version__,
            "torch": torch.__version__,
            "settings": settings,
            "methods": self.explainers.describe(),
            "cases": self.cases.digest,
            "networks": {member.name: digest(member.load()) for member in self.members},
            "prior": None if self.prior is None else tensor_digest(self.prior.relevance),
        }

    # What is to be done, in order.

    def _first_steps(self) -> Iterator[Step]:
        for member in self.members:  # all of them first: what does not suit one is known before anything is explained
            yield Step(f"about/{slug(member.name)}", f"{member.name}: blocks", partial(self._about, member))
        for member in self.members:
            for batch in self.cases.batches:
                words = f"{member.name}: trained, batch {batch.number + 1}"
                yield Step(self.key("trained", member, batch), words, partial(self._explain, member, batch))

    def _steps(self) -> Iterator[Step]:
        parts = self.settings.parts
        if UTILITY in parts:
            yield Step("prior/prior", "mean training mask", self._prior)
        for method in range(len(self.explainers.names)):
            yield from self._method_steps(method)
        for member in self.members if RANDOMISATION in parts else ():
            for batch in self.cases.batches:
                for number, state in enumerate(self.distinct(member)):
                    words = f"{member.name}: {state.order} {state.block}, batch {batch.number + 1}"
                    key = f"{self.key('states', member, batch)}-{number}"
                    yield Step(key, words, partial(self._randomise, member, batch, state))

    def _method_steps(self, method: int) -> Iterator[Step]:
        """What is done with the maps of the trained networks."""
        name, parts = self.explainers.names[method], self.settings.parts
        for member in self.members:
            at, words = f"{slug(member.name)}-{method}", f"{member.name}: {name}"
            yield Step(f"random_pairs/{at}", f"{words}, random pairs", partial(self._random, member, method))
            if UTILITY in parts:
                yield Step(f"utility/{at}", f"{words}, utility", partial(self._utility, member, method))
        for kind, first, second in pairs(self.members) if PAIRS in parts else ():
            at = f"{slug(first.name)}--{slug(second.name)}-{method}"
            words = f"{first.name} and {second.name}: {name}, {kind}"
            yield Step(f"pairs/{at}", words, partial(self._pair, first, second, method))

    def key(self, kind: str, member: Member, batch: Batch) -> str:
        """Key of the step of a batch.

        Args:
            kind: of the step.
            member: which network.
            batch: which images.

        Returns:
            The key.
        """
        return f"{kind}/{slug(member.name)}-{batch.number}"

    def states(self, member: Member) -> list[State]:
        """All states of a network, in order.

        Args:
            member: which.

        Returns:
            Those of all orders and draws.
        """
        about = self.records.read(f"about/{slug(member.name)}")
        assert about is not None, "the first steps were done"
        return [State(**{**row, "randomised": tuple(row["randomised"])}) for row in about["states"]]

    def distinct(self, member: Member) -> list[State]:
        """The states that differ: top down and bottom up end in one network, which is explained once.

        Args:
            member: which network.

        Returns:
            The first of the states of each kind.
        """
        found: dict[Any, State] = {}
        for state in self.states(member):
            found.setdefault((state.draw, state.randomised), state)
        return list(found.values())

    # The steps.

    def _subject(self, member: Member) -> Subject:
        if self._at_hand is None or self._at_hand[0] != member.name:
            self._at_hand = None  # one network at a time
            chosen = self.settings
            wishes = Wishes(
                chosen.of("blocks", member.architecture), chosen.of("target_layer", member.architecture),
                chosen.reinitialise, chosen.seed, chosen.features_budget,
            )  # fmt: skip
            image = self.cases.images(Batch(0, self.cases.batches[0].at[:1]))
            self._at_hand = member.name, Subject(member.load(), image, self.explainers, wishes)
        return self._at_hand[1]

    def _about(self, member: Member) -> dict[str, Any]:
        subject = self._subject(member)
        image = self.cases.images(Batch(0, self.cases.batches[0].at[:1]))
        every = list(states(subject.blocks, self.settings.orders, self.settings.draws))
        changes = [subject.changes(state) for state in every] if RANDOMISATION in self.settings.parts else []
        return {
            "blocks": subject.counts(),
            "layers": subject.layers,
            "not_remembered": subject.replay.reason,
            "states": [asdict(state) for state in every],
            "changes": changes,
            "costs": subject.costs(image),
        }

    def _explain(self, member: Member, batch: Batch) -> dict[str, Any]:
        subject = self._subject(member)
        image = self.cases.images(batch)
        subject.counter.take()
        target = self._target(batch)
        maps, logits, _ = subject.explain(image, target)
        self.records.write_maps(member.name, batch.number, maps)
        return {
            "target": target or predicted(logits),
            "logits": logits.tolist(),
            "passes": asdict(subject.counter.take()),
        }

    def _target(self, batch: Batch) -> list[int] | None:
        if self.settings.target == "predicted":
            return None
        if self.settings.target == "label":
            return [label for at in batch.at if (label := self.cases.labels[at]) is not None]
        return [int(self.settings.target)] * len(batch.at)

    def _randomise(self, member: Member, batch: Batch, state: State) -> dict[str, Any]:
        subject, trained = self._subject(member), self.records.read(self.key("trained", member, batch))
        assert trained is not None, "the first steps were done"
        key = self.key("trained", member, batch)
        if self._trained is None or self._trained[0] != key:
            subject.replay.forget()
            methods = range(len(self.explainers.names))
            before = [Prepared(self.records.read_maps(member.name, batch.number, method)) for method in methods]
            self._trained = key, before
        subject.counter.take()
        maps, logits, reason = subject.explain(self.cases.images(batch), trained["target"], state)
        passes = subject.counter.take()
        first = torch.tensor(trained["logits"])
        distance = jensen_shannon(first, logits.expand(first.shape)).tolist()
        found = {
            name: compare_maps(before, Prepared(maps[name]))
            for name, before in zip(self.explainers.names, self._trained[1], strict=True)
        }
        return {
            "similarity": found, "logits": logits.tolist(), "distance": distance, "reason": reason,
            "passes": asdict(passes),
        }  # fmt: skip

    def _maps(self, member: Member, method: int) -> list[Tensor]:
        every = [self.records.read_maps(member.name, batch.number, method) for batch in self.cases.batches]
        return [one[None] for values in every for one in values]

    def _others(self, count: int) -> list[list[int]]:
        patients, shapes = self.cases.patients, self.cases.shapes
        return [partners(patients, shapes, at, count, self.settings.seed) for at in range(len(self.cases))]

    def _pair(self, first: Member, second: Member, method: int) -> dict[str, Any]:
        others = self._others(self.settings.partners)
        return {"rows": compare_pair(self._maps(first, method), self._maps(second, method), others)}

    def _random(self, member: Member, method: int) -> dict[str, Any]:
        maps, chosen = self._maps(member, method), self.settings
        rows = random_pairs(maps, self.cases.patients, self.cases.shapes, chosen.random_pairs, chosen.seed)
        return {"rows": rows}

    def _utility(self, member: Member, method: int) -> dict[str, Any]:
        maps, chosen = self._maps(member, method), self.settings
        return {"rows": utility_rows(maps, self._truths(), shifts=chosen.null_shifts, seed=chosen.seed)}

    def _prior(self) -> dict[str, Any]:
        return {"rows": prior_scores(self.prior, self.cases.names, self._truths())}

    def _truths(self) -> list[Tensor | None]:
        return [self.cases.truth(at) for at in range(len(self.cases))]
