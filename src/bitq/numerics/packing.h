/* What packing.c does, as Python is told of it too. */

/* How memory lies; see packing.c. Functions do bands first..last of it. */
typedef struct {
    int64_t size, depth, length, block, run;
} bitq_bands;

enum { SIGN_MAGNITUDE, TWOS_COMPLEMENT, FLOAT };

/* What an element is stored as: `bits` wide, none larger than `limit`; of floats, bits of mantissa and exponent of the
 * smallest normal number. In blocks that share a power of two, code c stands for an element of 1 of 2^(offset + c), at least
 * 2^lowest. */
typedef struct {
    int kind, bits, mantissa_bits, least_exponent;
    float limit;
    int offset, lowest;
} bitq_elements;

/* Bit pattern of max|x| of every block. */
void bitq_peaks(const float *x, uint32_t *peaks, int64_t first, int64_t last, const bitq_bands *bands);

/* Codes of powers of two, clip(e - bias, low, top) of every block; `zero` of a block of zeros. */
void bitq_exponent_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, int bias, int low, int top, int zero);

/* Codes of floats, peak / divisor within least..most of every block. */
void bitq_float_codes(const uint32_t *peaks, uint8_t *codes, int64_t count, double divisor, int mantissa_bits,
                      int least_exponent, double least, double most);

/* Elements into the stream that starts at `to`, of blocks with these codes of powers of two, or these steps if there are
 * any; the bits before the first of them must be whole bytes. */
void bitq_write_elements(const float *x, const uint8_t *codes, const double *steps, uint8_t *to, int64_t first,
                         int64_t last, const bitq_bands *bands, const bitq_elements *kind);

/* Codes after the `at` bits that `to` already has. */
void bitq_write_codes(const uint8_t *codes, uint8_t *to, int64_t at, int64_t count, int width);

/* Codes from bit `at` on of a stream of `bytes` bytes. */
void bitq_read_codes(const uint8_t *from, int64_t bytes, int64_t at, uint8_t *codes, int64_t count, int width);

/* Values of a stream of `bytes` bytes; floats by a table of the numbers that their codes stand for. */
void bitq_read_values(const uint8_t *from, int64_t bytes, const uint8_t *codes, const double *steps,
                      const float *table, float *y, int64_t first, int64_t last, const bitq_bands *bands,
                      const bitq_elements *kind);
