/* The packed form of float32 block floating point, and back: what packing.py computes with numpy, in two passes.
 *
 * Memory is read as [outer, depth, length], `size` elements in all: the last row may be short. A block is `block`
 * consecutive rows times `run` consecutive elements of a row, the last ones perhaps fewer; a band is the rows of one
 * block. Peaks and codes of blocks stand in row-major order, bands outermost. Functions take a range of bands, so that
 * threads can share the work. */

#include <stdint.h>
#include <string.h>

#include "packing.h" /* knows no includes: Python reads it, too */

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
    int64_t size, depth, length, block, run;
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

INLINE int64_t across(layout l) { return (l.length + l.run - 1) / l.run; }

INLINE int64_t first_row(int64_t band, layout l) {
    const int64_t bands = (l.depth + l.block - 1) / l.block;
    return band / bands * l.depth + band % bands * l.block;
}

/* Where a band begins; of the one after the last, where memory ends. */
INLINE int64_t first_element(int64_t band, layout l) { return smaller(l.size, first_row(band, l) * l.length); }

/* A walk over rows, band by band: the row it is at within its outer index, and how many its band has from there on.
 * Short rows are frequent, so going on to the next takes no division. */
typedef struct {
    int64_t within, left;
} walk;

INLINE walk band_at(int64_t within, layout l) { return (walk){within, smaller(l.block, l.depth - within)}; }

INLINE walk next_row(walk w, layout l) {
    if (--w.left) return (walk){w.within + 1, w.left};
    return band_at(w.within + 1 < l.depth ? w.within + 1 : 0, l);
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

INLINE stream write_field(stream s, uint32_t field, int width) {
    s.word |= (uint64_t)field << s.held;
    s.held += width;
    if (s.held >= 32) {
        store(s.to, (uint32_t)s.word);
        s.to += 4;
        s.word >>= 32;
        s.held -= 32;
    }
    return s;
}

/* Two at a time where both fit in a word: what one field waits for is the one before. */
INLINE stream write_fields(stream s, const uint32_t *fields, int64_t count, int width) {
    int64_t i = 0;
    if (width <= 16)
        for (; i + 1 < count; i += 2) s = write_field(s, fields[i] | fields[i + 1] << width, 2 * width);
    for (; i < count; i++) s = write_field(s, fields[i], width);
    return s;
}

INLINE void finish(stream s) {
    for (; s.held > 0; s.held -= 8, s.word >>= 8) *s.to++ = (uint8_t)s.word;
}

/* `count` fields of at most 24 bits from bit `at` on; touches no byte outside the `size` that the stream has. */
INLINE void read_fields(const uint8_t *from, int64_t size, int64_t at, uint32_t *fields, int64_t count, int width) {
    const uint32_t mask = ((uint32_t)1 << width) - 1;
    const int64_t reach = (size - 4) * 8 + 7 - at; /* to the last bit that begins in four bytes which are all there */
    const int64_t plain = reach < 0 ? 0 : smaller(count, reach / width + 1);
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

/* Where a walk over elements is: in a band with these codes, at a column of a row. */
typedef struct {
    const uint8_t *codes;
    int64_t column;
    walk row;
} place;

INLINE place start_of(int64_t band, const uint8_t *codes, layout l) {
    return (place){codes + band * across(l), 0, band_at(first_row(band, l) % l.depth, l)};
}

/* The steps of the next `count` elements, whatever rows they lie in. */
INLINE place spread_steps(float *step, place p, int64_t count, layout l) {
    while (count) {
        const int64_t width = smaller(count, l.length - p.column);
        if (l.run == 1)
            for (int64_t i = 0; i < width; i++) step[i] = step_of(p.codes[p.column + i], l);
        else
            for (int64_t i = 0, block = p.column / l.run; i < width; block++) {
                const int64_t end = smaller(width, (block + 1) * l.run - p.column);
                const float value = step_of(p.codes[block], l);
                for (; i < end; i++) step[i] = value;
            }
        step += width, count -= width, p.column += width;
        if (p.column < l.length) break;
        p.column = 0;
        if (p.row.left == 1) p.codes += across(l);
        p.row = next_row(p.row, l);
    }
    return p;
}

/* Bit pattern of max|x| of every block. Patterns of magnitudes are ordered as the magnitudes are, NaN above all. */
CLONES void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, int64_t size, int64_t depth,
                       int64_t length, int64_t block, int64_t run) {
    const layout l = {size, depth, length, block, run, 0, 0};
    const int64_t blocks = across(l), end = first_element(last, l);
    walk row = band_at(first_row(first, l) % depth, l);
    uint32_t *peak = peaks + first * blocks;
    int fresh = 1;
    for (int64_t at = first_element(first, l); at < end; at += length) {
        const int64_t width = smaller(length, end - at);
        const float *in = x + at;
        if (run == 1)
            for (int64_t i = 0; i < width; i++) {
                const uint32_t bits = magnitude(in[i]), before = fresh ? 0 : peak[i];
                peak[i] = bits > before ? bits : before;
            }
        else
            for (int64_t b = 0, i = 0; i < width; b++) {
                const int64_t stop = smaller(width, i + run);
                uint32_t highest = fresh ? 0 : peak[b];
                for (; i < stop; i++) {
                    const uint32_t bits = magnitude(in[i]);
                    highest = bits > highest ? bits : highest;
                }
                peak[b] = highest;
            }
        fresh = row.left == 1;
        peak += fresh ? blocks : 0;
        row = next_row(row, l);
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

/* Rounding is that of kernel.c. */
CLONES void bitq_write_mantissas(const float *x, const uint8_t *codes, uint8_t *to, int64_t first, int64_t last,
                                 int64_t size, int64_t depth, int64_t length, int64_t block, int64_t run,
                                 int mantissa_bits, int bias) {
    const layout l = {size, depth, length, block, run, mantissa_bits, bias};
    const float limit = (float)((1 << (mantissa_bits - 1)) - 1);
    const int64_t begin = first_element(first, l), end = first_element(last, l);
    place p = start_of(first, codes, l);
    stream s = {to + begin * mantissa_bits / 8, 0, 0};
    for (int64_t at = begin; at < end; at += TILE) {
        const int64_t width = smaller(TILE, end - at);
        const float *in = x + at;
        float step[TILE];
        uint32_t field[TILE];
        p = spread_steps(step, p, width, l);
        for (int64_t i = 0; i < width; i++) {
            float k = float_of(magnitude(in[i])) / step[i];
            k = k < limit ? k : limit;
            k = (k + 0x1p23f) - 0x1p23f;
            const int32_t whole = (int32_t)k;
            field[i] = (uint32_t)(whole | (whole ? negative(in[i]) : 0) << (mantissa_bits - 1));
        }
        s = write_fields(s, field, width, mantissa_bits);
    }
    finish(s);
}

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

CLONES void bitq_read_codes(const uint8_t *from, int64_t bytes, int64_t at, uint8_t *codes, int64_t count, int width) {
    for (int64_t start = 0; start < count; start += TILE) {
        const int64_t some = smaller(TILE, count - start);
        uint32_t field[TILE];
        read_fields(from, bytes, at + start * width, field, some, width);
        for (int64_t i = 0; i < some; i++) codes[start + i] = (uint8_t)field[i];
    }
}

CLONES void bitq_read_values(const uint8_t *from, int64_t bytes, const uint8_t *codes, float *y, int64_t first,
                             int64_t last, int64_t size, int64_t depth, int64_t length, int64_t block, int64_t run,
                             int mantissa_bits, int bias) {
    const layout l = {size, depth, length, block, run, mantissa_bits, bias};
    const int64_t begin = first_element(first, l), end = first_element(last, l);
    const int32_t top = 1 << (mantissa_bits - 1);
    place p = start_of(first, codes, l);
    for (int64_t at = begin; at < end; at += TILE) {
        const int64_t width = smaller(TILE, end - at);
        float step[TILE];
        uint32_t field[TILE];
        p = spread_steps(step, p, width, l);
        read_fields(from, bytes, at * mantissa_bits, field, width, mantissa_bits);
        for (int64_t i = 0; i < width; i++) {
            const int32_t k = (int32_t)field[i] & (top - 1), minus = (int32_t)field[i] >> (mantissa_bits - 1);
            y[at + i] = (float)((k ^ -minus) + minus) * step[i]; /* no branch on what is random */
        }
    }
}
