/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bootinfo.c - command line, memory, initrd and processors, from what the
 * loader left in memory: PVH's hvm_start_info or Linux's boot_params.
 */
#include "vm.h"

#define MIB (1ull << 20)
#define RAM_USABLE 1

struct ram_range ram[MAX_RAM_RANGES];
unsigned ram_ranges;

static void add_ram(uint64_t start, uint64_t size, uint32_t type)
{
    if (type == RAM_USABLE && size && ram_ranges < MAX_RAM_RANGES)
        ram[ram_ranges++] = (struct ram_range){start, size};
}

/*
 * The RAM the monitor was asked to give: the usable ranges do not say it to
 * the byte, since firmware takes some for its tables. So the first MiB, with
 * its holes, counts as a whole if any of it is usable, the usable ranges above
 * are added up, and the sum is rounded up to a whole MiB.
 */
static uint64_t ram_size(void)
{
    uint64_t above = 0;
    bool low = false;

    for (unsigned i = 0; i < ram_ranges; i++) {
        uint64_t start = ram[i].start, end = start + ram[i].size;

        if (start < MIB) {
            low = true;
            start = MIB;
        }
        if (end > start)
            above += end - start;
    }
    return ((above + MIB - 1) & ~(MIB - 1)) + (low ? MIB : 0);
}

/* All of these may lie anywhere below 4 GiB, or above where RAM does. */
static const void *at(uint64_t addr, uint64_t size)
{
    return map_range(addr, size) ? (const void *)(uintptr_t)addr : NULL;
}

static void set_cmdline(uint64_t addr)
{
    const char *text = addr ? at(addr, CMDLINE_MAX) : NULL;

    for (size_t i = 0; text && text[i] && i < CMDLINE_MAX - 1; i++)
        guest.cmdline[i] = text[i];
}

static void set_initrd(uint64_t addr, uint64_t size)
{
    if (addr && size && (guest.initrd = at(addr, size)))
        guest.initrd_size = size;
}

/* ---- PVH ------------------------------------------------------------------ */

struct hvm_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline, rsdp;
    uint64_t memory_map; /* from version 1 on */
    uint32_t memory_map_entries, reserved;
};

struct hvm_module {
    uint64_t addr, size, cmdline, reserved;
};

struct hvm_memory {
    uint64_t addr, size;
    uint32_t type, reserved;
};

void bootinfo_pvh(const void *start_info)
{
    const struct hvm_start_info *info = start_info;

    set_cmdline(info->cmdline);
    if (info->modules) {
        const struct hvm_module *module = at(info->module_list, sizeof *module);

        set_initrd(module->addr, module->size);
    }
    if (info->version >= 1) {
        const struct hvm_memory *map = at(info->memory_map, 4096);

        for (unsigned i = 0; i < info->memory_map_entries; i++)
            add_ram(map[i].addr, map[i].size, map[i].type);
    }
    guest.memory = ram_size();
}

/* ---- Linux ---------------------------------------------------------------- */

#define EXT_RAMDISK_IMAGE 0x0c0
#define EXT_RAMDISK_SIZE 0x0c4
#define EXT_CMDLINE_PTR 0x0c8
#define E820_ENTRIES 0x1e8
#define RAMDISK_IMAGE 0x218
#define RAMDISK_SIZE 0x21c
#define CMDLINE_PTR 0x228
#define E820_TABLE 0x2d0

struct e820_entry {
    uint64_t addr, size;
    uint32_t type;
} __attribute__((packed));

/* A 64-bit value whose halves lie apart. */
static uint64_t split(const uint8_t *params, unsigned low, unsigned high)
{
    return *(const uint32_t *)(params + low) |
           (uint64_t)*(const uint32_t *)(params + high) << 32;
}

void bootinfo_linux(const void *boot_params)
{
    const uint8_t *params = boot_params;
    const struct e820_entry *map = (const void *)(params + E820_TABLE);

    set_cmdline(split(params, CMDLINE_PTR, EXT_CMDLINE_PTR));
    set_initrd(split(params, RAMDISK_IMAGE, EXT_RAMDISK_IMAGE),
               split(params, RAMDISK_SIZE, EXT_RAMDISK_SIZE));
    for (unsigned i = 0; i < params[E820_ENTRIES]; i++)
        add_ram(map[i].addr, map[i].size, map[i].type);
    guest.memory = ram_size();
}

/* ---- processors ----------------------------------------------------------- */

#define FW_CFG_SELECT 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_SIGNATURE 0
#define FW_CFG_NB_CPUS 5

bool is_qemu(void)
{
    static const char signature[] = "QEMU";

    outw(FW_CFG_SELECT, FW_CFG_SIGNATURE);
    for (int i = 0; i < 4; i++)
        if (inb(FW_CFG_DATA) != signature[i])
            return false;
    return true;
}

#define MP_POINTER_SIGNATURE 0x5f504d5f /* "_MP_" */
#define MP_TABLE_SIGNATURE 0x504d4350   /* "PCMP" */
#define MP_PROCESSOR 0
#define MP_PROCESSOR_SIZE 20
#define MP_OTHER_SIZE 8
#define MP_ENABLED 1

struct mp_pointer {
    uint32_t signature, table;
};

struct mp_table {
    uint32_t signature;
    uint8_t unused[30];
    uint16_t entries;
    uint8_t unused2[8];
};

_Static_assert(sizeof(struct mp_table) == 44, "MP table header layout");

static unsigned mp_table_vcpus(uint64_t from, uint64_t to)
{
    for (; from < to; from += 16) {
        const struct mp_pointer *pointer = (const void *)(uintptr_t)from;
        const struct mp_table *table;
        const uint8_t *entry;
        unsigned n = 0;

        if (pointer->signature != MP_POINTER_SIGNATURE)
            continue;
        table = (const void *)(uintptr_t)pointer->table;
        if (table->signature != MP_TABLE_SIGNATURE)
            continue;
        entry = (const uint8_t *)(table + 1);
        for (unsigned i = 0; i < table->entries; i++) {
            bool processor = entry[0] == MP_PROCESSOR;

            if (processor && entry[3] & MP_ENABLED)
                n++;
            entry += processor ? MP_PROCESSOR_SIZE : MP_OTHER_SIZE;
        }
        return n;
    }
    return 0;
}

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]),
                       "=d"(regs[3])
                     : "a"(leaf), "c"(subleaf));
}

/* The topology leaf: each level says how many logical processors it has. */
static unsigned cpuid_vcpus(void)
{
    uint32_t regs[4], most = 0;

    cpuid(0, 0, regs);
    if (regs[0] < 0xb)
        return 0;
    for (unsigned level = 0; level < 8; level++) {
        cpuid(0xb, level, regs);
        if ((regs[2] >> 8 & 255) == 0)
            break;
        if ((regs[1] & 0xffff) > most)
            most = regs[1] & 0xffff;
    }
    return most;
}

unsigned count_vcpus(void)
{
    unsigned n = 0;

    if (is_qemu()) {
        outw(FW_CFG_SELECT, FW_CFG_NB_CPUS);
        n = inb(FW_CFG_DATA);
        n |= inb(FW_CFG_DATA) << 8;
    }
    if (!n)
        n = mp_table_vcpus(0x9fc00, 0xa0000);
    if (!n)
        n = mp_table_vcpus(0xf0000, 0x100000);
    if (!n)
        n = cpuid_vcpus();
    return n ? n : 1;
}
