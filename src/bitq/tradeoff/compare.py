"""Rules beside each other: the plans that each proposes, all fine-tuned and measured alike, with several seeds.

Every rule may have as many plans fine-tuned, from the same weights, for the same steps, with the same seed and data. Of
its plans the one of least O on validation data counts, and is judged on test data. What a network moves is counted by
one model, and O has one largest movement for all: that of the formats which are offered to all.

To the rules of others bitq lends what it has itself: activations that are never negative are stored without a sign,
what is stored is a layer's output after its activation function, and ranges are fitted and learned. `plainly` does not.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bitq.batches import pairs
from bitq.devices import Device
from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.progress import Listener
from bitq.store import versions
from bitq.tracing import Traced
from bitq.tradeoff.alternatives import alternatives
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.measure import Subject, seeded
from bitq.tradeoff.opening import opened
from bitq.tradeoff.outcome import float_row, row_of
from bitq.tradeoff.records import Measurement, Row
from bitq.tradeoff.rehearsal import rehearse
from bitq.tradeoff.rules import Brought, Called, Proposals
from bitq.tradeoff.settings import Settings
from bitq.tradeoff.space import space_of
from bitq.tradeoff.stored import stored_as, tied, ties
from bitq.tradeoff.study import Study
from bitq.tradeoff.uniforms import without_signs
from bitq.tradeoff.workers import Workers

PLAINLY = "plain: activations have a sign, each layer stores its own result, ranges are the maximum and not learned"
"""What is told of rules that `plainly` is for."""


@dataclass(frozen=True)
class Contest:
    """What is compared.

    Attributes:
        rules: in the order of the table.
        plans: that each may have fine-tuned.
        within: loss of accuracy, as a share in [0, 1], within which the fewest bits are told, too.
    """

    rules: tuple[Called, ...]
    plans: int
    within: float = 0.003

    def settings(self, base: Settings) -> Settings:
        """The settings of a search that fine-tunes so many: a uniform format, and all others plans."""
        return replace(base, rounds=max(self.plans - 1, 1), plans=1, uniforms=1)


@dataclass(frozen=True)
class Reached:
    """What a rule reached with one seed.

    Attributes:
        label: what the rule is called.
        row: of its plan of least O on validation data, as it does on test data.
        measured: the same plan.
        fewest: of its plans within the loss of accuracy on validation data that of the fewest bits, if there is one.
        tuned: plans that were fine-tuned.
        passes: forward or backward passes over a batch to find its plans.
        seconds: to find, fine-tune and measure them.
        keeps: whether its plan keeps the budgets; where none does, it is the nearest.
    """

    label: str
    row: Row
    measured: Measurement
    fewest: Measurement | None
    tuned: int
    passes: int
    seconds: float
    keeps: bool = True


class AmountUnit(NamedTuple):
    """What amounts are told in: its name, and how much of the smallest one it is."""

    name: str
    size: float


UNITS = {
    "movement_bits": (AmountUnit("Gbit", 1e9), AmountUnit("Mbit", 1e6), AmountUnit("kbit", 1e3)),
    "energy_pj": (AmountUnit("mJ", 1e9), AmountUnit("µJ", 1e6), AmountUnit("nJ", 1e3)),
    "model_bytes": (AmountUnit("MiB", 1024.0**2), AmountUnit("KiB", 1024.0), AmountUnit("B", 1.0)),
}
"""By quantity of a `Summary`, the largest first."""


@dataclass(frozen=True)
class Refused:
    """A rule that could not run on this network, by its label, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class OfSeed:
    """What was compared with one seed.

    Attributes:
        seed: of fine-tuning, and of what is drawn from the data.
        movement_max: DM_max, in bits.
        float32: the network as it came.
        alternatives: in formats that people know, as it is.
        results: of every rule, in their order.
    """

    seed: int
    movement_max: float
    float32: Row
    alternatives: tuple[Row, ...]
    results: tuple[Reached | Refused, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; of one seed alone no deviation is known."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of some values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def text(self, digits: int, unit: float = 1.0) -> str:
        """Such as "0.1656 ± 0.0007", in multiples of a unit."""
        told = f"{self.mean / unit:.{digits}f}"
        return told if self.deviation is None else f"{told} ± {self.deviation / unit:.{digits}f}"


@dataclass(frozen=True)
class Summary:
    """A line of the table: what a rule, or a format as it is, reaches over all seeds.

    Attributes:
        label: what it is called.
        accuracy, objective: on test data; accuracy in [0, 1].
        share: of DM_max that is moved.
        movement_bits, energy_pj, model_bytes: as of a `Cost`.
        tuned, passes, seconds: as of `Reached`, by their means; None of what chose no plan.
        fewest_bits, fewest_accuracy: what its plans of the fewest bits within the loss move, and reach on test data;
            None where one seed has none.
        reason: why it did not run, if it did not; then nothing else is told.
    """

    label: str
    accuracy: Spread | None = None
    objective: Spread | None = None
    share: Spread | None = None
    movement_bits: Spread | None = None
    energy_pj: Spread | None = None
    model_bytes: Spread | None = None
    tuned: float | None = None
    passes: float | None = None
    seconds: float | None = None
    fewest_bits: Spread | None = None
    fewest_accuracy: Spread | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that was compared.

    Attributes:
        network, device: their names.
        contest: what was asked for.
        settings: how plans were fine-tuned; its seed is none of the comparison's.
        seeds: in their order, what each came to.
        command: that anyone can run to get this.
        versions: of what computed it.
        measure: what the metric is called.
    """

    network: str
    device: str
    contest: Contest
    settings: Settings
    seeds: tuple[OfSeed, ...]
    command: str
    versions: dict[str, str]
    measure: str = "accuracy"

    @property
    def untuned(self) -> tuple[Summary, ...]:
        """float32 and the formats that people know, as they are."""
        rows = [(each, (each.float32, *each.alternatives)) for each in self.seeds]
        return tuple(
            _summary(name, [(seed, own[place]) for seed, own in rows])
            for place, name in enumerate(row.name for row in rows[0][1])
        )

    @property
    def rules(self) -> tuple[Summary, ...]:
        """Of every rule a line, in their order."""
        return tuple(
            self._rule([(seed, seed.results[place]) for seed in self.seeds])
            for place in range(len(self.contest.rules))
        )

    def unit(self, quantity: str) -> AmountUnit:
        """The largest of its `UNITS` of which every line of the table has one, or else the smallest."""
        known = [getattr(each, quantity).mean for each in (*self.rules, *self.untuned) if not each.reason]
        units = UNITS[quantity]
        return next((unit for unit in units if min(known) >= unit.size), units[-1])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say beside the table, a sentence each."""
        plain = [PLAINLY] if any(each.plain for each in self.contest.rules) else []
        budgets, missed = self.settings.budgets, Counter(
            each.label for seed in self.seeds for each in seed.results if isinstance(each, Reached) and not each.keeps
        )
        return (
            *plain,
            *(
                f"{label}: no plan keeps {budgets} with {count} of {len(self.seeds)} seeds; the nearest counts"
                for label, count in missed.items()
            ),
        )

    @property
    def best(self) -> Summary | None:
        """The rule of least O."""
        known = [each for each in self.rules if each.objective]
        return min(known, key=lambda each: each.objective.mean, default=None)  # type: ignore[union-attr]

    @property
    def tuning(self) -> str:
        """How all were fine-tuned, in words."""
        if self.settings.without == "qat":
            return "nothing is fine-tuned"
        training = self.settings.training
        return f"{training.steps} steps of fine-tuning from {training.learning_rate:g}" + (
            " in bfloat16" if training.amp else ""
        )

    def _rule(self, found: Sequence[tuple[OfSeed, Reached | Refused]]) -> Summary:
        label = found[0][1].label
        refused = next((each for _, each in found if isinstance(each, Refused)), None)
        if refused:
            return Summary(label, reason=refused.reason)
        reached = [(seed, each) for seed, each in found if isinstance(each, Reached)]
        fewest = [each.fewest for _, each in reached if each.fewest]
        near = len(fewest) == len(reached)
        return replace(
            _summary(label, [(seed, each.row) for seed, each in reached]),
            tuned=statistics.fmean(each.tuned for _, each in reached),
            passes=statistics.fmean(each.passes for _, each in reached),
            seconds=statistics.fmean(each.seconds for _, each in reached),
            fewest_bits=Spread.of([each.movement_bits for each in fewest]) if near else None,
            fewest_accuracy=Spread.of([each.test for each in fewest]) if near else None,
        )


def _summary(label: str, rows: Sequence[tuple[OfSeed, Row]]) -> Summary:
    def spread(value: Callable[[Row], float]) -> Spread:
        return Spread.of([value(row) for _, row in rows])

    return Summary(
        label,
        accuracy=spread(lambda row: row.accuracy),
        objective=spread(lambda row: row.objective or 0.0),
        share=Spread.of([row.movement_bits / seed.movement_max for seed, row in rows]),
        movement_bits=spread(lambda row: row.movement_bits),
        energy_pj=spread(lambda row: row.energy_pj),
        model_bytes=spread(lambda row: row.model_bytes),
    )


def compare(
    subjects: Callable[[int], Subject],
    device: Device,
    offered: FormatSet,
    settings: Settings,
    contest: Contest,
    seeds: Sequence[int],
    folder: RunFolder,
    listener: Listener,
    command: str = "",
    *,
    workers: Workers | None = None,
) -> Comparison:
    """Compare rules on a network; called again with the same folder, nothing that is finished is done again.

    Args:
        subjects: the network with its data, by seed.
        device: whose memories the bits move through.
        offered: what rules choose from that bring no formats of their own.
        settings: alpha, fine-tuning, and on how many inputs tensors are scored.
        contest: the rules.
        seeds: each once.
        folder: that has a run folder `seed-N` for each.
        listener: is told of progress.
        command: that anyone can run to get this.
        workers: where plans are fine-tuned; by default in this process, one after the other.

    Raises:
        BitqError: what is wrong with the input, in one sentence; no rule that could run with a seed: what the first one
            lacks.
    """
    found = []
    for place, seed in enumerate(seeds):
        subject = subjects(seed)
        own = replace(settings, training=replace(settings.training, seed=seed))
        later = (len(seeds) - place - 1) * len(contest.rules)
        run = of_seed(folder, seed)
        with opened(subject, device, offered, contest.settings(own), run, listener, workers=workers) as (study, traced):
            found.append(compared(study, traced, contest, later))
    return Comparison(subject.name, device.name, contest, settings, tuple(found), command, versions(), study.measure)


def of_seed(folder: RunFolder, seed: int) -> RunFolder:
    """The folder of a seed within that of a comparison."""
    return RunFolder(folder.path / f"seed-{seed}")


def plainly(study: Study, traced: Traced) -> Study:
    """A study of the same network in which all is as the sources of rules have it, unless they say otherwise.

    Activations keep their sign, each layer stores its own result, and ranges are the maximum and are not learned.
    """
    settings, offered = study.settings, study.space.offered.signed
    fixed = replace(settings.training, range_rate=0.0)
    settings = replace(settings, stored="paper", ranges="maximum", training=fixed)
    space = space_of(study.subject.model, traced.layers, study.space.device, offered, study.ledger.listener.step)
    space = stored_as(replace(space, largest_bits=study.space.movement_max), traced, settings.stored)
    return replace(study, space=space, settings=settings)


def proposed(study: Study, traced: Traced, called: Called, count: int) -> tuple[Study, Proposals]:
    """What a rule proposes to measure, and the study that measures it.

    Raises:
        BitqError: as of `study_of` and `bitq.tradeoff.rules.Rule.propose`.
    """
    label, rule, plain = called
    study = plainly(study, traced) if plain else study
    brought = rule.brings(study.space.offered)
    if brought is None:
        return study, rule.proposals(study, label, count)
    if plain:
        own = study_of(study, traced, replace(brought, offered=brought.offered.signed))
        return own, rule.proposals(own, label, count)
    wide = study_of(study, traced, brought.with_unsigned)
    own = replace(wide, space=wide.space.of_first(brought.offered, brought.counted))
    found = rule.proposals(own, label, count)
    choices = without_signs(wide, [plan.choices for plan in found.plans])
    plans = tuple(replace(plan, choices=each) for plan, each in zip(found.plans, choices, strict=True))
    return wide, replace(found, plans=plans)


def study_of(study: Study, traced: Traced, brought: Brought) -> Study:
    """A study of the same network with the formats that a rule brings.

    There, a tensor that one layer writes and others read has one format.

    Raises:
        BitqError: the network cannot compute in these formats.
    """
    subject = study.subject
    with seeded():
        batch = next(pairs(subject.model, subject.data.validation))
    rehearse(subject, study.space.modules, brought.offered, study.training, batch, study.space.points)
    counted = FormatSet(brought.counted) if brought.counted else brought.offered
    space = space_of(subject.model, traced.layers, study.space.device, counted, study.ledger.listener.step)
    space = replace(space, offered=brought.offered, counted=brought.counted, points=study.space.points)
    space = space.with_activations(traced.activations)
    return replace(study, space=tied(space, ties(space, traced.stored)))


def compared(study: Study, traced: Traced, contest: Contest, later: int = 0) -> OfSeed:
    """What every rule reaches on a study, whose settings are those of the contest.

    Args:
        study: of the formats that are offered to all.
        traced: its network.
        contest: the rules.
        later: how many other rules are to come after these, for the time that is told.

    Raises:
        BitqError: no rule could run: what the first one lacks.
    """
    note, rules = study.ledger.listener.note, contest.rules
    float32 = float_row(study)
    results: list[Reached | Refused] = []
    first: BitqError | None = None
    for number, called in enumerate(rules, 1):
        note(f"seed {study.seed}: {called.label} (rule {number} of {len(rules)})")
        try:
            results.append(_reached(study, traced, contest, called, len(rules) - number + later))
        except BitqError as error:
            first = first or error
            results.append(Refused(called.label, str(error)))
            note(f"{called.label} cannot run: {error}")
    if first and all(isinstance(each, Refused) for each in results):
        raise first
    return OfSeed(study.seed, study.space.movement_max, float32, alternatives(study), tuple(results))


def _reached(study: Study, traced: Traced, contest: Contest, called: Called, left: int) -> Reached:
    listener, training = study.ledger.listener, study.training
    own, found = proposed(study, traced, called, contest.plans)
    steps = 0 if training is None else training.steps
    missing = sum(own.ledger.known(Measurement, own.config(plan)) is None for plan in found.plans if plan.tune)
    listener.outlook({"fine-tuning": steps * (missing + contest.plans * left)}, "")
    by_plan = dict(own.measured(found.plans))
    measured = {plan: by_plan[plan] for plan in found.plans}  # in the rule's order, whoever finished first
    least = study.float_accuracy.validation - contest.within
    near = [each for each in measured.values() if each.validation >= least]

    def rank(each: Measurement) -> tuple[float, float]:
        lost = study.float_accuracy.validation - each.validation
        return study.settings.budgets.excess(each, lost), study.objective(each.validation, each.movement_bits)

    best = min(measured.values(), key=rank)
    row = row_of(study, best.label, "baseline", best)
    listener.note(
        f"{called.label}: {study.measure} {100 * best.validation:.2f} % on validation data, "
        f"{100 * best.movement_bits / study.space.movement_max:.1f} % of the largest movement, "
        f"O {study.objective(best.validation, best.movement_bits):.4f}"
    )
    return Reached(
        called.label,
        row,
        best,
        min(near, key=lambda each: each.movement_bits, default=None),
        0 if training is None else sum(plan.tune for plan in measured),
        found.passes,
        found.seconds + _seconds(own, found),
        keeps=not rank(best)[0],
    )


def _seconds(study: Study, found: Proposals) -> float:
    """What fine-tuning and measuring these plans took."""
    configs: list[Any] = [study.config(plan) for plan in found.plans]
    return sum(each.seconds for each in study.ledger.store.evaluations(Measurement.kind) if each.config in configs)
