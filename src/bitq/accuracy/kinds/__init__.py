"""Which modules take formats, and everything that depends on their kind: one file for each.

A new kind is a new file beside these that registers a `Kind`, and with `register_operators` how tracing reads its loops
off an operator, where no other kind does so yet; nothing else names it. Whoever asks what a layer is, how its tensors
are blocked or how it computes asks `kind_of`; which modules of a network take formats says `quantizable`, and why
others do not `unquantizable`. What that comes to for the layers of a traced network say `float_reasons` and
`staying_float`, to all who count or choose: movement, search, report.
"""

from importlib import import_module
from pkgutil import iter_modules

from bitq.accuracy.kinds.choosable import (
    float_reasons,
    quantizable,
    reason_against,
    staying_float,
    unquantizable,
)
from bitq.accuracy.kinds.kind import Kind, class_names, has_kind, kind_of, register
from bitq.accuracy.kinds.operators import ReadLayer, reader_of, register_operators

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")  # each kind registers itself

__all__ = [
    "Kind",
    "ReadLayer",
    "class_names",
    "float_reasons",
    "has_kind",
    "kind_of",
    "quantizable",
    "reader_of",
    "reason_against",
    "register",
    "register_operators",
    "staying_float",
    "unquantizable",
]
