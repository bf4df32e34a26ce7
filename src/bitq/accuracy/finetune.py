"""Fine-tuning in a plan's formats (quantization-aware training) with the straight-through estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from bitq.accuracy.distilling import lesson
from bitq.accuracy.evaluate import Loss, cross_entropy, device_of, differentiate
from bitq.accuracy.held import EVERY, holding_scales
from bitq.accuracy.learning import learning_ranges
from bitq.batches import Batch, forward, no_batch, pairs, to_device
from bitq.errors import BitqError
from bitq.memory import memory_told


@dataclass(frozen=True)
class Training:
    """How a network is fine-tuned.

    Attributes:
        steps: optimizer steps (the paper fine-tunes for 1,000).
        learning_rate: of the first step; it falls to zero along a half cosine.
        weight_decay: of AdamW.
        range_rate: learning rate of the logarithms of ranges (`bitq.accuracy.learning`); 0 leaves ranges and what is
            clipped of weights as they are.
        taught: whether the float network's answers are learned from, too (`bitq.accuracy.distilling`).
        amp: whether layers compute on bfloat16 while training (automatic mixed precision). Numbers in a format of at
            most 8 bits are bfloat16 numbers, so a layer's operands lose nothing; its sums and gradients are rounded.
            Measuring computes in the network's own precision.
        seed: of everything random in it; equal seeds give equal results on one machine.

    Raises:
        BitqError: a value out of range (names it).
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    range_rate: float = 1e-2
    taught: bool = True
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("steps", 1 <= self.steps <= 10**7, "1 or more, up to 10000000"),
            ("learning_rate", 0 < self.learning_rate <= 1e30, "a number above 0, up to 1e30"),
            ("range_rate", 0 <= self.range_rate <= 1e6, "0 or more, up to 1e6"),
            ("weight_decay", 0 <= self.weight_decay <= 1e6, "0 or more, up to 1e6"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
        ):
            if not right:
                raise BitqError(f"{name} is {getattr(self, name)!r}; it must be {expected}")


def finetune(
    model: nn.Module,
    batches: Iterable[Batch],
    training: Training,
    loss: Loss = cross_entropy,
    before_step: Callable[[int], None] = lambda step: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    teacher: nn.Module | None = None,
) -> None:
    """Train a network in place; quantized modules pass gradients straight through. It is left in evaluation mode.

    Args:
        model: whatever formats its modules have are the ones it learns to live with.
        batches: walked again and again until the steps are done.
        training: steps, learning rate, seed.
        loss: of (output, target).
        before_step: called with the number of the step before it, to change the formats, for instance.
        progress: called with (steps done, steps) after each.
        teacher: the float network, if there is one to learn from.

    Raises:
        BitqError: no batches or one that is none (see `bitq.batches`), no parameter to train, a loss that fails, is not
            finite or does not depend on the parameters, or memory that runs out.
    """
    device = device_of(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise BitqError("no parameter of the network requires a gradient; call model.requires_grad_() before")
    learning: AbstractContextManager[list[nn.Parameter]] = (
        learning_ranges(model) if training.range_rate else nullcontext([])
    )
    with (
        memory_told("fine-tuning"),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        learning as ranges,
        holding_scales(model) as renew_scales,
    ):
        torch.manual_seed(training.seed)
        lost = lesson(teacher if training.taught else None, loss)
        own = {"params": parameters, "lr": training.learning_rate, "weight_decay": training.weight_decay}
        learned = {"params": ranges, "lr": training.range_rate, "weight_decay": 0.0}
        optimizer = torch.optim.AdamW([own, learned])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(training.steps, 1))
        model.train()
        for step, batch in zip(range(training.steps), _forever(model, batches), strict=False):
            before_step(step)
            if step % EVERY == 0:
                renew_scales()
            inputs, target = to_device(batch, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=training.amp):
                value = lost(inputs, forward(model, inputs), target)
            if not step and not torch.isfinite(value):
                raise BitqError(
                    f"the loss is {value.item()} on training data before the first step of fine-tuning; give data "
                    "and a loss that make it finite"
                )
            if not torch.isfinite(value):
                half = any(each.dtype == torch.float16 for each in model.parameters())
                remedy = "give the network as .float() or .bfloat16()" if half else "lower the learning rate"
                raise BitqError(f"fine-tuning diverged at step {step}: the loss is {value.item()}; {remedy}")
            if not value.requires_grad:
                raise BitqError("the loss does not depend on the network's parameters; it must follow from its output")
            optimizer.zero_grad(set_to_none=True)
            differentiate(value)
            optimizer.step()
            schedule.step()
            progress(step + 1, training.steps)
        model.eval()


def _forever(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in pairs(model, batches):
            empty = False
            yield batch
        if empty:
            raise no_batch("the training data")
