/* Numbers that are not evenly spaced, and floats as scales.
 *
 * A grid has the multiples of `least` up to least * 2^mantissa and, above, floats of `mantissa` bits below the leading one.
 * Whole numbers are such a grid that ends before its floats begin. Numbers near x are u apart, u = max(2^floor(log2|x|) *
 * 2^-mantissa, least), and adding 1.5 * 2^23 * u (in double precision 1.5 * 2^52 * u) rounds x to a multiple of u, ties to
 * the even one: its last bit is then worth u. Subtracting it again is exact, and never gives -0. */

#ifndef BITQ_GRID
#define BITQ_GRID

#include "numbers.h"

typedef struct {
    int32_t above, least; /* from a power of two to the pattern of what is added; the pattern of the least of them */
} grid;

typedef struct {
    double above, least; /* a factor and a number, likewise */
} wide_grid;

INLINE grid grid_of(double least, int mantissa) {
    return (grid){(23 - mantissa) * (1 << 23) + (1 << 22), (int32_t)bits_of((float)(least * 0x1.8p23))};
}

INLINE double power(int exponent) {
    const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE wide_grid wide_grid_of(double least, int mantissa) {
    return (wide_grid){0x1.8p52 * power(-mantissa), 0x1.8p52 * least};
}

/* 2^floor(log2|x|), 0 for 0. */
INLINE double leading(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7FF0000000000000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

INLINE float shift_of(float k, grid g) {
    const int32_t own = (int32_t)(bits_of(k) & EXPONENT) + g.above;
    return float_of((uint32_t)(own > g.least ? own : g.least));
}

INLINE float on_grid(float k, grid g) {
    const float shift = shift_of(k, g);
    return (k + shift) - shift;
}

/* x on the grid times a power of two, whose pattern is `step`. */
INLINE float on_stepped_grid(float x, int32_t step, grid g) {
    return on_grid(x, (grid){g.above, g.least + step - ONE});
}

INLINE double wide_shift_of(double k, wide_grid g) {
    const double own = leading(k) * g.above;
    return own > g.least ? own : g.least;
}

INLINE double on_wide_grid(double k, wide_grid g) {
    const double shift = wide_shift_of(k, g);
    return (k + shift) - shift;
}

/* How a block's float follows from its largest magnitude. */
typedef struct {
    double divisor, second; /* the largest element, times the second scale */
    double smallest, largest;
    wide_grid grid;
    int up; /* 1: rounded up; -1: down to a power of two, and the divisor has that of the largest element */
} float_scale;

/* The float of a block with this largest magnitude, before it is limited. The magnitude has 24 bits and the divisor d at most
 * 40, or 16 without a second scale; what h it may be rounded at has at most 12 bits, or 25. So the magnitude and h * d, if
 * they are not equal, differ by 2^-52 of them or more, and the quotient, rounded to 53 bits, lies on its side of h. */
INLINE double wanted(int32_t peak, float_scale s) {
    const double exact = (double)float_of((uint32_t)peak) / s.divisor, shift = wide_shift_of(exact, s.grid);
    const double near = (exact + shift) - shift;
    if (s.up < 0) return leading(exact);
    return s.up && near < exact ? near + leading(shift) * 0x1p-52 : near;
}

INLINE double limited(double scale, float_scale s) {
    scale = scale > s.smallest ? scale : s.smallest;
    return scale < s.largest ? scale : s.largest;
}

#endif
