"""The functions in C that generated code calls; each is written where it is called, and no other."""

from __future__ import annotations

import re

PIECES = {
    "bitq_top_bit": """
/* floor(log2 x) of x > 0, and -63 of 0. */
BITQ_APART static int32_t bitq_top_bit(uint64_t x)
{
    int32_t found = 0;
    uint32_t half = (uint32_t)(x >> 32);
    if (x == 0)
        return -63;
    if (half != 0)
        found = 32;
    else
        half = (uint32_t)x;
    if (half >> 16) { half >>= 16; found += 16; }
    if (half >> 8) { half >>= 8; found += 8; }
    if (half >> 4) { half >>= 4; found += 4; }
    if (half >> 2) { half >>= 2; found += 2; }
    return found + (int32_t)(half >> 1);
}
""",
    "bitq_left": """
static int64_t bitq_left(int64_t x, int32_t bits)
{
    return (int64_t)((uint64_t)x << bits);
}
""",
    "bitq_scaled": """
/* round(z * gain / 2^shift), halves up; shift is 33..95. */
static int64_t bitq_scaled(int64_t z, int32_t gain, int32_t shift)
{
    const int64_t high = (int64_t)(int32_t)(z >> 32) * gain;
    const int64_t low = (int64_t)(uint32_t)((uint64_t)z & UINT64_C(0xffffffff)) * gain;
    return (high + (low >> 32) + ((int64_t)1 << (shift - 33))) >> (shift - 32);
}
""",
    "bitq_rounded": """
/* z / 2^shift to nearest, ties to even, within low..high. */
static int32_t bitq_rounded(int64_t z, int32_t shift, int32_t low, int32_t high)
{
    if (shift > 62)
        return 0;
    if (shift > 0)
        z = (z + (((int64_t)1 << (shift - 1)) - 1) + ((z >> shift) & 1)) >> shift;
    else if (z > high || z < -high)
        return z < 0 ? low : high;
    else
        z = bitq_left(z, shift < -31 ? 31 : -shift);
    return z < low ? low : z > high ? high : (int32_t)z;
}
""",
    "bitq_code": """
/* The code of a block: that of its largest magnitude; below 0 counts only where there is a sign. */
BITQ_APART static int32_t bitq_code(const int64_t *z, int32_t count, int32_t has_sign, int32_t base, int32_t top)
{
    uint64_t peak = 0;
    int32_t i, code;
    for (i = 0; i < count; i++) {
        const uint64_t size = z[i] >= 0 ? (uint64_t)z[i] : has_sign ? (uint64_t)-z[i] : 0;
        peak = size > peak ? size : peak;
    }
    code = bitq_top_bit(peak) + base;
    return code < 0 ? 0 : code > top ? top : code;
}
""",
    "bitq_pattern": """
static uint32_t bitq_pattern(float x)
{
    uint32_t pattern;
    memcpy(&pattern, &x, sizeof pattern);
    return pattern;
}
""",
    "bitq_whole": """
/* The significand of a float with its sign; it counts 2^(field - 150), where a field of 0 counts as 1. */
static int64_t bitq_whole(uint32_t pattern)
{
    const int64_t size = (int64_t)((pattern & 0x7fffff) | ((pattern & 0x7f800000) ? 0x800000 : 0));
    return (pattern >> 31) ? -size : size;
}
""",
    "bitq_exponent": """
static int32_t bitq_exponent(uint32_t pattern)
{
    const int32_t field = (int32_t)((pattern >> 23) & 0xff);
    return (field ? field : 1) - 150;
}
""",
    "bitq_float": """
/* k * 2^exponent as a float, to nearest, ties to even. */
BITQ_APART static float bitq_float(int64_t k, int32_t exponent)
{
    const uint64_t size = k < 0 ? (uint64_t)-k : (uint64_t)k;
    const int32_t top = bitq_top_bit(size) + exponent;
    const int32_t lowest = top - 23 > -149 ? top - 23 : -149, drop = lowest - exponent;
    uint32_t pattern;
    float found;
    if (size == 0 || drop > 62)
        pattern = 0;
    else if (top > 127)
        pattern = 0x7f800000;
    else if (drop > 0)
        pattern = (uint32_t)((size + (((uint64_t)1 << (drop - 1)) - 1) + ((size >> drop) & 1)) >> drop);
    else
        pattern = (uint32_t)(size << -drop);
    if (size != 0 && drop <= 62 && top <= 127)
        pattern += (uint32_t)(lowest + 149) << 23;
    pattern |= k < 0 && pattern ? 0x80000000 : 0;
    memcpy(&found, &pattern, sizeof found);
    return found;
}
""",
    "bitq_pieces": """
/* A polynomial between knots, or what it is below or above; places are 2^-24 of a piece. */
BITQ_APART static int64_t bitq_pieces(int64_t places, const int32_t *table, int32_t count)
{
    const int64_t most = (int64_t)count << 24, at = places < -1 ? -1 : places > most ? most : places;
    const int64_t place = at & 0xffffff;
    const int32_t *const c = table + 4 * ((at >> 24) + 1);
    const int64_t third = c[2] + ((c[3] * place) >> 24), second = c[1] + ((third * place) >> 24);
    return c[0] + ((second * place) >> 24);
}
""",
    "bitq_get": """
/* A number from low on of some bits, 1..16, of a stream. */
static int32_t bitq_get(const uint8_t *stream, uint32_t at, uint32_t bits, int32_t low)
{
    const uint32_t begin = at & 7;
    uint32_t held;
    stream += at >> 3;
    held = (uint32_t)stream[0] >> begin;
    if (begin + bits > 8)
        held |= (uint32_t)stream[1] << (8 - begin);
    if (begin + bits > 16)
        held |= (uint32_t)stream[2] << (16 - begin);
    return (int32_t)((held - (uint32_t)low) & (((uint32_t)1 << bits) - 1)) + low;
}
""",
    "bitq_put": """
/* The lowest bits, 1..16, of a value into a stream. */
static void bitq_put(uint8_t *stream, uint32_t at, uint32_t bits, uint32_t value)
{
    uint32_t mask = (((uint32_t)1 << bits) - 1) << (at & 7), held = value << (at & 7);
    for (stream += at >> 3; mask != 0; mask >>= 8, held >>= 8, stream++)
        *stream = (uint8_t)((*stream & ~mask) | (held & mask));
}
""",
    "bitq_get_wide": """
/* m * 2^s, of 26 bits m above 6 bits s. */
static int64_t bitq_get_wide(const uint8_t *from)
{
    const uint32_t high = (uint32_t)from[3] << 24 | (uint32_t)from[2] << 16;
    const uint32_t held = high | (uint32_t)from[1] << 8 | (uint32_t)from[0];
    return bitq_left((int32_t)held >> 6, (int32_t)(held & 63));
}
""",
    "bitq_put_wide": """
/* To nearest, ties to even. */
BITQ_APART static void bitq_put_wide(uint8_t *to, int64_t value)
{
    const int32_t top = bitq_top_bit(value < 0 ? (uint64_t)-value : (uint64_t)value), most = (int32_t)1 << 25;
    int32_t drop = top > 24 ? top - 24 : 0, m = bitq_rounded(value, drop, -most, most), i;
    uint32_t held;
    if (m == most || m == -most) {
        m /= 2;
        drop++;
    }
    held = (uint32_t)m << 6 | (uint32_t)drop;
    for (i = 0; i < 4; i++, held >>= 8)
        to[i] = (uint8_t)(held & 255);
}
""",
}

_DOT = """
/* A sum of products; bounds of the weights prove that it fits. */
static int32_t {name}(const {left} *a, const {right} *w, int32_t count)
{{
    int32_t sum = 0;
    for (; count >= 4; count -= 4, a += 4, w += 4)
        sum += a[0] * w[0] + a[1] * w[1] + a[2] * w[2] + a[3] * w[3];
    while (count-- > 0)
        sum += *a++ * *w++;
    return sum;
}}
"""

_UNPACK = """
/* Numbers from low on of some bits, 1..16, of a stream. */
BITQ_APART static void bitq_unpack_{name}(
    const uint8_t *stream, uint32_t at, int32_t count, uint32_t bits, int32_t low, {type} *to)
{{
    const uint32_t mask = ((uint32_t)1 << bits) - 1;
    uint32_t left = 8 - (at & 7), held;
    stream += at >> 3;
    held = (uint32_t)*stream++ >> (at & 7);
    while (count-- > 0) {{
        while (left < bits) {{
            held |= (uint32_t)*stream++ << left;
            left += 8;
        }}
        *to++ = ({type})((int32_t)((held - (uint32_t)low) & mask) + low);
        held >>= bits;
        left -= bits;
    }}
}}
"""

_PACK = """
/* The lowest bits, 1..16, of numbers into a stream. */
static void bitq_pack_{name}(uint8_t *stream, uint32_t at, int32_t count, uint32_t bits, const {type} *from)
{{
    const uint32_t mask = ((uint32_t)1 << bits) - 1;
    uint32_t filled = at & 7, held;
    stream += at >> 3;
    held = filled ? *stream & (((uint32_t)1 << filled) - 1) : 0;
    while (count-- > 0) {{
        held |= ((uint32_t)*from++ & mask) << filled;
        for (filled += bits; filled >= 8; filled -= 8) {{
            *stream++ = (uint8_t)held;
            held >>= 8;
        }}
    }}
    if (filled)
        *stream = (uint8_t)((uint32_t)(*stream & ~(((uint32_t)1 << filled) - 1)) | held);
}}
"""

for _type in ("int8_t", "uint8_t", "int16_t"):
    _name = _type.removesuffix("_t")
    PIECES[f"bitq_unpack_{_name}"] = _UNPACK.format(name=_name, type=_type)
    PIECES[f"bitq_pack_{_name}"] = _PACK.format(name=_name, type=_type)

for _left in ("int8_t", "uint8_t", "int16_t"):
    for _right in ("int8_t", "int16_t"):
        _name = f"bitq_dot_{_left.removesuffix('_t')}_{_right.removesuffix('_t')}"
        PIECES[_name] = _DOT.format(name=_name, left=_left, right=_right)


def needed(code: str) -> str:
    """The functions that code calls, each before those that call it."""
    found: list[str] = []

    def find(text: str) -> None:
        for name in re.findall(r"\bbitq_\w+(?=\()", text):
            if name in PIECES and name not in found:
                if text is not PIECES[name]:
                    find(PIECES[name].split("{", 1)[1])
                found.append(name)

    find(code)
    return "".join(PIECES[name] for name in found)
