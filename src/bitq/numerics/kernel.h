/* What tools/extensions/kernel.py tells Python of kernel.c. */

/* What the elements of a tensor become. One of a block is k times its unit, k the nearest number of a grid: multiples of
 * `least`, and from `least` * 2^mantissa on those that have `mantissa` bits below their leading one, up to `most`.
 *
 * A power of two: E is the exponent of max|x| of the block, one more if its bits below the leading one, plus `bump`, carry
 * over; it is brought into lowest..highest, where `has_bias`, or into what `top_code` codes reach below the largest E.
 * The unit is 2^(E + to_unit).
 * A float: the unit is max|x| / `most`, rounded to `digits` bits below its leading one and to a multiple of `scale_least`,
 * and brought into smallest..largest; it is that times a second one where `least_second` is not 0, the float32 next to
 * max|x| of the tensor / (most * largest), which is at least `least_second`. */
typedef struct {
    double most, least;
    int mantissa, bits; /* bits: of `most`, and of the numbers with a leading one */
    int never_negative, rounding; /* 0 nearest, ties to even; others only where `uniform` */
    int uniform; /* the grid are whole numbers, under a power of two without bump */
    int is_float; /* what the scale is */
    int has_bias, lowest, highest, top_code, floor, bump, to_unit;
    double smallest, largest, scale_least, least_second;
    int digits, up; /* up: 1 rounded up instead of to nearest; -1 the power of two below, of max|x| / (that below `most`) */
    int whole;        /* the tensor is one block: memory is read as one row */
    double magnitude; /* max|x| that counts for the tensor's own in what the whole of it shares; below 0: its own */
} bitq_format;

/* Quantizes x into y, which may be x, or `fresh`: never written before. Sets the bits of `clipped`, which are zero or NULL,
 * of elements that pass no gradient, and returns their number; if that is 0 the bits mean nothing. */
int64_t bitq_quantize(const void *x, void *y, uint8_t *clipped, int kind, int64_t outer, int64_t channels,
                      int64_t inner, int64_t block, const bitq_format *format, uint64_t key, int fresh, int threads);

/* x, to nearest, in a type of floats with so many bits of mantissa and exponent of the smallest normal number; beyond the
 * largest there is infinity if it is `endless`, or the largest, and NaN for infinity. No finite number of x's kind becomes
 * one that it has not. y may be x. */
void bitq_cast(const void *x, void *y, int64_t count, int kind, int mantissa, int least_exponent, float largest,
               int endless, int threads);

/* to = from, with zeros where `clipped` has a bit: `bytes` 4 or 2 each. */
void bitq_pass(const void *from, void *to, const uint8_t *clipped, int64_t count, int bytes, int threads);
