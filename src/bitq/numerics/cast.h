/* Plain floats, without a scale: as IEEE 754 converts them, to nearest, ties to even. */

#ifndef BITQ_CAST
#define BITQ_CAST

#include "numbers.h"

/* A type of floats, in patterns of float32: `dropped` bits of mantissa that it has not, its smallest normal number (0 if that is
 * float32's, of which subnormal ones need no other rounding), its largest, what a larger one and what infinity become.
 * `shift`: 2^23 times its smallest number. */
typedef struct {
    int dropped;
    uint32_t normal, largest, beyond, infinite;
    float shift;
} narrower;

INLINE narrower narrower_of(int mantissa, int least_exponent, float largest, int endless) {
    const uint32_t normal = least_exponent > -126 ? (uint32_t)(least_exponent + 127) << 23 : 0;
    const float shift = normal ? float_of(normal + ((uint32_t)(23 - mantissa) << 23)) : 0;
    const uint32_t infinite = endless ? (uint32_t)UNBOUNDED : (uint32_t)QUIET_NAN;
    return (narrower){23 - mantissa, normal, bits_of(largest), endless ? infinite : bits_of(largest), infinite, shift};
}

INLINE float narrowed(float x, narrower n) {
    const uint32_t size = (uint32_t)magnitude(x), unit = (uint32_t)1 << n.dropped, half = unit >> 1;
    const uint32_t up = half ? half - 1 + (size >> n.dropped & 1) : 0;
    const uint32_t normal = (size + up) & -unit, subnormal = bits_of((float_of(size) + n.shift) - n.shift);
    uint32_t found = size < n.normal ? subnormal : normal;
    found = found > n.largest ? n.beyond : found;
    found = size < (uint32_t)UNBOUNDED ? found : size > (uint32_t)UNBOUNDED ? (uint32_t)QUIET_NAN : n.infinite;
    return float_of(found | (bits_of(x) ^ size));
}

#endif
