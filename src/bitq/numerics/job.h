/* What is to be done, in which pieces, and what the blocks of a piece turn out to be. */

#ifndef BITQ_JOB
#define BITQ_JOB

#include "numbers.h"
#include "stream.h"

typedef struct {
    int32_t lowest, highest; /* patterns of the powers of two that blocks may share */
} reach;

typedef struct job job;

/* Rounds contiguous blocks and tells their peaks: `plain_blocks` of tiles.h, for one processor. */
typedef void plain_function(const job *, reach, int64_t at, int64_t blocks, int64_t block, int32_t *peak);

struct job {
    const void *x;
    void *y;          /* NULL: only peaks are wanted */
    uint8_t *clipped; /* a bit per element in order of memory, zero before; or NULL */
    int64_t outer, channels, inner, block;
    int kind, rounding, floor; /* floor: least E */
    int32_t to_step; /* between the patterns of 2^E and of the step */
    stream_function *stream; /* NULL: through the caches */
    float limit; /* largest mantissa */
    uint32_t key[2];
    plain_function *plain; /* NULL: not all is as it takes it */
    /* how the work is cut into tiles */
    int64_t width, strips, stacks, tiles;
};

typedef struct {
    int32_t top, least; /* largest and least peak of the finite, nonzero blocks */
    int64_t clipped;
} summary;

#define NOTHING {0, UNBOUNDED, 0}

/* The pattern of 2^E of a block with this peak. */
INLINE int32_t shared(int32_t peak, reach r) {
    int32_t power = peak & EXPONENT;
    power = power < r.lowest ? r.lowest : power;
    return power > r.highest ? r.highest : power;
}

/* NaN for a block with NaN or infinity. */
INLINE float step_of(int32_t peak, const job *j, reach r) {
    const float step = float_of((uint32_t)(shared(peak, r) + j->to_step));
    return peak >= UNBOUNDED ? float_of(QUIET_NAN) : step;
}

/* True of NaN and infinity too, whose step is NaN and compares with nothing. */
INLINE int saturates(int32_t peak, reach r) { return (peak & EXPONENT) > shared(peak, r); }

INLINE void note(summary *s, int32_t peak) {
    const int32_t top = peak < UNBOUNDED ? peak : 0, least = top ? top : UNBOUNDED;
    s->top = top > s->top ? top : s->top;
    s->least = least < s->least ? least : s->least;
}

#endif
