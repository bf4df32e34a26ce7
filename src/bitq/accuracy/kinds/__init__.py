"""Which modules take formats, and everything that depends on their kind: one file for each.

A new kind is a new file beside these that registers a `Kind`, and its name in the first import below. Whoever asks what
a layer is, how its tensors are blocked or how it computes asks `kind_of`; which modules of a network take formats says
`quantizable`, and why others do not `unquantizable`. What that comes to for the layers of a traced network say
`float_reasons` and `staying_float`, to all who count or choose: movement, search, report.
"""

from bitq.accuracy.kinds import convolution, linear, transposed  # each registers itself
from bitq.accuracy.kinds.choosable import (
    float_reasons,
    quantizable,
    reason_against,
    staying_float,
    unquantizable,
)
from bitq.accuracy.kinds.kind import Kind, class_names, has_kind, kind_of, register

__all__ = [
    "Kind",
    "class_names",
    "convolution",
    "float_reasons",
    "has_kind",
    "kind_of",
    "linear",
    "quantizable",
    "reason_against",
    "register",
    "staying_float",
    "transposed",
    "unquantizable",
]
