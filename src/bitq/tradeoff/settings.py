"""How a search spends its time, and what it looks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from bitq.accuracy.finetune import Training
from bitq.accuracy.ranges import METHODS, Method
from bitq.errors import BitqError
from bitq.tasks import NamedTask
from bitq.tradeoff.budgets import Budgets
from bitq.tradeoff.records import MOST_ALPHA
from bitq.tradeoff.stored import Stored

Without = Literal["qat", "movement", "tradeoff"]
"""What an ablation leaves out (paper, Table 4): fine-tuning; movement, so that accuracy alone decides; or the weighing
of the two, so that movement alone decides (our reading: the paper names them and says no more)."""


MOST = {"scored_inputs": 10**6, "screened_inputs": 10**6, "rounds": 1000, "plans": 100, "uniforms": 100}
"""What each count may be at most."""

MACS = 1e11
"""Multiply-accumulates beyond which a pass over the inputs that are scored or screened takes fewer of them: 2,400 of a
CIFAR-10 ResNet-20, 333 of MobileNetV2, 23 of YOLOv8n. A search makes some fifty passes."""

LEFT = 8
"""However heavy a network, this part of them is left: O of too few tells nothing."""


@dataclass(frozen=True)
class Settings:
    """How a search spends its time, and what it looks for.

    Before any fine-tuning uniform formats and a part of the best plans are measured as they are. Then a search goes
    in rounds. In each it proposes some plans, fine-tunes and measures them, and corrects by them its prediction of what
    other plans will reach.

    `Settings.quick()`, `Settings()`, which is `Settings.normal()`, and `Settings.thorough()` are three efforts; each
    takes any of these attributes, too.

    Attributes:
        alpha: weight of movement in the objective (paper, Eq. 2).
        training: how every plan is fine-tuned.
        budgets: limits that the plan has to keep.
        fewest_bits: of the plans that keep the budgets, among them one of accuracy, that with the fewest bits moved is
            looked for instead of that with the least O.
        scored_inputs: training inputs on which every tensor is scored. Take many: the size of all scores hangs on the
            few inputs that the network gets wrong.
        screened_inputs: validation inputs on which plans are measured before any is fine-tuned. Of both, a network
            that takes more than `MACS` for so many gets fewer, but an eighth.
        rounds: number of rounds.
        plans: plans in every round.
        uniforms: uniform formats that are fine-tuned and measured beside the plans: one in the first round, the others
            in the last.
        stored: what is stored, "after-activation" or as in the "paper"; see `bitq.tradeoff.stored.Stored`.
        ranges: how the ranges of activations are found before any fine-tuning: by the least squared error, the
            maximum, or a percentile (`bitq.accuracy.ranges`).
        without: what is left out, for an ablation; None leaves out nothing.

    Raises:
        BitqError: a value out of range (names it).
    """

    alpha: float = 0.2
    training: Training = field(default_factory=Training)
    budgets: Budgets = field(default_factory=Budgets)
    fewest_bits: bool = False
    scored_inputs: int = 1024
    screened_inputs: int = 2048
    rounds: int = 2
    plans: int = 1
    uniforms: int = 2
    stored: Stored = "after-activation"
    ranges: Method = "least-squares"
    without: Without | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= MOST_ALPHA:
            raise BitqError(f"alpha is {self.alpha!r}; it must be a number of at least 0, up to {MOST_ALPHA:g}")
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise BitqError(f"{name} is {getattr(self, name)!r}; it must be 1 or more, up to {most}")
        if self.fewest_bits and self.budgets.accuracy_loss is None:
            raise BitqError("fewest_bits needs a budget of accuracy beside it, such as Budgets(accuracy_loss=0.005)")
        if self.stored not in get_args(Stored):
            raise BitqError(f"stored is {self.stored!r}; it must be {' or '.join(get_args(Stored))}")
        if self.ranges not in METHODS:
            raise BitqError(f"ranges is {self.ranges!r}; it must be one of {', '.join(METHODS)}")
        if self.without is not None and self.without not in get_args(Without):
            raise BitqError(f"without is {self.without!r}; it must be one of {', '.join(get_args(Without))}, or None")

    @classmethod
    def quick(cls, **changed: Any) -> Settings:
        """One plan and one uniform format, fine-tuned for 200 steps: a first look."""
        effort = {"scored_inputs": 256, "screened_inputs": 1024, "rounds": 1, "uniforms": 1}
        return cls._with(changed, training=Training(steps=200), **effort)

    @classmethod
    def normal(cls, **changed: Any) -> Settings:
        """Two plans and two uniform formats, fine-tuned for 1,000 steps."""
        return cls(**changed)

    @classmethod
    def thorough(cls, **changed: Any) -> Settings:
        """Up to eight plans and three uniform formats, fine-tuned for 2,000 steps."""
        effort = {"screened_inputs": 10**6, "rounds": 4, "plans": 2, "uniforms": 3}
        return cls._with(changed, training=Training(steps=2000), **effort)

    def suited(self, task: NamedTask) -> Settings:
        """The same effort for a task: its learning rate, and the fewer steps and inputs, the heavier these are."""

        def share(count: int) -> int:
            return -(-count // task.heaviness)

        training = replace(self.training, steps=share(self.training.steps), learning_rate=task.learning_rate)
        scored, screened = share(self.scored_inputs), share(self.screened_inputs)
        return replace(self, training=training, scored_inputs=scored, screened_inputs=screened)

    def affordable(self, macs: float) -> Settings:
        """The same effort for a network that takes so many multiply-accumulates an input: fewer inputs scored and
        screened, if it is heavy."""

        def cut(count: int) -> int:
            return min(count, max(int(MACS / max(macs, 1)), -(-count // LEFT)))

        scored, screened = cut(self.scored_inputs), cut(self.screened_inputs)
        return replace(self, scored_inputs=scored, screened_inputs=screened)

    @classmethod
    def _with(cls, changed: Mapping[str, Any], **effort: Any) -> Settings:
        return cls(**{**effort, **changed})

    @property
    def alone(self) -> bool:
        """Whether one plan is all there is to find: nothing is weighed."""
        return self.without in ("movement", "tradeoff")
