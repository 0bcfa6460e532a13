/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - interrupts, and the time.
 *
 * The only interrupt the probe takes is the local APIC's timer, and only to
 * wake up from HLT each millisecond while it waits for the network. That timer
 * counts nanoseconds in both KVM and QEMU, which also tells how fast the time
 * stamp counter runs.
 */
#include "vm.h"

#define APIC 0xfee00000ull
#define APIC_SPURIOUS (APIC + 0xf0)
#define APIC_TIMER (APIC + 0x320)
#define APIC_TIMER_INITIAL (APIC + 0x380)
#define APIC_TIMER_CURRENT (APIC + 0x390)
#define APIC_TIMER_DIVIDE (APIC + 0x3e0)

#define VECTOR_TICK 0x40
#define VECTOR_SPURIOUS 0xff
#define MASKED (1u << 16)
#define PERIODIC (1u << 17)
#define DIVIDE_BY_1 0xb
#define NS_PER_MS 1000000

extern char exception_stubs[], tick_stub[], ignore_stub[];

struct gate {
    uint16_t offset0, selector;
    uint8_t stack, type;
    uint16_t offset1;
    uint32_t offset2, reserved;
};

static struct gate idt[256];
static uint64_t tsc_per_ms;

static void set_gate(unsigned vector, const char *handler)
{
    uint64_t addr = (uintptr_t)handler;

    idt[vector] = (struct gate){
        .offset0 = addr,
        .selector = 0x08,
        .type = 0x8e, /* interrupt gate */
        .offset1 = addr >> 16,
        .offset2 = addr >> 32,
    };
}

void interrupts_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof idt - 1, (uintptr_t)idt};

    for (unsigned i = 0; i < 256; i++)
        set_gate(i, i < 32 ? exception_stubs + 16 * i : ignore_stub);
    set_gate(VECTOR_TICK, tick_stub);
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

/* Starts the tick and measures the time stamp counter over 2 ms. */
static void start(void)
{
    outb(0x21, 0xff); /* nothing from the old interrupt controllers */
    outb(0xa1, 0xff);

    write32(APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS); /* on */
    write32(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    write32(APIC_TIMER, MASKED | VECTOR_TICK);
    write32(APIC_TIMER_INITIAL, 0xffffffff);

    uint32_t first = read32(APIC_TIMER_CURRENT);
    uint64_t tsc = rdtsc(), elapsed_ns = 0;

    while (elapsed_ns < 2 * NS_PER_MS && rdtsc() - tsc < 1000000000)
        elapsed_ns = first - read32(APIC_TIMER_CURRENT);
    tsc = rdtsc() - tsc;
    if (elapsed_ns < 2 * NS_PER_MS) {
        tsc_per_ms = 2000000; /* no such timer: a guess, and no sleeping */
        return;
    }
    tsc_per_ms = tsc * NS_PER_MS / elapsed_ns;
    write32(APIC_TIMER, PERIODIC | VECTOR_TICK);
    write32(APIC_TIMER_INITIAL, NS_PER_MS);
}

uint64_t timer_milliseconds(void)
{
    if (!tsc_per_ms)
        start();
    return rdtsc() / tsc_per_ms;
}

void timer_sleep(void)
{
    if (!tsc_per_ms)
        start();
    if (read32(APIC_TIMER) & PERIODIC)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    else
        pause();
}
