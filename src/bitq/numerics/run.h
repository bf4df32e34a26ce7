/* A run of neighbouring elements: brought to float32, rounded with the steps of their blocks, put back in their format. */

#ifndef BITQ_RUN
#define BITQ_RUN

#include "job.h"
#include "philox.h"

#ifdef _OPENMP
#define ELEMENTWISE _Pragma("omp simd") /* y may be x, so the compiler has to be told that elements do not mix */
#else
#define ELEMENTWISE
#endif

enum { TILE = 512 }; /* most elements of a run */

INLINE void widen(float *to, const void *x, int64_t at, int64_t count, int kind) {
    const uint16_t *from = (const uint16_t *)x + at;
    if (kind == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = of_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = of_float16(from[i]);
}

INLINE void narrow(uint16_t *to, const float *from, int64_t count, int kind) {
    if (kind == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = to_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = to_float16(from[i]);
}

/* Sets the bits from `at` on that `marks` tells; the first and the last byte may be shared with another thread. */
INLINE void mark(uint8_t *bits, int64_t at, const uint8_t *marks, int64_t count) {
    for (int64_t i = 0; i < count;) {
        const int shift = (int)((at + i) % 8);
        const int64_t size = count - i < 8 - shift ? count - i : 8 - shift;
        uint8_t byte = 0;
        for (int64_t k = 0; k < size; k++) byte |= (uint8_t)(marks[i + k] << (shift + k));
        if (byte) {
#ifdef _OPENMP
#pragma omp atomic
#endif
            bits[(at + i) / 8] |= byte;
        }
        i += size;
    }
}

/* A run of `count` <= TILE elements from element `at` on: where they are in float32, where their results go. */
typedef struct {
    const float *x, *draws;
    float *y;
    float wide[TILE], out[TILE], random[TILE + 2 * DRAWS];
    uint16_t halves[TILE];
} run;

INLINE void open_run(run *r, const job *j, int64_t at, int64_t count) {
    r->x = (const float *)j->x + at;
    r->y = j->y && j->kind == FLOAT32 && !j->stream ? (float *)j->y + at : r->out;
    if (j->kind != FLOAT32) {
        widen(r->wide, j->x, at, count, j->kind);
        r->x = r->wide;
    }
    r->draws = r->random;
    if (j->rounding == STOCHASTIC) r->draws = draws_of(r->random, at, count, j->key);
}

INLINE void close_run(run *r, const job *j, int64_t at, int64_t count) {
    if (j->kind == FLOAT32) {
        if (j->stream) j->stream((float *)j->y + at, r->out, count * (int64_t)sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)j->y + at;
    narrow(j->stream ? r->halves : to, r->out, count, j->kind);
    if (j->stream) j->stream(to, r->halves, count * (int64_t)sizeof(uint16_t));
}

#define BY_ROUNDING(rounding, call)                  \
    switch (rounding) {                              \
        case NEAREST: call(NEAREST); break;          \
        case HALF_AWAY: call(HALF_AWAY); break;      \
        case TOWARD_ZERO: call(TOWARD_ZERO); break;  \
        default: call(STOCHASTIC);                   \
    }

/* Rounds a run of elements with a step each. */
INLINE void round_each(const run *r, int64_t count, const float *step, const float *inverse_step, const job *j) {
    const float *x = r->x, *draws = r->draws, limit = j->limit;
    float *y = r->y;
#define EACH(how) \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) y[i] = rounded(x[i], step[i], inverse_step[i], limit, how, draws[i])
    BY_ROUNDING(j->rounding, EACH)
}

/* Rounds a run of elements with one step. */
INLINE void round_all(const run *r, int64_t count, float step, const job *j) {
    const float *x = r->x, *draws = r->draws, limit = j->limit, inverse_step = inverse(step);
    float *y = r->y;
#define ALL(how) \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) y[i] = rounded(x[i], step, inverse_step, limit, how, draws[i])
    BY_ROUNDING(j->rounding, ALL)
}

/* Before a run is rounded, since y may be x: marks those of its elements from..to that will be clipped in a saturated
 * block with this peak. */
INLINE int64_t mark_clipped(const run *r, int64_t at, int64_t from, int64_t to, int32_t peak, const job *j,
                            reach codes) {
    const float inverse_step = inverse(step_of(peak, j, codes));
    uint8_t marks[TILE];
    int64_t found = 0;
    for (int64_t i = from; i < to; i++) {
        marks[i] = (uint8_t)beyond(ratio(r->x[i], inverse_step), j->limit, j->rounding, r->draws[i]);
        found += marks[i];
    }
    if (found) mark(j->clipped, at + from, marks + from, to - from);
    return found;
}

/* The same with a block at each of `count` elements. */
INLINE int64_t mark_each(const run *r, int64_t at, int64_t count, const int32_t *peak, const float *inverse_step,
                         const job *j, reach codes) {
    uint8_t marks[TILE];
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        const int over = beyond(ratio(r->x[i], inverse_step[i]), j->limit, j->rounding, r->draws[i]);
        marks[i] = (uint8_t)(over & saturates(peak[i], codes));
        found += marks[i];
    }
    if (found) mark(j->clipped, at, marks, count);
    return found;
}

#endif
