/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4), for the names of sockets.
 */
#include "shim.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define BLOCK 64
#define ROTATE(word, count) ((word) >> (count) | (word) << (32 - (count)))

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static void mix(uint32_t state[8], const unsigned char *block)
{
    uint32_t schedule[64], now[8];

    for (int index = 0; index < 16; index++, block += 4)
        schedule[index] = (uint32_t)block[0] << 24 | block[1] << 16 | block[2] << 8 | block[3];
    for (int index = 16; index < 64; index++) {
        uint32_t early = schedule[index - 15], late = schedule[index - 2];

        schedule[index] = schedule[index - 16] + schedule[index - 7] +
                          (ROTATE(early, 7) ^ ROTATE(early, 18) ^ early >> 3) +
                          (ROTATE(late, 17) ^ ROTATE(late, 19) ^ late >> 10);
    }
    memcpy(now, state, sizeof now);
    for (int index = 0; index < 64; index++) {
        uint32_t first = now[7] + (ROTATE(now[4], 6) ^ ROTATE(now[4], 11) ^ ROTATE(now[4], 25)) +
                         ((now[4] & now[5]) ^ (~now[4] & now[6])) + constants[index] +
                         schedule[index];
        uint32_t second = (ROTATE(now[0], 2) ^ ROTATE(now[0], 13) ^ ROTATE(now[0], 22)) +
                          ((now[0] & now[1]) ^ (now[0] & now[2]) ^ (now[1] & now[2]));

        memmove(now + 1, now, 7 * sizeof *now);
        now[4] += first;
        now[0] = first + second;
    }
    for (int index = 0; index < 8; index++)
        state[index] += now[index];
}

void sha256(const char *start, size_t length, char digits[65])
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[2 * BLOCK] = {0};
    size_t rest = length % BLOCK, padded = rest < BLOCK - 8 ? BLOCK : 2 * BLOCK;

    for (size_t done = 0; done + BLOCK <= length; done += BLOCK)
        mix(state, (const unsigned char *)start + done);
    memcpy(last, start + length - rest, rest);
    last[rest] = 0x80;
    for (int index = 0; index < 8; index++)
        last[padded - 1 - index] = (uint64_t)length * 8 >> 8 * index;
    for (size_t done = 0; done < padded; done += BLOCK)
        mix(state, last + done);
    for (int index = 0; index < 8; index++)
        snprintf(digits + 8 * index, 9, "%08x", state[index]);
}
