/* One tile: the peaks of its blocks are found, and its elements rounded while they are in the first cache. Every loop that
 * matters runs over contiguous memory and vectorizes without help. */

#ifndef BITQ_TILES
#define BITQ_TILES

#include "run.h"

enum {
    LONG = 16384, /* contiguous elements of a tile */
    FEW = 64,     /* shorter contiguous blocks are taken several at a time */
};

INLINE int32_t peak_of_floats(const float *x, int64_t count) {
    int32_t peak = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t bits = magnitude(x[i]);
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

/* The largest magnitude among `count` elements, as the pattern of a float32. */
INLINE int32_t peak_of(const job *j, int64_t at, int64_t count) {
    if (j->kind == FLOAT32) return peak_of_floats((const float *)j->x + at, count);
    const uint16_t *x = (const uint16_t *)j->x + at;
    uint16_t peak = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits = x[i] & 0x7FFF;
        peak = bits > peak ? bits : peak;
    }
    return magnitude(j->kind == BFLOAT16 ? of_bfloat16(peak) : of_float16(peak));
}

/* The peaks of the blocks at `width` neighbouring positions, `depth` channels each. */
INLINE void peaks_of_columns(int32_t *peak, const job *j, int64_t at, int64_t depth, int64_t width) {
    const int64_t stride = j->inner;
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        for (int64_t i = 0; i < width; i++) peak[i] = magnitude(x[i]);
        for (int64_t c = 1; c < depth; c++)
            for (int64_t i = 0; i < width; i++) {
                const int32_t bits = magnitude(x[c * stride + i]);
                peak[i] = bits > peak[i] ? bits : peak[i];
            }
        return;
    }
    const uint16_t *x = (const uint16_t *)j->x + at;
    uint16_t half[TILE];
    for (int64_t i = 0; i < width; i++) half[i] = x[i] & 0x7FFF;
    for (int64_t c = 1; c < depth; c++)
        for (int64_t i = 0; i < width; i++) {
            const uint16_t bits = x[c * stride + i] & 0x7FFF;
            half[i] = bits > half[i] ? bits : half[i];
        }
    for (int64_t i = 0; i < width; i++)
        peak[i] = magnitude(j->kind == BFLOAT16 ? of_bfloat16(half[i]) : of_float16(half[i]));
}

/* Steps of `width` blocks with these peaks; whether any of them saturates. */
INLINE int steps_of(float *step, float *inverse_step, const int32_t *peak, int64_t width, const job *j, reach r,
                    summary *s) {
    const job format = *j; /* what the loop needs in registers, whatever the compiler thinks of aliases */
    summary noted = *s;
    int any = 0;
    for (int64_t i = 0; i < width; i++) {
        step[i] = step_of(peak[i], &format, r);
        inverse_step[i] = inverse(step[i]);
        any |= saturates(peak[i], r);
        note(&noted, peak[i]);
    }
    *s = noted;
    return any;
}

/* Asks for memory that will be read soon; rows of tiles are too short for processors to foresee them. */
INLINE void prefetch(const job *j, int64_t at, int64_t count) {
#ifdef __GNUC__
    const int64_t size = j->kind == FLOAT32 ? 4 : 2;
    const char *x = (const char *)j->x + at * size;
    for (int64_t i = 0; i < count * size; i += 64) __builtin_prefetch(x + i);
#else
    (void)j, (void)at, (void)count;
#endif
}

/* The blocks at `width` neighbouring positions from element `at` on, `depth` channels each; `next` is where the tile
 * after this one starts. */
INLINE void columns(const job *j, reach codes, int64_t at, int64_t depth, int64_t width, int64_t next, summary *s) {
    int32_t peak[TILE];
    float step[TILE], inverse_step[TILE];
    run r;
    peaks_of_columns(peak, j, at, depth, width);
    const int any = steps_of(step, inverse_step, peak, width, j, codes, s);
    if (!j->y) return;
    for (int64_t c = 0; c < depth; c++) {
        const int64_t row = at + c * j->inner;
        if (j->stream) prefetch(j, next + c * j->inner, width);
        open_run(&r, j, row, width);
        if (j->clipped && any) s->clipped += mark_each(&r, row, width, peak, inverse_step, j, codes);
        round_each(&r, width, step, inverse_step, j);
        close_run(&r, j, row, width);
    }
}

/* Contiguous blocks of float32 rounded to the nearest, straight from x to y; their peaks go to `peak`. A block is read
 * after the one before it was written, which keeps memory busy both ways. The few instructions of each block are what
 * this takes beside a copy, so nothing else happens here. */
INLINE void plain_blocks(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, int32_t *peak) {
    const float *x = (const float *)j->x + at, limit = j->limit;
    float *y = (float *)j->y + at;
    int32_t largest = peak_of_floats(x, block);
    for (int64_t b = 0; b < blocks; b++) {
        const float step = step_of(largest, j, codes), bound = limit * step, shift = step * 0x1.8p23f;
        peak[b] = largest;
        ELEMENTWISE for (int64_t i = 0; i < block; i++) y[i] = nearest(x[i], bound, shift);
        x += block, y += block;
        if (b + 1 < blocks) largest = peak_of_floats(x, block);
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
        const int any = j->clipped && saturates(peak[0], codes);
        const float step = step_of(peak[0], j, codes);
        for (int64_t i = 0; i < block; i += TILE) {
            const int64_t size = block - i < TILE ? block - i : TILE;
            open_run(&r, j, at + i, size);
            if (any) s->clipped += mark_clipped(&r, at + i, 0, size, peak[0], j, codes);
            round_all(&r, size, step, j);
            close_run(&r, j, at + i, size);
        }
    }
}

/* Halves `count` magnitudes by taking the larger of two neighbours. */
INLINE void halve(int32_t *restrict to, const int32_t *restrict from, int64_t count) {
    for (int64_t i = 0; i < count / 2; i++)
        to[i] = from[2 * i] > from[2 * i + 1] ? from[2 * i] : from[2 * i + 1];
}

INLINE void twice(float *restrict to, const float *restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[2 * i] = to[2 * i + 1] = from[i];
}

/* `blocks` whole contiguous blocks shorter than FEW, of at most TILE elements. Powers of two in the length of a block are
 * folded for many blocks at once, and unfolded likewise. */
INLINE void crumbs(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, summary *s) {
    int32_t peaks[2][TILE], *peak = peaks[0], *other = peaks[1];
    float steps[2][TILE], inverse_step[TILE], *step = steps[0], *spare = steps[1];
    const int64_t count = blocks * block;
    int64_t length = block;
    run r;
    open_run(&r, j, at, count);
    for (int64_t i = 0; i < count; i++) peak[i] = magnitude(r.x[i]);
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
    const int any = steps_of(step, inverse_step, peak, blocks, j, codes, s);
    if (!j->y) return;
    for (int64_t b = 0; j->clipped && any && b < blocks; b++)
        if (saturates(peak[b], codes)) s->clipped += mark_clipped(&r, at, b * block, (b + 1) * block, peak[b], j, codes);
    for (int64_t b = blocks; length > 1 && b-- > 0;)
        for (int64_t i = 0; i < length; i++) spare[b * length + i] = step[b];
    if (length > 1) step = spare, spare = steps[0];
    for (; length < block; length *= 2) {
        twice(spare, step, blocks * length);
        float *const swapped = step;
        step = spare, spare = swapped;
    }
    for (int64_t i = 0; i < count; i++) inverse_step[i] = inverse(step[i]);
    round_each(&r, count, step, inverse_step, j);
    close_run(&r, j, at, count);
}

/* A row of contiguous blocks, the last perhaps short. */
INLINE void row_of_blocks(const job *j, reach codes, int64_t at, int64_t count, summary *s) {
    const int64_t block = j->block, whole = count / block * block;
    if (block < FEW) {
        const int64_t most = TILE / block;
        for (int64_t b = 0; b < count / block; b += most)
            crumbs(j, codes, at + b * block, count / block - b < most ? count / block - b : most, block, s);
    } else
        long_blocks(j, codes, at, count / block, block, s);
    if (whole < count) long_blocks(j, codes, at + whole, 1, count - whole, s);
}

/* Where a tile starts. */
INLINE int64_t start_of(const job *j, int64_t tile) {
    const int64_t start = tile % j->strips * j->width, stack = tile / j->strips;
    if (j->inner == 1) return stack * j->channels + start;
    return (stack / j->stacks * j->channels + stack % j->stacks * j->block) * j->inner + start;
}

INLINE void some_tiles(const job *j, reach codes, int64_t first, int64_t last, summary *s) {
    const int64_t row = j->inner > 1 ? j->inner : j->channels;
    for (int64_t t = first; t < last; t++) {
        const int64_t rest = row - t % j->strips * j->width, width = rest < j->width ? rest : j->width;
        if (j->inner == 1) {
            row_of_blocks(j, codes, start_of(j, t), width, s);
            continue;
        }
        const int64_t c = t / j->strips % j->stacks * j->block;
        const int64_t depth = j->channels - c < j->block ? j->channels - c : j->block;
        columns(j, codes, start_of(j, t), depth, width, start_of(j, t + 1), s);
    }
}

#endif
