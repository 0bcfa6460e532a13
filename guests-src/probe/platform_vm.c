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
#define FAULT_CODE 125

void platform_console(const char *text, size_t len)
{
    uart_write(text, len);
}

uint64_t platform_milliseconds(void)
{
    return timer_milliseconds();
}

/* Frames are polled for each millisecond, whatever time the caller has. */
void platform_wait(unsigned milliseconds)
{
    if (milliseconds == WAIT_FOREVER)
        for (;;)
            __asm__ volatile("cli; hlt");
    timer_sleep();
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

/* Writes to the pages of [start, end) while there are bytes to be filled. */
static void fill_range(uint64_t start, uint64_t end, uint64_t *left,
                       uint64_t *done)
{
    for (uint64_t page = (start + 4095) & ~4095ull;
         page + 4096 <= end && *left; page += 4096) {
        *(volatile uint8_t *)page = 1;
        *done += 4096;
        *left = *left > 4096 ? *left - 4096 : 0;
    }
}

/* Leaves alone the first MiB, everything up to the image's end, the initrd. */
uint64_t platform_fill(uint64_t bytes)
{
    uint64_t initrd = (uintptr_t)guest.initrd;
    uint64_t initrd_end = initrd + guest.initrd_size;
    uint64_t left = bytes, done = 0;

    for (unsigned i = 0; i < ram_ranges; i++) {
        uint64_t start = max64(ram[i].start, (uintptr_t)image_end);
        uint64_t end = ram[i].start + ram[i].size;

        if (start >= end || !map_range(start, end - start))
            continue;
        if (initrd >= start && initrd < end) {
            fill_range(start, initrd, &left, &done);
            start = initrd_end;
        }
        fill_range(start, end, &left, &done);
    }
    return done > bytes ? bytes : done;
}

/*
 * QEMU's isa-debug-exit device ends it with (code << 1) | 1; where there is
 * none, the keyboard controller's reset ends Firecracker, and QEMU with
 * -no-reboot; and if there is no such controller, a triple fault does.
 */
_Noreturn void platform_exit(unsigned code)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = {0, 0};
    uint64_t start = rdtsc();

    uart_drain();
    outl(DEBUG_EXIT_PORT, code);
    outb(KEYBOARD_PORT, KEYBOARD_RESET);
    while (rdtsc() - start < RESET_CYCLES)
        pause(); /* monitors may take their time to act on it */
    __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
    for (;;)
        __asm__ volatile("cli; hlt");
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
