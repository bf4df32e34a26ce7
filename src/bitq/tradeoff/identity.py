"""What results depend on: weights, data, functions and device, in a few characters each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from torch import nn

from bitq.batches import Batch, contents, outline
from bitq.batches import digest as digest_of_batches
from bitq.errors import BitqError
from bitq.formats import TensorFormats
from bitq.progress import Listener
from bitq.store import Store
from bitq.tradeoff.measure import Subject, seeded
from bitq.tradeoff.space import Space

SCHEME = 2
"""How things are told apart. Results of another scheme are not reused: they may be of other data or functions."""


def bind(store: Store, subject: Subject, space: Space, listener: Listener) -> None:
    """Tie a run folder to what it is about, or check that it is the same.

    Data are known by their first batch (training data by its types and shapes: it may be drawn anew) and their
    numbers of batches and examples; lists of batches wholly. A loss or a metric that cannot be told from others is told
    to the listener; nothing is reused that it may have to do with.

    Raises:
        BitqError: the folder holds a run of something else, or of something that may be.
    """
    known, folder = store.identity(), store.path.parent
    data, task, device = subject.data, subject.task, space.device
    if not known and store.count():
        raise BitqError(
            f"run folder {folder} has results but does not say of which network; give another folder with --run"
        )
    if known and known.get("identity") != SCHEME:
        raise BitqError(
            f"run folder {folder} was made by a version of bitq that did not tell all data and functions apart, so its "
            "results may be of others; give another folder with --run"
        )
    for what, found in (("loss", task.loss_identity), ("metric", task.metric_identity)):
        if not found.unknown or known.get(what) == found.text:
            continue
        if known:
            raise BitqError(
                f"the {what} cannot be told from the one that run folder {folder} was made with ({found.unknown}); "
                "give another folder with --run"
            )
        listener.note(f"the {what} cannot be told from others ({found.unknown}): {folder} cannot be continued later")
    store.bind(
        {
            "identity": SCHEME,
            "network": subject.name,
            "fingerprint": fingerprint(subject.model),
            "data": first_batches(data.validation, data.test),
            "training batch": _training_batch(data.train),
            "data sizes": [_sizes(each) for each in (data.train, data.validation, data.test)],
            "loss": task.loss_identity.text,
            "metric": task.metric_identity.text,
            "device": device.name,
            "memories": [[m.name, m.capacity_bits, m.energy_pj_per_bit] for m in device.memories[:-1]],
            **({"partial sum bits": sums} if (sums := device.partial_sum_bits) else {}),
            "memories planned": [device.planned, device.minimize],
            **space.offered.described(),
        }
    )


def fingerprint(model: nn.Module) -> str:
    """Digest of a network's weights and their names."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(contents(tensor))
    return found.hexdigest()[:16]


def first_batches(*data: Iterable[Batch]) -> str:
    """Digest of the first batch of each, or of all batches in a list."""
    with seeded():
        return digest_of_batches(
            *(tuple(batches if isinstance(batches, list | tuple) else islice(iter(batches), 1)) for batches in data)
        )


def digest(value: object) -> str:
    """A short name for a value that its `repr` tells apart from others."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def formats_text(formats: Mapping[str, TensorFormats]) -> dict[str, list[str | None]]:
    """Formats of input, weight and output by module path, for JSON."""
    return {
        name: [str(fmt) if fmt else None for fmt in (entry.input, entry.weight, entry.output)]
        for name, entry in formats.items()
    }


def _training_batch(batches: Iterable[Batch]) -> list[str]:
    """The types and shapes of the first batch; of a list of batches a digest, too."""
    with seeded():
        found = [line for batch in islice(iter(batches), 1) for line in outline(batch)]
    return [*found, digest_of_batches(*batches)] if isinstance(batches, list | tuple) else found


def _sizes(batches: Any) -> list[int | None]:
    """Numbers of batches and of examples, as far as the data tell them."""

    def size(of: Any) -> int | None:
        try:
            return len(of)
        except TypeError:  # it has no length, or does not know it
            return None

    return [size(batches), size(getattr(batches, "dataset", None))]
