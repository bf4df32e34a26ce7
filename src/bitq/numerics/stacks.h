/* Stacks: blocks at few neighbouring positions, of which rows are contiguous, as weights have them outside the window of a
 * convolution. Memory is read and written LANES at a time, wherever rows end. */

#ifndef BITQ_STACKS
#define BITQ_STACKS

#include "numbers.h"

enum {
    LANES = 16,
    NARROW = 64, /* most positions */
};

/* The peaks at `inner` positions, of `depth` rows from x on, of which `left` elements follow, with room for LANES behind
 * them. */
#define PEAKS_OF_STACK(name, type, pattern, COUNTED)                                                              \
    INLINE void name(pattern *restrict peak, const type *restrict x, int64_t inner, int64_t depth, int64_t left, \
                     int never_negative, pattern infinity) {                                                     \
        (void)never_negative, (void)infinity;                                                                    \
        for (int64_t i = 0; i < inner; i += LANES) {                                                             \
            int64_t rows = depth;                                                                                \
            pattern most[LANES];                                                                                 \
            for (int64_t k = 0; k < LANES; k++) most[k] = 0;                                                     \
            while (rows > 0 && (rows - 1) * inner + i + LANES > left) rows--;                                    \
            for (int64_t row = 0; row < rows; row++)                                                             \
                for (int64_t k = 0; k < LANES; k++) {                                                            \
                    const pattern own = COUNTED(x[row * inner + i + k]);                                         \
                    most[k] = own > most[k] ? own : most[k];                                                     \
                }                                                                                                \
            for (int64_t row = rows; row < depth; row++)                                                         \
                for (int64_t k = 0; k < LANES && i + k < inner; k++) {                                           \
                    const pattern own = COUNTED(x[row * inner + i + k]);                                         \
                    most[k] = own > most[k] ? own : most[k];                                                     \
                }                                                                                                \
            for (int64_t k = 0; k < LANES; k++) peak[i + k] = most[k];                                           \
        }                                                                                                        \
    }

/* A row of `length` <= NARROW values again and again, from the one at `from` on, until there are `count`, with room for LANES
 * behind them; the row has it, too. */
#define REPEAT(type)                                                                                             \
    INLINE void repeat_##type(type *restrict to, const type *restrict row, int64_t length, int64_t count,        \
                              int64_t from) {                                                                    \
        type twice[2 * NARROW]; /* from each of the first `length` on, LANES follow */                           \
        for (int64_t at = 0; at < length + LANES; at += length)                                                  \
            for (int64_t i = 0; i < length; i += LANES)                                                          \
                for (int64_t k = 0; k < LANES; k++) twice[at + i + k] = row[i + k];                              \
        for (int64_t i = 0; i < count; i += LANES) {                                                             \
            for (int64_t k = 0; k < LANES; k++) to[i + k] = twice[from + k];                                     \
            for (from += LANES; from >= length;) from -= length;                                                 \
        }                                                                                                        \
    }

/* Each of `blocks` values `block` times, with room for LANES behind them. */
#define SPREAD(type)                                                                                             \
    INLINE void spread_##type(type *restrict to, const type *restrict values, int64_t blocks, int64_t block) {   \
        for (int64_t b = 0; b < blocks; b++, to += block)                                                        \
            for (int64_t i = 0; i < block; i += LANES)                                                           \
                for (int64_t k = 0; k < LANES; k++) to[i + k] = values[b];                                       \
    }

#endif
