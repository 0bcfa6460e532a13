/* SPDX-License-Identifier: Apache-2.0 */
/*
 * solo5.c - what the hvt and the spt platform have in common: they learn of
 * their devices from the manifest, which the tender hands back completed.
 */
#include "solo5.h"

/* A device's handle is its place in the manifest. */
static const struct solo5_ops *ops;

static size_t receive(struct nic *nic, void *buf, size_t size)
{
    return ops->net_read((uintptr_t)nic->device, buf, size);
}

static void send(struct nic *nic, const void *frame, size_t len)
{
    ops->net_write((uintptr_t)nic->device, frame, len);
}

static void add_disk(unsigned handle, const struct mft_entry *entry)
{
    static uint8_t block[64 * 1024] __attribute__((aligned(4096)));
    uint16_t block_size = entry->u.block.block_size;

    if (guest.ndisks == MAX_DISKS)
        return;
    struct disk *disk = &guest.disks[guest.ndisks++];

    disk->bus = "solo5";
    disk->name = entry->name;
    disk->size = entry->u.block.capacity;
    disk->writable = true; /* tenders attach for reading and writing only */
    if (ops->block_read(handle, block, block_size)) {
        memcpy(disk->first, block, sizeof disk->first);
        disk->first_len = sizeof disk->first;
    }
}

static void add_nic(unsigned handle, const struct mft_entry *entry)
{
    if (guest.nnics == MAX_NICS)
        return;
    struct nic *nic = &guest.nics[guest.nnics++];

    nic->bus = "solo5";
    nic->name = entry->name;
    memcpy(nic->mac, entry->u.net.mac, 6);
    nic->mtu = entry->u.net.mtu;
    nic->device = (void *)(uintptr_t)handle;
    nic->receive = receive;
    nic->send = send;
}

void solo5_discover(const char *boot, const char *cmdline, uint64_t memory,
                    const struct mft *mft, const struct solo5_ops *platform_ops)
{
    ops = platform_ops;
    guest.boot = boot;
    memcpy(guest.cmdline, cmdline, strlen(cmdline)); /* 8191 bytes at most */
    guest.memory = memory;
    guest.vcpus = 1; /* Solo5 has no more */
    for (unsigned i = 0; i < mft->count; i++) {
        const struct mft_entry *entry = &mft->entries[i];

        if (!entry->attached)
            continue;
        if (entry->type == MFT_BLOCK)
            add_disk(i, entry);
        else if (entry->type == MFT_NET)
            add_nic(i, entry);
    }
}

_Noreturn void solo5_stray(uint64_t memory)
{
    __asm__ volatile("jmp *%0" : : "r"(memory + (64 << 20)));
    __builtin_unreachable();
}

/* Nobody can ask a Solo5 guest to stop. */
bool platform_listen(enum stop_way way)
{
    (void)way;
    return false;
}

bool platform_asked(enum stop_way way)
{
    (void)way;
    return false;
}

/* Writes to each page from `from` on. The top, where the stack is, is left, or
   written to without a change; what is below `from` the tender has written. */
uint64_t solo5_fill(uint64_t from, uint64_t memory, uint64_t bytes)
{
    uint64_t start = (from + 4095) & ~4095ull, done = 0;
    bool all = bytes == FILL_ALL;

    if (all)
        bytes = memory;
    for (; done < bytes && start + done + (1 << 20) < memory; done += 4096)
        *(volatile uint8_t *)(start + done) = 1;
    if (!all)
        return done < bytes ? done : bytes;
    for (; start + done < memory; done += 4096)
        __asm__ volatile("lock; orb $0, (%0)" : : "r"(start + done) : "memory", "cc");
    return memory - start;
}
