/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform_hvt.c - the probe under Solo5's hvt tender: a virtual machine
 * without any device, whose hypercalls are 32-bit writes to I/O port 0x500 + n
 * of the address of a structure (all memory is below 4 GiB).
 */
#include "solo5.h"

enum {
    HC_WALLTIME = 1,
    HC_PUTS,
    HC_POLL,
    HC_BLOCK_WRITE,
    HC_BLOCK_READ,
    HC_NET_WRITE,
    HC_NET_READ,
    HC_HALT,
};

struct hvt_boot_info {
    uint64_t mem_size;
    uint64_t kernel_end;
    uint64_t cpu_cycle_freq;
    const char *cmdline;
    const struct mft *mft;
    /* newer tenders: fields of the shared ring, which the probe leaves alone */
};

static const struct hvt_boot_info *boot_info;

static void hypercall(unsigned number, volatile void *arg)
{
    __asm__ volatile("outl %0, %w1"
                     :
                     : "a"((uint32_t)(uintptr_t)arg), "d"(0x500 + number)
                     : "memory");
}

void platform_console(const char *text, size_t len)
{
    struct {
        const char *data;
        size_t len;
    } arg = {text, len};

    hypercall(HC_PUTS, &arg);
}

uint64_t platform_milliseconds(void)
{
    struct {
        uint64_t nanoseconds;
    } arg = {0};

    hypercall(HC_WALLTIME, &arg);
    return arg.nanoseconds / 1000000;
}

void platform_wait(unsigned milliseconds)
{
    struct {
        uint64_t timeout_ns;
        uint64_t ready;
        int result;
    } arg = {milliseconds * 1000000ull, 0, 0};

    hypercall(HC_POLL, &arg);
}

_Noreturn void platform_exit(unsigned code)
{
    struct {
        void *cookie;
        int status;
    } arg = {NULL, code};

    for (;;)
        hypercall(HC_HALT, &arg);
}

_Noreturn void platform_crash(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = {0, 0};

    for (;;)
        __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
}

_Noreturn void platform_stray(void)
{
    solo5_stray(boot_info->mem_size);
}

static bool block_read(unsigned handle, void *buf, size_t len)
{
    struct {
        uint64_t handle, offset;
        void *data;
        size_t len;
        int result;
    } arg = {handle, 0, buf, len, -1};

    hypercall(HC_BLOCK_READ, &arg);
    return arg.result == 0;
}

static size_t net_read(unsigned handle, void *buf, size_t size)
{
    struct {
        uint64_t handle;
        void *data;
        size_t len;
        int result;
    } arg = {handle, buf, size, -1};

    hypercall(HC_NET_READ, &arg);
    return arg.result == 0 ? arg.len : 0;
}

static void net_write(unsigned handle, const void *buf, size_t len)
{
    struct {
        uint64_t handle;
        const void *data;
        size_t len;
        int result;
    } arg = {handle, buf, len, -1};

    hypercall(HC_NET_WRITE, &arg);
}

static const struct solo5_ops ops = {block_read, net_read, net_write};

/* The memory the tender names is all of --mem: the ring that recent tenders
   share with guests that have a network device comes on top of it. */
void platform_discover(void)
{
    solo5_discover("hvt", boot_info->cmdline, boot_info->mem_size,
                   boot_info->mft, &ops);
}

uint64_t platform_fill(uint64_t bytes)
{
    return solo5_fill(boot_info->kernel_end, boot_info->mem_size, bytes);
}

/* The tender has set up long mode, paging and a stack. */
_Noreturn void start(const struct hvt_boot_info *info)
{
    boot_info = info;
    probe_main();
}
