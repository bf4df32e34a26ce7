/* The tilings of one memory whose problem comes in parts, as the tiles of an outer memory are. See joint.py. */
#include <stdint.h>
#include <stdlib.h>

#include "engine.h"

enum { LOOP_N, LOOP_K, LOOP_C, LOOP_P, LOOP_Q, LOOP_R, LOOP_S, LOOPS };
enum { OUTER, CURRENT, INNER };

typedef struct {
    const bitq_loop_tile *loop[LOOPS];
    const bitq_pair_tile *rows, *columns;
} tile_vector;

typedef struct {
    bitq_choice *items;
    int64_t count, room;
} list;

static int append(list *l, const bitq_choice *c) {
    if (l->count == l->room) {
        int64_t room = 2 * l->room + 1024;
        bitq_choice *items = realloc(l->items, (size_t)room * sizeof *items);
        if (!items) return -1;
        l->items = items, l->room = room;
    }
    l->items[l->count++] = *c;
    return 0;
}

/* Bits that stay when every loop is in the given state, weighted with how often each moves: inputs and weights are read
 * once, outputs written and, but for the first visit, read back. */
static double shared_bits(const tile_vector *t, const double *q, const int *state) {
#define ELEMENT(i) t->loop[i]->element[state[i]]
#define REPEAT(i) t->loop[i]->repeat[state[i]]
    double rows = t->rows->rows[3 * state[LOOP_P] + state[LOOP_R]], columns = t->columns->rows[3 * state[LOOP_Q] + state[LOOP_S]];
    double input = ELEMENT(LOOP_N) * REPEAT(LOOP_K) * ELEMENT(LOOP_C) * rows * columns;
    double weight = ELEMENT(LOOP_K) * ELEMENT(LOOP_C) * ELEMENT(LOOP_R) * ELEMENT(LOOP_S) * REPEAT(LOOP_N) * REPEAT(LOOP_P) *
                    REPEAT(LOOP_Q);
    double output = ELEMENT(LOOP_N) * ELEMENT(LOOP_K) * ELEMENT(LOOP_P) * ELEMENT(LOOP_Q) * REPEAT(LOOP_C) * REPEAT(LOOP_R) *
                    REPEAT(LOOP_S);
    return q[0] * input + q[1] * weight + 2 * q[2] * output;
#undef ELEMENT
#undef REPEAT
}

/* The order that keeps most: what the advance of one loop keeps depends on the set of loops outside of it alone, so this
 * is a longest path in the lattice of sets. Sets *order (outermost first, three bits each); returns the bits kept. */
static double best_order(const tile_vector *t, const double *q, int64_t *order) {
    double best[1 << LOOPS];
    int last[1 << LOOPS], active = 0, state[LOOPS];
    for (int i = 0; i < LOOPS; i++) active |= (t->loop[i]->repeat[CURRENT] > 0) << i;
    for (int s = 0;; s = (s - active) & active) {
        best[s] = s ? -1 : 0;
        if (s == active) break;
    }
    for (int s = 0;; s = (s - active) & active) {
        for (int i = 0; i < LOOPS; i++) state[i] = s >> i & 1 ? OUTER : INNER;
        for (int i = 0; i < LOOPS; i++) {
            if (!(active >> i & 1) || s >> i & 1) continue;
            state[i] = CURRENT;
            double sum = best[s] + shared_bits(t, q, state);
            if (sum > best[s | 1 << i]) best[s | 1 << i] = sum, last[s | 1 << i] = i;
            state[i] = INNER;
        }
        if (s == active) break;
    }
    int64_t inside[LOOPS], count = 0;
    for (int s = active; s; s &= ~(1 << last[s])) inside[count++] = last[s];
    *order = 0;
    for (int64_t at = 0; at < LOOPS; at++) {
        int64_t loop = 0;
        if (at < count) {
            loop = inside[count - 1 - at];
        } else { /* loops of one trip come last, in any order */
            for (int64_t rest = at - count; active >> loop & 1 || rest-- > 0;) loop++;
        }
        *order |= loop << (3 * at);
    }
    return best[active];
}

static double larger(double a, double b) { return a > b ? a : b; }

int64_t bitq_parts_choices(const bitq_parts *x, const double *q, double limit, int64_t *evaluated, bitq_choice **found) {
    static const int OUTSIDE[LOOPS] = {OUTER, OUTER, OUTER, OUTER, OUTER, OUTER, OUTER};
    list all = {NULL, 0, 0};
    bitq_choice best = {.bits = -1};
    int failed = 0, leaf = x->inner == 0;
    *found = NULL;
    for (int64_t h = 0; h < x->pairs[0]; h++)
        for (int64_t w = 0; w < x->pairs[1]; w++)
            for (int64_t n = 0; n < x->tiles[0]; n++)
                for (int64_t c = 0; c < x->tiles[2]; c++)
                    for (int64_t k = 0; k < x->tiles[1]; k++) {
                        const bitq_pair_tile *rows = &x->axes[0][h], *columns = &x->axes[1][w];
                        const bitq_loop_tile *N = &x->loops[0][n], *K = &x->loops[1][k], *C = &x->loops[2][c];
                        tile_vector t = {{N, K, C, &rows->out, &columns->out, &rows->tap, &columns->tap}, rows, columns};
                        double held = q[0] * (double)(N->size * C->size) * (double)(rows->span * columns->span) +
                                      q[1] * (double)(K->size * C->size) * (double)(rows->tap.size * columns->tap.size) +
                                      q[2] * (double)(N->size * K->size) * (double)(rows->out.size * columns->out.size);
                        if (held > x->capacity) continue;
                        double once = q[2] * x->outputs; /* first visits that read nothing back */
                        bitq_choice choice = {.tile = {n, k, c, h, w}};
                        double moved = shared_bits(&t, q, OUTSIDE), further = 0;
                        if (!leaf) { /* every tile is at least read and written once by each memory further in */
                            double input = N->element[OUTER] * K->repeat[OUTER] * C->element[OUTER] * rows->alone * columns->alone;
                            double boxes = N->element[OUTER] * K->repeat[OUTER] * C->element[OUTER] * rows->rows[0] * columns->rows[0];
                            double compulsory = moved - once + q[0] * (input - boxes);
                            for (int64_t i = 0; i < x->inner; i++)
                                further += x->inner_pj[i] * larger(x->scale * compulsory, x->inner_bits[i]);
                            if (x->energy_pj * x->least_bits + further >= limit) continue;
                        }
                        double kept = best_order(&t, q, &choice.order);
                        ++*evaluated;
                        choice.bits = x->scale * (moved - kept - once);
                        choice.bound_pj = x->energy_pj * choice.bits + further;
                        if (leaf) {
                            if (best.bits < 0 || choice.bits < best.bits) best = choice;
                            break; /* fewer trips of K never move more */
                        }
                        if (choice.bound_pj < limit && !failed) failed = append(&all, &choice);
                    }
    if (leaf && best.bits >= 0 && best.bound_pj < limit) failed = append(&all, &best);
    if (failed) {
        free(all.items);
        return -1;
    }
    *found = all.items;
    return all.count;
}
