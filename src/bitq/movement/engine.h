/* The exact least data movement of one convolution through one buffer. See optimum.py for the mathematics. */

/* Work that may take long asks now and then whether it is wanted still; any answer but 0 ends it. */
typedef int (*bitq_unwanted)(void);

/* What work returns, or in place of a count, if it has no result. */
enum { BITQ_NO_MEMORY = -1, BITQ_GIVEN_UP = -2, BITQ_TOO_MANY = -3 };

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

/* Non-dominated tile pairs of one axis, at most `room` of them stored; returns how many there are. */
int64_t bitq_axis_tiles(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                        int64_t spread, bitq_axis_tile *result, int64_t room, bitq_unwanted unwanted);

/* One pair of tile sizes: the largest tile's rows and the sums. Returns 0, or BITQ_NO_MEMORY. */
int bitq_axis_sums(int64_t out, int64_t taps, int64_t stride, int64_t dilation, int64_t padding, int64_t size,
                   int64_t spread, bitq_axis_tile *tile);

/* Least traffic for each of n width triples (input, weight, output; row major). bits and chosen have n entries, chosen
 * indexes *found (released with bitq_free). Returns the number of *found, 0 if a triple fits no tiling; BITQ_TOO_MANY if more
 * than `most` candidates are to be compared. */
int64_t bitq_optimize(const bitq_problem *problem, const double *widths, int64_t n, double capacity, int64_t most,
                      bitq_unwanted unwanted, double *bits, int64_t *chosen, bitq_candidate **found);

/* The loop order of a candidate, outermost first, as seven indices into N K C P Q R S. */
void bitq_order(const bitq_problem *problem, const bitq_candidate *candidate, int64_t *order);

/* A tile size of one loop of a problem in parts: sums over the parts by the loop's state, as a loop that indexes a tensor
 * (elements) and as one that does not (repetitions). */
typedef struct {
    int64_t size;
    double element[3], repeat[3];
} bitq_loop_tile;

/* A pair of tile sizes of one image axis of a problem in parts; rows as bitq_axis_tile.kept, summed over the parts. */
typedef struct {
    bitq_loop_tile out, tap;
    int64_t span; /* rows of the largest tile */
    double rows[9];
    double alone; /* sum of the rows that the tiles need as problems of their own */
} bitq_pair_tile;

/* A memory that tiles every part. Of the `inner` memories further in, each bit costs inner_price, and none moves less than
 * inner_bits. All sums are of one group; bits and prices count `scale` groups. */
typedef struct {
    const bitq_loop_tile *loops[3]; /* N K C, largest tile first */
    int64_t tiles[3];
    const bitq_pair_tile *axes[2];
    int64_t pairs[2];
    double outputs, scale;
    double capacity, price, least_bits;
    int64_t inner;
    const double *inner_price, *inner_bits;
} bitq_parts;

/* tile: indices into loops and axes; order: seven loops (N K C P Q R S = 0 1 2 ...) of three bits, outermost lowest.
 * bits: the least traffic over all orders; bound: its price and the least further in. */
typedef struct {
    int64_t tile[5];
    int64_t order;
    double bits, bound;
} bitq_choice;

/* All tilings that fit and whose bound is below the limit; of the innermost memory only the best one. widths: of input,
 * weight, partial sum and finished output. *solved counts
 * the tile vectors whose orders were solved, N, K and C tiles that make the same tiles once, and one for every thousand that
 * were only looked at. Returns the number of *found
 * (bitq_free), BITQ_TOO_MANY if more than `most` were to be solved or about as many found. */
int64_t bitq_parts_choices(const bitq_parts *parts, const double *widths, double limit, int64_t most, bitq_unwanted unwanted,
                           int64_t *solved, bitq_choice **found);

/* A chain of memories, the innermost last, each given the tiles of the one before it as problems of their own. sizes: of each
 * loop, from its extent down. counts: of them, and of the tables of each axis of a bound. axis: out, taps, stride, dilation,
 * padding, size, spread. rows[a]: of the largest tile of each pair of sizes (outputs, then taps) where axis a is not cut, and
 * behind them where it is. widths: of input, weight, partial sum and finished output. price: of a bit into each memory.
 * For a bound, held: the least sizes that count as those of `sizes`; rows: of tiles with rows between their taps, and if an axis
 * has such, behind them of those without; kept: likewise, the nine sums of bitq_axis_tile if the layer is one part; shared:
 * rows at a boundary of two tiles, or -1. Otherwise kept is NULL. */
typedef struct {
    int64_t counts[9];
    const int64_t *sizes[7];
    int64_t axis[2][7];
    const int64_t *rows[2];
    int64_t levels;
    const double *capacity, *price;
    double widths[4], outputs, scale;
    const int64_t *held[7];
    const double *kept[2];
    double shared[2];
} bitq_chain;

/* The tiles (levels x 7 indices into sizes, outermost first) and orders (as bitq_choice.order) that move least by the model
 * of chain.py, found with at most `most` orders solved beyond those of the bounds. Returns 1, 0 if none was found, or why
 * there are none. */
/* A price that no plan comes below; see least.py. */
int64_t bitq_chain_least(const bitq_chain *chain, int64_t most, bitq_unwanted unwanted, double *least);

int64_t bitq_chain_plan(const bitq_chain *chain, int64_t most, bitq_unwanted unwanted, int64_t *tiles, int64_t *orders);

/* For each of n width triples, the plan of least price among those that fit every memory; what stands in `best` and `chosen`
 * stays unless a plan is better. moved: (plans x 3) priced elements; held: (plans x levels x 3). first: number of the first
 * plan. Of equal prices the earlier plan stays. */
void bitq_choose_plans(const double *widths, int64_t n, const double *moved, const double *held, int64_t plans, int64_t levels,
                       const double *capacity, int32_t first, double *best, int32_t *chosen);

void bitq_free(void *pointer);
