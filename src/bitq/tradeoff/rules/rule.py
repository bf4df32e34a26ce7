"""What every rule is: formats that it may bring, options that its source leaves open, the plans that it proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from bitq.formats import Choosable
from bitq.tradeoff.formatset import FormatSet
from bitq.tradeoff.records import Proposal
from bitq.tradeoff.study import Proposed, Study


@dataclass(frozen=True)
class Brought:
    """Formats that a rule brings.

    Attributes:
        offered: what tensors have; plain float32 first, if layers keep it, then the finest.
        counted: for each of these formats that in whose bits it is counted; none: in its own.
    """

    offered: FormatSet
    counted: tuple[Choosable, ...] = ()

    @property
    def with_unsigned(self) -> Brought:
        """The same with formats without a sign for activations behind them, each counted in its own bits."""
        offered = self.offered.with_unsigned
        more = offered.formats[len(self.offered.formats) :]
        return Brought(offered, (*self.counted, *more) if self.counted else ())


@dataclass(frozen=True)
class Proposals:
    """What a rule proposes to measure.

    Attributes:
        plans: in its order.
        passes: forward or backward passes over a batch that it took to find them.
        seconds: that it took.
    """

    plans: tuple[Proposed, ...]
    passes: int
    seconds: float


@dataclass(frozen=True)
class Rule:
    """A rule by which others choose plans; what its source leaves open are attributes, with our defaults."""

    def brings(self, offered: FormatSet) -> Brought | None:
        """The formats that it chooses from, beside what is offered to all; None: just these."""
        return None

    def propose(self, study: Study, count: int) -> Proposal:
        """So many plans at most, as indices into the formats of the study's space.

        Raises:
            BitqError: it cannot choose for this network or from these formats; says why.
        """
        raise NotImplementedError

    def proposals(self, study: Study, label: str, count: int) -> Proposals:
        """The same, found once and kept in the study's store.

        Args:
            study: of a space of the formats that the rule brings, or else of any.
            label: what it is called here.
            count: plans at most.

        Raises:
            BitqError: as `propose`.
        """
        config = {"contender": label, "count": count, "seed": study.seed, "alpha": study.settings.alpha}
        if own := self.told():
            config["options"] = own
        kept = study.ledger.once(Proposal, config, lambda: self.propose(study, count))
        (seconds,) = (each.seconds for each in study.ledger.store.evaluations(Proposal.kind) if each.config == config)
        distinct = dict.fromkeys(kept.plans)
        plans = tuple(Proposed(f"{label} {number}", plan, "other") for number, plan in enumerate(distinct, 1))
        return Proposals(plans, kept.passes, seconds)

    def told(self) -> dict[str, Any]:
        """Its options, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Plain(Rule):
    """A rule without options that chooses from what is offered to all."""

    find: Callable[[Study, int], Proposal]

    def propose(self, study: Study, count: int) -> Proposal:
        """What the function finds."""
        return self.find(study, count)

    def told(self) -> dict[str, Any]:
        """Nothing."""
        return {}
