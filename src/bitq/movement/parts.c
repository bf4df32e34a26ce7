/* The tilings of one memory whose problem comes in parts, as the tiles of an outer memory are. See parts.py. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"

typedef struct {
    bitq_choice *items;
    int64_t count, room;
} list;

static int append(list *l, const bitq_choice *c) {
    if (l->count == l->room) {
        int64_t room = 2 * l->room + 1024;
        bitq_choice *items = realloc(l->items, (size_t)room * sizeof *items);
        if (!items) return BITQ_NO_MEMORY;
        l->items = items, l->room = room;
    }
    l->items[l->count++] = *c;
    return 0;
}

/* Bits that stay when every loop is in the given state, weighted with how often each moves: inputs and weights are read
 * once, outputs written and, but for the first visit, read back. */
double bitq_shared_bits(const bitq_tile_vector *t, const double *q, const int *state) {
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
double bitq_best_order(const bitq_tile_vector *t, const double *q, int64_t *order) {
    enum { INPUT = 1 << LOOP_N | 1 << LOOP_C, WEIGHT = 1 << LOOP_K | 1 << LOOP_C | 1 << LOOP_R | 1 << LOOP_S,
           OUTPUT = 1 << LOOP_N | 1 << LOOP_K | 1 << LOOP_P | 1 << LOOP_Q };
    double best[1 << LOOPS];
    int last[1 << LOOPS], active = 0, wraps = 0, state[LOOPS];
    for (int i = 0; i < LOOPS; i++) {
        active |= (t->loop[i]->repeat[CURRENT] > 0) << i;
        wraps |= (t->loop[i]->element[INNER] == 0) << i; /* inside of what advances, it leaves nothing of what it indexes */
    }
    for (int s = 0;; s = (s - active) & active) {
        best[s] = s ? -1 : 0;
        if (s == active) break;
    }
    for (int s = 0;; s = (s - active) & active) {
        for (int i = 0; i < LOOPS; i++) state[i] = s >> i & 1 ? OUTER : INNER;
        for (int i = 0; i < LOOPS; i++) {
            if (!(active >> i & 1) || s >> i & 1) continue;
            int gone = 1 << i | (active & wraps & ~s);
            state[i] = CURRENT;
            double sum = best[s];
            if (!(gone & INPUT) || !(gone & WEIGHT) || !(gone & OUTPUT)) sum += bitq_shared_bits(t, q, state);
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

/* Whether a tile vector is wanted, and with which order: all but its capacity, and so the same for all sizes of N, K and
 * C that make the same tiles. */
static int judge(const bitq_parts *x, const double *q, const bitq_tile_vector *t, double limit, int64_t *solved, bitq_choice *c) {
    static const int OUTSIDE[LOOPS] = {OUTER, OUTER, OUTER, OUTER, OUTER, OUTER, OUTER};
    double once = (2 * q[2] - q[3]) * x->outputs; /* first visits read nothing back, last ones write what is finished */
    double moved = bitq_shared_bits(t, q, OUTSIDE) - once, further = 0;
    if (x->inner) { /* every memory further in reads and writes every tile at least once */
        double repeated = t->loop[LOOP_N]->element[OUTER] * t->loop[LOOP_K]->repeat[OUTER] * t->loop[LOOP_C]->element[OUTER];
        double gaps = t->rows->rows[0] * t->columns->rows[0] - t->rows->alone * t->columns->alone;
        double compulsory = x->scale * (moved - q[0] * repeated * gaps);
        for (int64_t i = 0; i < x->inner; i++) further += x->inner_price[i] * larger(compulsory, x->inner_bits[i]);
        if (x->price * x->least_bits + further >= limit) return 0;
    }
    ++*solved;
    c->bits = x->scale * (moved - bitq_best_order(t, q, &c->order));
    c->bound = x->price * c->bits + further;
    return c->bound < limit;
}

/* Index of the first tile that makes the same tiles. */
static void first_alike(const bitq_loop_tile *tiles, int64_t count, int64_t *first) {
    for (int64_t i = 0; i < count; i++) {
        int alike = i > 0;
        for (int state = 0; state < 3 && alike; state++)
            alike = tiles[i].element[state] == tiles[i - 1].element[state] && tiles[i].repeat[state] == tiles[i - 1].repeat[state];
        first[i] = alike ? first[i - 1] : i;
    }
}

int64_t bitq_parts_choices(const bitq_parts *x, const double *q, double limit, int64_t most, bitq_unwanted unwanted,
                           int64_t *solved, bitq_choice **found) {
    enum { UNKNOWN, UNWANTED, WANTED, LOOKS = 1024 /* at tile vectors take the time of solving one */, SOLUTIONS = 4096 };
    int64_t asked = 0;
    typedef struct {
        bitq_choice choice;
        int verdict;
    } judged;
    list all = {NULL, 0, 0};
    bitq_choice best = {.bits = -1};
    int64_t *first_k = malloc((size_t)x->tiles[1] * sizeof *first_k), *first_c = malloc((size_t)x->tiles[2] * sizeof *first_c);
    judged *known = malloc((size_t)x->tiles[1] * sizeof *known);
    int failed = !first_k || !first_c || !known, stopped = 0;
    int64_t looks = 0;
    *found = NULL;
    if (!failed) first_alike(x->loops[1], x->tiles[1], first_k), first_alike(x->loops[2], x->tiles[2], first_c);
    for (int64_t h = 0; h < x->pairs[0] && !failed && !stopped; h++)
        for (int64_t w = 0; w < x->pairs[1] && !failed && !stopped; w++)
            for (int64_t n = 0; n < x->tiles[0] && !failed && !stopped; n++)
                for (int64_t c = 0; c < x->tiles[2] && !failed && !stopped; c++) {
                    const bitq_pair_tile *rows = &x->axes[0][h], *columns = &x->axes[1][w];
                    const bitq_loop_tile *N = &x->loops[0][n], *C = &x->loops[2][c];
                    double input = (double)(N->size * C->size) * (double)(rows->span * columns->span);
                    double weight = (double)(C->size * rows->tap.size * columns->tap.size);
                    double output = (double)(N->size * rows->out.size * columns->out.size);
                    if (first_c[c] == c)
                        for (int64_t k = 0; k < x->tiles[1]; k++) known[k].verdict = UNKNOWN;
                    for (int64_t k = 0; k < x->tiles[1] && !failed; k++) {
                        if (++looks % LOOKS == 0) ++*solved;
                        if (*solved - asked >= SOLUTIONS) {
                            asked = *solved;
                            if (unwanted && unwanted()) {
                                stopped = BITQ_GIVEN_UP;
                                break;
                            }
                        }
                        if ((stopped = *solved >= most || all.count >= most ? BITQ_TOO_MANY : 0)) break;
                        const bitq_loop_tile *K = &x->loops[1][k];
                        double size = (double)K->size;
                        if (q[0] * input + q[1] * (weight * size) + q[2] * (output * size) > x->capacity) continue;
                        judged *same = &known[first_k[k]];
                        if (same->verdict == UNKNOWN) {
                            bitq_tile_vector t = {{N, K, C, &rows->out, &columns->out, &rows->tap, &columns->tap}, rows, columns};
                            same->verdict = judge(x, q, &t, limit, solved, &same->choice) ? WANTED : UNWANTED;
                        }
                        bitq_choice choice = same->choice;
                        if (same->verdict == WANTED) {
                            int64_t tile[5] = {n, k, c, h, w};
                            memcpy(choice.tile, tile, sizeof tile);
                            if (x->inner)
                                failed = append(&all, &choice);
                            else if (best.bits < 0 || choice.bits < best.bits)
                                best = choice;
                        }
                        if (!x->inner) break; /* fewer tiles of K never move more */
                    }
                }
    if (best.bits >= 0 && !failed) failed = append(&all, &best);
    free(first_k), free(first_c), free(known);
    if (failed || stopped) {
        free(all.items);
        return failed ? BITQ_NO_MEMORY : stopped;
    }
    *found = all.items;
    return all.count;
}
