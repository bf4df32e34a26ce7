"""Which layers of a running network write and read the same stored tensor."""

from __future__ import annotations

from torch import Tensor

from bitq.private_torch import storage_of
from bitq.tracing.operators import LAYERS
from bitq.tracing.watch import Operation

End = tuple[str, str]
"""A module's path, and "output" where it writes, "input" where it reads."""

# Operators that a device computes on the way out, although PyTorch does not call them elementwise.
_FUSED = {
    f"aten::{name}"
    for name in (
        "batch_norm",
        "cudnn_batch_norm",
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "hardswish",
        "hardswish_",
        "_prelu_kernel",
    )
}


class Flow:
    """Follows stored tensors through a network's operations."""

    def __init__(self) -> None:
        # Ends of every stored tensor, by its number; and the numbers by storage.
        self._stored: dict[int, dict[End, None]] = {}
        self._numbers: dict[int, int] = {}
        self._made: list[Tensor] = []

    def note(self, operation: Operation) -> None:
        """Number the stored tensor that a result lies in, and note which layer reads and writes it."""
        operands, results, path = operation.activations, operation.results, operation.path
        if not operands or not results:
            return
        if operation.name in LAYERS:
            self._stored.setdefault(self._number(operands[0]), {})[path, "input"] = None
            self._stored[self._renumbered(results[0])] = {(path, "output"): None}
        elif operation.elementwise or operation.name in _FUSED:
            known = [self._number(t) for t in operands if t.shape == results[0].shape]
            if known:
                self._numbers[storage_of(results[0])] = max(known)
            else:
                self._renumbered(results[0])
        else:
            for each in results:
                if storage_of(each) not in self._numbers or each.shape != operands[0].shape:
                    self._renumbered(each)

    def groups(self) -> tuple[tuple[End, ...], ...]:
        """The ends of every stored tensor that meets two or more, as `Traced.stored` has them."""
        groups: list[dict[End, None]] = []
        for flow in self._stored.values():
            joined = {end: None for group in groups if group.keys() & flow.keys() for end in group}
            groups = [group for group in groups if not group.keys() & flow.keys()] + [joined | flow]
        return tuple(tuple(group) for group in groups if len(group) > 1)

    def _number(self, tensor: Tensor) -> int:
        number = self._numbers.get(storage_of(tensor))
        return self._renumbered(tensor) if number is None else number

    def _renumbered(self, tensor: Tensor) -> int:
        """A number of its own for a tensor that was just made."""
        number = len(self._made)
        self._made.append(tensor)
        self._numbers[storage_of(tensor)] = number
        return number
