/* What tools/extensions/kernel.py tells Python of kernel.c. */

/* Quantizes x into y, which may be x, or `fresh`: never written before. Without `has_bias` the bias is the default one.
 * Sets the bits of `clipped`, which are zero or NULL, of elements that pass no gradient, and returns their number.
 * Mantissas have at most 23 bits. */
int64_t bitq_quantize(const void *x, void *y, uint8_t *clipped, int kind, int64_t outer, int64_t channels,
                      int64_t inner, int64_t block, int mantissa_bits, int top_code, int has_bias, int bias,
                      int rounding, uint64_t key, int fresh, int threads);

/* to = from, with zeros where `clipped` has a bit: `bytes` 4 or 2 each. */
void bitq_pass(const void *from, void *to, const uint8_t *clipped, int64_t count, int bytes, int threads);
