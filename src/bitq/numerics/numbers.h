/* Numbers: their bit patterns, conversions of one element, and what rounding makes of it. */

#ifndef BITQ_NUMBERS
#define BITQ_NUMBERS

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* into each of the clones, for its processor */
#else
#define INLINE static inline
#endif

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { NEAREST, HALF_AWAY, TOWARD_ZERO, STOCHASTIC };
enum { UNBOUNDED = 0x7F800000, EXPONENT = UNBOUNDED, QUIET_NAN = 0x7FC00000, ONE = 127 << 23 };

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Patterns of magnitudes are ordered as the magnitudes are, NaN above all. */
INLINE int32_t magnitude(float value) { return (int32_t)(bits_of(value) & 0x7FFFFFFFu); }

/* The same where negative numbers count as 0, but for infinity. */
INLINE int32_t counted(float value, int never_negative) {
    const int32_t bits = (int32_t)bits_of(value), size = bits & 0x7FFFFFFF;
    return never_negative && bits < 0 && size < UNBOUNDED ? 0 : size;
}

/* Of float16 or bfloat16, whose infinity this is. */
INLINE uint16_t counted_half(uint16_t bits, int never_negative, uint16_t infinity) {
    const uint16_t size = bits & 0x7FFF;
    return never_negative && bits > size && size < infinity ? 0 : size;
}

/* The largest finite number of a kind. */
INLINE float largest_of(int kind) { return kind == FLOAT32 ? 0x1.fffffep127f : kind == BFLOAT16 ? 0x1.FEp127f : 65504.0f; }

INLINE uint16_t infinity_of(int kind) { return kind == BFLOAT16 ? 0x7F80 : 0x7C00; }

INLINE float of_bfloat16(uint16_t half) { return float_of((uint32_t)half << 16); }

INLINE uint16_t to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    return (uint16_t)(magnitude(value) > UNBOUNDED ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

/* Shifted into place, a float16 is a float32 that is 2^112 times too small: subnormal where the float16 is. */
INLINE float of_float16(uint16_t half) {
    const uint32_t shifted = (uint32_t)(half & 0x7FFF) << 13;
    const uint32_t bits = half & 0x8000u ? 0x80000000u : 0;
    const float finite = float_of(shifted) * 0x1p112f;
    return float_of(bits | ((half & 0x7C00) == 0x7C00 ? shifted | UNBOUNDED : bits_of(finite)));
}

/* Adding 0.5 to a magnitude below 2^-14 rounds it to a multiple of 2^-24, the least float16. */
INLINE uint16_t to_signed_float16(float value) {
    const uint32_t bits = (uint32_t)magnitude(value), sign = (bits_of(value) ^ bits) >> 16;
    const uint32_t normal = (bits - (112u << 23) + 0xFFFu + (bits >> 13 & 1)) >> 13;
    const uint32_t subnormal = bits_of(float_of(bits) + 0.5f) - bits_of(0.5f);
    const uint32_t finite = bits < 0x38800000u ? subnormal : normal;
    return (uint16_t)(sign | (bits > UNBOUNDED ? 0x7E00u : finite < 0x7C00u ? finite : 0x7C00u));
}

/* The same, but never -0. */
INLINE uint16_t to_float16(float value) {
    const uint16_t half = to_signed_float16(value);
    return half & 0x7FFF ? half : 0;
}

INLINE int32_t exponent(int32_t peak) { return (peak >> 23) - 127; }

/* 1/step is exact: a power of two, and that of the largest, 2^127, a subnormal number. */
INLINE float inverse(float step) {
    const uint32_t field = 254u - (bits_of(step) >> 23);
    return float_of(bits_of(step) >= UNBOUNDED ? (uint32_t)QUIET_NAN : field ? field << 23 : 1u << 22);
}

/* |x| / step. Overflow is clipped, and what underflows lies below every draw and every half. */
INLINE float ratio(float x, float inverse_step) { return float_of((uint32_t)magnitude(x)) * inverse_step; }

/* The limit is whole, so clipping before rounding gives the same; `low` is -limit, or 0 where nothing is negative. Adding 2^23 to a number in [0, 2^23) rounds it to even,
 * adding 1.5 * 2^23 does so to one in (-2^22, 2^22) and never gives -0. */
INLINE float rounded(float x, float step, float inverse_step, float low, float limit, int rounding, float draw) {
    if (rounding == NEAREST) {
        float k = x * inverse_step;
        k = k > low ? k : low;
        k = k < limit ? k : limit;
        return ((k + 0x1.8p23f) - 0x1.8p23f) * step;
    }
    float k = ratio(x, inverse_step);
    k = k < limit ? k : limit;
    k = low < 0 || x > 0 ? k : 0.0f;
    const float even = (k + 0x1p23f) - 0x1p23f;
    const float below = even - (even > k ? 1.0f : 0.0f);
    const float whole = rounding == HALF_AWAY ? even + (k - even == 0.5f ? 1.0f : 0.0f)
                      : rounding == STOCHASTIC ? below + (draw < k - below ? 1.0f : 0.0f)
                                               : below;
    return float_of(bits_of(whole * step) | (bits_of(x) & 0x80000000u)) + 0.0f; /* the addition makes -0 to +0 */
}

INLINE float within_limits(float k, float low, float limit) {
    k = k > low ? k : low;
    return k < limit ? k : limit;
}

/* The same as `rounded` to the nearest with a step of at most 2^104, in fewer operations: the addition rounds to a multiple
 * of the step, again without -0. `shift` is 1.5 * 2^23 * step. */
enum { MOST_SHIFTED = (104 + 127) << 23 };
INLINE float nearest(float x, float low, float limit, float shift) {
    return (within_limits(x, low, limit) + shift) - shift;
}

/* Whether |x| / step rounds beyond the limit, which is odd: so a tie does. */
INLINE int beyond(float k, float limit, int rounding, float draw) {
    return rounding == STOCHASTIC ? draw < k - limit : k >= limit + (rounding == TOWARD_ZERO ? 1.0f : 0.5f);
}

#endif
