/* The draws of stochastic rounding: each follows from the key and the element's index alone, whatever the threads. */

#ifndef BITQ_PHILOX
#define BITQ_PHILOX

#include "numbers.h"

enum { DRAWS = 64 }; /* elements that share a group of random counters */

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

/* The draws of `count` elements from element `at` on, in a buffer with room for them and two groups. */
INLINE const float *draws_of(float *buffer, int64_t at, int64_t count, const uint32_t key[2]) {
    const int64_t skipped = at % DRAWS;
    for (int64_t i = 0; i < skipped + count; i += DRAWS)
        draw_group(buffer + i, (uint64_t)(at - skipped + i) / 4, key);
    return buffer + skipped;
}

#endif
