"""What a run's results store tells of how the run measured, for a command that may measure otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitq.errors import BitqError, shortened
from bitq.files import RunFolder

if TYPE_CHECKING:
    from bitq.accuracy.evaluate import Loss, Metric


@dataclass(frozen=True)
class Remembered:
    """How a run measured.

    Attributes:
        loss, metric: names of its functions; None for those that the command measures by, or where that is not known.
        tested: inputs of the test data; None where that is not known.
        fingerprint: of the float network's weights; None where that is not known.
    """

    loss: str | None = None
    metric: str | None = None
    tested: int | None = None
    fingerprint: str | None = None

    @property
    def own(self) -> str:
        """Its functions in words, such as "loss 'dice' and metric 'f1'"; "" if they are those of the command."""
        given = (("loss", self.loss), ("metric", self.metric))
        return " and ".join(f"{what} {name!r}" for what, name in given if name is not None)

def remembered(run: Path, loss: Loss, metric: Metric) -> Remembered:
    """What the store in a run's folder tells; nothing where there is none, or one that cannot be read.

    Args:
        run: the folder.
        loss, metric: what the command measures by.
    """
    from bitq.store import Store
    from bitq.tradeoff.functions import identity_of

    where = RunFolder(run).results
    if not lexists(where):
        return Remembered()
    try:
        with Store(where, read_only=True) as store:
            identity = store.identity()
    except BitqError:
        return Remembered()
    return Remembered(
        _other(identity, "loss", identity_of(loss).text),
        _other(identity, "metric", identity_of(metric).text),
        _tested(identity.get("data sizes")),
        found if isinstance(found := identity.get("fingerprint"), str) else None,
    )

def _other(identity: Mapping[str, Any], what: str, usual: str) -> str | None:
    from bitq.tradeoff.naming import without_digest

    found = identity.get(what)
    return shortened(without_digest(found)) if isinstance(found, str) and found != usual else None

def _tested(sizes: Any) -> int | None:
    """From [number of batches, of inputs] of training, validation and test data."""
    try:
        found = sizes[2][1]
    except (IndexError, KeyError, TypeError):
        return None
    return found if type(found) is int else None
