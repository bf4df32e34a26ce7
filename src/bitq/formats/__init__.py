"""Number formats: an element x a scale x a block geometry x a rounding, as frozen data with one grammar.

`elements`, `scales` and `blocking` are the parts, `format` puts them together, `grammar` reads their text, `presets`
has the named ones, `grid` those that the paper searches; `families` and `lists` are what a search chooses from.
Everything else in bitq reads a format from here.
"""

from bitq.formats.families import Choosable, Family, format_for, integers
from bitq.formats.format import ROUNDINGS, BlockFormat, Format
from bitq.formats.grammar import parse_format
from bitq.formats.grid import BLOCK_SIZES, EXPONENT_BITS, effective_width, grid, paper_width
from bitq.formats.lists import formats_of
from bitq.formats.presets import PRESETS
from bitq.formats.tensors import TENSORS, MaxAbs, Ranges, Span, TensorFormats, TensorName

__all__ = [
    "BLOCK_SIZES",
    "EXPONENT_BITS",
    "PRESETS",
    "ROUNDINGS",
    "TENSORS",
    "BlockFormat",
    "Choosable",
    "Family",
    "Format",
    "MaxAbs",
    "Ranges",
    "Span",
    "TensorFormats",
    "TensorName",
    "effective_width",
    "format_for",
    "formats_of",
    "grid",
    "integers",
    "paper_width",
    "parse_format",
]
