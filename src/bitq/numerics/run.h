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
static void mark(uint8_t *bits, int64_t at, const uint8_t *marks, int64_t count) {
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
struct run {
    const float *x, *draws;
    float *y;
    float wide[TILE], out[TILE], random[TILE + 2 * DRAWS];
    uint16_t halves[TILE];
};

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

INLINE float small(float x, float step, float inverse_step, float low, float limit, float largest, grid g) {
    float k = x * inverse_step;
    k = k > low ? k : low;
    k = k < limit ? k : limit;
    float y = on_grid(k, g) * step;
    y = largest < y ? largest : y; /* NaN stays */
    return -largest > y ? -largest : y;
}

/* The product is exact, of at most 16 bits by 32, and rounded once: to infinity beyond the largest number. `evenly`: the grid
 * are whole numbers. */
INLINE float scaled(float x, double scale, double inverse_scale, double low, double limit, float largest, wide_grid g,
                    int evenly) {
    double k = (double)x * inverse_scale;
    k = k > low ? k : low;
    k = k < limit ? k : limit;
    float y = (float)((evenly ? on_even_grid(k) : on_wide_grid(k, g)) * scale);
    y = largest < y ? largest : y; /* NaN stays */
    return -largest > y ? -largest : y;
}

/* Rounds a run of elements with a unit each. */
INLINE void round_each(const run *r, int64_t count, units u, const job *j) {
    const float *x = r->x, *draws = r->draws, *step = u.step, *inverse_step = u.inverse_step;
    const double *scale = u.scale, *inverse_scale = u.inverse_scale;
    const float limit = j->limit, low = j->low, largest = j->largest;
    const grid g = j->grid;
    const wide_grid wide = j->wide;
    float *y = r->y;
    if (j->elements == SCALED && j->evenly) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++)
            y[i] = scaled(x[i], scale[i], inverse_scale[i], low, limit, largest, wide, 1);
        return;
    }
    if (j->elements == SCALED) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++)
            y[i] = scaled(x[i], scale[i], inverse_scale[i], low, limit, largest, wide, 0);
        return;
    }
    if (j->elements == SMALL) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++)
            y[i] = small(x[i], step[i], inverse_step[i], low, limit, largest, g);
        return;
    }
#define EACH(how)                                   \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) \
        y[i] = rounded(x[i], step[i], inverse_step[i], low, limit, how, draws[i])
    BY_ROUNDING(j->rounding, EACH)
}

/* Rounds a run of elements with one unit. */
INLINE void round_all(const run *r, int64_t count, unit u, const job *j) {
    const float *x = r->x, *draws = r->draws, step = u.step, inverse_step = u.inverse_step;
    const double scale = u.scale, inverse_scale = u.inverse_scale;
    const float limit = j->limit, low = j->low, largest = j->largest;
    const grid g = j->grid;
    const wide_grid wide = j->wide;
    float *y = r->y;
    if (j->elements == SCALED && j->evenly) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++)
            y[i] = scaled(x[i], scale, inverse_scale, low, limit, largest, wide, 1);
        return;
    }
    if (j->elements == SCALED) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++)
            y[i] = scaled(x[i], scale, inverse_scale, low, limit, largest, wide, 0);
        return;
    }
    if (j->elements == SMALL) {
        ELEMENTWISE for (int64_t i = 0; i < count; i++) y[i] = small(x[i], step, inverse_step, low, limit, largest, g);
        return;
    }
#define ALL(how) \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) y[i] = rounded(x[i], step, inverse_step, low, limit, how, draws[i])
    BY_ROUNDING(j->rounding, ALL)
}

/* Whether an element of a finite block passes no gradient: it is rounded beyond the largest one in a block of too small a
 * unit, or it is negative where nothing is. */
INLINE int is_clipped(float x, unit u, const job *j, float draw) {
    int over;
    if (j->elements == SCALED) {
        const double k = (double)float_of((uint32_t)magnitude(x)) * u.inverse_scale, most = 2.0 * (double)j->limit;
        over = on_wide_grid(k < most ? k : most, j->wide) > (double)j->limit;
    } else {
        const float k = ratio(x, u.inverse_step), most = 2 * j->limit;
        over = j->elements == SMALL ? on_grid(k < most ? k : most, j->grid) > j->limit
                                    : beyond(k, j->limit, j->rounding, draw);
    }
    const int negative = j->low == 0 && x < 0;
    return (over & u.low & !negative) | negative;
}

/* Before a run is rounded, since y may be x: marks those of its elements from..to that will be clipped in a block. */
static int64_t mark_all(const run *r, int64_t at, int64_t from, int64_t to, unit u, const job *j) {
    uint8_t marks[TILE];
    int64_t found = 0;
    if (!u.finite) return 0;
    for (int64_t i = from; i < to; i++) {
        marks[i] = (uint8_t)is_clipped(r->x[i], u, j, r->draws[i]);
        found += marks[i];
    }
    if (found) mark(j->clipped, at + from, marks + from, to - from);
    return found;
}

/* The same with a unit for each of `count` elements, of blocks with these peaks. */
static int64_t mark_each(const run *r, int64_t at, int64_t count, const int32_t *peak, const job *j, reach codes) {
    uint8_t marks[TILE];
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        const unit u = unit_of(peak[i], j, codes);
        marks[i] = (uint8_t)(is_clipped(r->x[i], u, j, r->draws[i]) & u.finite);
        found += marks[i];
    }
    if (found) mark(j->clipped, at, marks, count);
    return found;
}

#endif
