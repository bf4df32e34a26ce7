/* The choice: each width triple's best candidate, triples divided into boxes of similar widths. See optimum.py. */
#include <stdint.h>
#include <stdlib.h>

#include "candidates.h"

typedef struct {
    const bitq_candidate *all;
    const double *widths;
    double capacity, *bits;
    int64_t *chosen;
} query;

static void answer(const query *q, int64_t triple, const int64_t *candidates, int64_t count) {
    const double *w = &q->widths[3 * triple];
    for (int64_t i = 0; i < count; i++) {
        const bitq_candidate *c = &q->all[candidates[i]];
        double bits = bitq_bits_of(w, c);
        const bitq_candidate *best = q->chosen[triple] < 0 ? NULL : &q->all[q->chosen[triple]];
        if (best && !(bits < q->bits[triple] || (bits == q->bits[triple] && c->steps < best->steps))) continue;
        if (bitq_dot(w, c->footprint) > q->capacity) continue;
        q->bits[triple] = bits;
        q->chosen[triple] = candidates[i];
    }
}

/* True if b is preferred to a everywhere between low and high: the least difference of their traffic lies at a corner. */
static int never_better(const bitq_candidate *a, const bitq_candidate *b, const double *low, const double *high) {
    double d[3] = {a->input - b->input, a->weight - b->weight, a->output - b->output}, sum = 0;
    for (int i = 0; i < 3; i++) sum += d[i] * (d[i] < 0 ? high[i] : low[i]);
    return sum > 0 || (sum == 0 && (b->steps < a->steps || (b->steps == a->steps && b < a)));
}

static int by_width(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Split the triples in two until few candidates or triples are left; each half drops what cannot win in its box. */
static int divide(const query *q, int64_t *triples, int64_t n, const int64_t *candidates, int64_t count) {
    double low[3], high[3];
    for (int i = 0; i < 3; i++) low[i] = high[i] = q->widths[3 * triples[0] + i];
    for (int64_t j = 1; j < n; j++)
        for (int i = 0; i < 3; i++) {
            double w = q->widths[3 * triples[j] + i];
            if (w < low[i]) low[i] = w;
            if (w > high[i]) high[i] = w;
        }

    /* References: the cheapest candidates at the box's two corners and centre among those that fit everywhere in it. */
    double probes[3][3], best[3] = {0, 0, 0};
    const bitq_candidate *reference[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3; i++) probes[0][i] = low[i], probes[1][i] = high[i], probes[2][i] = (low[i] + high[i]) / 2;
    for (int64_t i = 0; i < count; i++) {
        const bitq_candidate *c = &q->all[candidates[i]];
        if (bitq_dot(high, c->footprint) > q->capacity) continue;
        for (int p = 0; p < 3; p++) {
            double bits = bitq_bits_of(probes[p], c);
            if (!reference[p] || bits < best[p] || (bits == best[p] && c->steps < reference[p]->steps))
                reference[p] = c, best[p] = bits;
        }
    }
    int64_t *left = malloc((size_t)count * sizeof *left), lefts = 0;
    if (!left) return BITQ_NO_MEMORY;
    for (int64_t i = 0; i < count; i++) {
        const bitq_candidate *c = &q->all[candidates[i]];
        if (bitq_dot(low, c->footprint) > q->capacity) continue;
        int drop = 0;
        for (int p = 0; p < 3 && !drop; p++)
            drop = reference[p] && c != reference[p] && never_better(c, reference[p], low, high);
        if (!drop) left[lefts++] = candidates[i];
    }

    int failed = 0;
    if (n <= 2 || lefts <= 24) {
        for (int64_t j = 0; j < n; j++) answer(q, triples[j], left, lefts);
    } else {
        int axis = 0;
        for (int i = 1; i < 3; i++)
            if (high[i] / low[i] > high[axis] / low[axis]) axis = i;
        double *sorted = malloc((size_t)n * sizeof *sorted);
        if (!sorted) {
            free(left);
            return BITQ_NO_MEMORY;
        }
        for (int64_t j = 0; j < n; j++) sorted[j] = q->widths[3 * triples[j] + axis];
        qsort(sorted, (size_t)n, sizeof *sorted, by_width);
        double pivot = sorted[n / 2];
        if (pivot == sorted[0]) { /* put the boundary after the run of equal widths */
            int64_t j = n / 2;
            while (j < n && sorted[j] == pivot) j++;
            pivot = j < n ? sorted[j] : pivot;
        }
        free(sorted);
        int64_t small = 0;
        for (int64_t j = 0; j < n; j++)
            if (q->widths[3 * triples[j] + axis] < pivot) {
                int64_t swap = triples[small];
                triples[small++] = triples[j];
                triples[j] = swap;
            }
        if (small == 0 || small == n) { /* all triples are equal */
            for (int64_t j = 0; j < n; j++) answer(q, triples[j], left, lefts);
        } else {
            failed = divide(q, triples, small, left, lefts) || divide(q, triples + small, n - small, left, lefts);
        }
    }
    free(left);
    return failed ? BITQ_NO_MEMORY : 0;
}

int64_t bitq_optimize(const bitq_problem *x, const double *widths, int64_t n, double capacity, int64_t most,
                      bitq_unwanted unwanted, double *bits, int64_t *chosen, bitq_candidate **found) {
    *found = NULL;
    double low[3], high[3];
    for (int i = 0; i < 3; i++) low[i] = high[i] = widths[i];
    for (int64_t j = 0; j < n; j++) {
        chosen[j] = -1;
        for (int i = 0; i < 3; i++) {
            if (widths[3 * j + i] < low[i]) low[i] = widths[3 * j + i];
            if (widths[3 * j + i] > high[i]) high[i] = widths[3 * j + i];
        }
    }
    bitq_candidates all = {NULL, 0, 0};
    int failed = bitq_enumerate(x, low, high, capacity, most, unwanted, &all);
    if (failed) {
        free(all.items);
        return failed;
    }
    int64_t *triples = malloc((size_t)n * sizeof *triples), *candidates = malloc((size_t)all.count * sizeof *candidates);
    int64_t result = BITQ_NO_MEMORY;
    if (triples && (candidates || !all.count)) {
        for (int64_t j = 0; j < n; j++) triples[j] = j;
        for (int64_t i = 0; i < all.count; i++) candidates[i] = i;
        query q = {all.items, widths, capacity, bits, chosen};
        failed = all.count && divide(&q, triples, n, candidates, all.count);
        result = all.count;
        for (int64_t j = 0; j < n; j++)
            if (chosen[j] < 0) result = 0;
        if (failed) result = BITQ_NO_MEMORY;
    }
    free(triples), free(candidates);
    if (result > 0) { /* keep only the chosen ones */
        int64_t *place = calloc((size_t)all.count, sizeof *place), used = 0;
        if (!place) {
            free(all.items);
            return BITQ_NO_MEMORY;
        }
        for (int64_t j = 0; j < n; j++) place[chosen[j]] = 1;
        for (int64_t i = 0; i < all.count; i++)
            if (place[i]) all.items[used] = all.items[i], place[i] = used++;
        for (int64_t j = 0; j < n; j++) chosen[j] = place[chosen[j]];
        free(place);
        *found = all.items;
        return used;
    }
    free(all.items);
    return result;
}

void bitq_free(void *pointer) { free(pointer); }
