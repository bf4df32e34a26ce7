/* Block quantization of float32, bfloat16 and float16 in one pass over memory: what torch_path.py computes.
 *
 * Memory is read as [outer, channels, inner]; a block is `block` consecutive channels at one inner position, the last one
 * of a row of channels perhaps short. Work is cut into tiles that stay in the first cache: the peaks of their blocks are
 * found and their elements rounded while they are there. Every loop that matters runs over contiguous memory and
 * vectorizes without help. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* into each of the clones, for its processor */
#else
#define INLINE static inline
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#define X86 1
#include <immintrin.h>
#endif
#ifdef _OPENMP
#define ELEMENTWISE _Pragma("omp simd") /* y may be x, so the compiler has to be told that elements do not mix */
#else
#define ELEMENTWISE
#endif

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { NEAREST, HALF_AWAY, TOWARD_ZERO, STOCHASTIC };
enum {
    UNBOUNDED = 0x7F800000,
    QUIET_NAN = 0x7FC00000,
    TILE = 512,       /* most neighbouring positions of a tile */
    L1 = 24 << 10,    /* bytes of x that a tile should not exceed */
    LONG = 4096,      /* contiguous elements of a tile */
    FEW = 64,         /* shorter contiguous blocks are taken several at a time */
    DRAWS = 64,       /* elements that share a group of random counters */
    GRAIN = 1 << 15,  /* elements worth a thread, as in torch */
    GROUPS = 128,     /* parts of a tensor of which each is quantized with one guess of the bias */
    WORTH_A_GUESS = 1 << 17, /* elements; a smaller tensor is simply read twice */
    STREAMED = 24 << 20, /* bytes read and written from which on the output bypasses the caches */
};

/* Writes to memory without reading it first or keeping it in the caches. */
typedef void stream_function(void *to, const void *from, int64_t bytes);

typedef struct {
    const void *x;
    void *y;          /* NULL: only peaks are wanted */
    uint8_t *clipped; /* a bit per element in order of memory, zero before; or NULL */
    int64_t outer, channels, inner, block;
    int kind, rounding, to_step, floor; /* to_step: what E needs to become a step's exponent field; floor: least E */
    stream_function *stream; /* NULL: through the caches */
    float limit; /* largest mantissa */
    uint32_t key[2];
    /* how the work is cut into tiles */
    int64_t width, strips, stacks, tiles;
} job;

typedef struct {
    int32_t lowest, highest; /* shared exponents that the codes reach */
} reach;

typedef struct {
    int32_t top, least; /* largest and least peak of the finite, nonzero blocks */
    int64_t clipped;
} summary;

#define NOTHING {0, UNBOUNDED, 0}

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Patterns of magnitudes are ordered as the magnitudes are, NaN above all. */
INLINE int32_t magnitude(float value) { return (int32_t)(bits_of(value) & 0x7FFFFFFFu); }

INLINE float of_bfloat16(uint16_t half) { return float_of((uint32_t)half << 16); }

INLINE uint16_t to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    return (uint16_t)(magnitude(value) > UNBOUNDED ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

/* Shifted into place, a float16 is a float32 that is 2^112 times too small: subnormal where the float16 is. */
INLINE float of_float16(uint16_t half) {
    const uint32_t shifted = (uint32_t)(half & 0x7FFF) << 13;
    const uint32_t bits = half & 0x8000u ? 0x80000000u : 0;
    const float finite = float_of(shifted) * 0x1p112f;
    return float_of(bits | ((half & 0x7C00) == 0x7C00 ? shifted | UNBOUNDED : bits_of(finite)));
}

/* Adding 0.5 to a magnitude below 2^-14 rounds it to a multiple of 2^-24, the least float16. Never -0. */
INLINE uint16_t to_float16(float value) {
    const uint32_t bits = (uint32_t)magnitude(value), sign = (bits_of(value) ^ bits) >> 16;
    const uint32_t normal = (bits - (112u << 23) + 0xFFFu + (bits >> 13 & 1)) >> 13;
    const uint32_t subnormal = bits_of(float_of(bits) + 0.5f) - bits_of(0.5f);
    const uint32_t finite = bits < 0x38800000u ? subnormal : normal;
    const uint32_t half = bits > UNBOUNDED ? 0x7E00u : finite < 0x7C00u ? finite : 0x7C00u;
    return (uint16_t)(half ? sign | half : 0);
}

INLINE int32_t exponent(int32_t peak) { return (peak >> 23) - 127; }

INLINE int32_t shared_exponent(int32_t peak, const job *j, reach r) {
    int32_t e = exponent(peak);
    e = e < r.lowest ? r.lowest : e;
    e = e > r.highest ? r.highest : e;
    return e < j->floor ? j->floor : e;
}

INLINE float step_of(int32_t peak, const job *j, reach r) {
    const uint32_t field = (uint32_t)(shared_exponent(peak, j, r) + j->to_step);
    return float_of(peak >= UNBOUNDED ? (uint32_t)QUIET_NAN : field << 23);
}

/* 1/step is exact: a power of two, and that of the largest, 2^127, a subnormal number. */
INLINE float inverse(float step) {
    const uint32_t field = 254u - (bits_of(step) >> 23);
    return float_of(bits_of(step) >= UNBOUNDED ? (uint32_t)QUIET_NAN : field ? field << 23 : 1u << 22);
}

/* True of NaN and infinity too, whose step is NaN and compares with nothing. */
INLINE int saturates(int32_t peak, const job *j, reach r) { return exponent(peak) > shared_exponent(peak, j, r); }

/* |x| / step. Overflow is clipped, and what underflows lies below every draw and every half. */
INLINE float ratio(float x, float inverse_step) { return float_of((uint32_t)magnitude(x)) * inverse_step; }

/* The limit is whole, so clipping before rounding gives the same. Adding 2^23 to a number in [0, 2^23) rounds it to even,
 * adding 1.5 * 2^23 does so to one in (-2^22, 2^22) and never gives -0. */
INLINE float rounded(float x, float step, float inverse_step, float limit, int rounding, float draw) {
    if (rounding == NEAREST) {
        float k = x * inverse_step;
        k = k > -limit ? k : -limit;
        k = k < limit ? k : limit;
        return ((k + 0x1.8p23f) - 0x1.8p23f) * step;
    }
    float k = ratio(x, inverse_step);
    k = k < limit ? k : limit;
    const float even = (k + 0x1p23f) - 0x1p23f;
    const float below = even - (even > k ? 1.0f : 0.0f);
    const float whole = rounding == HALF_AWAY ? even + (k - even == 0.5f ? 1.0f : 0.0f)
                      : rounding == STOCHASTIC ? below + (draw < k - below ? 1.0f : 0.0f)
                                               : below;
    return float_of(bits_of(whole * step) | (bits_of(x) & 0x80000000u)) + 0.0f; /* the addition makes -0 to +0 */
}

/* Whether |x| / step rounds beyond the limit, which is odd: so a tie does. */
INLINE int beyond(float k, float limit, int rounding, float draw) {
    return rounding == STOCHASTIC ? draw < k - limit : k >= limit + (rounding == TOWARD_ZERO ? 1.0f : 0.5f);
}

/* Philox 4x32-10 (Salmon et al., 2011) for DRAWS / 4 counters from `first` on. Words become odd multiples of 2^-24, so
 * that no draw is 0: DRAWS / 4 first words, then as many second ones, and so on. */
INLINE void draw_group(float *draws, uint64_t first, const uint32_t key[2]) {
    for (int i = 0; i < DRAWS / 4; i++) {
        uint32_t c0 = (uint32_t)(first + i), c1 = (uint32_t)((first + i) >> 32), c2 = 0, c3 = 0;
        uint32_t k0 = key[0], k1 = key[1];
        for (int round = 0; round < 10; round++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)p1;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        draws[i] = (float)(int32_t)(c0 >> 8 | 1) * 0x1p-24f;
        draws[i + DRAWS / 4] = (float)(int32_t)(c1 >> 8 | 1) * 0x1p-24f;
        draws[i + DRAWS / 2] = (float)(int32_t)(c2 >> 8 | 1) * 0x1p-24f;
        draws[i + DRAWS / 4 * 3] = (float)(int32_t)(c3 >> 8 | 1) * 0x1p-24f;
    }
}

/* The draws of `count` elements from element `at` on, in a buffer with room for TILE and two groups. */
INLINE const float *draws_of(float *buffer, int64_t at, int64_t count, const uint32_t key[2]) {
    const int64_t skipped = at % DRAWS;
    for (int64_t i = 0; i < skipped + count; i += DRAWS)
        draw_group(buffer + i, (uint64_t)(at - skipped + i) / 4, key);
    return buffer + skipped;
}

INLINE void widen(float *to, const void *x, int64_t at, int64_t count, int kind) {
    const uint16_t *from = (const uint16_t *)x + at;
    if (kind == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = of_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = of_float16(from[i]);
}

INLINE void narrow(uint16_t *to, const float *from, int64_t count, int kind) {
    if (kind == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = to_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) to[i] = to_float16(from[i]);
}

#ifdef X86
INLINE int64_t up_to_line(const void *to, int64_t bytes) {
    const int64_t head = (int64_t)(-(uintptr_t)to % 64);
    return head < bytes ? head : bytes;
}

static void stream_anywhere(void *to, const void *from, int64_t bytes) {
    int64_t i = up_to_line(to, bytes);
    memcpy(to, from, (size_t)i);
    for (; i + 16 <= bytes; i += 16)
        _mm_stream_si128((__m128i *)((char *)to + i), _mm_loadu_si128((const __m128i *)((const char *)from + i)));
    memcpy((char *)to + i, (const char *)from + i, (size_t)(bytes - i));
}

__attribute__((target("avx512f"))) static void stream_avx512(void *to, const void *from, int64_t bytes) {
    int64_t i = up_to_line(to, bytes);
    memcpy(to, from, (size_t)i);
    for (; i + 64 <= bytes; i += 64)
        _mm512_stream_si512((__m512i *)((char *)to + i), _mm512_loadu_si512((const char *)from + i));
    memcpy((char *)to + i, (const char *)from + i, (size_t)(bytes - i));
}
#else
static void stream_anywhere(void *to, const void *from, int64_t bytes) { memcpy(to, from, (size_t)bytes); }
#endif

/* Sets the bits from `at` on that `marks` tells; the first and the last byte may be shared with another thread. */
INLINE void mark(uint8_t *bits, int64_t at, const uint8_t *marks, int64_t count) {
    for (int64_t i = 0; i < count;) {
        const int shift = (int)((at + i) % 8);
        const int64_t size = count - i < 8 - shift ? count - i : 8 - shift;
        uint8_t byte = 0;
        for (int64_t k = 0; k < size; k++) byte |= (uint8_t)(marks[i + k] << (shift + k));
        if (byte) {
#ifdef _OPENMP
#pragma omp atomic
#endif
            bits[(at + i) / 8] |= byte;
        }
        i += size;
    }
}

/* A run of `count` <= TILE elements from element `at` on: where they are in float32, where their results go. */
typedef struct {
    const float *x, *draws;
    float *y;
    float wide[TILE], out[TILE], random[TILE + 2 * DRAWS];
} run;

INLINE void open_run(run *r, const job *j, int64_t at, int64_t count) {
    r->x = (const float *)j->x + at;
    r->y = j->kind == FLOAT32 && !j->stream ? (float *)j->y + at : r->out;
    if (j->kind != FLOAT32) {
        widen(r->wide, j->x, at, count, j->kind);
        r->x = r->wide;
    }
    r->draws = r->random;
    if (j->rounding == STOCHASTIC) r->draws = draws_of(r->random, at, count, j->key);
}

INLINE void close_run(run *r, const job *j, int64_t at, int64_t count) {
    if (j->kind == FLOAT32) {
        if (j->stream) j->stream((float *)j->y + at, r->out, count * (int64_t)sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)j->y + at, *halves = (uint16_t *)r->wide;
    narrow(j->stream ? halves : to, r->out, count, j->kind);
    if (j->stream) j->stream(to, halves, count * (int64_t)sizeof(uint16_t));
}

#define BY_ROUNDING(rounding, call)                  \
    switch (rounding) {                              \
        case NEAREST: call(NEAREST); break;          \
        case HALF_AWAY: call(HALF_AWAY); break;      \
        case TOWARD_ZERO: call(TOWARD_ZERO); break;  \
        default: call(STOCHASTIC);                   \
    }

/* Rounds a run of elements with a step each. */
INLINE void round_each(const run *r, int64_t count, const float *step, const float *inverse_step, const job *j) {
    const float *x = r->x, *draws = r->draws, limit = j->limit;
    float *y = r->y;
#define EACH(how) \
    ELEMENTWISE for (int64_t i = 0; i < count; i++) y[i] = rounded(x[i], step[i], inverse_step[i], limit, how, draws[i])
    BY_ROUNDING(j->rounding, EACH)
}

/* Rounds elements from..to of a run with one step. */
INLINE void round_all(const run *r, int64_t from, int64_t to, float step, const job *j) {
    const float *x = r->x, *draws = r->draws, limit = j->limit, inverse_step = inverse(step);
    float *y = r->y;
#define ALL(how) ELEMENTWISE for (int64_t i = from; i < to; i++) y[i] = rounded(x[i], step, inverse_step, limit, how, draws[i])
    BY_ROUNDING(j->rounding, ALL)
}

/* Before a run is rounded, since y may be x: marks those of its elements from..to that will be clipped in a saturated
 * block with this peak. */
INLINE int64_t mark_clipped(const run *r, int64_t at, int64_t from, int64_t to, int32_t peak, const job *j,
                            reach codes) {
    const float inverse_step = inverse(step_of(peak, j, codes));
    uint8_t marks[TILE];
    int64_t found = 0;
    for (int64_t i = from; i < to; i++) {
        marks[i] = (uint8_t)beyond(ratio(r->x[i], inverse_step), j->limit, j->rounding, r->draws[i]);
        found += marks[i];
    }
    if (found) mark(j->clipped, at + from, marks + from, to - from);
    return found;
}

/* The same with a block at each of `count` elements. */
INLINE int64_t mark_each(const run *r, int64_t at, int64_t count, const int32_t *peak, const float *inverse_step,
                         const job *j, reach codes) {
    uint8_t marks[TILE];
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        const int over = beyond(ratio(r->x[i], inverse_step[i]), j->limit, j->rounding, r->draws[i]);
        marks[i] = (uint8_t)(over & saturates(peak[i], j, codes));
        found += marks[i];
    }
    if (found) mark(j->clipped, at, marks, count);
    return found;
}

INLINE void note(summary *s, int32_t peak) {
    const int32_t top = peak < UNBOUNDED ? peak : 0, least = top ? top : UNBOUNDED;
    s->top = top > s->top ? top : s->top;
    s->least = least < s->least ? least : s->least;
}

/* The largest magnitude among `count` elements, as the pattern of a float32. */
INLINE int32_t peak_of(const job *j, int64_t at, int64_t count) {
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        int32_t peak = 0;
        for (int64_t i = 0; i < count; i++) {
            const int32_t bits = magnitude(x[i]);
            peak = bits > peak ? bits : peak;
        }
        return peak;
    }
    const uint16_t *x = (const uint16_t *)j->x + at;
    uint16_t peak = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint16_t bits = x[i] & 0x7FFF;
        peak = bits > peak ? bits : peak;
    }
    return magnitude(j->kind == BFLOAT16 ? of_bfloat16(peak) : of_float16(peak));
}

/* The peaks of the blocks at `width` neighbouring positions, `depth` channels each. */
INLINE void peaks_of_columns(int32_t *peak, const job *j, int64_t at, int64_t depth, int64_t width) {
    const int64_t stride = j->inner;
    if (j->kind == FLOAT32) {
        const float *x = (const float *)j->x + at;
        for (int64_t i = 0; i < width; i++) peak[i] = magnitude(x[i]);
        for (int64_t c = 1; c < depth; c++)
            for (int64_t i = 0; i < width; i++) {
                const int32_t bits = magnitude(x[c * stride + i]);
                peak[i] = bits > peak[i] ? bits : peak[i];
            }
        return;
    }
    const uint16_t *x = (const uint16_t *)j->x + at;
    uint16_t half[TILE];
    for (int64_t i = 0; i < width; i++) half[i] = x[i] & 0x7FFF;
    for (int64_t c = 1; c < depth; c++)
        for (int64_t i = 0; i < width; i++) {
            const uint16_t bits = x[c * stride + i] & 0x7FFF;
            half[i] = bits > half[i] ? bits : half[i];
        }
    for (int64_t i = 0; i < width; i++)
        peak[i] = magnitude(j->kind == BFLOAT16 ? of_bfloat16(half[i]) : of_float16(half[i]));
}

/* Steps of `width` blocks with these peaks; whether any of them saturates. */
INLINE int steps_of(float *step, float *inverse_step, const int32_t *peak, int64_t width, const job *j, reach r,
                    summary *s) {
    const job format = *j; /* what the loop needs in registers, whatever the compiler thinks of aliases */
    summary noted = *s;
    int any = 0;
    for (int64_t i = 0; i < width; i++) {
        step[i] = step_of(peak[i], &format, r);
        inverse_step[i] = inverse(step[i]);
        any |= saturates(peak[i], &format, r);
        note(&noted, peak[i]);
    }
    *s = noted;
    return any;
}

/* Asks for memory that will be read soon; rows of tiles are too short for processors to foresee them. */
INLINE void prefetch(const job *j, int64_t at, int64_t count) {
#ifdef __GNUC__
    const int64_t size = j->kind == FLOAT32 ? 4 : 2;
    const char *x = (const char *)j->x + at * size;
    for (int64_t i = 0; i < count * size; i += 64) __builtin_prefetch(x + i);
#else
    (void)j, (void)at, (void)count;
#endif
}

/* The blocks at `width` neighbouring positions from element `at` on, `depth` channels each; `next` is where the tile
 * after this one starts. */
INLINE void columns(const job *j, reach codes, int64_t at, int64_t depth, int64_t width, int64_t next, summary *s) {
    int32_t peak[TILE];
    float step[TILE], inverse_step[TILE];
    run r;
    peaks_of_columns(peak, j, at, depth, width);
    const int any = steps_of(step, inverse_step, peak, width, j, codes, s);
    if (!j->y) return;
    for (int64_t c = 0; c < depth; c++) {
        const int64_t row = at + c * j->inner;
        if (j->stream) prefetch(j, next + c * j->inner, width);
        open_run(&r, j, row, width);
        if (j->clipped && any) s->clipped += mark_each(&r, row, width, peak, inverse_step, j, codes);
        round_each(&r, width, step, inverse_step, j);
        close_run(&r, j, row, width);
    }
}

/* A block of contiguous elements. */
INLINE void piece(const job *j, reach codes, int64_t at, int64_t count, summary *s) {
    const int32_t peak = peak_of(j, at, count);
    note(s, peak);
    if (!j->y) return;
    const int any = j->clipped && saturates(peak, j, codes);
    const float step = step_of(peak, j, codes);
    run r;
    for (int64_t i = 0; i < count; i += TILE) {
        const int64_t size = count - i < TILE ? count - i : TILE;
        open_run(&r, j, at + i, size);
        if (any) s->clipped += mark_clipped(&r, at + i, 0, size, peak, j, codes);
        round_all(&r, 0, size, step, j);
        close_run(&r, j, at + i, size);
    }
}

/* Halves `count` magnitudes by taking the larger of two neighbours. */
INLINE void halve(int32_t *restrict to, const int32_t *restrict from, int64_t count) {
    for (int64_t i = 0; i < count / 2; i++)
        to[i] = from[2 * i] > from[2 * i + 1] ? from[2 * i] : from[2 * i + 1];
}

INLINE void twice(float *restrict to, const float *restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[2 * i] = to[2 * i + 1] = from[i];
}

/* `blocks` whole contiguous blocks shorter than FEW, of at most TILE elements. Powers of two in the length of a block are
 * folded for many blocks at once, and unfolded likewise. */
INLINE void crumbs(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block, summary *s) {
    int32_t peaks[2][TILE], *peak = peaks[0], *other = peaks[1];
    float steps[2][TILE], inverse_step[TILE], *step = steps[0], *spare = steps[1];
    const int64_t count = blocks * block;
    int64_t length = block;
    run r;
    open_run(&r, j, at, count);
    for (int64_t i = 0; i < count; i++) peak[i] = magnitude(r.x[i]);
    for (; length % 2 == 0; length /= 2) {
        halve(other, peak, blocks * length);
        int32_t *const swapped = peak;
        peak = other, other = swapped;
    }
    for (int64_t b = 0; length > 1 && b < blocks; b++) {
        int32_t highest = peak[b * length];
        for (int64_t i = 1; i < length; i++) highest = peak[b * length + i] > highest ? peak[b * length + i] : highest;
        peak[b] = highest;
    }
    const int any = steps_of(step, inverse_step, peak, blocks, j, codes, s);
    if (!j->y) return;
    for (int64_t b = 0; j->clipped && any && b < blocks; b++)
        if (saturates(peak[b], j, codes)) s->clipped += mark_clipped(&r, at, b * block, (b + 1) * block, peak[b], j, codes);
    for (int64_t b = blocks; length > 1 && b-- > 0;)
        for (int64_t i = 0; i < length; i++) spare[b * length + i] = step[b];
    if (length > 1) step = spare, spare = steps[0];
    for (; length < block; length *= 2) {
        twice(spare, step, blocks * length);
        float *const swapped = step;
        step = spare, spare = swapped;
    }
    for (int64_t i = 0; i < count; i++) inverse_step[i] = inverse(step[i]);
    round_each(&r, count, step, inverse_step, j);
    close_run(&r, j, at, count);
}

/* A row of contiguous blocks, the last perhaps short. */
INLINE void row_of_blocks(const job *j, reach codes, int64_t at, int64_t count, summary *s) {
    const int64_t block = j->block, whole = count / block * block;
    if (block < FEW) {
        const int64_t most = TILE / block;
        for (int64_t b = 0; b < count / block; b += most)
            crumbs(j, codes, at + b * block, count / block - b < most ? count / block - b : most, block, s);
    } else
        for (int64_t i = 0; i < whole; i += block) piece(j, codes, at + i, block, s);
    if (whole < count) piece(j, codes, at + whole, count - whole, s);
}

/* Where a tile starts. */
INLINE int64_t start_of(const job *j, int64_t tile) {
    const int64_t start = tile % j->strips * j->width, stack = tile / j->strips;
    if (j->inner == 1) return stack * j->channels + start;
    return (stack / j->stacks * j->channels + stack % j->stacks * j->block) * j->inner + start;
}

INLINE void some_tiles(const job *j, reach codes, int64_t first, int64_t last, summary *s) {
    const int64_t row = j->inner > 1 ? j->inner : j->channels;
    for (int64_t t = first; t < last; t++) {
        const int64_t rest = row - t % j->strips * j->width, width = rest < j->width ? rest : j->width;
        if (j->inner == 1) {
            row_of_blocks(j, codes, start_of(j, t), width, s);
            continue;
        }
        const int64_t c = t / j->strips % j->stacks * j->block;
        const int64_t depth = j->channels - c < j->block ? j->channels - c : j->block;
        columns(j, codes, start_of(j, t), depth, width, start_of(j, t + 1), s);
    }
}

typedef void tiles_function(const job *, reach, int64_t, int64_t, summary *);

static void tiles_anywhere(const job *j, reach codes, int64_t first, int64_t last, summary *s) {
    some_tiles(j, codes, first, last, s);
}

#ifdef X86
__attribute__((target("avx2"))) static void tiles_avx2(const job *j, reach codes, int64_t first, int64_t last,
                                                       summary *s) {
    some_tiles(j, codes, first, last, s);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) static void
tiles_avx512(const job *j, reach codes, int64_t first, int64_t last, summary *s) {
    some_tiles(j, codes, first, last, s);
}
#endif

typedef struct {
    tiles_function *tiles;
    stream_function *stream;
} path;

static path fastest(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return (path){tiles_avx512, stream_avx512};
    if (__builtin_cpu_supports("avx2")) return (path){tiles_avx2, stream_anywhere};
#endif
    return (path){tiles_anywhere, stream_anywhere};
}

static void cut(job *j) {
    const int64_t block = j->block;
    if (j->inner > 1) {
        const int64_t bytes = (block < j->channels ? block : j->channels) * (j->kind == FLOAT32 ? 4 : 2);
        const int64_t fit = L1 / bytes / DRAWS * DRAWS;
        j->width = fit < DRAWS ? DRAWS : fit > TILE ? TILE : fit;
        j->stacks = (j->channels + block - 1) / block;
        j->strips = (j->inner + j->width - 1) / j->width;
    } else {
        j->width = block < LONG ? LONG / block * block : block;
        j->stacks = 1;
        j->strips = (j->channels + j->width - 1) / j->width;
    }
    j->tiles = j->outer * j->stacks * j->strips;
}

static void join(summary *into, summary part) {
    into->top = part.top > into->top ? part.top : into->top;
    into->least = part.least < into->least ? part.least : into->least;
    into->clipped += part.clipped;
}

static summary all_tiles(const job *j, reach codes, int threads) {
    tiles_function *const quantize = fastest().tiles;
    summary all = NOTHING;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
    {
        summary part = NOTHING;
        int64_t first = 0, last = j->tiles;
#ifdef _OPENMP
        const int64_t n = omp_get_num_threads(), i = omp_get_thread_num();
        first = j->tiles * i / n, last = j->tiles * (i + 1) / n;
#endif
        quantize(j, codes, first, last, &part);
#ifdef _OPENMP
#pragma omp critical(bitq_join)
#endif
        join(&all, part);
    }
    return all;
}

static int32_t default_bias(int32_t top, int32_t top_code) { return (top ? exponent(top) : 0) - top_code; }

/* With the default bias no code is too large, and E depends on the bias only in blocks below its reach. So the bias is
 * guessed from a sample, and groups of tiles where the guess was too low for such a block are done again. */
static void guess_bias(const job *j, int32_t top_code, int threads) {
    tiles_function *const quantize = fastest().tiles;
    const int64_t groups = j->tiles < GROUPS ? j->tiles : GROUPS;
    int32_t guessed[GROUPS];
    summary parts[GROUPS], sample = NOTHING, all = NOTHING;
    job peaks = *j;
    peaks.y = NULL;
    for (int64_t g = 0; g < groups; g += 4) {
        const int64_t first = j->tiles * g / groups;
        quantize(&peaks, (reach){0, 0}, first, first + 1, &sample);
    }
    const int32_t top = sample.top;
    (void)threads;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
#endif
    for (int64_t g = 0; g < groups; g++) {
        summary part = NOTHING;
        guessed[g] = default_bias(top, top_code);
        quantize(j, (reach){guessed[g], 127}, j->tiles * g / groups, j->tiles * (g + 1) / groups, &part);
        parts[g] = part;
    }
    for (int64_t g = 0; g < groups; g++) join(&all, parts[g]);
    const int32_t bias = default_bias(all.top, top_code);
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
#endif
    for (int64_t g = 0; g < groups; g++)
        if (guessed[g] < bias && bias > j->floor && exponent(parts[g].least) < bias) {
            summary part = NOTHING;
            quantize(j, (reach){bias, 127}, j->tiles * g / groups, j->tiles * (g + 1) / groups, &part);
        }
}

/* Quantizes x into y, which may be x, or `fresh`: never written before. Without `has_bias` the bias is the default one.
 * Sets the bits of `clipped`, which are zero or NULL, of elements that pass no gradient, and returns their number.
 * Mantissas have at most 23 bits. */
int64_t bitq_quantize(const void *x, void *y, uint8_t *clipped, int kind, int64_t outer, int64_t channels,
                      int64_t inner, int64_t block, int mantissa_bits, int top_code, int has_bias, int bias,
                      int rounding, uint64_t key, int fresh, int threads) {
    const int64_t elements = outer * channels * inner;
    const int64_t most = elements / GRAIN + 1;
    job j = {
        .x = x,
        .y = y,
        .clipped = clipped,
        .outer = outer,
        .channels = channels,
        .inner = inner,
        .block = block < channels ? block : channels,
        .kind = kind,
        .rounding = rounding,
        .to_step = 2 - mantissa_bits + 127,
        .floor = -126 + mantissa_bits - 2,
        /* pages that the system clears when they are first written are in the caches then */
        .stream = !fresh && x != y && elements * (kind == FLOAT32 ? 8 : 4) >= STREAMED ? fastest().stream : NULL,
        .limit = (float)((1 << (mantissa_bits - 1)) - 1),
        .key = {(uint32_t)key, (uint32_t)(key >> 32)},
    };
    threads = threads < most ? threads : (int)most;
    cut(&j);
    if (has_bias) return all_tiles(&j, (reach){bias, bias + top_code}, threads).clipped;
    if (x != y && elements >= WORTH_A_GUESS) {
        guess_bias(&j, top_code, threads);
        return 0;
    }
    job peaks = j;
    peaks.y = NULL;
    bias = default_bias(all_tiles(&peaks, (reach){0, 0}, threads).top, top_code);
    all_tiles(&j, (reach){bias, bias + top_code}, threads);
    return 0;
}

/* to = from, with zeros where `clipped` has a bit: `bytes` 4 or 2 each. */
void bitq_pass(const void *from, void *to, const uint8_t *clipped, int64_t count, int bytes, int threads) {
    const int64_t groups = (count + 63) / 64, most = count / GRAIN + 1;
    threads = threads < most ? threads : (int)most;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
#endif
    for (int64_t g = 0; g < groups; g++) {
        const int64_t start = g * 64, size = count - start < 64 ? count - start : 64;
        char *target = (char *)to + start * bytes;
        memcpy(target, (const char *)from + start * bytes, (size_t)(size * bytes));
        for (int64_t i = 0; i < size; i += 8)
            if (clipped[(start + i) / 8])
                for (int64_t k = i; k < i + 8 && k < size; k++)
                    if (clipped[(start + k) / 8] >> (k % 8) & 1) memset(target + k * bytes, 0, (size_t)bytes);
    }
}
