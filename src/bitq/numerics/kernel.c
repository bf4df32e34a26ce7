/* Block quantization of float32, rounded to nearest: what quantize.py computes with torch, in one pass.
 *
 * Memory is read as [outer, channels, inner]; a block is `block` consecutive channels at one inner position, the last
 * one perhaps short. Every loop that matters runs over contiguous memory and vectorizes without help. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef CLONES
#define CLONES
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* or the clones would share what one of them calls */
#else
#define INLINE static inline
#endif

enum { TILE = 256, FEW = 16, UNBOUNDED = 0x7F800000, QUIET_NAN = 0x7FC00000 };

typedef struct {
    int32_t lowest, highest, floor, to_step; /* reach of the codes, least E, and what E needs to become a step's field */
    float limit;                             /* largest mantissa */
} format;

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
INLINE uint32_t magnitude(float value) { return bits_of(value) & 0x7FFFFFFFu; }

INLINE int32_t exponent(uint32_t peak) { return (int32_t)(peak >> 23) - 127; }

INLINE int32_t shared_exponent(uint32_t peak, format f) {
    int32_t e = exponent(peak);
    e = e < f.lowest ? f.lowest : e;
    e = e > f.highest ? f.highest : e;
    return e < f.floor ? f.floor : e;
}

INLINE float step_of(uint32_t peak, format f) {
    uint32_t step = (uint32_t)(shared_exponent(peak, f) + f.to_step) << 23;
    return float_of(peak >= UNBOUNDED ? (uint32_t)QUIET_NAN : step);
}

/* True of NaN and infinity too, whose step is NaN and compares with nothing. */
INLINE int saturates(uint32_t peak, format f) { return exponent(peak) > shared_exponent(peak, f); }

/* The limit is whole, so clipping before rounding gives the same; then |k| < 2^23, and adding 2^23 rounds it to even.
 * The last addition turns -0 into +0. */
INLINE float rounded(float x, float step, float limit) {
    float k = float_of(magnitude(x)) / step;
    k = k < limit ? k : limit;
    k = (k + 0x1p23f) - 0x1p23f;
    return float_of(bits_of(k * step) | (bits_of(x) & 0x80000000u)) + 0.0f;
}

/* Whether x rounds beyond the limit, which is odd: so a tie does. */
INLINE int beyond(float x, float step, float limit) {
    return float_of(magnitude(x)) / step >= limit + 0.5f;
}

INLINE uint32_t peak_of(const float *x, int64_t length) {
    uint32_t peak = 0;
    for (int64_t i = 0; i < length; i++) {
        const uint32_t bits = magnitude(x[i]);
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

/* `depth` channels, `stride` elements apart, at `width` neighbouring positions, each with the peak of its block. */
INLINE int64_t quantize_tile(const float *restrict x, float *restrict y, uint8_t *clipped, int64_t depth,
                             int64_t width, int64_t stride, const uint32_t *peak, format f) {
    float step[TILE];
    int any = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < width; i++) {
        step[i] = step_of(peak[i], f);
        any |= saturates(peak[i], f);
    }
    for (int64_t c = 0; c < depth; c++)
        for (int64_t i = 0; i < width; i++) y[c * stride + i] = rounded(x[c * stride + i], step[i], f.limit);
    if (clipped && any)
        for (int64_t c = 0; c < depth; c++)
            for (int64_t i = 0; i < width; i++) {
                const int64_t at = c * stride + i;
                clipped[at] = (uint8_t)(saturates(peak[i], f) && beyond(x[at], step[i], f.limit));
                count += clipped[at];
            }
    return count;
}

/* A block at each of `width` neighbouring positions. */
INLINE int64_t quantize_columns(const float *x, float *y, uint8_t *clipped, int64_t depth, int64_t width,
                                int64_t stride, format f) {
    uint32_t peak[TILE] = {0};
    for (int64_t c = 0; c < depth; c++)
        for (int64_t i = 0; i < width; i++) {
            const uint32_t bits = magnitude(x[c * stride + i]);
            peak[i] = bits > peak[i] ? bits : peak[i];
        }
    return quantize_tile(x, y, clipped, depth, width, stride, peak, f);
}

/* Long blocks, one after the other. */
INLINE int64_t quantize_pieces(const float *restrict x, float *restrict y, uint8_t *clipped, int64_t length,
                               int64_t block, format f) {
    int64_t count = 0;
    for (int64_t start = 0; start < length; start += block) {
        const int64_t end = length - start < block ? length : start + block;
        const uint32_t peak = peak_of(x + start, end - start);
        const float step = step_of(peak, f);
        for (int64_t i = start; i < end; i++) y[i] = rounded(x[i], step, f.limit);
        if (clipped && saturates(peak, f))
            for (int64_t i = start; i < end; i++) {
                clipped[i] = (uint8_t)beyond(x[i], step, f.limit);
                count += clipped[i];
            }
    }
    return count;
}

/* Short blocks, one after the other, as many at a time as a tile holds. */
INLINE int64_t quantize_crumbs(const float *x, float *y, uint8_t *clipped, int64_t length, int64_t block, format f) {
    const int64_t most = TILE / block * block;
    uint32_t peak[TILE];
    int64_t count = 0;
    for (int64_t start = 0; start < length; start += most) {
        const int64_t width = length - start < most ? length - start : most;
        for (int64_t i = 0; i < width; i += block) {
            const int64_t size = width - i < block ? width - i : block;
            const uint32_t highest = peak_of(x + start + i, size);
            for (int64_t j = 0; j < size; j++) peak[i + j] = highest;
        }
        count += quantize_tile(x + start, y + start, clipped ? clipped + start : 0, 1, width, 0, peak, f);
    }
    return count;
}

/* Quantizes x into y with codes that reach from `lowest` to `highest`. Marks in `clipped`, which is zero or NULL, the
 * elements that pass no gradient, and returns their number. */
CLONES int64_t bitq_quantize(const float *x, float *y, uint8_t *clipped, int64_t outer, int64_t channels,
                             int64_t inner, int64_t block, int mantissa_bits, int lowest, int highest) {
    const format f = {lowest, highest, -126 + mantissa_bits - 2, 2 - mantissa_bits + 127,
                      (float)((1 << (mantissa_bits - 1)) - 1)};
    int64_t count = 0;
    for (int64_t o = 0; o < outer; o++) {
        const int64_t row = o * channels * inner;
        if (inner == 1) {
            uint8_t *marks = clipped ? clipped + row : 0;
            count += block < FEW ? quantize_crumbs(x + row, y + row, marks, channels, block, f)
                                   : quantize_pieces(x + row, y + row, marks, channels, block, f);
            continue;
        }
        for (int64_t c = 0; c < channels; c += block)
            for (int64_t i = 0; i < inner; i += TILE) {
                const int64_t at = row + c * inner + i;
                const int64_t depth = channels - c < block ? channels - c : block;
                const int64_t width = inner - i < TILE ? inner - i : TILE;
                count += quantize_columns(x + at, y + at, clipped ? clipped + at : 0, depth, width, inner, f);
            }
    }
    return count;
}

/* Bit pattern of max|x|; that of an infinity or above if x has one or a NaN. */
CLONES uint32_t bitq_peak(const float *x, int64_t length) { return peak_of(x, length); }
