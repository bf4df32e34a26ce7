"""Where a study's evaluations are kept, so that each is done once, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from bitq.errors import BitqError
from bitq.files import RunFolder
from bitq.progress import Listener, Silent
from bitq.store import Json, Store
from bitq.tradeoff.records import R
from bitq.tradeoff.workers import InProcess, Workers
from bitq.validation import told


@dataclass(frozen=True)
class Ledger:
    """The evaluations of a run folder.

    Attributes:
        folder: of the run.
        store: its open results store.
        listener: is told of progress.
        workers: where plans are fine-tuned; by default in this process, one after the other.
    """

    folder: RunFolder
    store: Store
    listener: Listener = field(default_factory=Silent)
    workers: Workers = field(default_factory=InProcess)

    def known(self, record: type[R], config: Json) -> R | None:
        """What an evaluation gave that was finished before, or None.

        Args:
            record: what it gives.
            config: all that it depends on, beside the run.

        Raises:
            BitqError: the store holds something else.
        """
        found = self.store.get(record.kind, config)
        return None if found is None else record.read(found, self.store.path)

    def once(self, record: type[R], config: Json, evaluate: Callable[[], R]) -> R:
        """What an evaluation gives; it is done and kept if it was not before.

        Raises:
            BitqError: the store holds something else, or cannot be written; an amount beyond all bounds came out.
        """

        def evaluated() -> Json:
            try:
                return evaluate().model_dump()
            except ValidationError as error:
                raise BitqError(f"a result of kind {record.kind!r} cannot be used: {told(error)}") from None

        return record.read(self.store.get_or_run(record.kind, config, evaluated), self.store.path)
