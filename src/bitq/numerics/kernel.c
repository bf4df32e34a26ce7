/* Block quantization of float32, bfloat16 and float16 in one pass over memory: what torch_path.py computes.
 *
 * Memory is read as [outer, channels, inner]; a block is `block` consecutive channels at one inner position, the last one
 * of a row of channels perhaps short. Work is cut into tiles (tiles.h), which threads share. */

#ifdef __linux__
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif
#include "tiles.h"
#include "cast.h"
#include "kernel.h" /* knows no includes: Python reads it, too */
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    L1 = 24 << 10,    /* bytes of x that a tile should not exceed */
    GRAIN = 1 << 15,  /* elements worth a thread, as in torch */
    GROUPS = 128,     /* parts of a tensor of which each is quantized with one guess of the bias */
    SAMPLES = 8,      /* looked at for a first guess, each a tile divided by SMALLER */
    SMALLER = 16,
    WORTH_A_GUESS = 1 << 17, /* elements; a smaller tensor is simply read twice */
    UNTOUCHED = 32 << 20, /* bytes from which malloc takes memory from the system and returns it, whatever its settings */
    LARGE_PAGE = 2 << 20,
    STREAMED = 24 << 20, /* bytes read and written from which on the output bypasses the caches */
};

typedef void tiles_function(const job *, reach, int64_t, int64_t, summary *);

#define CLONE(target, name)                                                                                \
    target static int64_t rows_##name(const job *j, const rows *all) { return round_rows(j, all); }        \
    target static void all_##name(const run *r, int64_t count, unit u, const job *j) {                     \
        round_all(r, count, u, j);                                                                         \
    }                                                                                                      \
    target static void tiles_##name(const job *j, reach codes, int64_t first, int64_t last, summary *s) {  \
        some_tiles(j, codes, first, last, s);                                                              \
    }                                                                                                      \
    target static void plain_##name(const job *j, reach codes, int64_t at, int64_t blocks, int64_t block,  \
                                    int32_t *peak) {                                                       \
        plain_blocks(j, codes, at, blocks, block, peak);                                                   \
    }                                                                                                      \
    target static void cast_##name(const void *x, void *y, int64_t count, const narrower *n) {             \
        cast_run(x, y, count, *n);                                                                         \
    }

CLONE(, anywhere)
#ifdef X86
#ifdef __clang__
#define WIDE "" /* clang knows no such attribute, and would ignore the others with it */
#else
#define WIDE ",prefer-vector-width=512"
#endif
CLONE(__attribute__((target("avx2"))), avx2)
CLONE(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl" WIDE))), avx512)
#endif

typedef void cast_function(const void *x, void *y, int64_t count, const narrower *);

typedef struct {
    tiles_function *tiles;
    rows_function *rows;
    all_function *all;
    plain_function *plain;
    cast_function *cast;
    stream_function *stream;
} path;

static path fastest(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return (path){tiles_avx512, rows_avx512, all_avx512, plain_avx512, cast_avx512, stream_avx512};
    if (__builtin_cpu_supports("avx2"))
        return (path){tiles_avx2, rows_avx2, all_avx2, plain_avx2, cast_avx2, stream_anywhere};
#endif
    return (path){tiles_anywhere, rows_anywhere, all_anywhere, plain_anywhere, cast_anywhere, stream_anywhere};
}

/* Into tiles of the best size, divided by `smaller`. */
static void cut(job *j, int64_t smaller) {
    const int64_t block = j->block, bytes = block * (j->kind == FLOAT32 ? 4 : 2);
    if (j->inner > 1 && j->inner <= NARROW) {
        const int64_t fit = L1 / smaller / (bytes * j->inner), most = TILE / j->inner;
        j->width = fit < 1 ? 1 : fit > most ? most : fit;
        j->stacks = (j->channels + block - 1) / block;
        j->strips = 1;
    } else if (j->inner > 1) {
        const int64_t fit = L1 / smaller / bytes / DRAWS * DRAWS;
        j->width = fit < DRAWS ? DRAWS : fit > TILE ? TILE : fit;
        j->stacks = (j->channels + block - 1) / block;
        j->strips = (j->inner + j->width - 1) / j->width;
    } else {
        const int64_t length = LONG / smaller;
        j->width = block < length ? length / block * block : block;
        j->stacks = 1;
        j->strips = (j->channels + j->width - 1) / j->width;
    }
    j->tiles = j->outer * j->stacks * j->strips;
}

static void join(summary *into, summary part) {
    into->top = part.top > into->top ? part.top : into->top;
    into->peak = part.peak > into->peak ? part.peak : into->peak;
    into->least = part.least < into->least ? part.least : into->least;
    into->clipped += part.clipped;
}

static summary all_tiles(const job *j, reach codes, int threads) {
    tiles_function *const quantize = fastest().tiles;
    summary all = NOTHING;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        summary part = NOTHING;
        int64_t first = 0, last = j->tiles;
#ifdef _OPENMP
        const int64_t n = omp_get_num_threads(), i = omp_get_thread_num();
        first = j->tiles * i / n, last = j->tiles * (i + 1) / n;
#endif
        quantize(j, codes, first, last, &part);
#pragma omp critical(bitq_join)
        join(&all, part);
    }
    return all;
}

/* What codes reach that stand for exponents from `lowest` to `highest`. */
static reach within(const job *j, int32_t lowest, int32_t highest, int32_t bump) {
    const int32_t most = bump ? 128 : 127;
    lowest = lowest > j->floor ? lowest : j->floor;
    highest = highest < lowest ? lowest : highest > most ? most : highest;
    return (reach){(lowest + 127) * (1 << 23), (highest + 127) * (1 << 23), bump};
}

static int32_t default_bias(int32_t top, int32_t top_code) { return (top ? exponent(top) : 0) - top_code; }

/* Whether both give a group with these peaks the same exponents. */
static int agree(reach a, reach b, summary s) {
    return !s.top || (shared(s.least, a) == shared(s.least, b) && shared(s.top, a) == shared(s.top, b));
}

/* The default bias leaves no code too large, and E depends on it only in blocks below its reach. So each thread guesses
 * it, from a sample and from what it read so far, and groups of tiles that a guess did not suit are done again. */
static void guess_bias(const job *j, int32_t top_code, int threads) {
    tiles_function *const quantize = fastest().tiles;
    const int64_t groups = j->tiles < GROUPS ? j->tiles : GROUPS;
    const int32_t simplest = ((MOST_SHIFTED - j->to_step) >> 23) - 127, highest = simplest < 127 ? simplest : 127;
    reach guessed[GROUPS];
    summary parts[GROUPS], all = NOTHING;
    job peaks = *j;
    peaks.y = NULL, peaks.plain = NULL;
    cut(&peaks, SMALLER);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        summary so_far = NOTHING;
        for (int64_t k = 0; k < SAMPLES; k++) {
            const int64_t tile = peaks.tiles * (2 * k + 1) / (2 * SAMPLES);
            quantize(&peaks, (reach){0, 0, 0}, tile, tile + 1, &so_far);
        }
#pragma omp for schedule(static) nowait
        for (int64_t g = 0; g < groups; g++) {
            guessed[g] = within(j, default_bias(so_far.top, top_code), highest, 0);
            parts[g] = (summary)NOTHING;
            quantize(j, guessed[g], j->tiles * g / groups, j->tiles * (g + 1) / groups, &parts[g]);
            join(&so_far, parts[g]);
        }
    }
    for (int64_t g = 0; g < groups; g++) join(&all, parts[g]);
    const reach right = within(j, default_bias(all.top, top_code), 127, 0);
    int64_t again[GROUPS], left = 0;
    for (int64_t g = 0; g < groups; g++)
        if (!agree(guessed[g], right, parts[g])) again[left++] = g;
#pragma omp parallel for num_threads(threads) if (threads > 1 && left > 1) schedule(dynamic)
    for (int64_t i = 0; i < left; i++) {
        summary part = NOTHING;
        quantize(j, right, j->tiles * again[i] / groups, j->tiles * (again[i] + 1) / groups, &part);
    }
}

/* Asks for large pages behind a fresh result: clearing small ones on first touch costs four times what quantizing does. */
static int in_large_pages(void *y, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t first = ((uintptr_t)y + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    const uintptr_t end = ((uintptr_t)y + (uintptr_t)bytes) / LARGE_PAGE * LARGE_PAGE;
    return bytes >= UNTOUCHED && !madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)y, (void)bytes;
    return 0;
#endif
}

/* The peaks of a tensor's blocks; if all is finite, those of other blocks, which lie one behind the other. */
static summary peaks_of(const job *j, int threads) {
    job flat = *j;
    flat.y = NULL, flat.plain = NULL;
    flat.channels = j->outer * j->channels * j->inner;
    flat.outer = flat.inner = 1;
    flat.block = flat.channels < LONG ? flat.channels : LONG;
    cut(&flat, 1);
    const summary all = all_tiles(&flat, (reach){0, 0, 0}, threads);
    if (all.peak < UNBOUNDED) return all;
    job peaks = *j;
    peaks.y = NULL, peaks.plain = NULL;
    return all_tiles(&peaks, (reach){0, 0, 0}, threads);
}

/* What all tiles of a tensor come to that is one block: their peaks are those of its pieces. Where one peak is given for it,
 * and nothing has to know its own before, the tensor is read once, unless it turns out not to be finite. */
static int64_t as_one_block(job *j, reach codes, int32_t own, double magnitude, int threads) {
    const int32_t given = magnitude < 0 ? own : (int32_t)bits_of((float)magnitude);
    j->whole = own >= UNBOUNDED ? QUIET_NAN : given;
    if (own >= 0 && own < UNBOUNDED)
        j->whole_low = j->elements == SCALED ? wanted(own, j->scale) > limited(wanted(given, j->scale), j->scale)
                                             : above(own, codes) > shared(given, codes);
    const summary all = all_tiles(j, codes, threads);
    if (own >= 0 || all.peak < UNBOUNDED) return all.clipped;
    j->whole = QUIET_NAN;
    all_tiles(j, codes, threads);
    return 0;
}

int64_t bitq_quantize(const void *x, void *y, uint8_t *clipped, int kind, int64_t outer, int64_t channels,
                      int64_t inner, int64_t block, const bitq_format *format, uint64_t key, int fresh, int threads) {
    const int64_t elements = outer * channels * inner;
    const int64_t most = elements / GRAIN + 1, bytes = elements * (kind == FLOAT32 ? 4 : 2);
    const bitq_format f = *format;
    const int guessed = !f.has_bias && !f.is_float && !f.whole && !clipped && x != y && elements >= WORTH_A_GUESS;
    const int given = f.magnitude >= 0;
    const path best = fastest();
    /* large pages are too large for the caches, and less than UNTOUCHED is mostly memory that was used before */
    if (fresh && (bytes < UNTOUCHED || in_large_pages(y, bytes))) fresh = 0;
    block = f.whole ? TILE : block;
    job j = {
        .x = x,
        .y = y,
        .clipped = clipped,
        .outer = outer,
        .channels = channels,
        .inner = inner,
        .block = block < channels ? block : channels,
        .kind = kind,
        .rounding = f.rounding,
        .to_step = f.to_unit * (1 << 23),
        .floor = f.floor,
        .elements = f.is_float ? SCALED : f.uniform ? UNIFORM : SMALL,
        .largest = largest_of(kind),
        .whole = -1,
        .rows = best.rows,
        .all = best.all,
        /* small pages that the system clears when they are first written are in the caches then */
        .stream = !fresh && x != y && 2 * bytes >= STREAMED ? best.stream : NULL,
        .limit = (float)f.most,
        .low = f.never_negative ? 0 : -(float)f.most,
        .key = {(uint32_t)key, (uint32_t)(key >> 32)},
    };
    j.grid = grid_of(f.least, f.mantissa);
    if (j.elements == SCALED) {
        j.wide = wide_grid_of(f.least, f.mantissa);
        /* half of u less 2^(bits - 22) u, as a part of 1.5 * 2^23 u */
        j.doubt = (float)((0.5 - power(f.bits - 22)) / 0x1.8p23);
        j.evenly = f.most < f.least * (double)(1 << f.mantissa);
        j.scale = (float_scale){f.most, 1, f.smallest, f.largest, wide_grid_of(f.scale_least, f.digits), f.up};
    }
    if (kind == FLOAT32 && j.elements == UNIFORM && f.rounding == NEAREST && !f.never_negative && !f.whole && !clipped &&
        !j.stream)
        j.plain = best.plain;
    threads = threads < most ? threads : (int)most;
    cut(&j, 1);
    if (guessed) {
        guess_bias(&j, f.top_code, threads);
        return 0;
    }
    const int shares = f.is_float ? f.least_second > 0 && !given : !f.has_bias;
    summary tensor = {.peak = -1};
    if (shares || (f.whole && (!given || clipped))) tensor = peaks_of(&j, threads);
    if (f.is_float && f.least_second > 0) {
        const double top = given ? f.magnitude : (double)float_of((uint32_t)tensor.top);
        const double second = (double)(float)(top / (f.most * f.largest));
        j.scale.second = second > f.least_second ? second : f.least_second;
        j.scale.divisor = (f.up < 0 ? leading(f.most) : f.most) * j.scale.second;
    }
    j.calm = (float)((j.largest < 0x1p105 ? j.largest / 2 : 0x1p104) / f.most / (f.is_float ? j.scale.second : 1));
    const int32_t lowest = f.has_bias || f.is_float ? f.lowest : default_bias(tensor.top, f.top_code);
    const reach codes = within(&j, lowest, f.has_bias ? f.highest : lowest + f.top_code, f.bump);
    if (f.whole) return as_one_block(&j, codes, tensor.peak, f.magnitude, threads);
    return all_tiles(&j, codes, threads).clipped;
}

void bitq_cast(const void *x, void *y, int64_t count, int kind, int mantissa, int least_exponent, float largest,
               int endless, int threads) {
    const narrower n = narrower_of(kind, mantissa, least_exponent, largest, endless);
    const path best = fastest();
    const int64_t each = kind == FLOAT32 ? 4 : 2, pieces = (count + TILE - 1) / TILE, most = count / GRAIN + 1;
    const int streamed = x != y && 2 * count * each >= STREAMED;
    threads = threads < most ? threads : (int)most;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        const int64_t at = p * TILE, size = count - at < TILE ? count - at : TILE;
        char *const to = (char *)y + at * each;
        float out[TILE];
        best.cast((const char *)x + at * each, streamed ? (void *)out : to, size, &n);
        if (streamed) best.stream(to, out, size * each);
    }
}

void bitq_pass(const void *from, void *to, const uint8_t *clipped, int64_t count, int bytes, int threads) {
    const int64_t groups = (count + 63) / 64, most = count / GRAIN + 1;
    threads = threads < most ? threads : (int)most;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
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
