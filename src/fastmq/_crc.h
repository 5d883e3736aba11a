/* CRC-32 (IEEE 802.3, reflected, as zlib computes it), several kernels with one contract. */
#ifndef FASTMQ_CRC_H
#define FASTMQ_CRC_H

#include <stddef.h>
#include <stdint.h>

enum { FQ_CRC_AUTO = 0, FQ_CRC_TABLE = 1, FQ_CRC_PCLMUL = 2 };

typedef uint32_t (*fq_crc_kernel)(uint32_t crc, const uint8_t *data, size_t length);

/* The kernel of that kind, or NULL if this machine cannot run it. AUTO gives the fastest that can run.
   A kernel takes the finished CRC of what came before (0 at the start) and returns the finished CRC. */
fq_crc_kernel fq_crc_select(int kind);

#endif
