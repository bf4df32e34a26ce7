"""The layers among a network's operations, written down as the files of their kinds read them."""

from __future__ import annotations

import re

from bitq.accuracy.kinds import ReadLayer, has_kind
from bitq.errors import BitqError
from bitq.layers import Layer, unique_name
from bitq.tracing.watch import Operation

# Operators that multiply inside and that no kind reads: none of them may be missed in silence.
_UNKNOWN_PRODUCT = re.compile(
    r"(::|_)(mm|bmm|gemm|matmul|conv[123]?d?|convolution|linear|trilinear|rnn|attention|transformer)(_|$)"
)


class Products:
    """Writes down the layers among a network's operations."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._names: set[str] = set()

    def note(self, operation: Operation) -> None:
        """Write down an operation, if it is a layer.

        Raises:
            BitqError: it multiplies and is not modelled.
        """
        if operation.layers is None and _UNKNOWN_PRODUCT.search(operation.name):
            raise BitqError(f"{operation.place} computes {operation.name}, which bitq does not model")
        for read in operation.layers or ():
            self._add(operation, read)

    def _add(self, operation: Operation, read: ReadLayer) -> None:
        path, parameter = operation.path, not operation.is_activation(read.weight)
        alone = path and has_kind(operation.module)
        name = unique_name(path if alone else f"{path}.{read.word}".lstrip("."), self._names)
        layer = Layer(name=name, module=path, weight_is_parameter=parameter, **read.loops)
        self._names.add(name)
        self.layers.append(layer)
