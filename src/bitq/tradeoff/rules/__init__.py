"""The rules by which others choose plans, as we read them: each from a study to the plans it proposes.

A rule proposes several plans, because none of these weighs accuracy against movement itself; whoever asks measures all
and takes the one of least O. All are our own implementations, with our movement as their cost. Some choose from what is
offered to all, others bring formats of their own; each says where it is from, and what of it is ours. To add one, add a
module and name it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from bitq.errors import BitqError, shortened
from bitq.tradeoff.rules.bsfp import Bsfp
from bitq.tradeoff.rules.dbps_like import DbpsLike
from bitq.tradeoff.rules.drawn import drawn
from bitq.tradeoff.rules.fast import Fast
from bitq.tradeoff.rules.flexblock import FlexBlock
from bitq.tradeoff.rules.gradient import gradient
from bitq.tradeoff.rules.greedy import greedy
from bitq.tradeoff.rules.hbfp import Hbfp
from bitq.tradeoff.rules.hessian import hessian
from bitq.tradeoff.rules.int_mixed import IntMixed
from bitq.tradeoff.rules.named import Named
from bitq.tradeoff.rules.rule import Brought, Plain, Proposals, Rule
from bitq.tradeoff.rules.searched import Searched
from bitq.tradeoff.rules.uniform import uniform, uniform_within

RULES: Mapping[str, Rule] = {
    "bitq": Searched(),
    "gradient": Plain(gradient),
    "hessian": Plain(hessian),
    "greedy": Plain(greedy),
    "uniform": Plain(uniform),
    "random": Plain(drawn),
    "named": Named(),
    "flexblock": FlexBlock(),
    "fast": Fast(),
    "hbfp": Hbfp(),
    "bsfp": Bsfp(),
    "dbps-like": DbpsLike(),
    "int-mixed": IntMixed(),
    "uniform-within": Plain(uniform_within),
    "bitq-within": Searched(loss=0.003),
}
"""All of them, by name."""


LONGEST = 60
"""Characters of an option's value."""


PLAIN = "plain"
"""Behind a rule's name: without what bitq lends to every rule (`bitq.tradeoff.compare.plainly`)."""


class Called(NamedTuple):
    """A rule, and what it is called: as it was asked for; and whether it is without what bitq lends to all."""

    label: str
    rule: Rule
    plain: bool = False


def rules_of(text: str) -> tuple[Called, ...]:
    """Rules by a list of names, such as "bitq,flexblock:upper=0.2+0.4,hbfp,hbfp:plain", each once.

    Raises:
        BitqError: no rule or none of this name, an option that it has not, or another value than it takes.
    """
    found = {part: _called(part) for part in filter(None, (each.strip() for each in text.split(",")))}
    if not found:
        raise BitqError(f"no rule is named; name some of {', '.join(RULES)}")
    return tuple(found.values())


def _called(text: str) -> Called:
    name, *given = text.split(":")
    if name not in RULES:
        raise BitqError(f"rule {shortened(name, 60)!r} is unknown; rules are {', '.join(RULES)}")
    rule = RULES[name]
    options = {} if isinstance(rule, Plain) else {field.name: getattr(rule, field.name) for field in fields(rule)}
    changed: dict[str, Any] = {}
    for each in given:
        option, _, value = each.partition("=")
        if each != PLAIN and option not in options:
            known = f"its options are {', '.join((*options, PLAIN))}" if options else f"its only one is {PLAIN}"
            wrong = each if option == PLAIN else option  # which takes no value
            raise BitqError(f"rule {name} has no option {shortened(wrong, 60)!r}; {known}")
        if each != PLAIN:
            changed[option] = _value(name, option, value, options[option])
    return Called(text, replace(rule, **changed), PLAIN in given)


def _value(name: str, option: str, text: str, default: Any) -> Any:
    """What a text says where another value of its type stands by default."""
    try:
        if len(text) > LONGEST:
            raise ValueError(text)
        if isinstance(default, tuple):
            return tuple(_number(part) for part in text.split("+"))
        return text if isinstance(default, str) else int(text) if isinstance(default, int) else _number(text)
    except ValueError:
        told = "+".join(map(str, default)) if isinstance(default, tuple) else default
        raise BitqError(f"{option} of rule {name} is {shortened(text, 60)!r}; it must be such as {told}") from None


def _number(text: str) -> float:
    found = float(text)
    if not 0 <= found <= 1000:
        raise ValueError(text)
    return found


__all__ = ["RULES", "Brought", "Called", "Plain", "Proposals", "Rule", "rules_of"]
