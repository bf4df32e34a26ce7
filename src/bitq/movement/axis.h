/* One image axis as axis.c lays it out, for those who sum over parts of it. */
#ifndef BITQ_AXIS_H
#define BITQ_AXIS_H
#include <stdint.h>

typedef struct {
    int64_t out, taps, stride, dilation, padding, size, spread;
    int64_t *below; /* below[v]: existing rows at places < v of the spread axis */
    int64_t places;
} bitq_axis;

typedef struct {
    int64_t first, last; /* places of the first and last stored row used; first > last: none */
} bitq_interval;

/* Finds which rows exist; `below` is to be freed. Returns 0, or BITQ_NO_MEMORY. */
int bitq_axis_open(bitq_axis *x, int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                   int64_t spread);

/* A rectangle of outputs and taps, and how it is cut. */
typedef struct {
    int64_t out, outs, tap, taps; /* first, and how many */
    int64_t tile_out, tile_tap;
} bitq_cut;

/* kept as in bitq_axis_tile, of one part; `tiles` has room for all its intervals. Returns the rows of the largest tile. */
int64_t bitq_axis_part(const bitq_axis *x, const bitq_cut *part, bitq_interval *tiles, int64_t *kept);
#endif
