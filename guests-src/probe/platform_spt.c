/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform_spt.c - the probe under Solo5's spt tender: code inside a process
 * of the host, which may make the few system calls the tender's seccomp filter
 * lets through.
 */
#include "solo5.h"

enum {
    SYS_READ = 0,
    SYS_WRITE = 1,
    SYS_PREAD64 = 17,
    SYS_CLOCK_GETTIME = 228,
    SYS_EXIT_GROUP = 231,
    SYS_EPOLL_PWAIT = 281,
};

#define CLOCK_MONOTONIC 1

struct spt_boot_info {
    uint64_t mem_size;
    uint64_t kernel_end;
    const char *cmdline;
    const struct mft *mft;
    int epoll_fd;
    int timer_fd;
};

static const struct spt_boot_info *boot_info;

static long system_call(long number, long a, long b, long c, long d, long e,
                        long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8),
                       "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

void platform_console(const char *text, size_t len)
{
    while (len) {
        long n = system_call(SYS_WRITE, 1, (long)text, len, 0, 0, 0);

        if (n <= 0)
            return;
        text += n;
        len -= n;
    }
}

uint64_t platform_milliseconds(void)
{
    struct {
        int64_t seconds, nanoseconds;
    } now = {0, 0};

    system_call(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&now, 0, 0, 0, 0);
    return now.seconds * 1000 + now.nanoseconds / 1000000;
}

/* The tender's epoll set holds the network devices. */
void platform_wait(unsigned milliseconds)
{
    struct {
        uint32_t events;
        uint64_t data;
    } __attribute__((packed)) events[MAX_NICS + 1];

    system_call(SYS_EPOLL_PWAIT, boot_info->epoll_fd, (long)events,
                MAX_NICS + 1, milliseconds == WAIT_FOREVER ? -1 : (long)milliseconds,
                0, 8);
}

_Noreturn void platform_exit(unsigned code)
{
    for (;;)
        system_call(SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0);
}

/* A process has no more than this to offer. */
_Noreturn void platform_crash(void)
{
    for (;;)
        __asm__ volatile("ud2");
}

_Noreturn void platform_stray(void)
{
    solo5_stray(boot_info->mem_size);
}

static int host_fd(unsigned handle)
{
    return (int)boot_info->mft->entries[handle].host;
}

static bool block_read(unsigned handle, void *buf, size_t len)
{
    return system_call(SYS_PREAD64, host_fd(handle), (long)buf, len, 0, 0, 0) ==
           (long)len;
}

static size_t net_read(unsigned handle, void *buf, size_t size)
{
    long n = system_call(SYS_READ, host_fd(handle), (long)buf, size, 0, 0, 0);

    return n > 0 ? n : 0;
}

static void net_write(unsigned handle, const void *buf, size_t len)
{
    system_call(SYS_WRITE, host_fd(handle), (long)buf, len, 0, 0, 0);
}

static const struct solo5_ops ops = {block_read, net_read, net_write};

void platform_discover(void)
{
    solo5_discover("spt", boot_info->cmdline, boot_info->mem_size,
                   boot_info->mft, &ops);
}

uint64_t platform_fill(uint64_t bytes)
{
    return solo5_fill(boot_info->kernel_end, boot_info->mem_size, bytes);
}

/* The tender jumps here with a stack set up at the top of the memory. */
_Noreturn void start(const struct spt_boot_info *info)
{
    boot_info = info;
    probe_main();
}
