/* The packed form of float32 tensors whose blocks share a power of two or a float, and back, in two passes over memory;
 * coding.py computes the same with PyTorch. The powers of two are of float32 and so is all arithmetic with them, which
 * is exact; that with floats is of float64, which has digits enough.
 *
 * Memory is read as [outer, depth, length], `size` elements in all: the last row may be short. A block is `block`
 * consecutive rows times `run` consecutive elements of a row, the last ones perhaps fewer; a band is the rows of one
 * block. Peaks and codes of blocks stand in row-major order, bands outermost. Functions take a range of bands, so that
 * threads can share the work. */

#include <float.h>

#include "stacks.h"
#include "packing.h" /* knows no includes: Python reads it, too */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef CLONES
#define CLONES
#endif

enum { TILE = 256 };

typedef bitq_bands layout;
typedef bitq_elements elements;

INLINE int32_t negative(float value) { return (int32_t)(bits_of(value) >> 31); }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE uint64_t pattern_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Whether bands are stacks, none of which is short of a row's end. */
INLINE int is_narrow(layout l) { return l.run == 1 && l.length <= NARROW && l.size % (l.depth * l.length) == 0; }

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

/* Words that are filled by whole fields. */
INLINE stream write_words(stream s, const uint32_t *fields, int64_t count, int width) {
    const int each = 32 / width;
    for (int64_t i = 0; i < count / each; i++) {
        uint32_t word = 0;
        for (int k = 0; k < each; k++) word |= fields[i * each + k] << k * width;
        store(s.to + 4 * i, word);
    }
    s.to += count / each * 4;
    return s;
}

/* Whole words where nothing is held and they are filled; else two at a time where both fit in a word: what one field waits
 * for is the one before. */
CLONES static stream write_fields(stream s, const uint32_t *fields, int64_t count, int width) {
    int64_t i = 0;
    if (!s.held && (width == 4 || width == 8)) {
        i = count / (32 / width) * (32 / width);
        s = width == 4 ? write_words(s, fields, i, 4) : write_words(s, fields, i, 8);
    }
    if (width <= 16)
        for (; i + 1 < count; i += 2) s = write_field(s, fields[i] | fields[i + 1] << width, 2 * width);
    for (; i < count; i++) s = write_field(s, fields[i], width);
    return s;
}

INLINE void finish(stream s) {
    for (; s.held > 0; s.held -= 8, s.word >>= 8) *s.to++ = (uint8_t)s.word;
}

/* Whole words of fields. */
INLINE void read_words(const uint8_t *from, uint32_t *restrict fields, int64_t count, int width) {
    const int each = 32 / width;
    for (int64_t i = 0; i < count / each; i++) {
        const uint32_t word = load(from + 4 * i);
        for (int k = 0; k < each; k++) fields[i * each + k] = word >> k * width & (((uint32_t)1 << width) - 1);
    }
}

/* `count` fields of at most 24 bits from bit `at` on; touches no byte outside the `size` that the stream has. */
CLONES static void read_fields(const uint8_t *from, int64_t size, int64_t at, uint32_t *restrict fields, int64_t count,
                               int width) {
    const uint32_t mask = ((uint32_t)1 << width) - 1;
    if (at % 8 == 0 && (width == 4 || width == 8)) {
        const int64_t whole = count / (32 / width) * (32 / width);
        if (width == 4) read_words(from + at / 8, fields, whole, 4);
        else read_words(from + at / 8, fields, whole, 8);
        at += whole * width, fields += whole, count -= whole;
    }
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

/* Where a walk over elements is: in a band of which this is the first block, at a column of a row, or of all the rows of a
 * stack one behind the other. */
typedef struct {
    int64_t block, column;
    walk row;
    int narrow;
} place;

INLINE place start_of(int64_t band, layout l) {
    return (place){band * across(l), 0, band_at(first_row(band, l) % l.depth, l), is_narrow(l)};
}

INLINE float power_of(uint8_t code, elements e) {
    const int32_t exponent = e.offset + code;
    return float_of((uint32_t)((exponent < e.lowest ? e.lowest : exponent) + 127) << 23);
}

/* 1 / power_of, exactly. */
INLINE float inverse_power_of(uint8_t code, elements e) {
    const int32_t exponent = e.offset + code, field = 127 - (exponent < e.lowest ? e.lowest : exponent);
    return float_of(field ? (uint32_t)field << 23 : 1u << 22);
}

#define OWN_STEP(block) steps[block]
#define POWER(block) power_of(codes[block], e)
#define INVERSE_POWER(block) inverse_power_of(codes[block], e)

PEAKS_OF_STACK(peaks_of_rows, float, uint32_t, (uint32_t)magnitude)
REPEAT(float)
REPEAT(double)

/* The steps of the next `count` elements, whatever rows they lie in, with room for LANES behind them; STEP(block) is that of a
 * block. Short rows are repeated as far as their band goes. */
#define STEPS(type, step, p, count, l, STEP)                                                      \
    for (int64_t done_ = 0; done_ < (count);) {                                                   \
        const int64_t left_ = (p).narrow ? (p).row.left * (l).length : (l).length;                   \
        const int64_t width_ = smaller((count) - done_, left_ - (p).column);                      \
        type *to_ = (step) + done_;                                                               \
        if ((p).narrow) {                                                                         \
            type row_[NARROW + LANES];                                                            \
            for (int64_t i_ = 0; i_ < (l).length; i_++) row_[i_] = STEP((p).block + i_);          \
            repeat_##type(to_, row_, (l).length, width_, (p).column % (l).length);                \
        } else if ((l).run == 1)                                                                  \
            for (int64_t i_ = 0; i_ < width_; i_++) to_[i_] = STEP((p).block + (p).column + i_);  \
        else                                                                                      \
            for (int64_t i_ = 0, b_ = (p).column / (l).run; i_ < width_; b_++) {                  \
                const int64_t end_ = smaller(width_, (b_ + 1) * (l).run - (p).column);            \
                const type value_ = STEP((p).block + b_);                                         \
                for (; i_ < end_; i_ += LANES)                                                    \
                    for (int64_t k_ = 0; k_ < LANES; k_++) to_[i_ + k_] = value_;                 \
                i_ = end_;                                                                        \
            }                                                                                     \
        done_ += width_, (p).column += width_;                                                    \
        if ((p).column == left_) {                                                                \
            (p).column = 0;                                                                       \
            if ((p).narrow) (p).row.within += (p).row.left - 1, (p).row.left = 1;                 \
            if ((p).row.left == 1) (p).block += across(l);                                        \
            (p).row = next_row((p).row, l);                                                       \
        }                                                                                         \
    }

/* Bit pattern of max|x| of every block. Patterns of magnitudes are ordered as the magnitudes are, NaN above all. */
CLONES void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, const bitq_bands *bands) {
    const layout l = *bands;
    const int64_t length = l.length, run = l.run, blocks = across(l), end = first_element(last, l);
    walk row = band_at(first_row(first, l) % l.depth, l);
    uint32_t *peak = peaks + first * blocks;
    if (is_narrow(l)) {
        for (int64_t band = first, at = first_element(first, l); band < last; band++, peak += blocks) {
            uint32_t found[NARROW + LANES];
            peaks_of_rows(found, x + at, length, row.left, l.size - at, 0, 0);
            for (int64_t i = 0; i < length; i++) peak[i] = found[i];
            at += row.left * length;
            row = next_row((walk){row.within + row.left - 1, 1}, l);
        }
        return;
    }
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

CLONES void bitq_exponent_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, int bias, int low, int top,
                                int zero) {
    for (int64_t i = 0; i < count; i++) {
        int32_t code = (int32_t)(peaks[i] >> 23) - 127 - bias;
        code = code < low ? low : code;
        code = code > top ? top : code;
        codes[i] = (uint8_t)(peaks[i] ? code : zero);
    }
}

/* Codes without sign of numbers that are not negative and not too large for their type. Adding 2^(digits of the sum -
 * digits of the type) times the power of two below a number rounds it to a multiple of the type's unit there, and the sum's
 * last digits are the multiple. An exponent that carries goes over into that of the code. */
INLINE float large_of(float q, elements e) {
    const int32_t least = e.least_exponent + 127, field = (int32_t)(bits_of(q) >> 23), at = field < least ? least : field;
    return float_of((uint32_t)(at + 23 - e.mantissa_bits) << 23);
}

INLINE uint32_t code_of(float q, elements e) {
    const float large = large_of(q, e);
    const uint32_t at = (bits_of(large) >> 23) - (uint32_t)(e.least_exponent + 127 + 23 - e.mantissa_bits);
    return (at << e.mantissa_bits) + (bits_of(q + large) - bits_of(large));
}

INLINE uint64_t long_code_of(double q, int mantissa_bits, int least_exponent) {
    const int64_t least = least_exponent + 1023, field = (int64_t)(pattern_of(q) >> 52);
    const int64_t at = field < least ? least : field;
    const uint64_t large = (uint64_t)(at + 52 - mantissa_bits) << 52;
    return ((uint64_t)(at - least) << mantissa_bits) + (pattern_of(q + double_of(large)) - large);
}

CLONES void bitq_float_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, double divisor, int mantissa_bits,
                             int least_exponent, double least, double most) {
    for (int64_t i = 0; i < count; i++) {
        double q = (double)float_of(peaks[i]) / divisor;
        q = q > least ? q : least;
        q = q < most ? q : most;
        codes[i] = (uint8_t)long_code_of(q, mantissa_bits, least_exponent);
    }
}

/* A code with the sign of what it was made of, if it is not 0. */
INLINE uint32_t with_sign(uint32_t code, float x, elements e) {
    const uint32_t minus = code ? (uint32_t)negative(x) : 0;
    if (e.kind == TWOS_COMPLEMENT) return ((code ^ -minus) + minus) & (uint32_t)(((uint64_t)1 << e.bits) - 1);
    return code | minus << (e.bits - 1);
}

/* The code of a number that is not too large, rounded. */
INLINE uint32_t nearest_code(float q, elements e) {
    return e.kind == FLOAT ? code_of(q, e) : (uint32_t)(int32_t)((q + 0x1p23f) - 0x1p23f);
}

INLINE void by_powers(const float *x, const float *inverse_step, uint32_t *field, int64_t count, elements e) {
    for (int64_t i = 0; i < count; i++) {
        float q = ratio(x[i], inverse_step[i]);
        q = q < e.limit ? q : e.limit;
        field[i] = with_sign(nearest_code(q, e), x[i], e);
    }
}

/* A float32 between whose neighbours with an even last bit q lies, or q: to fewer bits, two less or more, it is rounded as q
 * is, but for a q so small that what it differs by is none of float32. */
INLINE float odd_float(double q) {
    const float near = (float)q, off = (float)(q - (double)near);
    return float_of((bits_of(near) - (uint32_t)negative(off)) | (uint32_t)(magnitude(off) > 0));
}

/* Whether an `odd_float` has bits enough, and half the smallest element is far from float32's smallest number. */
INLINE int is_coarse(elements e) { return e.bits <= 20 && (e.kind != FLOAT || e.least_exponent > -64); }

/* By a quotient that is off by less than 2^-22 of itself: the step and the quotient are rounded. No number has more than 2^bits
 * of the units there, so it gives the code unless it is within 2^(bits - 22) units of a tie. Whether it did for all. */
INLINE int by_guess(const float *x, const double *step, uint32_t *field, int64_t count, elements e) {
    const float doubt = (0.5f - float_of((uint32_t)(e.bits - 22 + 127) << 23)) * 0x1p-23f;
    uint32_t certain = 0x80000000u;
    for (int64_t i = 0; i < count; i++) {
        float q = float_of((uint32_t)magnitude(x[i])) / (float)step[i];
        q = q < e.limit ? q : e.limit;
        const float large = e.kind == FLOAT ? large_of(q, e) : 0x1p23f;
        certain &= bits_of(float_of((uint32_t)magnitude(q - ((q + large) - large))) - large * doubt);
        field[i] = with_sign(nearest_code(q, e), x[i], e);
    }
    return certain != 0;
}

INLINE void by_floats(const float *x, const double *step, uint32_t *field, int64_t count, elements e) {
    if (by_guess(x, step, field, count, e)) return;
    for (int64_t i = 0; i < count; i++) {
        float q = odd_float((double)float_of(magnitude(x[i])) / step[i]);
        q = q < e.limit ? q : e.limit;
        field[i] = with_sign(nearest_code(q, e), x[i], e);
    }
}

INLINE void by_floats_exactly(const float *x, const double *step, uint32_t *field, int64_t count, elements e) {
    for (int64_t i = 0; i < count; i++) {
        double q = (double)float_of(magnitude(x[i])) / step[i];
        q = q < e.limit ? q : e.limit;
        const uint64_t code = e.kind == FLOAT ? long_code_of(q, e.mantissa_bits, e.least_exponent)
                                              : pattern_of(q + 0x1p52) - pattern_of(0x1p52);
        field[i] = with_sign((uint32_t)code, x[i], e);
    }
}

#define BY_KIND(call, e)                                           \
    switch ((e).kind) { /* each with its loops */                  \
        case SIGN_MAGNITUDE: (e).kind = SIGN_MAGNITUDE; call; break; \
        case TWOS_COMPLEMENT: (e).kind = TWOS_COMPLEMENT; call; break; \
        default: (e).kind = FLOAT; call;                           \
    }

CLONES void bitq_write_elements(const float *x, const uint8_t *codes, const double *steps, uint8_t *to, int64_t first,
                                int64_t last, const bitq_bands *bands, const bitq_elements *kind) {
    const layout l = *bands;
    elements e = *kind;
    const int64_t begin = first_element(first, l), end = first_element(last, l);
    place p = start_of(first, l);
    stream s = {to + begin * e.bits / 8, 0, 0};
    for (int64_t at = begin; at < end; at += TILE) {
        const int64_t width = smaller(TILE, end - at);
        uint32_t field[TILE];
        if (steps) {
            double step[TILE + LANES];
            STEPS(double, step, p, width, l, OWN_STEP)
            if (is_coarse(e)) BY_KIND(by_floats(x + at, step, field, width, e), e)
            else BY_KIND(by_floats_exactly(x + at, step, field, width, e), e)
        } else {
            float inverse_step[TILE + LANES];
            STEPS(float, inverse_step, p, width, l, INVERSE_POWER)
            BY_KIND(by_powers(x + at, inverse_step, field, width, e), e)
        }
        s = write_fields(s, field, width, e.bits);
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

/* An integer without a branch on what is random. */
INLINE int32_t whole_of(uint32_t code, elements e) {
    const int32_t top = 1 << (e.bits - 1), minus = (int32_t)(code >> (e.bits - 1));
    if (e.kind == TWOS_COMPLEMENT) return (int32_t)code - 2 * top * minus;
    return (((int32_t)code & (top - 1)) ^ -minus) + minus;
}

INLINE float bounded(float y) {
    y = y > FLT_MAX ? FLT_MAX : y;
    return y < -FLT_MAX ? -FLT_MAX : y; /* a NaN stays */
}

#define OF_POWERS(number) for (int64_t i = 0; i < width; i++) y[at + i] = bounded((number) * step[i] + 0.0f);
#define OF_LOW_POWERS(number) for (int64_t i = 0; i < width; i++) y[at + i] = (number) * step[i]; /* below 2^128 */
#define OF_FLOATS(number) for (int64_t i = 0; i < width; i++) y[at + i] = bounded((float)((number) * step[i]) + 0.0f);

CLONES void bitq_read_values(const uint8_t *from, int64_t bytes, const uint8_t *codes, const double *steps,
                             const float *table, float *y, int64_t first, int64_t last, const bitq_bands *bands,
                             const bitq_elements *kind) {
    const layout l = *bands;
    elements e = *kind;
    const int64_t begin = first_element(first, l), end = first_element(last, l);
    place p = start_of(first, l);
    for (int64_t at = begin; at < end; at += TILE) {
        const int64_t width = smaller(TILE, end - at);
        uint32_t field[TILE];
        read_fields(from, bytes, at * e.bits, field, width, e.bits);
        if (steps) {
            double step[TILE + LANES];
            STEPS(double, step, p, width, l, OWN_STEP)
            if (e.kind == FLOAT) OF_FLOATS((double)table[field[i]])
            else BY_KIND(OF_FLOATS((double)whole_of(field[i], e)), e)
        } else {
            float step[TILE + LANES];
            STEPS(float, step, p, width, l, POWER)
            if (e.kind == FLOAT) OF_POWERS(table[field[i]])
            else BY_KIND(OF_LOW_POWERS((float)whole_of(field[i], e)), e)
        }
    }
}
