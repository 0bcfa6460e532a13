/* SPDX-License-Identifier: Apache-2.0 */
/*
 * solo5_notes.c - the ELF notes by which a Solo5 tender knows a unikernel, and
 * the manifest that declares its devices. Compiled once for each variant:
 *   SOLO5_TARGET  SOLO5_TARGET_HVT or SOLO5_TARGET_SPT
 *   BLOCK_NAME    name of the block device; not defined: there is none
 *   NET_NAME      name of the network device; not defined: there is none
 *   NET2_NAME     name of a second one; not defined: there is none
 */
#include "solo5.h"

static const struct {
    struct solo5_note_header header;
    uint32_t target, version, reserved[2];
} abi_note __attribute__((section(".note.solo5.abi"), used, aligned(4))) = {
    .header = {6, 16, SOLO5_NOTE_ABI, "Solo5"},
    .target = SOLO5_TARGET,
    .version = SOLO5_ABI_VERSION,
};

/* Keeps a host's kernel from running the file as a program of its own. */
static const char interpreter[]
    __attribute__((section(".interp"), used, aligned(8))) =
        "/nonexistent/solo5/";

#ifdef BLOCK_NAME
#define BLOCK_ENTRY {.type = MFT_BLOCK, .name = BLOCK_NAME},
#define BLOCK_COUNT 1
#else
#define BLOCK_ENTRY
#define BLOCK_COUNT 0
#endif

#ifdef NET_NAME
#define NET_ENTRY {.type = MFT_NET, .name = NET_NAME},
#define NET_COUNT 1
#else
#define NET_ENTRY
#define NET_COUNT 0
#endif

#ifdef NET2_NAME
#define NET2_ENTRY {.type = MFT_NET, .name = NET2_NAME},
#define NET2_COUNT 1
#else
#define NET2_ENTRY
#define NET2_COUNT 0
#endif

#define ENTRIES (1 + BLOCK_COUNT + NET_COUNT + NET2_COUNT)

/* The manifest is aligned to 8 after the 20 bytes of the note's header; the
   padding counts as part of the note's content. */
struct manifest_note {
    struct solo5_note_header header;
    uint32_t padding;
    uint32_t version, count;
    struct mft_entry entries[ENTRIES];
};

static const struct manifest_note manifest_note
    __attribute__((section(".note.solo5.manifest"), used, aligned(4))) = {
    .header = {6, sizeof manifest_note - sizeof(struct solo5_note_header),
               SOLO5_NOTE_MANIFEST, "Solo5"},
    .version = MFT_VERSION,
    .count = ENTRIES,
    .entries = {{.type = MFT_FIRST}, BLOCK_ENTRY NET_ENTRY NET2_ENTRY},
};
