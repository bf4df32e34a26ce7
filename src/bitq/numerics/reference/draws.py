"""The numbers that stochastic rounding draws."""

from __future__ import annotations


def philox(counter: int, key: int) -> list[int]:
    """The four 32-bit words of Philox 4x32-10 for a counter of 128 bits and a key of 64 (Salmon et al., 2011)."""
    c = [counter >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def uniforms(key: int, count: int) -> list[float]:
    """The draws of the first `count` elements: 64 elements share 16 counters, 16 of them the first words, and so on."""
    words = [philox(i // 64 * 16 + i % 16, key)[i % 64 // 16] for i in range(count)]
    return [((word >> 8) | 1) / 2**24 for word in words]
