"""What people ask of a trade-off, answered by what a search measured: the least O, and the fewest bits near float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.records import Offer, Offers, Row, points_text

if TYPE_CHECKING:
    from bitq.tradeoff.contenders import Contender
    from bitq.tradeoff.search import Found
    from bitq.tradeoff.study import Study

WITHIN = (0.005, 0.01, 0.02)
"""Losses of accuracy, as shares in [0, 1], that the fewest bits are told for."""

MUCH = 0.02
"""Who loses more accuracy than this is told what for, and how to lose less."""


def losses(budgets: Budgets) -> tuple[float, ...]:
    """Losses of accuracy that the fewest bits are told for: `WITHIN`, and the budget of it, the smallest first."""
    own = [loss for loss in (budgets.accuracy_loss,) if loss is not None and loss <= 1]
    return tuple(sorted({*WITHIN, *own}))


def offers(study: Study, found: Found) -> Offers:
    """The answers of a search; float32 itself is one where nothing else comes so near."""
    budgets = study.settings.budgets
    within = losses(budgets)
    measured = [_float_offer(study), *(_offer(study, each, each is found.best) for each in found.contenders)]
    return Offers(
        offers=answered(measured, budgets, within), within=within, bounded=budgets.accuracy_loss is not None
    )


def answered(measured: Sequence[Offer], budgets: Budgets, within: Sequence[float]) -> tuple[Offer, ...]:
    """Of what was measured and keeps all budgets but that of accuracy: the least O, then the fewest bits for each loss.

    A question that nothing answers is left out.
    """
    free = [each for each in measured if budgets.with_loss(None).kept(each, each.lost)]
    found = [min(free, key=lambda each: (each.objective, each.movement_bits))] if free else []
    for limit in within:
        near = [each for each in free if budgets.with_loss(limit).kept(each, each.lost)]
        if near:
            fewest = min(near, key=lambda each: (each.movement_bits, each.objective))
            found.append(fewest.model_copy(update={"within": limit}))
    return tuple(found)


def advice(
    float32: Row, plan: Row, found: Offers, alpha: float, command: str, measure: str = "accuracy"
) -> str:
    """For a plan that loses much, though no budget of accuracy allowed it: what that bought, and how to lose less.

    Args:
        float32, plan: as they were measured on test data.
        found: the answers of the search.
        alpha: its weight of movement.
        command: that it was started with.
        measure: what the metric is called.

    Returns:
        A line, or "" if there is nothing to say.
    """
    lost = float32.accuracy - plan.accuracy
    if found.bounded or lost <= MUCH:
        return ""
    told = f"at alpha {alpha:g} the plan gives up {100 * lost:.2f} points of {measure}"
    milder = [each for each in found.offers if each.within is not None and each.movement_bits > plan.movement_bits]
    if not milder:
        return f"{told}, and nothing that was measured is milder: a smaller alpha, such as {alpha / 2:g}, may find one"
    other = max(milder, key=lambda each: each.within or 0.0)
    limit = other.within or 0.0
    fewer = 100 * (1 - plan.movement_bits / other.movement_bits)
    saved = 100 * (1 - plan.energy_pj / other.energy_pj) if other.energy_pj else 0.0
    energy = f"{abs(saved):.0f} % {'less' if saved >= 0 else 'more'} energy"
    return (
        f"{told}, which buys {fewer:.0f} % fewer bits and {energy} than the most sparing "
        f"within {points_text(limit)} ({other.title}); for a milder plan: {_milder(command, limit)}"
    )


def _milder(command: str, within: float) -> str:
    if command.startswith("bitq search "):
        return f"{command} --within {100 * within:g}"
    return f"bitq.Settings(fewest_bits=True, budgets=bitq.Budgets(accuracy_loss={within:g}))"


def _float_offer(study: Study) -> Offer:
    cost, reached = study.space.float_cost, study.float_accuracy
    return Offer(
        label="float32",
        tuned=False,
        lost=0.0,
        validation=reached.validation,
        test=reached.test,
        objective=study.objective(reached.validation, cost.movement_bits),
        **cost.figures(),
    )


def _offer(study: Study, contender: Contender, best: bool) -> Offer:
    measured, label = contender.measured, contender.plan.label
    plan = "the plan" if label.startswith("plan ") else f"the plan ({label})"
    return Offer(
        label=plan if best else label,
        tuned=measured.tuned,
        lost=study.float_accuracy.validation - measured.validation,
        validation=measured.validation,
        test=measured.test,
        objective=contender.objective,
        **measured.figures(),
    )
