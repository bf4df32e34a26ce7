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
    if (j->elements == SCALED && j->kind == FLOAT32 && j->x == j->y) { /* which is read again after it was written */
        memcpy(r->wide, r->x, (size_t)count * sizeof(float));
        r->x = r->wide;
    }
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

/* A number of the grid times the scale of its block, which is exact if there is a second one (native.py sees to it),
 * and that: rounded once, and limited unless that is `tame`. */
INLINE float times(float q, float step, float second, float largest, int tame) {
    float y = (q * step) * second;
    if (tame) return y;
    y = largest < y ? largest : y; /* NaN stays */
    return -largest > y ? -largest : y;
}

/* x / step on the grid, by a k that is off by less than 2^-22 of itself: the step, 1/step and the product are rounded. That
 * is less than 2^(bits - 22) of the distance u to the next number, so it is right unless it is that near to a tie: |k - q|
 * is not below `doubt`, a part of `shift`, which is 1.5 * 2^23 * u. `certain` keeps its sign bit only where it is. */
INLINE float guess(float k, float shift, float doubt, uint32_t *certain) {
    const float q = (k + shift) - shift, off = float_of((uint32_t)magnitude(k - q)) - shift * doubt;
    *certain &= bits_of(off);
    return q;
}

/* The same by the quotient in double precision: the exact one is a tie h of at most 17 bits, or differs from it by 2^-52 or
 * more, as x has 24 bits and the step at most 35 and |x - h * step| is a multiple of both their last places' lesser. */
INLINE float exactly(float x, double step, double low, double limit, wide_grid g) {
    double k = (double)x / step;
    k = k > low ? k : low;
    k = k < limit ? k : limit;
    return (float)on_wide_grid(k, g);
}

#ifdef _OPENMP
#define CERTAIN _Pragma("omp simd reduction(& : certain)")
#else
#define CERTAIN
#endif

enum { AT_ONCE = 128 };

/* Rounds a run of elements of SCALED, whose steps are step[i] or all step[0], AT_ONCE of them in double precision where one is
 * in doubt. */
INLINE void round_scaled(const run *r, int64_t count, units u, int single, int evenly, const job *j) {
    const float *x = r->x, *step = u.step, *inverse_step = u.inverse_step, second = (float)j->scale.second;
    const float limit = j->limit, low = j->low, largest = j->largest, doubt = j->doubt;
    const grid g = j->grid;
    const wide_grid wide = j->wide;
    float *y = r->y;
    for (int64_t start = 0, end; start < count; start = end) {
        uint32_t certain = u.tame ? 0x80000000u : 0;
        end = count - start < AT_ONCE ? count : start + AT_ONCE;
        if (certain) {
            CERTAIN for (int64_t i = start; i < end; i++) {
                const float k = within_limits(x[i] * inverse_step[single ? 0 : i], low, limit);
                const float q = guess(k, evenly ? 0x1.8p23f : shift_of(k, g), doubt, &certain);
                y[i] = times(q, step[single ? 0 : i], second, largest, 1);
            }
            if (certain) continue;
        }
        ELEMENTWISE for (int64_t i = start; i < end; i++) {
            const float own = step[single ? 0 : i];
            y[i] = times(exactly(x[i], (double)own * (double)second, low, limit, wide), own, second, largest, 0);
        }
    }
}

/* Rounds a run of elements whose steps are powers of two, step[i] or all step[0]. */
INLINE void round_shifted(const run *r, int64_t count, units u, int single, const job *j) {
    const float *x = r->x, *draws = r->draws, *step = u.step;
    const float limit = j->limit, low = j->low, largest = j->largest;
    const grid g = j->grid;
    float *y = r->y;
#define POWERED_RUN(number)                             \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) {   \
        const float own = step[single ? 0 : i];         \
        y[i] = number;                                  \
    }
#define ROUNDED_RUN(how) POWERED_RUN(rounded(x[i], own, inverse(own), low, limit, how, draws[i]))
    if (j->elements == UNIFORM && u.tame && j->rounding == NEAREST)
        POWERED_RUN(nearest(x[i], low * own, limit * own, 0x1.8p23f * own))
    else if (j->elements == UNIFORM)
        BY_ROUNDING(j->rounding, ROUNDED_RUN)
    else if (u.tame)
        POWERED_RUN(on_stepped_grid(within_limits(x[i], low * own, limit * own), (int32_t)bits_of(own), g))
    else
        POWERED_RUN(times(on_grid(within_limits(x[i] * inverse(own), low, limit), g), own, 1, largest, 0))
}

/* Rounds a run of elements whose units are u[i] or all u[0]. */
INLINE void round_run(const run *r, int64_t count, units u, int single, const job *j) {
    if (j->elements != SCALED)
        round_shifted(r, count, u, single, j);
    else if (j->evenly) /* each kind of grid in a loop of its own */
        round_scaled(r, count, u, single, 1, j);
    else
        round_scaled(r, count, u, single, 0, j);
}

/* A run with one unit. */
INLINE void round_all(const run *r, int64_t count, unit u, const job *j) {
    round_run(r, count, (units){&u.step, &u.inverse_step, u.step <= j->calm}, 1, j);
}

/* Whether an element of a finite block passes no gradient: it is rounded beyond the largest one in a block of too small a
 * unit, or it is negative where nothing is. */
INLINE int is_clipped(float x, unit u, const job *j, float draw) {
    int over;
    if (j->elements == SCALED) {
        const double step = (double)u.step * j->scale.second;
        over = exactly(float_of((uint32_t)magnitude(x)), step, 0, 2 * j->limit, j->wide) > j->limit;
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

INLINE int64_t round_rows(const job *j, const rows *all) {
    int64_t clipped = 0, at = all->at;
    run r;
    for (int64_t row = 0; row < all->count; row++, at += all->stride) {
        open_run(&r, j, at, all->width);
        if (all->peak) clipped += mark_each(&r, at, all->width, all->peak, j, all->codes);
        round_run(&r, all->width, all->u, 0, j);
        close_run(&r, j, at, all->width);
    }
    return clipped;
}

#endif
