"""Number formats: an element x a scale x a block geometry x a rounding, as frozen data with one grammar.

`elements`, `scales` and `blocking` are the parts, `format` puts them together, `grammar` reads their text, `presets`
has the named ones, `grid` those that the paper searches. Everything else in bitq reads a format from here.
"""

from bitq.formats.format import ROUNDINGS, BlockFormat, Format
from bitq.formats.grammar import parse_format
from bitq.formats.grid import BLOCK_SIZES, EXPONENT_BITS, effective_width, grid, paper_width
from bitq.formats.presets import PRESETS
from bitq.formats.tensors import TENSORS, MaxAbs, TensorFormats, TensorName

__all__ = [
    "BLOCK_SIZES",
    "EXPONENT_BITS",
    "PRESETS",
    "ROUNDINGS",
    "TENSORS",
    "BlockFormat",
    "Format",
    "MaxAbs",
    "TensorFormats",
    "TensorName",
    "effective_width",
    "grid",
    "paper_width",
    "parse_format",
]
