/* The exact least data movement of one convolution through one buffer. See optimum.py for the mathematics. */

/* One pair of tile sizes along one image axis: outputs (P or Q) and kernel taps (R or S).
 * Loops are in one of three states when some loop of the nest advances: 0 outside of it, 1 that loop, 2 inside of it.
 * kept[3 * state of the output loop + state of the tap loop]: stored rows the new tile shares with the held one, summed
 * over all indices of this axis for which that advance happens. kept[0] is thus the sum of all tiles' rows. */
typedef struct {
    int64_t tile_out, tile_tap, trips_out, trips_tap;
    int64_t span; /* rows of the largest tile */
    int64_t kept[9];
} bitq_axis_tile;

typedef struct {
    int64_t N, K, C, P, Q, R, S; /* extents of one group */
    int64_t groups;
    const bitq_axis_tile *rows, *columns;
    int64_t row_tiles, column_tiles;
} bitq_problem;

/* tile: N, K, C; axis: index into rows and columns; stationary: bits of the loops (N K C P Q R S = 1 2 4 ...) that run
 * innermost so that the weights (a subset of N P Q) or the outputs (of C R S) stay. Traffic in elements, all groups. */
typedef struct {
    int64_t tile[3];
    int64_t axis[2];
    int64_t stationary;
    double input, weight, output;
    double footprint[3]; /* input, weight, output elements of the largest tiles */
    double steps;        /* number of tiles; of equal traffic, the fewest steps leave the next memory most to reuse */
} bitq_candidate;

/* Non-dominated tile pairs of one axis, at most `room` of them stored; returns how many there are, -1 out of memory. */
int64_t bitq_axis_tiles(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                        int64_t spread, bitq_axis_tile *result, int64_t room);

/* One pair of tile sizes: the largest tile's rows and the sums. Returns 0, or -1 out of memory. */
int bitq_axis_sums(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                   int64_t spread, bitq_axis_tile *tile);

/* Least traffic for each of n width triples (input, weight, output; row major). bits and chosen have n entries, chosen
 * indexes *found (released with bitq_free). Returns the number of *found, 0 if a triple fits no tiling, -1 out of memory. */
int64_t bitq_optimize(const bitq_problem *problem, const double *widths, int64_t n, double capacity, double *bits,
                      int64_t *chosen, bitq_candidate **found);

/* The loop order of a candidate, outermost first, as seven indices into N K C P Q R S. */
void bitq_order(const bitq_problem *problem, const bitq_candidate *candidate, int64_t *order);

void bitq_free(void *pointer);
