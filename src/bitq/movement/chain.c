/* The tilings of a chain of memories, all at once. See chain.py. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "axis.h"
#include "parts.h"

enum { MOST_LEVELS = 8, GAPS = LOOPS, CHOICES = LOOPS + 2 };

/* Indices into sizes: the larger, the smaller the tile. Behind them, of a bound, for each axis whether the tile has no rows
 * between its taps. */
typedef struct {
    int32_t at[CHOICES];
} tile;

typedef struct {
    tile t;
    double alone; /* price of its traffic if the whole layer is the problem, at first a bound of it */
    int exact;
} entry;

typedef struct {
    entry *items;
    int64_t count;
} entries;

typedef struct {
    tile outer;
    int64_t level; /* -1: free */
    double price;
    int proven, has_tile;
    tile best;
} known;

typedef struct {
    int64_t key; /* -1: free */
    bitq_pair_tile pair;
} pair_entry;

typedef struct {
    pair_entry *items;
    int64_t room, count;
} pairs;

typedef struct {
    const bitq_chain *x;
    bitq_loop_tile *loops[MOST_LEVELS][LOOPS]; /* (outer, own) */
    bitq_axis axes[2];
    bitq_interval *intervals;
    pairs pairs[2];
    entries lists[MOST_LEVELS];
    double rest[MOST_LEVELS + 1]; /* least price of the memories from this one inward */
    known *memo;
    int64_t memo_room, memo_count;
    int64_t solved, asked, most;
    bitq_unwanted unwanted;
    int failed;
} search;

static const tile WHOLE = {{0}};
static const int OUT[2] = {LOOP_P, LOOP_Q}, TAP[2] = {LOOP_R, LOOP_S};

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static uint64_t mixed(uint64_t h) {
    h ^= h >> 31, h *= 0x9E3779B97F4A7C15u, h ^= h >> 29, h *= 0xBF58476D1CE4E5B9u;
    return h ^ h >> 32;
}

/* One loop cut into parts, and these into tiles. */
static bitq_loop_tile loop_tile(int64_t extent, int64_t part, int64_t size) {
    int64_t whole = extent / part, rest = extent % part;
    int64_t trips = whole * ceil_div(part, size) + (rest ? ceil_div(rest, size) : 0), parts = whole + (rest > 0);
    int64_t single = part <= size ? extent : rest && rest <= size ? rest : 0;
    return (bitq_loop_tile){size, {(double)extent, 0, (double)single}, {(double)trips, (double)(trips - parts), (double)parts}};
}

/* At least how often one loop's parts, and at least how often its tiles, repeat what the loop does not index; see least.py.
 * `level` memories further out cut the loop. */
static bitq_loop_tile least_tile(int64_t extent, int64_t part, int64_t size, int64_t level) {
    double trips = (double)ceil_div(extent, size), parts = (double)ceil_div(extent, part), over = trips * size - (double)extent;
    if (part == size) return (bitq_loop_tile){size, {(double)extent, 0, (double)extent}, {trips, 0, trips}};
    for (int64_t larger = (int64_t)parts - 1; larger > 0; larger--) { /* if only so many parts are larger than a tile */
        int64_t single = ceil_div(extent - larger * part, size);
        if (single > level * larger || single * size >= extent) break;
        double left = ((double)larger * extent - single * over) / (double)(extent - single * size);
        if (left < parts) parts = left;
    }
    if (parts < 1) parts = 1;
    if (parts > trips) parts = trips;
    return (bitq_loop_tile){size, {(double)extent, 0, 0}, {trips, trips - parts, parts}};
}

static void least_rows(search *s, int64_t level, int a, const int32_t *outer, const int32_t *own, bitq_pair_tile *pair) {
    const bitq_chain *x = s->x;
    const double *whole = &x->kept[a][9 * ((own[2] * x->counts[OUT[a]] + own[0]) * x->counts[TAP[a]] + own[1])];
    for (int i = 0; i < 9; i++) { /* what has one tile in each part keeps it there */
        int out = i / 3, tap = i % 3;
        if (out == INNER && own[0] == outer[0]) out = OUTER;
        if (tap == INNER && own[1] == outer[1]) tap = OUTER;
        pair->rows[i] = whole[3 * out + tap];
    }
    if (own[1] || x->shared[a] < 0 || !own[0]) return;
    const bitq_loop_tile *l = &s->loops[level][OUT[a]][outer[0] * x->counts[OUT[a]] + own[0]];
    double h = x->shared[a], current = l->repeat[CURRENT] * h, wraps = own[0] == outer[0] ? pair->rows[0] : l->repeat[INNER] * h;
    double kept[9] = {pair->rows[0], 0, pair->rows[0], current, 0, current, wraps, 0, wraps};
    memcpy(pair->rows, kept, sizeof kept);
}

/* Rows of an axis, summed over its parts. Parts that lie inside of what is stored are alike. */
static void sum_parts(search *s, int a, const int32_t *outer, const int32_t *own, bitq_pair_tile *pair) {
    const bitq_chain *x = s->x;
    const int64_t *out_sizes = x->sizes[OUT[a]], *tap_sizes = x->sizes[TAP[a]], *g = x->axis[a];
    int64_t part_out = out_sizes[outer[0]], part_tap = tap_sizes[outer[1]], inside[9], kept[9], sums[9] = {0};
    int known_inside = 0;
    for (int64_t p = 0; p < g[0]; p += part_out)
        for (int64_t r = 0; r < g[1]; r += part_tap) {
            bitq_cut cut = {p, least(part_out, g[0] - p), r, least(part_tap, g[1] - r), out_sizes[own[0]], tap_sizes[own[1]]};
            int64_t first = p * g[2] + r * g[3] - g[4], last = first + (cut.outs - 1) * g[2] + (cut.taps - 1) * g[3];
            int alike = g[6] == 1 && first >= 0 && last < s->axes[a].places && cut.outs == part_out && cut.taps == part_tap;
            if (!alike || !known_inside) {
                bitq_axis_part(&s->axes[a], &cut, s->intervals, kept);
                if (alike) memcpy(inside, kept, sizeof inside), known_inside = 1;
            }
            for (int i = 0; i < 9; i++) sums[i] += alike ? inside[i] : kept[i];
        }
    for (int i = 0; i < 9; i++) pair->rows[i] = (double)sums[i];
}

static const bitq_pair_tile *pair_tile(search *s, int64_t level, int a, const tile *outer, const tile *own) {
    pairs *p = &s->pairs[a];
    const bitq_chain *x = s->x;
    int32_t u[2] = {outer->at[OUT[a]], outer->at[TAP[a]]}, t[3] = {own->at[OUT[a]], own->at[TAP[a]], own->at[GAPS + a]};
    int64_t outs = x->counts[OUT[a]], taps = x->counts[TAP[a]];
    int64_t key = ((u[0] * taps + u[1]) * outs + t[0]) * taps + t[1];
    if (x->kept[0]) key = (key * 2 + t[2]) * MOST_LEVELS + level;
    if (2 * p->count >= p->room) {
        int64_t room = p->room ? 2 * p->room : 1024;
        pair_entry *items = malloc((size_t)room * sizeof *items);
        if (!items) {
            s->failed = BITQ_NO_MEMORY;
            return NULL;
        }
        for (int64_t i = 0; i < room; i++) items[i].key = -1;
        for (int64_t i = 0; i < p->room; i++)
            if (p->items[i].key >= 0) {
                uint64_t at = mixed((uint64_t)p->items[i].key) & (uint64_t)(room - 1);
                while (items[at].key >= 0) at = (at + 1) & (uint64_t)(room - 1);
                items[at] = p->items[i];
            }
        free(p->items);
        p->items = items, p->room = room;
    }
    uint64_t at = mixed((uint64_t)key) & (uint64_t)(p->room - 1);
    while (p->items[at].key >= 0 && p->items[at].key != key) at = (at + 1) & (uint64_t)(p->room - 1);
    if (p->items[at].key < 0) {
        p->items[at].key = key, p->count++;
        if (x->kept[0]) least_rows(s, level, a, u, t, &p->items[at].pair);
        else sum_parts(s, a, u, t, &p->items[at].pair);
    }
    return &p->items[at].pair;
}

#define LOOP(d) (&s->loops[level][d][outer->at[d] * s->x->counts[d] + own->at[d]])

/* At least what any order moves: the weights and the outputs never both stay, and every part reads its inputs once. */
static double bound_of(search *s, int64_t level, const tile *outer, const tile *own, double inputs) {
    const double *q = s->x->widths;
    double weights = 1, all_w = 1, parts_w = 1, all_o = 1, parts_o = 1;
    for (int d = 0; d < LOOPS; d++) {
        const bitq_loop_tile *l = LOOP(d);
        if (d == LOOP_K || d == LOOP_C || d == LOOP_R || d == LOOP_S) weights *= l->element[OUTER];
        if (d == LOOP_N || d == LOOP_P || d == LOOP_Q) all_w *= l->repeat[OUTER], parts_w *= l->repeat[INNER];
        if (d == LOOP_C || d == LOOP_R || d == LOOP_S) all_o *= l->repeat[OUTER], parts_o *= l->repeat[INNER];
    }
    double stay_w = q[1] * weights * parts_w + 2 * q[2] * s->x->outputs * all_o;
    double stay_o = q[1] * weights * all_w + 2 * q[2] * s->x->outputs * parts_o;
    double once = (2 * q[2] - q[3]) * s->x->outputs;
    return (stay_w < stay_o ? stay_w : stay_o) - once + q[0] * inputs * LOOP(LOOP_K)->repeat[INNER];
}

/* Price of what moves into the memory of one level, in the best order. */
static double moved(search *s, int64_t level, const tile *outer, const tile *own, int64_t *order) {
    static const int OUTSIDE[LOOPS] = {OUTER, OUTER, OUTER, OUTER, OUTER, OUTER, OUTER};
    const bitq_pair_tile *rows = pair_tile(s, level, 0, outer, own), *columns = pair_tile(s, level, 1, outer, own);
    if (!rows || !columns) return INFINITY;
    bitq_tile_vector t = {{LOOP(0), LOOP(1), LOOP(2), LOOP(3), LOOP(4), LOOP(5), LOOP(6)}, rows, columns};
    const double *q = s->x->widths;
    double once = (2 * q[2] - q[3]) * s->x->outputs;
    s->solved++;
    if (s->solved - s->asked >= 4096) {
        s->asked = s->solved;
        if (s->unwanted && s->unwanted()) s->failed = BITQ_GIVEN_UP;
    }
    return s->x->price[level] * s->x->scale * (bitq_shared_bits(&t, q, OUTSIDE) - once - bitq_best_order(&t, q, order));
}

/* Where what lies inside of a tile stands, or is to stand. */
static known *place(const search *s, int64_t level, const tile *outer) {
    uint64_t h = (uint64_t)level;
    for (int d = 0; d < CHOICES; d++) h = mixed(h * 0x100000001B3u + (uint64_t)outer->at[d] + 1);
    uint64_t at = h & (uint64_t)(s->memo_room - 1);
    while (s->memo[at].level >= 0 && (s->memo[at].level != level || memcmp(&s->memo[at].outer, outer, sizeof *outer)))
        at = (at + 1) & (uint64_t)(s->memo_room - 1);
    return &s->memo[at];
}

/* No path inward from a tile is known to be below this. */
static double known_least(const search *s, int64_t level, const tile *outer) {
    if (level == s->x->levels) return 0;
    const known *k = place(s, level, outer);
    return k->level < 0 ? s->rest[level] : k->price;
}

static known *find(search *s, int64_t level, const tile *outer) {
    if (2 * s->memo_count >= s->memo_room) {
        int64_t room = s->memo_room ? 2 * s->memo_room : 1 << 12;
        known *memo = malloc((size_t)room * sizeof *memo), *old = s->memo;
        if (!memo) {
            s->failed = BITQ_NO_MEMORY;
            return NULL;
        }
        for (int64_t i = 0; i < room; i++) memo[i].level = -1;
        int64_t rooms = s->memo_room;
        s->memo = memo, s->memo_room = room, s->memo_count = 0;
        for (int64_t i = 0; i < rooms; i++)
            if (old[i].level >= 0) *find(s, old[i].level, &old[i].outer) = old[i];
        free(old);
    }
    known *k = place(s, level, outer);
    if (k->level < 0) {
        *k = (known){*outer, level, s->rest[level], 0, 0, {{0}}};
        s->memo_count++;
    }
    return k;
}

static int stopped(const search *s) { return s->failed || s->solved >= s->most; }

static int fits(const search *s, int64_t level, const tile *t) {
    const bitq_chain *x = s->x;
    double size[LOOPS], rows[2];
    for (int d = 0; d < LOOPS; d++) size[d] = (double)x->held[d][t->at[d]];
    for (int a = 0; a < 2; a++) {
        int64_t o = t->at[OUT[a]], r = t->at[TAP[a]], pairs = x->counts[OUT[a]] * x->counts[TAP[a]];
        int second = x->kept[0] ? t->at[GAPS + a] : o || r;
        rows[a] = (double)x->rows[a][second * pairs + o * x->counts[TAP[a]] + r];
    }
    double input = size[LOOP_N] * size[LOOP_C] * rows[0] * rows[1], weight = size[LOOP_K] * size[LOOP_C] * size[LOOP_R] * size[LOOP_S];
    double output = size[LOOP_N] * size[LOOP_K] * size[LOOP_P] * size[LOOP_Q];
    return x->widths[0] * input + x->widths[1] * weight + x->widths[2] * output <= x->capacity[level];
}

/* Whether a tile has fewer taps than a stride, so that those further in may have no rows between theirs; see least.py. */
static int leaves_rows_out(const bitq_chain *x, int a, const tile *t) {
    return x->counts[GAPS + a] > 1 && x->sizes[TAP[a]][t->at[TAP[a]]] < least(x->axis[a][2], x->axis[a][1]);
}

/* Whether what has more of a loop, or rows between its taps, is better for what lies further in as well. */
static int may_grow(const bitq_chain *x, const tile *t, int d) {
    return t->at[d] > 0 && !(d == TAP[0] && leaves_rows_out(x, 0, t)) && !(d == TAP[1] && leaves_rows_out(x, 1, t));
}

/* Whether a tile that fits also does with more of a loop, where the outer tile has more, or with rows between its taps. */
static int can_grow(const search *s, int64_t level, const tile *outer, const tile *own) {
    tile grown = *own;
    for (int d = 0; d < CHOICES; d++)
        if (own->at[d] > outer->at[d] && may_grow(s->x, own, d)) {
            grown.at[d]--;
            if (fits(s, level, &grown)) return 1;
            grown.at[d]++;
        }
    return 0;
}

/* The least price from this memory inward, if it is below the limit; infinite if not. */
static double solve(search *s, int64_t level, const tile *outer, double limit) {
    if (level == s->x->levels) return 0;
    known *k = find(s, level, outer);
    if (!k) return INFINITY;
    if (k->price >= limit) return INFINITY;
    if (k->proven) return k->price;
    double best = limit, inner = s->rest[level + 1], input_rows[2];
    tile best_tile = {{0}};
    int found = 0;
    entries *list = &s->lists[level];
    for (int a = 0; a < 2; a++) {
        const tile *parts = s->x->kept[0] ? &WHOLE : outer; /* a bound has fewer parts than outer tiles may have */
        const bitq_pair_tile *p = pair_tile(s, level, a, parts, parts);
        if (!p) return INFINITY;
        input_rows[a] = p->rows[0];
    }
    double inputs = (double)s->x->sizes[LOOP_N][0] * (double)s->x->sizes[LOOP_C][0] * input_rows[0] * input_rows[1];
    for (int64_t i = 0; i < list->count && !stopped(s); i++) {
        entry *e = &list->items[i];
        if (e->alone + inner >= best) break;
        tile own = e->t;
        int clipped = 0, impossible = 0;
        for (int a = 0; a < 2; a++) impossible |= own.at[GAPS + a] && !leaves_rows_out(s->x, a, outer);
        if (impossible) continue;
        for (int d = 0; d < LOOPS; d++)
            if (own.at[d] < outer->at[d]) own.at[d] = outer->at[d], clipped = 1;
        if (clipped && s->x->kept[0] && can_grow(s, level, outer, &own)) continue; /* another one does more, clipped */
        double bound = s->x->price[level] * s->x->scale * bound_of(s, level, outer, &own, inputs);
        if (bound + inner >= best) continue;
        tile inside = own; /* rows between taps are nothing to what lies further in */
        inside.at[GAPS] = inside.at[GAPS + 1] = 0;
        double further_least = known_least(s, level + 1, &inside);
        if (bound + further_least >= best || e->alone + further_least >= best) continue;
        int64_t order;
        double here = moved(s, level, outer, &own, &order);
        if (here + further_least >= best) continue;
        double further = solve(s, level + 1, &inside, best - here);
        if (here + further < best) best = here + further, best_tile = own, found = 1;
    }
    k = find(s, level, outer);
    if (!k) return INFINITY;
    if (found) {
        k->best = best_tile, k->has_tile = 1, k->price = best;
        k->proven = !stopped(s);
        return best;
    }
    if (!stopped(s) && limit > k->price) k->price = limit;
    return INFINITY;
}

static int by_price(const void *a, const void *b) {
    double x = ((const entry *)a)->alone, y = ((const entry *)b)->alone;
    return (x > y) - (x < y);
}

/* The largest tiles that fit: smaller ones never move less by the model. */
static void list_tiles(search *s, int64_t level) {
    const bitq_chain *x = s->x;
    entries *list = &s->lists[level];
    int64_t room = 0;
    tile t;
    const bitq_pair_tile *rows = pair_tile(s, level, 0, &WHOLE, &WHOLE), *columns = pair_tile(s, level, 1, &WHOLE, &WHOLE);
    if (!rows || !columns) return;
    double inputs = (double)x->sizes[LOOP_N][0] * (double)x->sizes[LOOP_C][0] * rows->rows[0] * columns->rows[0];
    if (fits(s, level, &WHOLE)) {
        list->items = malloc(sizeof *list->items);
        if (!list->items) s->failed = BITQ_NO_MEMORY;
        else list->items[list->count++] = (entry){WHOLE, 0, 0};
    } else {
#define EACH(d) for (t.at[d] = 0; t.at[d] < x->counts[d]; t.at[d]++)
    EACH(LOOP_N) EACH(LOOP_C) EACH(LOOP_P) EACH(LOOP_Q) EACH(LOOP_R) EACH(LOOP_S) EACH(GAPS) EACH(GAPS + 1) {
        t.at[LOOP_K] = (int32_t)x->counts[LOOP_K] - 1;
        if (!fits(s, level, &t)) continue;
        int32_t low = 0, high = t.at[LOOP_K]; /* the first that fits */
        while (low < high) {
            t.at[LOOP_K] = (low + high) / 2;
            if (fits(s, level, &t)) high = t.at[LOOP_K];
            else low = t.at[LOOP_K] + 1;
        }
        t.at[LOOP_K] = low;
        int largest = 1;
        for (int d = 0; d < CHOICES && largest; d++)
            if (d != LOOP_K && may_grow(x, &t, d)) {
                t.at[d]--;
                largest = !fits(s, level, &t);
                t.at[d]++;
            }
        if (!largest) continue;
        if (list->count == room) {
            room = 2 * room + 1024;
            entry *items = realloc(list->items, (size_t)room * sizeof *items);
            if (!items) {
                s->failed = BITQ_NO_MEMORY;
                return;
            }
            list->items = items;
        }
        list->items[list->count++] = (entry){t, x->price[level] * x->scale * bound_of(s, level, &WHOLE, &t, inputs), 0};
    }
#undef EACH
    }
    qsort(list->items, (size_t)list->count, sizeof *list->items, by_price);
    double best = INFINITY;
    for (int64_t i = 0; i < list->count && list->items[i].alone < best && !s->failed; i++) {
        int64_t order;
        list->items[i].alone = moved(s, level, &WHOLE, &list->items[i].t, &order);
        list->items[i].exact = 1;
        if (list->items[i].alone < best) best = list->items[i].alone;
    }
    s->rest[level] = best;
}

/* Makes exact what the limit may admit, and sorts. */
static void sharpen(search *s, int64_t level, double most) {
    entries *list = &s->lists[level];
    int64_t order;
    for (int64_t i = 0; i < list->count && !stopped(s); i++)
        if (!list->items[i].exact && list->items[i].alone < most) {
            list->items[i].alone = moved(s, level, &WHOLE, &list->items[i].t, &order);
            list->items[i].exact = 1;
        }
    qsort(list->items, (size_t)list->count, sizeof *list->items, by_price);
}

/* Makes all tables and lists. */
static void begin(search *s) {
    const bitq_chain *x = s->x;
    int64_t intervals = 1;
    for (int64_t l = 0; l < x->levels; l++)
        for (int d = 0; d < LOOPS; d++) {
            int64_t n = x->counts[d];
            bitq_loop_tile *tiles = s->loops[l][d] = malloc((size_t)(n * n) * sizeof *tiles);
            if (!tiles) {
                s->failed = BITQ_NO_MEMORY;
                return;
            }
            for (int64_t u = 0; u < n; u++)
                for (int64_t t = u; t < n; t++) {
                    const int64_t *sizes = x->sizes[d];
                    tiles[u * n + t] = x->kept[0] ? least_tile(sizes[0], sizes[u], sizes[t], l) : loop_tile(sizes[0], sizes[u], sizes[t]);
                }
        }
    for (int a = 0; a < 2 && !s->failed; a++) {
        const int64_t *g = x->axis[a];
        if (g[0] * g[1] > intervals) intervals = g[0] * g[1];
        s->failed = bitq_axis_open(&s->axes[a], g[0], g[1], g[2], g[3], g[4], g[5], g[6]);
    }
    s->intervals = malloc((size_t)intervals * sizeof *s->intervals);
    if (!s->intervals) s->failed = BITQ_NO_MEMORY;
    for (int64_t l = x->levels - 1; l >= 0 && !s->failed; l--) {
        list_tiles(s, l);
        s->rest[l] += s->rest[l + 1];
    }
}

/* The plan that the tables of what was found lead to. */
static int64_t follow(search *s, int64_t *tiles, int64_t *orders) {
    tile outer = WHOLE;
    for (int64_t l = 0; l < s->x->levels; l++) {
        const known *k = find(s, l, &outer);
        if (!k || !k->has_tile) return 0;
        tile own = k->best;
        for (int d = 0; d < LOOPS; d++) tiles[l * LOOPS + d] = own.at[d];
        moved(s, l, &outer, &own, &orders[l]);
        outer = own;
    }
    return 1;
}

static void end(search *s) {
    for (int64_t l = 0; l < s->x->levels; l++) {
        for (int d = 0; d < LOOPS; d++) free(s->loops[l][d]);
        free(s->lists[l].items);
    }
    for (int a = 0; a < 2; a++) free(s->axes[a].below), free(s->pairs[a].items);
    free(s->intervals), free(s->memo);
}

/* Raises the limit until a path lies below it, the budget is spent or there is none to find. Returns the price of the path,
 * if there is one; *least: no path is below that. */
static double raise_limit(search *s, int64_t most, double *least) {
    static const double STEPS[] = {0.004, 0.01, 0.02, 0.03, 0.04, 0.055, 0.07, 0.09, 0.115, 0.15, 0.2, 0.3, 0.6, 1.5, 5, 30, 1e9};
    double found = INFINITY;
    s->most = s->solved + most;
    *least = s->rest[0];
    for (int64_t turn = 0; turn < (int64_t)(sizeof STEPS / sizeof *STEPS) && found == INFINITY && !stopped(s); turn++) {
        double limit = s->rest[0] * (1 + STEPS[turn]);
        for (int64_t l = 0; l < s->x->levels; l++) sharpen(s, l, limit - (s->rest[0] - (s->rest[l] - s->rest[l + 1])));
        found = solve(s, 0, &WHOLE, limit);
        if (!stopped(s)) *least = found < INFINITY ? found : limit;
    }
    return found;
}

int64_t bitq_chain_plan(const bitq_chain *x, int64_t most, bitq_unwanted unwanted, int64_t *tiles, int64_t *orders) {
    if (x->levels > MOST_LEVELS) return BITQ_TOO_MANY;
    search s = {.x = x, .most = INT64_MAX, .unwanted = unwanted};
    double least;
    begin(&s);
    int64_t found = !s.failed && raise_limit(&s, most, &least) < INFINITY;
    if (found && !s.failed) found = follow(&s, tiles, orders);
    end(&s);
    return s.failed ? s.failed : found;
}

int64_t bitq_chain_least(const bitq_chain *x, int64_t most, bitq_unwanted unwanted, double *least) {
    if (x->levels > MOST_LEVELS) return BITQ_TOO_MANY;
    search s = {.x = x, .most = INT64_MAX, .unwanted = unwanted};
    begin(&s);
    *least = 0;
    if (!s.failed) raise_limit(&s, most, least);
    end(&s);
    return s.failed ? s.failed : 1;
}

void bitq_choose_plans(const double *widths, int64_t n, const double *moved, const double *held, int64_t plans, int64_t levels,
                       const double *capacity, int32_t first, double *best, int32_t *chosen) {
    for (int64_t i = 0; i < n; i++) {
        const double *w = &widths[3 * i];
        for (int64_t p = 0; p < plans; p++) {
            const double *m = &moved[3 * p], *h = &held[3 * p * levels];
            double price = w[0] * m[0] + w[1] * m[1] + w[2] * m[2];
            if (!(price < best[i])) continue;
            int64_t l = 0;
            while (l < levels && w[0] * h[3 * l] + w[1] * h[3 * l + 1] + w[2] * h[3 * l + 2] <= capacity[l]) l++;
            if (l == levels) best[i] = price, chosen[i] = first + (int32_t)p;
        }
    }
}
