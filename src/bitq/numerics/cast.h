/* Plain floats, without a scale: as IEEE 754 converts them, to nearest, ties to even. */

#ifndef BITQ_CAST
#define BITQ_CAST

#include "run.h"

/* A type of floats, in patterns of float32: `dropped` bits of mantissa that it has not, its smallest normal number (0 if that is
 * float32's, of which subnormal ones need no other rounding), its largest, what a larger one and what infinity become.
 * `shift`: 2^23 times its smallest number. `kind`, of which numbers come, and the largest that goes back. `all`: there is
 * nothing to round. */
typedef struct {
    int dropped, kind, all;
    uint32_t normal, largest, beyond, infinite, limit;
    float shift;
} narrower;

INLINE narrower narrower_of(int kind, int mantissa, int least_exponent, float largest, int endless) {
    const uint32_t normal = least_exponent > -126 ? (uint32_t)(least_exponent + 127) << 23 : 0;
    const float shift = normal ? float_of(normal + ((uint32_t)(23 - mantissa) << 23)) : 0;
    const uint32_t infinite = endless ? (uint32_t)UNBOUNDED : (uint32_t)QUIET_NAN;
    const int own_mantissa = kind == FLOAT32 ? 23 : kind == BFLOAT16 ? 7 : 10, own_exponent = kind == FLOAT16 ? -14 : -126;
    return (narrower){
        .dropped = 23 - mantissa,
        .kind = kind,
        .all = endless && mantissa >= own_mantissa && least_exponent <= own_exponent && largest >= largest_of(kind),
        .normal = normal,
        .largest = bits_of(largest),
        .beyond = endless ? infinite : bits_of(largest),
        .infinite = infinite,
        .limit = bits_of(largest_of(kind)),
        .shift = shift,
    };
}

INLINE float narrowed(float x, narrower n) {
    const uint32_t size = (uint32_t)magnitude(x), unit = (uint32_t)1 << n.dropped, half = unit >> 1;
    const uint32_t up = half ? half - 1 + (size >> n.dropped & 1) : 0;
    const uint32_t normal = (size + up) & -unit, subnormal = bits_of((float_of(size) + n.shift) - n.shift);
    uint32_t found = size < n.normal ? subnormal : normal;
    found = found > n.largest ? n.beyond : found;
    found = found > n.limit && found < (uint32_t)UNBOUNDED ? n.limit : found;
    found = size < (uint32_t)UNBOUNDED ? found : size > (uint32_t)UNBOUNDED ? (uint32_t)QUIET_NAN : n.infinite;
    return float_of(found | (bits_of(x) ^ size));
}

/* `count` <= TILE numbers from x to y, which may be x. */
INLINE void cast_run(const void *x, void *y, int64_t count, narrower n) {
    if (n.kind == FLOAT32) {
        const float *from = x;
        float *to = y;
        ELEMENTWISE for (int64_t i = 0; i < count; i++) to[i] = narrowed(from[i], n);
        return;
    }
    const uint16_t *from = x, infinity = infinity_of(n.kind), quiet = n.kind == BFLOAT16 ? 0x7FC0 : 0x7E00;
    uint16_t *to = y;
    if (n.all) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++) to[i] = (from[i] & 0x7FFF) > infinity ? quiet : from[i];
        return;
    }
    float wide[TILE];
    widen(wide, x, 0, count, n.kind);
    for (int64_t i = 0; i < count; i++) wide[i] = narrowed(wide[i], n);
    if (n.kind == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = to_bfloat16(wide[i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = to_signed_float16(wide[i]);
}

#endif
