"""One network that has learned to live with every format: trained while formats are drawn anew at every step.

A plan evaluated on it, without further training, predicts how that plan does after fine-tuning of its own, at the
price of one forward pass (in the manner of one-shot architecture search, Guo et al., ECCV 2020).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from bitq.accuracy.evaluate import Loss, cross_entropy
from bitq.accuracy.finetune import Training, finetune
from bitq.accuracy.quantized import apply, set_formats
from bitq.batches import Batch
from bitq.formats import BlockFormat, Ranges, TensorFormats


def train_supernet(
    model: nn.Module,
    modules: Sequence[str],
    formats: Sequence[BlockFormat],
    ranges: Mapping[str, Ranges],
    batches: Iterable[Batch],
    training: Training,
    loss: Loss = cross_entropy,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fine-tune a network in place while every tensor's format changes at every step.

    Each step draws one exponent width for the network and lets every tensor deviate from it by at most one bit, with
    any block size: so both coarse and fine plans are met, and mixtures of both.

    Args:
        model: the float network; is quantized and trained.
        modules: paths of the modules whose formats vary.
        formats: the candidates, all of the same `bits`.
        ranges: calibration of the activations.
        batches, training, loss, progress: as for `finetune`.
    """
    widths = sorted({fmt.exponent_bits for fmt in formats})
    near = {width: [fmt for fmt in formats if abs(fmt.exponent_bits - width) <= 1] for width in widths}
    draw = random.Random(training.seed)

    def sample(step: int) -> None:
        around = near[draw.choice(widths)]
        set_formats(model, {name: TensorFormats(*draw.choices(around, k=3)) for name in modules})

    apply(model, {name: TensorFormats() for name in modules}, ranges)
    use_batch_statistics(model)
    finetune(model, batches, training, loss, before_step=sample, progress=progress)


def use_batch_statistics(model: nn.Module) -> None:
    """Let every batch norm normalize by the batch it sees, in evaluation too.

    Running statistics would be those of a mixture of all formats, and fit none of them.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
