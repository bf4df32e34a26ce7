/* What candidates.c finds and choose.c chooses from; engine.h is what Python sees. */
#ifndef BITQ_CANDIDATES_H
#define BITQ_CANDIDATES_H
#include <stdint.h>

#include "engine.h"

typedef struct {
    bitq_candidate *items;
    int64_t count, room;
} bitq_candidates;

/* All candidates that some width triple between low and high may choose. Returns 0, or why there are none: see engine.h. */
int bitq_enumerate(const bitq_problem *problem, const double *low, const double *high, double capacity, int64_t most,
                   bitq_unwanted unwanted, bitq_candidates *found);

/* Widths and footprints come as (input, weight, output). */
static inline double bitq_dot(const double *w, const double *v) { return w[0] * v[0] + w[1] * v[1] + w[2] * v[2]; }

static inline double bitq_bits_of(const double *w, const bitq_candidate *c) {
    return w[0] * c->input + w[1] * c->weight + w[2] * c->output;
}
#endif
