/* What a tile vector of a problem in parts moves: parts.c, for all that plan several memories. */
#ifndef BITQ_PARTS_H
#define BITQ_PARTS_H
#include <stdint.h>

#include "engine.h"

enum { LOOP_N, LOOP_K, LOOP_C, LOOP_P, LOOP_Q, LOOP_R, LOOP_S, LOOPS };
enum { OUTER, CURRENT, INNER };

typedef struct {
    const bitq_loop_tile *loop[LOOPS];
    const bitq_pair_tile *rows, *columns;
} bitq_tile_vector;

/* q: widths of input, weight and partial sum. Bits that stay when every loop is in the given state; if all are OUTER, bits
 * of all tiles, first visits of outputs read back as well. */
double bitq_shared_bits(const bitq_tile_vector *t, const double *q, const int *state);

/* The order that keeps most bits, outermost first, three bits each; returns the bits kept. */
double bitq_best_order(const bitq_tile_vector *t, const double *q, int64_t *order);
#endif
