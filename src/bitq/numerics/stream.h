/* Writes to memory without reading it first or keeping it in the caches. */

#ifndef BITQ_STREAM
#define BITQ_STREAM

#include "numbers.h"

#if defined(__GNUC__) && defined(__x86_64__)
#define X86 1
#include <immintrin.h>
#endif

typedef void stream_function(void *to, const void *from, int64_t bytes);

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

#endif
