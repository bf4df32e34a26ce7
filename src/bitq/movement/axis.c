/* Tiles along one image axis: which stored rows they use, and what neighbours in the walk share. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "axis.h"
#include "engine.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int stored(const bitq_axis *x, int64_t place) { return place >= 0 && place < x->places && place % x->spread == 0; }

static int64_t place_of(const bitq_axis *x, int64_t p, int64_t r) { return p * x->stride + r * x->dilation - x->padding; }

static int64_t rows_in(const bitq_axis *x, bitq_interval v) { return v.first > v.last ? 0 : x->below[v.last + 1] - x->below[v.first]; }

static int64_t shared(const bitq_axis *x, bitq_interval a, bitq_interval b) {
    bitq_interval both = {most(a.first, b.first), least(a.last, b.last)};
    return rows_in(x, both);
}

/* The least output of p0..p1-1 whose place with tap r is stored and not below 0, or the largest whose place is stored and
 * not beyond the last; p1 or p0 - 1 if there is none. Places of one tap are an arithmetic progression, of which every
 * period-th may be stored, period <= spread: so few are looked at, however long the axis. */
static int64_t first_stored(const bitq_axis *x, int64_t p0, int64_t p1, int64_t r) {
    int64_t low = place_of(x, 0, r), p = low >= 0 ? p0 : most(p0, ceil_div(-low, x->stride));
    for (int64_t end = least(p1, p + x->spread); p < end && place_of(x, p, r) < x->places; p++)
        if (stored(x, place_of(x, p, r))) return p;
    return p1;
}

static int64_t last_stored(const bitq_axis *x, int64_t p0, int64_t p1, int64_t r) {
    int64_t room = x->places - 1 - place_of(x, 0, r), p = room < 0 ? p0 - 1 : least(p1 - 1, room / x->stride);
    for (int64_t end = most(p0, p - x->spread + 1); p >= end && place_of(x, p, r) >= 0; p--)
        if (stored(x, place_of(x, p, r))) return p;
    return p0 - 1;
}

/* First and last stored place among outputs p0..p1-1 and taps r0..r1-1. The extreme corners answer unless padding or
 * spreading hides them. */
static bitq_interval used(const bitq_axis *x, int64_t p0, int64_t p1, int64_t r0, int64_t r1) {
    bitq_interval v = {place_of(x, p0, r0), place_of(x, p1 - 1, r1 - 1)};
    int first = stored(x, v.first), last = stored(x, v.last);
    if (first && last) return v;
    if (!first) v.first = INT64_MAX;
    if (!last) v.last = -1;
    for (int64_t r = r0; r < r1; r++) {
        int64_t p = first ? p1 : first_stored(x, p0, p1, r);
        if (p < p1) v.first = least(v.first, place_of(x, p, r));
        p = last ? p0 - 1 : last_stored(x, p0, p1, r);
        if (p >= p0) v.last = most(v.last, place_of(x, p, r));
    }
    if (v.first > v.last) v.first = 1, v.last = 0;
    return v;
}

int64_t bitq_axis_part(const bitq_axis *x, const bitq_cut *part, bitq_interval *tiles, int64_t *kept) {
    int64_t np = ceil_div(part->outs, part->tile_out), nr = ceil_div(part->taps, part->tile_tap), span = 0;
    int64_t out_end = part->out + part->outs, tap_end = part->tap + part->taps;
    memset(kept, 0, 9 * sizeof *kept);
    for (int64_t a = 0; a < np; a++)
        for (int64_t b = 0; b < nr; b++) {
            int64_t out = part->out + a * part->tile_out, tap = part->tap + b * part->tile_tap;
            bitq_interval v = used(x, out, least(out + part->tile_out, out_end), tap, least(tap + part->tile_tap, tap_end));
            tiles[a * nr + b] = v;
            int64_t rows = rows_in(x, v);
            span = most(span, rows);
            kept[0] += rows;
        }
#define TILE(a, b) tiles[(a)*nr + (b)]
    for (int64_t a = 0; a < np; a++) kept[2] += shared(x, TILE(a, 0), TILE(a, nr - 1));
    for (int64_t b = 0; b < nr; b++) kept[6] += shared(x, TILE(0, b), TILE(np - 1, b));
    kept[8] = shared(x, TILE(0, 0), TILE(np - 1, nr - 1));
    for (int64_t a = 1; a < np; a++) {
        for (int64_t b = 0; b < nr; b++) kept[3] += shared(x, TILE(a, b), TILE(a - 1, b));
        kept[5] += shared(x, TILE(a, 0), TILE(a - 1, nr - 1));
    }
    for (int64_t b = 1; b < nr; b++) {
        for (int64_t a = 0; a < np; a++) kept[1] += shared(x, TILE(a, b), TILE(a, b - 1));
        kept[7] += shared(x, TILE(0, b), TILE(np - 1, b - 1));
    }
#undef TILE
    return span;
}

/* Fill the sums of one pair of tile sizes; `tiles` has room for all its intervals. */
static void sum_tiles(const bitq_axis *x, bitq_axis_tile *t, bitq_interval *tiles) {
    bitq_cut all = {0, x->out, 0, x->taps, t->tile_out, t->tile_tap};
    t->span = bitq_axis_part(x, &all, tiles, t->kept);
}

/* Input traffic is A*kept[0] - sum of B[state]*kept[state] with A, B >= 0, so less kept[0] and more of the rest is better. */
static int dominates(const bitq_axis_tile *a, const bitq_axis_tile *b) {
    if (a->tile_out > b->tile_out || a->tile_tap > b->tile_tap || a->span > b->span || a->kept[0] > b->kept[0]) return 0;
    for (int state = 1; state < 9; state++)
        if (a->kept[state] < b->kept[state]) return 0;
    return 1;
}

int bitq_axis_open(bitq_axis *x, int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                   int64_t spread) {
    *x = (bitq_axis){out, taps, stride, dilation, padding, size, spread, NULL, size > 0 ? (size - 1) * spread + 1 : 0};
    x->below = calloc((size_t)x->places + 1, sizeof *x->below);
    if (!x->below) return BITQ_NO_MEMORY;
    for (int64_t p = 0; p < x->out; p++)
        for (int64_t r = 0; r < x->taps; r++)
            if (stored(x, place_of(x, p, r))) x->below[place_of(x, p, r) + 1] = 1;
    for (int64_t v = 0; v < x->places; v++) x->below[v + 1] += x->below[v];
    return 0;
}

int bitq_axis_sums(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                   int64_t spread, bitq_axis_tile *tile) {
    bitq_axis x;
    tile->trips_out = ceil_div(out, tile->tile_out);
    tile->trips_tap = ceil_div(taps, tile->tile_tap);
    bitq_interval *tiles = malloc((size_t)(tile->trips_out * tile->trips_tap) * sizeof *tiles);
    int failed = bitq_axis_open(&x, out, taps, stride, dilation, padding, size, spread) || !tiles;
    if (!failed) sum_tiles(&x, tile, tiles);
    free(tiles);
    free(x.below);
    return failed ? BITQ_NO_MEMORY : 0;
}

int64_t bitq_axis_tiles(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                        int64_t spread, bitq_axis_tile *result, int64_t room, bitq_unwanted unwanted) {
    enum { LOOKS = 1 << 20 /* at tiles between two questions */ };
    int64_t looks = 0;
    bitq_axis x;
    int64_t count = bitq_axis_open(&x, out, taps, stride, dilation, padding, size, spread);
    bitq_interval *tiles = malloc((size_t)out * (size_t)taps * sizeof *tiles);
    if (!tiles) count = BITQ_NO_MEMORY;
    if (count == 0) {
        bitq_axis_tile *group = NULL;
        int64_t group_room = 0;
        for (int64_t p_low = 1; p_low <= out && count >= 0;) {
            int64_t trips_out = ceil_div(out, p_low), p_high = trips_out == 1 ? out : (out - 1) / (trips_out - 1);
            for (int64_t r_low = 1; r_low <= taps && count >= 0;) {
                int64_t trips_tap = ceil_div(taps, r_low), r_high = trips_tap == 1 ? taps : (taps - 1) / (trips_tap - 1);
                int64_t members = 0;
                for (int64_t p = p_low; p <= p_high && count >= 0; p++)
                    for (int64_t r = r_low; r <= r_high; r++) {
                        if ((looks += trips_out * trips_tap + members) >= LOOKS) {
                            looks = 0;
                            if (unwanted && unwanted()) {
                                count = BITQ_GIVEN_UP;
                                break;
                            }
                        }
                        bitq_axis_tile t = {p, r, trips_out, trips_tap, 0, {0}};
                        sum_tiles(&x, &t, tiles);
                        int beaten = 0;
                        for (int64_t i = 0; i < members && !beaten; i++) beaten = dominates(&group[i], &t);
                        if (beaten) continue;
                        if (members == group_room) {
                            group_room = 2 * group_room + 8;
                            bitq_axis_tile *more = realloc(group, (size_t)group_room * sizeof *group);
                            if (!more) {
                                count = BITQ_NO_MEMORY;
                                break;
                            }
                            group = more;
                        }
                        group[members++] = t;
                    }
                for (int64_t i = 0; i < members && count >= 0; i++, count++)
                    if (count < room) result[count] = group[i];
                r_low = r_high + 1;
            }
            p_low = p_high + 1;
        }
        free(group);
    }
    free(tiles);
    free(x.below);
    return count;
}
