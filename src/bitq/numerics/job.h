/* What is to be done, in which pieces, and what the blocks of a piece turn out to be. */

#ifndef BITQ_JOB
#define BITQ_JOB

#include "grid.h"
#include "stream.h"

typedef struct {
    int32_t lowest, highest; /* patterns of the powers of two that blocks may share */
    int32_t bump; /* added to a peak, of which the power of two then counts */
} reach;

/* Whole numbers under a power of two; other grids under one; grids under a float. */
typedef enum { UNIFORM, SMALL, SCALED } elements;

typedef struct job job;

/* Rounds contiguous blocks and tells their peaks: `plain_blocks` of tiles.h, for one processor. */
typedef void plain_function(const job *, reach, int64_t at, int64_t blocks, int64_t block, int32_t *peak);

/* What elements are divided by, the step, and 1/step; NaN if the block is not `finite`. Of SCALED the step is still to be
 * multiplied with the second scale, and 1/step rounded, or NaN if it is too small for that. `low`: the step is less than
 * the block alone would have got. */
typedef struct {
    float step, inverse_step;
    int low, finite;
} unit;

/* The same for each place of a row, 1/step of SCALED alone. `tame`: all blocks are finite, and of so small a step that no
 * number of theirs is too large for its type, nor what is added to round it, nor 1/step too small. */
typedef struct {
    const float *step, *inverse_step;
    int tame;
} units;

/* `count` rows of `width` <= TILE elements, `stride` apart, from element `at` on, with a unit for each place of a row. Where
 * there are peaks, of the block of each place, elements that pass no gradient are marked. */
typedef struct {
    int64_t at, width, stride, count;
    units u;
    const int32_t *peak;
    reach codes;
} rows;

/* Round rows, and count those marked; round a run with one unit: `round_rows` and `round_all` of run.h, for one processor.
 * Structs go by address: a copy would wait for all that was stored before. */
typedef struct run run;
typedef int64_t rows_function(const job *, const rows *);
typedef void all_function(const run *, int64_t count, unit, const job *);

struct job {
    const void *x;
    void *y;          /* NULL: only peaks are wanted */
    uint8_t *clipped; /* a bit per element in order of memory, zero before; or NULL */
    int64_t outer, channels, inner, block;
    int kind, rounding, floor; /* floor: least E */
    int32_t to_step; /* between the patterns of 2^E and of the step */
    elements elements;
    grid grid;
    wide_grid wide;
    int evenly;  /* the grid of SCALED are the whole numbers */
    float calm;  /* largest step that is `tame` */
    float doubt; /* times what is added to round a number, SCALED: from how near to a tie on it may be one, or none */
    float_scale scale;
    float largest; /* finite number of this kind */
    int32_t whole; /* peak that stands for those of all blocks, or -1 */
    int whole_low; /* whether the tensor alone would have got a larger unit */
    stream_function *stream; /* NULL: through the caches */
    float limit, low; /* largest and least element, in units; `low` 0: negative numbers count as 0 */
    uint32_t key[2];
    rows_function *rows;
    all_function *all;
    plain_function *plain; /* NULL: not all is as it takes it */
    /* how the work is cut into tiles; of narrow columns each is a stack, and `width` of them are taken together */
    int64_t width, strips, stacks, tiles;
};

typedef struct {
    int32_t top, least; /* largest and least peak of the finite, nonzero blocks */
    int32_t peak; /* largest of all */
    int64_t clipped;
} summary;

#define NOTHING {0, UNBOUNDED, 0, 0}

/* The pattern of the power of two that counts of a peak. */
INLINE int32_t above(int32_t peak, reach r) {
    return (int32_t)(((uint32_t)peak + (uint32_t)r.bump) & EXPONENT);
}

/* The pattern of 2^E of a block with this peak. */
INLINE int32_t shared(int32_t peak, reach r) {
    int32_t power = above(peak, r);
    power = power < r.lowest ? r.lowest : power;
    return power > r.highest ? r.highest : power;
}

/* NaN for a block with NaN or infinity. */
INLINE float step_of(int32_t peak, const job *j, reach r) {
    const float step = float_of((uint32_t)(shared(peak, r) + j->to_step));
    return peak >= UNBOUNDED ? float_of(QUIET_NAN) : step;
}

/* Whether the block alone would have got a larger power of two. True of NaN and infinity too. */
INLINE int saturates(int32_t peak, reach r) { return above(peak, r) > shared(peak, r); }

/* Whether the block alone would have got a larger step. */
INLINE int is_low(int32_t peak, const job *j, reach r) {
    if (j->whole >= 0) return j->whole_low;
    if (j->elements != SCALED) return saturates(peak, r);
    const double own = wanted(peak, j->scale);
    return own > limited(own, j->scale);
}

INLINE float scale_of(int32_t peak, const job *j) {
    const float scale = (float)limited(wanted(peak, j->scale), j->scale);
    return peak >= UNBOUNDED ? float_of(QUIET_NAN) : scale;
}

INLINE float inverse_scale(float scale, const job *j) {
    const float all = scale * (float)j->scale.second;
    return all < 0x1p125f ? 1 / all : float_of(QUIET_NAN);
}

INLINE unit unit_of(int32_t peak, const job *j, reach r) {
    const float step = j->elements == SCALED ? scale_of(peak, j) : step_of(peak, j, r);
    const float inverse_step = j->elements == SCALED ? inverse_scale(step, j) : inverse(step);
    return (unit){step, inverse_step, is_low(peak, j, r), peak < UNBOUNDED};
}

INLINE void note(summary *s, int32_t peak) {
    const int32_t top = peak < UNBOUNDED ? peak : 0, least = top ? top : UNBOUNDED;
    s->peak = peak > s->peak ? peak : s->peak;
    s->top = top > s->top ? top : s->top;
    s->least = least < s->least ? least : s->least;
}

#endif
