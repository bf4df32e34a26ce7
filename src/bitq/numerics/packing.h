/* What packing.c does, as Python is told of it too. Bands first..last of the layout `size` to `run` (see packing.c). */

/* Bit pattern of max|x| of every block. */
void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, int64_t size, int64_t depth,
                int64_t length, int64_t block, int64_t run);

/* The exponent code of every block. */
void bitq_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, int bias, int top);

/* Mantissas into the stream that starts at `to`; the bits before the first of them must be whole bytes. */
void bitq_write_mantissas(const float *x, const uint8_t *codes, uint8_t *to, int64_t first, int64_t last, int64_t size,
                          int64_t depth, int64_t length, int64_t block, int64_t run, int mantissa_bits, int bias);

/* Codes after the `at` bits that `to` already has. */
void bitq_write_codes(const uint8_t *codes, uint8_t *to, int64_t at, int64_t count, int width);

/* Codes from bit `at` on of a stream of `bytes` bytes. */
void bitq_read_codes(const uint8_t *from, int64_t bytes, int64_t at, uint8_t *codes, int64_t count, int width);

/* Values of a stream of `bytes` bytes. */
void bitq_read_values(const uint8_t *from, int64_t bytes, const uint8_t *codes, float *y, int64_t first, int64_t last,
                      int64_t size, int64_t depth, int64_t length, int64_t block, int64_t run, int mantissa_bits,
                      int bias);
