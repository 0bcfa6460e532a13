/* SPDX-License-Identifier: Apache-2.0 */
/*
 * solo5.h - the parts of Solo5's public ABI (version 2 of both hvt and spt)
 * that the probe uses: the notes in the ELF file and the device manifest.
 */
#ifndef SOLO5_H
#define SOLO5_H

#include "probe.h"

#define SOLO5_TARGET_HVT 1
#define SOLO5_TARGET_SPT 2
#define SOLO5_ABI_VERSION 2

#define SOLO5_NOTE_ABI 0x31494241      /* "ABI1" */
#define SOLO5_NOTE_MANIFEST 0x3154464d /* "MFT1" */

#define MFT_VERSION 1
#define MFT_BLOCK 1
#define MFT_NET 2
#define MFT_FIRST (1u << 30) /* the obligatory, empty first entry */

struct solo5_note_header {
    uint32_t name_size;
    uint32_t desc_size;
    uint32_t type;
    char name[8]; /* "Solo5" */
};

struct mft_entry {
    char name[68];
    uint32_t type;
    union {
        struct {
            uint64_t capacity;
            uint16_t block_size;
        } block;
        struct {
            uint8_t mac[6];
            uint16_t mtu;
        } net;
    } u;
    uint64_t host; /* spt: the host's file descriptor, in the low half */
    bool attached;
};

struct mft {
    uint32_t version;
    uint32_t count;
    struct mft_entry entries[];
};

_Static_assert(sizeof(struct mft_entry) == 104, "manifest entry layout");

/* solo5.c: what both tenders' platforms have in common. */

struct solo5_ops {
    bool (*block_read)(unsigned handle, void *buf, size_t len);
    size_t (*net_read)(unsigned handle, void *buf, size_t size);
    void (*net_write)(unsigned handle, const void *buf, size_t len);
};

void solo5_discover(const char *boot, const char *cmdline, uint64_t memory,
                    const struct mft *mft, const struct solo5_ops *ops);
uint64_t solo5_fill(uint64_t from, uint64_t memory, uint64_t bytes);
_Noreturn void solo5_stray(uint64_t memory);

#endif
