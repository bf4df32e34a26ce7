/* The packed form of float32 block floating point, and back: what packing.py computes with numpy, in two passes.
 *
 * Memory is read as [outer, depth, length]. A block is `block` consecutive rows times `run` consecutive elements of a
 * row, the last ones perhaps fewer; a band is the rows of one block. Peaks and codes of blocks stand in row-major order,
 * bands outermost. Functions take a range of bands, so that threads can share the work. */

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

enum { TILE = 256 };

typedef struct {
    int64_t depth, length, block, run; /* of the layout */
    int mantissa_bits, bias;
} layout;

INLINE uint32_t magnitude(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7FFFFFFFu;
}

INLINE int32_t negative(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (int32_t)(bits >> 31);
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE float step_of(int32_t code, layout l) {
    const int32_t lowest = -126 + l.mantissa_bits - 2;
    const int32_t shared = l.bias + code < lowest ? lowest : l.bias + code;
    return float_of((uint32_t)(shared + 2 - l.mantissa_bits + 127) << 23);
}

INLINE int64_t bands_of(layout l) { return (l.depth + l.block - 1) / l.block; }

INLINE int64_t first_row(int64_t band, layout l) {
    const int64_t bands = bands_of(l);
    return band / bands * l.depth + band % bands * l.block;
}

/* Little-endian words in memory, whatever the machine's order. */
INLINE uint32_t ordered(uint32_t word) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = word >> 24 | (word >> 8 & 0xFF00u) | (word << 8 & 0xFF0000u) | word << 24;
#endif
    return word;
}

INLINE void store(uint8_t *to, uint32_t word) {
    word = ordered(word);
    memcpy(to, &word, sizeof word);
}

INLINE uint32_t load(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return ordered(word);
}

/* A stream of bits that is being written: `held` bits of `word` are not in memory yet. */
typedef struct {
    uint8_t *to;
    uint64_t word;
    int held;
} stream;

INLINE stream write_fields(stream s, const uint32_t *fields, int64_t count, int width) {
    for (int64_t i = 0; i < count; i++) {
        s.word |= (uint64_t)fields[i] << s.held;
        s.held += width;
        if (s.held >= 32) {
            store(s.to, (uint32_t)s.word);
            s.to += 4;
            s.word >>= 32;
            s.held -= 32;
        }
    }
    return s;
}

INLINE void finish(stream s) {
    for (; s.held > 0; s.held -= 8, s.word >>= 8) *s.to++ = (uint8_t)s.word;
}

/* `count` fields of at most 24 bits from bit `at` on; touches no byte outside the `size` that the stream has. */
INLINE void read_fields(const uint8_t *from, int64_t size, int64_t at, uint32_t *fields, int64_t count, int width) {
    const uint32_t mask = ((uint32_t)1 << width) - 1;
    const int64_t inside = ((size - 4) * 8 + 7 - at) / width + 1; /* fields whose four bytes are all there */
    const int64_t plain = size < 4 || inside < 0 ? 0 : smaller(count, inside);
    for (int64_t i = 0; i < plain; i++) {
        const int64_t bit = at + i * width;
        fields[i] = load(from + (bit >> 3)) >> (bit & 7) & mask;
    }
    for (int64_t i = plain; i < count; i++) {
        const int64_t bit = at + i * width;
        uint8_t last[4] = {0};
        memcpy(last, from + (bit >> 3), (size_t)smaller(4, size - (bit >> 3)));
        fields[i] = load(last) >> (bit & 7) & mask;
    }
}

/* Steps of the elements `start`.. of a row whose blocks have these codes. */
INLINE void spread_steps(float *step, const uint8_t *codes, int64_t start, int64_t width, layout l) {
    if (l.run == 1) {
        for (int64_t i = 0; i < width; i++) step[i] = step_of(codes[start + i], l);
        return;
    }
    int64_t block = start / l.run;
    for (int64_t i = 0; i < width; block++) {
        const int64_t end = smaller(width, (block + 1) * l.run - start);
        const float value = step_of(codes[block], l);
        for (; i < end; i++) step[i] = value;
    }
}

/* Bit pattern of max|x| of every block. Patterns of magnitudes are ordered as the magnitudes are, NaN above all. */
CLONES void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, int64_t depth, int64_t length,
                       int64_t block, int64_t run) {
    const layout l = {depth, length, block, run, 0, 0};
    const int64_t across = (length + run - 1) / run;
    for (int64_t band = first; band < last; band++) {
        const int64_t row = first_row(band, l), rows = smaller(block, depth - row % depth);
        uint32_t *peak = peaks + band * across;
        memset(peak, 0, (size_t)across * sizeof *peak);
        for (int64_t r = 0; r < rows; r++) {
            const float *in = x + (row + r) * length;
            if (run == 1) {
                for (int64_t i = 0; i < length; i++) {
                    const uint32_t bits = magnitude(in[i]);
                    peak[i] = bits > peak[i] ? bits : peak[i];
                }
                continue;
            }
            for (int64_t b = 0; b < across; b++) {
                const int64_t end = smaller(length, (b + 1) * run);
                uint32_t highest = peak[b];
                for (int64_t i = b * run; i < end; i++) {
                    const uint32_t bits = magnitude(in[i]);
                    highest = bits > highest ? bits : highest;
                }
                peak[b] = highest;
            }
        }
    }
}

/* clip(e - bias, 0, top) of every block; 0 for a block of zeros. */
CLONES void bitq_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, int bias, int top) {
    for (int64_t i = 0; i < count; i++) {
        int32_t code = (int32_t)(peaks[i] >> 23) - 127 - bias;
        code = code < 0 ? 0 : code;
        code = code > top ? top : code;
        codes[i] = (uint8_t)(peaks[i] ? code : 0);
    }
}

/* The mantissas of bands first..last into the stream that starts at `to`; the bits before the first of them must be
 * whole bytes. Rounding is that of kernel.c. */
CLONES void bitq_write_mantissas(const float *x, const uint8_t *codes, uint8_t *to, int64_t first, int64_t last,
                                 int64_t depth, int64_t length, int64_t block, int64_t run, int mantissa_bits,
                                 int bias) {
    const layout l = {depth, length, block, run, mantissa_bits, bias};
    const int64_t across = (length + run - 1) / run;
    const float limit = (float)((1 << (mantissa_bits - 1)) - 1);
    stream s = {to + first_row(first, l) * length * mantissa_bits / 8, 0, 0};
    for (int64_t band = first; band < last; band++) {
        const int64_t row = first_row(band, l), rows = smaller(block, depth - row % depth);
        for (int64_t r = 0; r < rows; r++) {
            const float *in = x + (row + r) * length;
            for (int64_t start = 0; start < length; start += TILE) {
                const int64_t width = smaller(TILE, length - start);
                float step[TILE];
                uint32_t field[TILE];
                spread_steps(step, codes + band * across, start, width, l);
                for (int64_t i = 0; i < width; i++) {
                    float k = float_of(magnitude(in[start + i])) / step[i];
                    k = k < limit ? k : limit;
                    k = (k + 0x1p23f) - 0x1p23f;
                    const int32_t whole = (int32_t)k;
                    field[i] = (uint32_t)(whole | (whole ? negative(in[start + i]) : 0) << (mantissa_bits - 1));
                }
                s = write_fields(s, field, width, mantissa_bits);
            }
        }
    }
    finish(s);
}

/* Codes after the `at` bits that `to` already has. */
CLONES void bitq_write_codes(const uint8_t *codes, uint8_t *to, int64_t at, int64_t count, int width) {
    stream s = {to + (at >> 3), at & 7 ? to[at >> 3] : 0, (int)(at & 7)};
    for (int64_t start = 0; start < count; start += TILE) {
        const int64_t some = smaller(TILE, count - start);
        uint32_t field[TILE];
        for (int64_t i = 0; i < some; i++) field[i] = codes[start + i];
        s = write_fields(s, field, some, width);
    }
    finish(s);
}

CLONES void bitq_read_codes(const uint8_t *from, int64_t size, int64_t at, uint8_t *codes, int64_t count, int width) {
    for (int64_t start = 0; start < count; start += TILE) {
        const int64_t some = smaller(TILE, count - start);
        uint32_t field[TILE];
        read_fields(from, size, at + start * width, field, some, width);
        for (int64_t i = 0; i < some; i++) codes[start + i] = (uint8_t)field[i];
    }
}

/* The values of bands first..last. */
CLONES void bitq_read_values(const uint8_t *from, int64_t size, const uint8_t *codes, float *y, int64_t first,
                             int64_t last, int64_t depth, int64_t length, int64_t block, int64_t run,
                             int mantissa_bits, int bias) {
    const layout l = {depth, length, block, run, mantissa_bits, bias};
    const int64_t across = (length + run - 1) / run;
    const int32_t top = 1 << (mantissa_bits - 1);
    for (int64_t band = first; band < last; band++) {
        const int64_t row = first_row(band, l), rows = smaller(block, depth - row % depth);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t start = 0; start < length; start += TILE) {
                const int64_t width = smaller(TILE, length - start), at = (row + r) * length + start;
                float step[TILE];
                uint32_t field[TILE];
                spread_steps(step, codes + band * across, start, width, l);
                read_fields(from, size, at * mantissa_bits, field, width, mantissa_bits);
                for (int64_t i = 0; i < width; i++) {
                    const int32_t k = (int32_t)field[i] & (top - 1), minus = (int32_t)field[i] >> (mantissa_bits - 1);
                    y[at + i] = (float)((k ^ -minus) + minus) * step[i]; /* no branch on what is random */
                }
            }
    }
}
