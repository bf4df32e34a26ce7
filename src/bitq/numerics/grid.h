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

INLINE float on_grid(float k, grid g) {
    const int32_t own = (int32_t)(bits_of(k) & EXPONENT) + g.above;
    const float shift = float_of((uint32_t)(own > g.least ? own : g.least));
    return (k + shift) - shift;
}

INLINE double shift_of(double k, wide_grid g) {
    const double own = leading(k) * g.above;
    return own > g.least ? own : g.least;
}

/* Of k = x * (1/s), which is off by up to 2^-52 of itself, what is next to the exact x/s.
 *
 * Let u be the distance of the numbers near k, which has at most 16 bits above u (native.py sees to it): the error is at most
 * 2^-36 u. x has 24 bits and s p <= 32, so where x/s is not halfway between two numbers, h, it is at least 2^-(p+1) u away from
 * it: |x - h s| is a multiple of the last place of x or of that of s times u/2. Rounded to multiples of 2^-34 u, what was
 * halfway is again, and nothing else gets there. */
INLINE double on_wide_grid(double k, wide_grid g) {
    const double shift = shift_of(k, g), snap = shift * 0x1p-34;
    k = (k + snap) - snap;
    return (k + shift) - shift;
}

/* The same where the grid are the whole numbers. */
INLINE double on_even_grid(double k) {
    k = (k + 0x1.8p18) - 0x1.8p18;
    return (k + 0x1.8p52) - 0x1.8p52;
}

/* How a block's float follows from its largest magnitude. */
typedef struct {
    double divisor, second; /* the largest element, times the second scale */
    double smallest, largest;
    wide_grid grid;
    int up;
} float_scale;

/* The scale of a block with this largest magnitude, before it is limited. The quotient of 24 bits by at most 40 is rounded to
 * 53, and is not a number of the grid, nor halfway between two, where the exact one is not: of such numbers h, of at most
 * 9 bits if the divisor has more than 16 and 25 else, |magnitude - h * divisor| is at least 2^-49 of the magnitude, or 0. */
INLINE double wanted(double magnitude, float_scale s) {
    const double exact = magnitude / s.divisor, shift = shift_of(exact, s.grid), near = (exact + shift) - shift;
    return s.up && near < exact ? near + leading(shift) * 0x1p-52 : near;
}

INLINE double limited(double scale, float_scale s) {
    scale = scale > s.smallest ? scale : s.smallest;
    return scale < s.largest ? scale : s.largest;
}

#endif
