/* One tile: the peaks of its blocks are found, and its elements rounded while they are in the first cache. Every loop that
 * matters runs over contiguous memory and vectorizes without help. */

#ifndef BITQ_TILES
#define BITQ_TILES

#include "run.h"
#include "stacks.h"

enum {
    LONG = 16384, /* contiguous elements of a tile */
    FEW = 64,     /* shorter contiguous blocks are taken several at a time */
};

INLINE int32_t peak_of_floats(const float *x, int64_t count, int never_negative) {
    int32_t peak = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t bits = counted(x[i], never_negative);
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

INLINE uint16_t peak_of_halves(const uint16_t *x, int64_t count, int never_negative, uint16_t infinity) {
    uint16_t peak = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits = counted_half(x[i], never_negative, infinity);
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

/* The largest magnitude among `count` elements, as the pattern of a float32. */
INLINE int32_t peak_of(const job *j, int64_t at, int64_t count) {
    const int n = j->low == 0;
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        return n ? peak_of_floats(x, count, 1) : peak_of_floats(x, count, 0);
    }
    const uint16_t *x = (const uint16_t *)j->x + at, infinity = infinity_of(j->kind);
    const uint16_t peak = n ? peak_of_halves(x, count, 1, infinity) : peak_of_halves(x, count, 0, infinity);
    return magnitude(j->kind == BFLOAT16 ? of_bfloat16(peak) : of_float16(peak));
}

/* Asks for memory that will be read soon, in the second cache; rows of tiles are too short for processors to foresee them. */
INLINE void prefetch(const void *x, int64_t bytes) {
#ifdef __GNUC__
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)x + i, 0, 2);
#else
    (void)x, (void)bytes;
#endif
}

/* Peaks at neighbouring positions: of rows of `width` elements, `stride` apart, `count` elements in all with what lies between
 * them. `ahead`: how far from each row one lies that will be read next, or 0. */
typedef struct {
    int64_t width, stride, count, ahead;
} columns_read;

INLINE void peaks_of_float_columns(int32_t *peak, const float *x, columns_read c, int never_negative) {
    for (int64_t row = 0; row < c.count; row += c.stride) {
        const int64_t length = c.count - row < c.width ? c.count - row : c.width;
        if (c.ahead) prefetch(x + row + c.ahead, length * (int64_t)sizeof *x);
        if (row == 0)
            for (int64_t i = 0; i < c.width; i++) peak[i] = counted(x[i], never_negative);
        else
            for (int64_t i = 0; i < length; i++) {
                const int32_t bits = counted(x[row + i], never_negative);
                peak[i] = bits > peak[i] ? bits : peak[i];
            }
    }
}

INLINE void peaks_of_half_columns(uint16_t *peak, const uint16_t *x, columns_read c, int never_negative, uint16_t infinity) {
    for (int64_t row = 0; row < c.count; row += c.stride) {
        const int64_t length = c.count - row < c.width ? c.count - row : c.width;
        if (c.ahead) prefetch(x + row + c.ahead, length * (int64_t)sizeof *x);
        if (row == 0)
            for (int64_t i = 0; i < c.width; i++) peak[i] = counted_half(x[i], never_negative, infinity);
        else
            for (int64_t i = 0; i < length; i++) {
                const uint16_t bits = counted_half(x[row + i], never_negative, infinity);
                peak[i] = bits > peak[i] ? bits : peak[i];
            }
    }
}

/* The same from element `at` on, as patterns of float32. */
INLINE void peaks_of_columns(int32_t *peak, const job *j, int64_t at, columns_read c) {
    const int n = j->low == 0;
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        if (n)
            peaks_of_float_columns(peak, x, c, 1);
        else
            peaks_of_float_columns(peak, x, c, 0);
        return;
    }
    const uint16_t *x = (const uint16_t *)j->x + at, infinity = infinity_of(j->kind);
    uint16_t half[TILE];
    if (n)
        peaks_of_half_columns(half, x, c, 1, infinity);
    else
        peaks_of_half_columns(half, x, c, 0, infinity);
    for (int64_t i = 0; i < c.width; i++)
        peak[i] = magnitude(j->kind == BFLOAT16 ? of_bfloat16(half[i]) : of_float16(half[i]));
}

#define COUNTED_FLOAT(x) counted(x, never_negative)
#define COUNTED_HALF(x) counted_half(x, never_negative, infinity)
PEAKS_OF_STACK(peaks_of_float_stack, float, int32_t, COUNTED_FLOAT)
PEAKS_OF_STACK(peaks_of_half_stack, uint16_t, uint16_t, COUNTED_HALF)
REPEAT(float)
REPEAT(int32_t)
SPREAD(float)

/* Units of as many blocks, with room for LANES that are copied beyond their end. */
typedef struct {
    float step[TILE + LANES], inverse_step[TILE + LANES];
} unit_room;

/* Units of `width` blocks with these peaks. */
INLINE units units_of(unit_room *room, const int32_t *peak, int64_t width, const job *j, reach r, summary *s) {
    const job format = *j; /* what the loop needs in registers, whatever the compiler thinks of aliases */
    summary noted = *s;
    int wild = 0;
    for (int64_t i = 0; i < width; i++) note(&noted, peak[i]);
    *s = noted;
    if (!j->y) return (units){NULL, NULL, 0};
    if (format.elements == SCALED) {
        for (int64_t i = 0; i < width; i++) room->step[i] = scale_of(peak[i], &format);
        for (int64_t i = 0; i < width; i++) room->inverse_step[i] = inverse_scale(room->step[i], &format);
    } else
        for (int64_t i = 0; i < width; i++) room->step[i] = step_of(peak[i], &format, r);
    for (int64_t i = 0; i < width; i++) wild |= !(room->step[i] <= format.calm);
    return (units){room->step, room->inverse_step, !wild};
}

/* The peaks, if any elements of theirs may pass no gradient. */
INLINE const int32_t *clipping(const int32_t *peak, int64_t width, const job *j, reach r) {
    int any = j->low == 0;
    if (!j->clipped) return NULL;
    for (int64_t i = 0; i < width; i++) any |= is_low(peak[i], j, r);
    return any ? peak : NULL;
}

/* The blocks at `width` neighbouring positions from element `at` on, `depth` channels each; `next` is where the tile
 * after this one starts. */
INLINE void columns(const job *j, reach codes, int64_t at, int64_t depth, int64_t width, int64_t next, summary *s) {
    const int64_t ahead = j->stream ? next - at : 0;
    int32_t peak[TILE];
    unit_room room;
    peaks_of_columns(peak, j, at, (columns_read){width, j->inner, (depth - 1) * j->inner + width, ahead});
    const units u = units_of(&room, peak, width, j, codes, s);
    if (!j->y) return;
    const rows all = {at, width, j->inner, depth, u, clipping(peak, width, j, codes), codes};
    s->clipped += j->rows(j, &all);
}

/* Where a tile starts. */
INLINE int64_t start_of(const job *j, int64_t tile) {
    const int64_t start = tile % j->strips * j->width, stack = tile / j->strips;
    if (j->inner == 1) return stack * j->channels + start;
    return (stack / j->stacks * j->channels + stack % j->stacks * j->block) * j->inner + start;
}

/* Channels of a tile of columns. */
INLINE int64_t depth_of(const job *j, int64_t tile) {
    const int64_t left = j->channels - tile / j->strips % j->stacks * j->block;
    return left < j->block ? left : j->block;
}

/* The peaks of a stack from element `at` on, with room for LANES behind them. */
INLINE void peaks_of_stack(int32_t *peak, const job *j, int64_t at, int64_t depth) {
    const int64_t inner = j->inner, left = j->outer * j->channels * inner - at;
    const int n = j->low == 0;
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        if (n)
            peaks_of_float_stack(peak, x, inner, depth, left, 1, 0);
        else
            peaks_of_float_stack(peak, x, inner, depth, left, 0, 0);
        return;
    }
    const uint16_t *x = (const uint16_t *)j->x + at, infinity = infinity_of(j->kind);
    uint16_t half[NARROW + LANES];
    if (n)
        peaks_of_half_stack(half, x, inner, depth, left, 1, infinity);
    else
        peaks_of_half_stack(half, x, inner, depth, left, 0, infinity);
    for (int64_t i = 0; i < inner; i++)
        peak[i] = magnitude(j->kind == BFLOAT16 ? of_bfloat16(half[i]) : of_float16(half[i]));
}

/* Blocks at few positions, as weights have them outside the window of a convolution: `stacks` of them from stack `first` on,
 * one behind the other, each of contiguous memory. Units are repeated for as many rows as a run has room for. */
INLINE void narrow_columns(const job *j, reach codes, int64_t first, int64_t stacks, summary *s) {
    const int64_t inner = j->inner, last = j->channels % j->block, begin = start_of(j, first), fit = TILE / inner;
    const int64_t most = fit < LANES ? fit : fit / LANES * LANES; /* or a run ends with a part of LANES */
    int32_t peaks[TILE + LANES], repeated_peak[TILE + LANES];
    unit_room room, repeated;
    int64_t at = begin, filled = 0;
    for (int64_t k = 0, place = first % j->stacks; k < stacks; k++, place = place + 1 < j->stacks ? place + 1 : 0) {
        const int64_t depth = last && place + 1 == j->stacks ? last : j->block;
        peaks_of_stack(peaks + k * inner, j, at, depth);
        at += depth * inner;
    }
    const units all = units_of(&room, peaks, stacks * inner, j, codes, s);
    const units u = {repeated.step, repeated.inverse_step, all.tame};
    if (!j->y) return;
    const int32_t *const clipped = clipping(peaks, stacks * inner, j, codes);
    at = begin;
    for (int64_t k = 0, place = first % j->stacks; k < stacks; k++, place = place + 1 < j->stacks ? place + 1 : 0)
        for (int64_t left = last && place + 1 == j->stacks ? last : j->block; left;) {
            const int64_t some = left < most - filled ? left : most - filled;
            const int64_t from = k * inner, to = filled * inner, count = some * inner;
            repeat_float(repeated.step + to, room.step + from, inner, count, 0);
            if (j->elements == SCALED) repeat_float(repeated.inverse_step + to, room.inverse_step + from, inner, count, 0);
            if (clipped) repeat_int32_t(repeated_peak + to, peaks + from, inner, count, 0);
            filled += some, left -= some;
            if (filled < most && (left || k + 1 < stacks)) continue;
            const rows part = {at, filled * inner, 0, 1, u, clipped ? repeated_peak : NULL, codes};
            s->clipped += j->rows(j, &part);
            at += filled * inner, filled = 0;
        }
}

/* Contiguous blocks of float32 rounded to the nearest, straight from x to y; their peaks go to `peak`. A block is read
 * after the one before it was written, which keeps memory busy both ways. The few instructions of each block are what
 * this takes beside a copy, so nothing else happens here. */
INLINE void plain_blocks(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, int32_t *peak) {
    const float *x = (const float *)j->x + at, limit = j->limit;
    float *y = (float *)j->y + at;
    int32_t largest = peak_of_floats(x, block, 0);
    for (int64_t b = 0; b < blocks; b++) {
        const float step = step_of(largest, j, codes), bound = limit * step, shift = step * 0x1.8p23f;
        peak[b] = largest;
        ELEMENTWISE for (int64_t i = 0; i < block; i++) y[i] = nearest(x[i], -bound, bound, shift);
        x += block, y += block;
        if (b + 1 < blocks) largest = peak_of_floats(x, block, 0);
    }
}

/* `blocks` contiguous blocks of a tile. */
INLINE void long_blocks(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, summary *s) {
    int32_t peak[LONG / FEW];
    if (j->plain && codes.highest + j->to_step <= MOST_SHIFTED) {
        j->plain(j, codes, at, blocks, block, peak);
        for (int64_t b = 0; b < blocks; b++) note(s, peak[b]);
        return;
    }
    run r;
    for (int64_t b = 0; b < blocks; b++, at += block) {
        peak[0] = peak_of(j, at, block);
        note(s, peak[0]);
        if (!j->y) continue;
        const unit u = unit_of(j->whole >= 0 ? j->whole : peak[0], j, codes);
        const int any = j->clipped && (u.low || j->low == 0);
        for (int64_t i = 0; i < block; i += TILE) {
            const int64_t size = block - i < TILE ? block - i : TILE;
            open_run(&r, j, at + i, size);
            if (any) s->clipped += mark_all(&r, at + i, 0, size, u, j);
            j->all(&r, size, u, j);
            close_run(&r, j, at + i, size);
        }
    }
}

/* The largest of every LANES-th magnitude. */
INLINE void lanes_of(int32_t *restrict most, const float *restrict x, int64_t count, int never_negative) {
    int32_t found[LANES];
    for (int64_t k = 0; k < LANES; k++) found[k] = 0;
    for (int64_t i = 0; i < count; i += LANES)
        for (int64_t k = 0; k < LANES; k++) {
            const int32_t bits = counted(x[i + k], never_negative);
            found[k] = bits > found[k] ? bits : found[k];
        }
    for (int64_t k = 0; k < LANES; k++) most[k] = found[k];
}

/* Halves `count` magnitudes by taking the larger of two neighbours. */
INLINE void halve(int32_t *restrict to, const int32_t *restrict from, int64_t count) {
    for (int64_t i = 0; i < count / 2; i++)
        to[i] = from[2 * i] > from[2 * i + 1] ? from[2 * i] : from[2 * i + 1];
}

/* `blocks` whole contiguous blocks shorter than FEW, of at most TILE elements. Powers of two in the length of a block are
 * folded for many blocks at once. */
INLINE void crumbs(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, summary *s) {
    int32_t peaks[2][TILE], *peak = peaks[0], *other = peaks[1];
    unit_room room, each;
    const int64_t count = blocks * block;
    const int never_negative = j->low == 0;
    const float *x = (const float *)j->x + at;
    float wide[TILE];
    int64_t length = block;
    if (j->kind != FLOAT32) widen(wide, j->x, at, count, j->kind), x = wide;
    if (block % LANES == 0) {
        for (int64_t b = 0; b < blocks; b++) lanes_of(peak + b * LANES, x + b * block, block, never_negative);
        length = LANES;
    } else
        for (int64_t i = 0; i < count; i++) peak[i] = counted(x[i], never_negative);
    for (; length % 2 == 0; length /= 2) {
        halve(other, peak, blocks * length);
        int32_t *const swapped = peak;
        peak = other, other = swapped;
    }
    for (int64_t b = 0; length > 1 && b < blocks; b++) {
        int32_t highest = peak[b * length];
        for (int64_t i = 1; i < length; i++) highest = peak[b * length + i] > highest ? peak[b * length + i] : highest;
        peak[b] = highest;
    }
    units u = units_of(&room, peak, blocks, j, codes, s);
    if (!j->y) return;
    if (clipping(peak, blocks, j, codes)) { /* before anything is rounded, since y may be x */
        run r;
        open_run(&r, j, at, count);
        for (int64_t b = 0; b < blocks; b++) {
            const unit own = unit_of(peak[b], j, codes);
            if (own.low || never_negative) s->clipped += mark_all(&r, at, b * block, (b + 1) * block, own, j);
        }
    }
    if (block > 1) {
        spread_float(each.step, room.step, blocks, block);
        if (j->elements == SCALED) spread_float(each.inverse_step, room.inverse_step, blocks, block);
        u.step = each.step, u.inverse_step = each.inverse_step;
    }
    const rows one = {at, count, 0, 1, u, NULL, codes};
    j->rows(j, &one);
}

/* A row of contiguous blocks, the last perhaps short. */
INLINE void row_of_blocks(const job *j, reach codes, int64_t at, int64_t count, summary *s) {
    const int64_t block = j->block, whole = count / block * block;
    if (block < FEW && j->whole < 0) {
        const int64_t most = TILE / block;
        for (int64_t b = 0; b < count / block; b += most)
            crumbs(j, codes, at + b * block, count / block - b < most ? count / block - b : most, block, s);
    } else if (whole) /* a block is read before blocks are counted */
        long_blocks(j, codes, at, count / block, block, s);
    if (whole < count) long_blocks(j, codes, at + whole, 1, count - whole, s);
}

INLINE void some_tiles(const job *j, reach codes, int64_t first, int64_t last, summary *s) {
    if (j->inner > 1 && j->inner <= NARROW) {
        for (int64_t t = first; t < last; t += j->width)
            narrow_columns(j, codes, t, last - t < j->width ? last - t : j->width, s);
        return;
    }
    for (int64_t t = first; t < last; t++) {
        if (j->inner > 1) {
            const int64_t rest = j->inner - t % j->strips * j->width;
            columns(j, codes, start_of(j, t), depth_of(j, t), rest < j->width ? rest : j->width, start_of(j, t + 1), s);
        } else {
            const int64_t rest = j->channels - t % j->strips * j->width;
            row_of_blocks(j, codes, start_of(j, t), rest < j->width ? rest : j->width, s);
        }
    }
}

#endif
