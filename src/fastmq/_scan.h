/* Scanning text for the few bytes that end a run of plain ones: the inner loops of reading a request header in place.
 *
 * Each function takes a range [p, end), reads nothing outside it, allocates nothing. With SSE2 (every x86-64) sixteen
 * bytes a step, elsewhere one, with the same results.
 */
#ifndef FASTMQ_SCAN_H
#define FASTMQ_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(FASTMQ_PLAIN_SCAN)
#include <emmintrin.h>
#define FASTMQ_SCAN_STEP 16
#else
#define FASTMQ_SCAN_STEP 0
#endif

/* The first byte that is '"', '\\', a control character or not ASCII; `end` if there is none. */
static inline const uint8_t *scan_json_text(const uint8_t *p, const uint8_t *end) {
#if FASTMQ_SCAN_STEP
  const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
  while (end - p >= FASTMQ_SCAN_STEP) {
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    /* compared as signed bytes, what is not ASCII is below a space as well */
    __m128i hit = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)), _mm_cmplt_epi8(v, space));
    int mask = _mm_movemask_epi8(hit);
    if (mask) return p + __builtin_ctz(mask);
    p += FASTMQ_SCAN_STEP;
  }
#endif
  while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
  return p;
}

/* The first byte below 3 (the separators of properties, and NUL) or not ASCII; `end` if there is none. */
static inline const uint8_t *scan_property_text(const uint8_t *p, const uint8_t *end) {
#if FASTMQ_SCAN_STEP
  const __m128i three = _mm_set1_epi8(3);
  while (end - p >= FASTMQ_SCAN_STEP) {
    int mask = _mm_movemask_epi8(_mm_cmplt_epi8(_mm_loadu_si128((const __m128i *)p), three));
    if (mask) return p + __builtin_ctz(mask);
    p += FASTMQ_SCAN_STEP;
  }
#endif
  while (p < end && *p >= 3 && *p < 0x80) p++;
  return p;
}

/* The first byte that is not ASCII; `end` if there is none. */
static inline const uint8_t *scan_ascii(const uint8_t *p, const uint8_t *end) {
#if FASTMQ_SCAN_STEP
  while (end - p >= FASTMQ_SCAN_STEP) {
    int mask = _mm_movemask_epi8(_mm_loadu_si128((const __m128i *)p));
    if (mask) return p + __builtin_ctz(mask);
    p += FASTMQ_SCAN_STEP;
  }
#endif
  while (p < end && *p < 0x80) p++;
  return p;
}

/* The first byte that is not a visible ASCII character or is '"' or '\\'; `end` if there is none. */
static inline const uint8_t *scan_key_text(const uint8_t *p, const uint8_t *end) {
#if FASTMQ_SCAN_STEP
  const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
  const __m128i first = _mm_set1_epi8(0x21), del = _mm_set1_epi8(0x7F);
  while (end - p >= FASTMQ_SCAN_STEP) {
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m128i hit = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)),
                               _mm_or_si128(_mm_cmplt_epi8(v, first), _mm_cmpeq_epi8(v, del)));
    int mask = _mm_movemask_epi8(hit);
    if (mask) return p + __builtin_ctz(mask);
    p += FASTMQ_SCAN_STEP;
  }
#endif
  while (p < end && *p > 0x20 && *p < 0x7F && *p != '"' && *p != '\\') p++;
  return p;
}

/* Copy up to the first backslash; returns how many bytes were copied. `out` has room for all of [p, end). */
static inline size_t copy_to_backslash(uint8_t *out, const uint8_t *p, const uint8_t *end) {
  const uint8_t *begin = p;
#if FASTMQ_SCAN_STEP
  const __m128i backslash = _mm_set1_epi8('\\');
  while (end - p >= FASTMQ_SCAN_STEP) {
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(v, backslash));
    _mm_storeu_si128((__m128i *)out, v);
    if (mask) return (size_t)(p - begin) + __builtin_ctz(mask);
    p += FASTMQ_SCAN_STEP;
    out += FASTMQ_SCAN_STEP;
  }
#endif
  while (p < end && *p != '\\') *out++ = *p++;
  return (size_t)(p - begin);
}

#endif
