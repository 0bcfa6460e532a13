/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paging.c - extends the identity mapping that the entry code made (4 GiB in
 * 2 MiB pages) by what lies higher: RAM, and PCI registers.
 */
#include "vm.h"

#define PRESENT_WRITABLE 3
#define LARGE 0x80
#define PAGE_2M (1ull << 21)

extern uint64_t boot_pml4[512]; /* boot-paging.inc */

/* Each page directory covers 1 GiB; each 512 GiB need one more table. */
static uint64_t pool[72][512] __attribute__((aligned(4096)));
static unsigned pool_used;

static uint64_t *next_table(uint64_t *entry)
{
    if (!(*entry & 1)) {
        if (pool_used == sizeof pool / sizeof pool[0])
            return NULL;
        *entry = (uintptr_t)pool[pool_used++] | PRESENT_WRITABLE;
    }
    return (uint64_t *)(*entry & 0x000ffffffffff000ull);
}

bool map_range(uint64_t start, uint64_t size)
{
    uint64_t end = start + size;

    for (uint64_t page = start & ~(PAGE_2M - 1); page < end; page += PAGE_2M) {
        uint64_t *pdpt, *pd;

        if (page >= 1ull << 47)
            return false;
        pdpt = next_table(&boot_pml4[page >> 39 & 511]);
        if (!pdpt)
            return false;
        pd = next_table(&pdpt[page >> 30 & 511]);
        if (!pd)
            return false;
        pd[page >> 21 & 511] = page | PRESENT_WRITABLE | LARGE;
    }
    return true;
}
