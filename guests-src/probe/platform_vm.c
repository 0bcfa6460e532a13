/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform_vm.c - the probe in a virtual machine (QEMU or Firecracker).
 */
#include "vm.h"

extern char image_start[], image_end[]; /* vm.lds */

#define DEBUG_EXIT_PORT 0x501
#define KEYBOARD_PORT 0x64
#define KEYBOARD_RESET 0xfe
#define RESET_CYCLES 200000000 /* about 0.1 s */
#define NOWHERE 0xfe000000ull /* neither memory nor a device */

static _Noreturn void triple_fault(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = {0, 0};

    __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
    for (;;)
        __asm__ volatile("cli; hlt");
}

void platform_console(const char *text, size_t len)
{
    uart_write(text, len);
}

uint64_t platform_milliseconds(void)
{
    return timer_milliseconds();
}

/* Where a NIC cannot interrupt, frames are polled for each millisecond, whatever time the caller
   has. */
void platform_wait(unsigned milliseconds)
{
    if (milliseconds == WAIT_FOREVER)
        for (;;)
            __asm__ volatile("cli; hlt");
    if (!milliseconds || !virtio_nics_idle())
        return;
    timer_sleep(virtio_nics_interrupt() ? milliseconds : 1);
}

void platform_discover(void)
{
    guest.vcpus = count_vcpus();
    if (virtio_mmio_from_cmdline() == 0 && !virtio_pci_scan() && is_qemu())
        virtio_mmio_scan();
}

static uint64_t max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What the image, the initrd or the loader's tables (in the first MiB) need. */
static bool is_used(uint64_t page)
{
    uint64_t initrd = (uintptr_t)guest.initrd;

    return page < (uintptr_t)image_end ||
           (page + 4096 > initrd && page < initrd + guest.initrd_size);
}

/* Writes to each usable page: to those in use without changing them, to the
   others something that is not 0, in case the host looks for such pages. */
static uint64_t fill_all(void)
{
    uint64_t done = 0;

    for (unsigned i = 0; i < ram_ranges; i++) {
        uint64_t start = ram[i].start, end = start + ram[i].size;

        if (!map_range(start, end - start))
            continue;
        for (uint64_t page = start & ~4095ull; page < end; page += 4096) {
            if (is_used(page))
                rewrite8(page);
            else
                write8(page, 1);
            done += 4096;
        }
    }
    return done;
}

/* Leaves alone the first MiB, everything up to the image's end, the initrd. */
uint64_t platform_fill(uint64_t bytes)
{
    uint64_t done = 0;

    if (bytes == FILL_ALL)
        return fill_all();
    for (unsigned i = 0; i < ram_ranges; i++) {
        uint64_t start = max64(ram[i].start, (uintptr_t)image_end);
        uint64_t end = ram[i].start + ram[i].size;

        if (start >= end || !map_range(start, end - start))
            continue;
        for (uint64_t page = (start + 4095) & ~4095ull;
             page + 4096 <= end && done < bytes; page += 4096) {
            if (is_used(page))
                continue;
            write8(page, 1);
            done += 4096;
        }
    }
    return done > bytes ? bytes : done;
}

static void wait_cycles(uint64_t cycles)
{
    uint64_t start = rdtsc();

    while (rdtsc() - start < cycles)
        pause();
}

/*
 * QEMU's isa-debug-exit device ends it with (code << 1) | 1, from 9.1 on not
 * at once, and what the guest does meanwhile counts instead; where there is
 * none (it reads as 0), the keyboard controller's reset ends Firecracker, and QEMU with
 * -no-reboot; and if there is no such controller, a triple fault does.
 */
_Noreturn void platform_exit(unsigned code)
{
    uart_drain();
    virtio_drain();
    if (inb(DEBUG_EXIT_PORT) == 0) {
        outl(DEBUG_EXIT_PORT, code);
        wait_cycles(RESET_CYCLES);
    }
    outb(KEYBOARD_PORT, KEYBOARD_RESET);
    wait_cycles(RESET_CYCLES); /* monitors may take their time to act on it */
    triple_fault();
}

_Noreturn void platform_crash(void)
{
    uart_drain();
    virtio_drain();
    triple_fault();
}

_Noreturn void platform_stray(void)
{
    uart_drain();
    virtio_drain();
    __asm__ volatile("jmp *%0" : : "r"(NOWHERE));
    __builtin_unreachable();
}

/* Any exception: say so, and leave with a code of its own. */
_Noreturn void vm_fault(uint64_t vector, uint64_t error, uint64_t address)
{
    uint64_t cr2;

    __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
    json_end_line(); /* whatever was being said */
    json_raw("{\"probe\":1,\"event\":\"fault\",\"vector\":");
    json_number(vector);
    json_raw(",\"error\":");
    json_number(error);
    json_raw(",\"address\":");
    json_number(address);
    json_raw(",\"cr2\":");
    json_number(cr2);
    json_raw("}");
    json_end_line();
    platform_exit(FAULT_CODE);
}

static _Noreturn void vm_main(const char *boot, const void *info,
                              void (*read_info)(const void *))
{
    guest.boot = boot;
    uart_init();
    interrupts_init();
    read_info(info);
    probe_main();
}

/* start-pvh.S */
_Noreturn void vm_entry_pvh(const void *start_info)
{
    vm_main("pvh", start_info, bootinfo_pvh);
}

/* start-linux64.S */
_Noreturn void vm_entry_linux64(const void *boot_params)
{
    vm_main("linux64", boot_params, bootinfo_linux);
}
