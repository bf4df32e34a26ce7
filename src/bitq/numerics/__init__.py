"""What a number becomes: block floating point quantization and its packed form."""

from bitq.numerics.packing import Packed, pack
from bitq.numerics.quantize import exponent_bias_for, largest_magnitude, quantize

__all__ = ["Packed", "exponent_bias_for", "largest_magnitude", "pack", "quantize"]
