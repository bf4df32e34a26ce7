/* Candidates: for every tile vector that may fit, the loop orders some width triple may want. See optimum.py. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "candidates.h"

enum { LOOP_N, LOOP_K, LOOP_C, LOOP_P, LOOP_Q, LOOP_R, LOOP_S, LOOPS };
enum { OUTER, CURRENT, INNER };

/* The loops whose place decides what inputs stay, as bits of a set: K P Q R S. N and C never keep anything when they
 * advance or lie inside of what advances, so they go outermost unless they belong to a stationary run. */
enum { SET_K = 1, SET_P = 2, SET_Q = 4, SET_R = 8, SET_S = 16, SETS = 32, MEMBERS = 5 };
static const int MEMBER_LOOP[MEMBERS] = {LOOP_K, LOOP_P, LOOP_Q, LOOP_R, LOOP_S};

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

typedef struct {
    const bitq_axis_tile *h, *w;
    int64_t n, k, c; /* tile sizes */
    int64_t trips[LOOPS];
} tile_vector;

static tile_vector vector_of(const bitq_problem *x, int64_t n, int64_t k, int64_t c, int64_t h, int64_t w) {
    tile_vector t = {&x->rows[h], &x->columns[w], n, k, c, {0}};
    t.trips[LOOP_N] = ceil_div(x->N, n);
    t.trips[LOOP_K] = ceil_div(x->K, k);
    t.trips[LOOP_C] = ceil_div(x->C, c);
    t.trips[LOOP_P] = t.h->trips_out;
    t.trips[LOOP_R] = t.h->trips_tap;
    t.trips[LOOP_Q] = t.w->trips_out;
    t.trips[LOOP_S] = t.w->trips_tap;
    return t;
}

/* Inputs kept when `member` advances with the loops of `outside` around it (N and C outermost). */
static double kept_when(const bitq_problem *x, const tile_vector *t, int member, int outside) {
#define STATE(i) (member == (i) ? CURRENT : (outside >> (i)) & 1 ? OUTER : INNER)
    int k = STATE(0), h = 3 * STATE(1) + STATE(3), w = 3 * STATE(2) + STATE(4);
#undef STATE
    int64_t times = k == OUTER ? t->trips[LOOP_K] : k == CURRENT ? t->trips[LOOP_K] - 1 : 1;
    return (double)(x->N * x->C * times) * (double)t->h->kept[h] * (double)t->w->kept[w];
}

/* head[s]: most inputs kept by an order of s outermost; tail[s]: most kept by the loops inside of s. What advances
 * keeps depends on the set outside of it alone, so both are longest paths in the lattice of subsets. */
typedef struct {
    double head[SETS], tail[SETS], gain[SETS][MEMBERS];
} lattice;

static void solve_lattice(const bitq_problem *x, const tile_vector *t, lattice *l) {
    int active = 0;
    for (int m = 0; m < MEMBERS; m++)
        if (t->trips[MEMBER_LOOP[m]] > 1) active |= 1 << m;
    for (int s = 0; s < SETS; s++) l->head[s] = l->tail[s] = 0;
    /* A loop of one trip is nowhere in particular: only subsets of the active loops are walked. */
    for (int s = 0;; s = (s - active) & active) {
        for (int m = 0; m < MEMBERS; m++) {
            if (!(active >> m & 1) || s >> m & 1) continue;
            double gain = kept_when(x, t, m, s | (~active & (SETS - 1))), sum = l->head[s] + gain;
            l->gain[s][m] = gain;
            if (sum > l->head[s | 1 << m]) l->head[s | 1 << m] = sum;
        }
        if (s == active) break;
    }
    for (int s = active;; s = (s - 1) & active) {
        for (int m = 0; m < MEMBERS; m++) {
            if (!(active >> m & 1) || s >> m & 1) continue;
            double sum = l->gain[s][m] + l->tail[s | 1 << m];
            if (sum > l->tail[s]) l->tail[s] = sum;
        }
        if (s == 0) break;
    }
}

static int active_set(const tile_vector *t) {
    int active = 0;
    for (int m = 0; m < MEMBERS; m++)
        if (t->trips[MEMBER_LOOP[m]] > 1) active |= 1 << m;
    return active;
}

static int members_of(int64_t loops) {
    int set = 0;
    for (int m = 0; m < MEMBERS; m++)
        if (loops >> MEMBER_LOOP[m] & 1) set |= 1 << m;
    return set;
}

/* The box of widths that is asked for, and what no candidate may exceed at its lowest corner to be of use: the least
 * traffic at the highest corner of one that fits everywhere. inputs: elements that every tiling reads. */
typedef struct {
    const double *low, *high;
    double capacity, most, inputs;
} box;

/* Append what one tile vector can do: for every set of loops run innermost to keep the weights or the outputs in place,
 * the order that reads the fewest inputs. Dominated ones are left out. */
static void append_orders(const bitq_problem *x, const tile_vector *t, bitq_candidate base, box *asked, bitq_candidates *out) {
    static const int KEEPS_WEIGHT[3] = {LOOP_N, LOOP_P, LOOP_Q}, KEEPS_OUTPUT[3] = {LOOP_C, LOOP_R, LOOP_S};
    double groups = (double)x->groups, all[2] = {1, 1};
    double weights = (double)(x->K * x->C) * (double)(x->R * x->S), outputs = (double)(x->N * x->K) * (double)(x->P * x->Q);
    for (int i = 0; i < 3; i++) all[0] *= (double)t->trips[KEEPS_WEIGHT[i]], all[1] *= (double)t->trips[KEEPS_OUTPUT[i]];
    base.steps = (double)t->trips[LOOP_K] * (all[0] * all[1]);

    /* Weights and outputs do not both stay, and every input is read once at least: most tilings need no closer look. */
    bitq_candidate weights_stay = {.input = asked->inputs, .weight = groups * weights}, outputs_stay = weights_stay;
    weights_stay.output = groups * outputs * (2 * all[1] - 1);
    outputs_stay.weight = groups * weights * all[0], outputs_stay.output = groups * outputs;
    if (bitq_bits_of(asked->low, &weights_stay) > asked->most && bitq_bits_of(asked->low, &outputs_stay) > asked->most) return;

    lattice l;
    solve_lattice(x, t, &l);
    int active = active_set(t), fits_everywhere = bitq_dot(asked->high, base.footprint) <= asked->capacity;
    int64_t first = out->count;
    double steps = (double)t->trips[LOOP_K] * (double)x->N * (double)x->C * (double)t->h->kept[0] * (double)t->w->kept[0];

    for (int side = 0; side < 2; side++) {
        const int *loops = side ? KEEPS_OUTPUT : KEEPS_WEIGHT;
        for (int subset = side; subset < 8; subset++) { /* the empty run once */
            int64_t run = 0;
            double stays = 1;
            int idle = 0;
            for (int i = 0; i < 3; i++)
                if (subset >> i & 1) {
                    int64_t trips = t->trips[loops[i]];
                    if (trips == 1) idle = 1;
                    run |= (int64_t)1 << loops[i];
                    stays *= (double)trips;
                }
            if (idle) continue;
            int outside = active & ~members_of(run);
            int channel_inside = (run >> loops[0] & 1) != 0; /* N or C lies inside: nothing outside of it keeps inputs */
            double kept = (channel_inside ? 0 : l.head[outside]) + l.tail[outside];
            bitq_candidate c = base;
            c.stationary = run;
            c.input = groups * (steps - kept);
            c.weight = groups * weights * (side ? all[0] : all[0] / stays);
            c.output = groups * outputs * (2 * (side ? all[1] / stays : all[1]) - 1);
            int beaten = bitq_bits_of(asked->low, &c) > asked->most;
            for (int64_t i = first; i < out->count && !beaten; i++) {
                const bitq_candidate *o = &out->items[i];
                beaten = o->input <= c.input && o->weight <= c.weight && o->output <= c.output;
            }
            if (!beaten) out->items[out->count++] = c;
            double most = bitq_bits_of(asked->high, &c);
            if (fits_everywhere && most < asked->most) asked->most = most;
        }
    }
}

typedef struct {
    int64_t *sizes, count;
} sizes;

/* The smallest tile of each number of trips, largest first: trips up to the root of the extent, and sizes up to it. */
static sizes sizes_of(int64_t extent) {
    int64_t room = 1;
    while (room < extent / room + 1) room++;
    sizes s = {malloc((size_t)(2 * room + 1) * sizeof(int64_t)), 0};
    if (s.sizes)
        for (int64_t trips = 1; trips <= extent;) {
            int64_t size = ceil_div(extent, trips);
            s.sizes[s.count++] = size;
            trips = size == 1 ? extent + 1 : ceil_div(extent, size - 1);
        }
    return s;
}

enum { ORDERS = 15 /* at most, that one tile vector appends */ };

/* Make room for what one more tile vector appends. Before the list grows, those that the box has outrun meanwhile are
 * dropped: no triple chooses them. */
static int make_room(bitq_candidates *l, const box *asked, int64_t most) {
    int64_t left = 0, room = 2 * l->room + 1024;
    if (l->count + ORDERS <= l->room) return 0;
    for (int64_t i = 0; i < l->count; i++)
        if (!(bitq_bits_of(asked->low, &l->items[i]) > asked->most)) l->items[left++] = l->items[i];
    l->count = left;
    if (2 * left + ORDERS <= l->room) return 0;
    if (left > most) return BITQ_TOO_MANY;
    bitq_candidate *items = realloc(l->items, (size_t)room * sizeof *items);
    if (!items) return BITQ_NO_MEMORY;
    l->items = items, l->room = room;
    return 0;
}

/* All candidates that some width triple between low and high may choose. Given the other tiles, the largest K tile that
 * fits is best (fewer trips of K never move more), so only the K tiles that are largest somewhere in the box are tried. */
int bitq_enumerate(const bitq_problem *x, const double *low, const double *high, double capacity, int64_t most,
                   bitq_unwanted unwanted, bitq_candidates *out) {
    enum { LOOKS = 1 << 17 /* at tile vectors between two questions */ };
    int64_t looks = 0;
    double rows = (double)x->rows[x->row_tiles - 1].kept[0]; /* the last pair of an axis is its only tile */
    double columns = (double)x->columns[x->column_tiles - 1].kept[0];
    box asked = {low, high, capacity, INFINITY, (double)(x->groups * x->N * x->C) * rows * columns};
    sizes ns = sizes_of(x->N), ks = sizes_of(x->K), cs = sizes_of(x->C);
    int failed = !ns.sizes || !ks.sizes || !cs.sizes ? BITQ_NO_MEMORY : 0;
    for (int64_t h = 0; h < x->row_tiles && !failed; h++)
        for (int64_t w = 0; w < x->column_tiles && !failed; w++) {
            const bitq_axis_tile *rows = &x->rows[h], *columns = &x->columns[w];
            for (int64_t n = 0; n < ns.count && !failed; n++)
                for (int64_t c = 0; c < cs.count && !failed; c++) {
                    bitq_candidate base = {.tile = {ns.sizes[n], 0, cs.sizes[c]}, .axis = {h, w}};
                    base.footprint[0] = (double)(ns.sizes[n] * cs.sizes[c]) * (double)(rows->span * columns->span);
                    double weight = (double)(cs.sizes[c] * rows->tile_tap * columns->tile_tap);
                    double output = (double)(ns.sizes[n] * rows->tile_out * columns->tile_out);
                    for (int64_t k = 0; k < ks.count && !failed; k++) {
                        if (++looks % LOOKS == 0 && unwanted && unwanted()) {
                            failed = BITQ_GIVEN_UP;
                            break;
                        }
                        base.tile[1] = ks.sizes[k];
                        base.footprint[1] = weight * (double)ks.sizes[k];
                        base.footprint[2] = output * (double)ks.sizes[k];
                        if (bitq_dot(low, base.footprint) > capacity) continue;
                        tile_vector t = vector_of(x, ns.sizes[n], ks.sizes[k], cs.sizes[c], h, w);
                        if ((failed = make_room(out, &asked, most))) break;
                        append_orders(x, &t, base, &asked, out);
                        if (bitq_dot(high, base.footprint) <= capacity) break;
                    }
                }
        }
    free(ns.sizes), free(ks.sizes), free(cs.sizes);
    return failed;
}

void bitq_order(const bitq_problem *x, const bitq_candidate *c, int64_t *order) {
    tile_vector t = vector_of(x, c->tile[0], c->tile[1], c->tile[2], c->axis[0], c->axis[1]);
    lattice l;
    solve_lattice(x, &t, &l);
    int active = active_set(&t), inside = active & members_of(c->stationary), outside = active & ~inside;
    int n_inside = (c->stationary >> LOOP_N & 1) != 0, c_inside = (c->stationary >> LOOP_C & 1) != 0;
    int head[MEMBERS], heads = 0, tail[MEMBERS], tails = 0;

    for (int s = outside; s;) /* back from the whole to the empty set along a longest path */
        for (int m = 0; m < MEMBERS; m++)
            if (s >> m & 1 && l.head[s & ~(1 << m)] + l.gain[s & ~(1 << m)][m] == l.head[s]) {
                head[heads++] = m;
                s &= ~(1 << m);
                break;
            }
    for (int s = outside; s != active;)
        for (int m = 0; m < MEMBERS; m++)
            if (active >> m & 1 && !(s >> m & 1) && l.gain[s][m] + l.tail[s | 1 << m] == l.tail[s]) {
                tail[tails++] = m;
                s |= 1 << m;
                break;
            }

    int64_t at = 0;
    if (!n_inside) order[at++] = LOOP_N;
    if (!c_inside) order[at++] = LOOP_C;
    while (heads) order[at++] = MEMBER_LOOP[head[--heads]];
    if (n_inside) order[at++] = LOOP_N;
    if (c_inside) order[at++] = LOOP_C;
    for (int i = 0; i < tails; i++) order[at++] = MEMBER_LOOP[tail[i]];
    for (int m = 0; m < MEMBERS; m++)
        if (!(active >> m & 1)) order[at++] = MEMBER_LOOP[m];
}
