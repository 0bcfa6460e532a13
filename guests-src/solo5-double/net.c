/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers to ARP, ICMP echo and UDP echo, made of the requests.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "double.h"

#include <stdio.h>
#include <string.h>

static uint16_t get16(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

static void swap(uint8_t *one, uint8_t *other, size_t size)
{
    for (; size-- > 0; one++, other++) {
        uint8_t byte = *one;

        *one = *other;
        *other = byte;
    }
}

static uint16_t checksum(const uint8_t *at, size_t size)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += i % 2 == 0 ? at[i] << 8 : at[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Turns the request in `frame` into its answer, in place.  The frame's size is
 * what remains; 0 means that there is no answer.  `quit` is set by a datagram. */
size_t answer(uint8_t *frame, size_t size, const uint8_t *mac, uint32_t address, int *quit)
{
    uint8_t *packet = frame + 14;

    if (size >= 14 + 28 && get16(frame + 12) == 0x0806) { /* ARP */
        if (get16(packet + 6) != 1 || memcmp(packet + 24, &address, 4) != 0)
            return 0;
        packet[7] = 2;
        memcpy(packet + 18, packet + 8, 10); /* the asker becomes the target */
        memcpy(packet + 8, mac, 6);
        memcpy(packet + 14, &address, 4);
    } else if (size >= 14 + 20 && get16(frame + 12) == 0x0800) { /* IPv4 */
        size_t head = (packet[0] & 15) * 4, length = get16(packet + 2);
        uint8_t *body = packet + head;

        if (packet[0] >> 4 != 4 || head < 20 || length < head + 8 || length > size - 14 ||
            memcmp(packet + 16, &address, 4) != 0 || (get16(packet + 6) & 0x3fff) != 0)
            return 0; /* not a whole packet for us */
        size_t rest = length - head;

        if (packet[9] == 1 && body[0] == 8) { /* ICMP echo */
            body[0] = 0;
            body[2] = body[3] = 0;
            uint16_t sum = checksum(body, rest);

            body[2] = sum >> 8;
            body[3] = sum;
        } else if (packet[9] == 17 && get16(body + 2) == 7) { /* UDP echo */
            char text[16] = "";

            memcpy(text, body + 8, rest - 8 < sizeof text - 1 ? rest - 8 : sizeof text - 1);
            (void)sscanf(text, "quit %d", quit);
            swap(body, body + 2, 2); /* which leaves the checksum as it is */
        } else {
            return 0;
        }
        swap(packet + 12, packet + 16, 4);
        size = 14 + length;
    } else {
        return 0;
    }
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    return size;
}
