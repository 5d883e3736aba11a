/* CRC-32 kernels: eight tables at a time for every machine, carry-less multiplication where the CPU has it.

   Both work on the reflected polynomial 0xEDB88320. The folding kernel follows the method of Gopal et al.,
   "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009): the message is folded
   64 bytes at a time into four 128-bit accumulators by multiplying with powers of x modulo the polynomial, the four
   are folded into one, and a Barrett reduction brings the rest down to 32 bits. */

#include "_crc.h"

#include <string.h>

/* table[k][b]: the CRC of byte b followed by k zero bytes. Filled before main() runs, constant ever after. */
static uint32_t table[8][256];

__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320u : 0);
        table[0][b] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t b = 0; b < 256; b++)
            table[k][b] = (table[k - 1][b] >> 8) ^ table[0][table[k - 1][b] & 0xFF];
}

/* Takes and returns the running register (not inverted). */
static uint32_t table_run(uint32_t crc, const uint8_t *data, size_t length)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (length >= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = table[7][low & 0xFF] ^ table[6][(low >> 8) & 0xFF] ^ table[5][(low >> 16) & 0xFF] ^ table[4][low >> 24]
            ^ table[3][high & 0xFF] ^ table[2][(high >> 8) & 0xFF] ^ table[1][(high >> 16) & 0xFF] ^ table[0][high >> 24];
        data += 8;
        length -= 8;
    }
#endif
    while (length--)
        crc = (crc >> 8) ^ table[0][(crc ^ *data++) & 0xFF];
    return crc;
}

static uint32_t table_kernel(uint32_t crc, const uint8_t *data, size_t length)
{
    return ~table_run(~crc, data, length);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define FOLD_TARGET __attribute__((target("pclmul,sse4.1")))

FOLD_TARGET static inline __m128i fold(__m128i accumulator, __m128i powers, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(accumulator, powers, 0x00);
    __m128i high = _mm_clmulepi64_si128(accumulator, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

FOLD_TARGET static uint32_t pclmul_kernel(uint32_t crc, const uint8_t *data, size_t length)
{
    if (length < 64)
        return table_kernel(crc, data, length);

    /* x^(512+64), x^512 for a step of 64 bytes; x^(128+64), x^128 for one of 16 (reflected, modulo P) */
    const __m128i by_64 = _mm_set_epi64x(0x00000001c6e41596, 0x0000000154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00000000ccaa009e, 0x00000001751997d0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x0000000163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x00000001f7011641, 0x00000001db710641);
    const __m128i low_32 = _mm_setr_epi32(-1, 0, -1, 0);

    __m128i a = _mm_xor_si128(_mm_loadu_si128((const __m128i *)data), _mm_cvtsi32_si128((int)~crc));
    __m128i b = _mm_loadu_si128((const __m128i *)(data + 16));
    __m128i c = _mm_loadu_si128((const __m128i *)(data + 32));
    __m128i d = _mm_loadu_si128((const __m128i *)(data + 48));
    data += 64;
    length -= 64;

    while (length >= 64) {
        a = fold(a, by_64, _mm_loadu_si128((const __m128i *)data));
        b = fold(b, by_64, _mm_loadu_si128((const __m128i *)(data + 16)));
        c = fold(c, by_64, _mm_loadu_si128((const __m128i *)(data + 32)));
        d = fold(d, by_64, _mm_loadu_si128((const __m128i *)(data + 48)));
        data += 64;
        length -= 64;
    }
    a = fold(a, by_16, b);
    a = fold(a, by_16, c);
    a = fold(a, by_16, d);
    while (length >= 16) {
        a = fold(a, by_16, _mm_loadu_si128((const __m128i *)data));
        data += 16;
        length -= 16;
    }

    /* 128 bits to 64, then to 32 */
    __m128i folded = _mm_clmulepi64_si128(a, by_16, 0x10);
    a = _mm_xor_si128(_mm_srli_si128(a, 8), folded);
    folded = _mm_clmulepi64_si128(_mm_and_si128(a, low_32), by_8, 0x00);
    a = _mm_xor_si128(_mm_srli_si128(a, 4), folded);
    folded = _mm_clmulepi64_si128(_mm_and_si128(a, low_32), barrett, 0x10);
    folded = _mm_clmulepi64_si128(_mm_and_si128(folded, low_32), barrett, 0x00);
    a = _mm_xor_si128(a, folded);
    return ~table_run((uint32_t)_mm_extract_epi32(a, 1), data, length);
}
#endif

fq_crc_kernel fq_crc_select(int kind)
{
    if (kind == FQ_CRC_TABLE)
        return table_kernel;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"))
        return pclmul_kernel;
#endif
    return kind == FQ_CRC_AUTO ? table_kernel : NULL;
}
