/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - interrupts, and the time.
 *
 * The only interrupts the probe takes are the local APIC's timer and those of
 * NICs, and only to wake up from HLT. There is no tick: the timer is set for
 * each sleep. It counts nanoseconds in both KVM and QEMU, which also tells how
 * fast the time stamp counter runs.
 */
#include "vm.h"

#define APIC 0xfee00000ull
#define APIC_ID (APIC + 0x20) /* in bits 24 to 31 */
#define APIC_SPURIOUS (APIC + 0xf0)
#define APIC_TIMER (APIC + 0x320)
#define APIC_TIMER_INITIAL (APIC + 0x380)
#define APIC_TIMER_CURRENT (APIC + 0x390)
#define APIC_TIMER_DIVIDE (APIC + 0x3e0)

#define IO_APIC 0xfec00000ull
#define IO_APIC_SELECT IO_APIC
#define IO_APIC_WINDOW (IO_APIC + 0x10)
#define IO_APIC_VERSION 1 /* bits 16 to 23: the last pin */
#define IO_APIC_PIN(n) (0x10 + 2 * (n)) /* fixed, edge, active high: only the vector is set */

#define VECTOR_WAKE 0x40
#define VECTOR_SPURIOUS 0xff
#define MASKED (1u << 16)
#define DIVIDE_BY_1 0xb
#define NS_PER_MS 1000000
#define SLEEP_MAX_MS 4000 /* what 32 bits of nanoseconds hold */

extern char exception_stubs[], wake_stub[], ignore_stub[];

struct gate {
    uint16_t offset0, selector;
    uint8_t stack, type;
    uint16_t offset1;
    uint32_t offset2, reserved;
};

static struct gate idt[256];
static uint64_t tsc_per_ms;
static bool have_timer;

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
    set_gate(VECTOR_WAKE, wake_stub);
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

static void apic_on(void)
{
    outb(0x21, 0xff); /* nothing from the old interrupt controllers */
    outb(0xa1, 0xff);
    write32(APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
}

static void io_apic_write(unsigned index, uint32_t v)
{
    write32(IO_APIC_SELECT, index);
    write32(IO_APIC_WINDOW, v);
}

bool interrupts_from(unsigned line)
{
    uint32_t version;

    write32(IO_APIC_SELECT, IO_APIC_VERSION);
    version = read32(IO_APIC_WINDOW);
    if (version == 0xffffffff || line > (version >> 16 & 0xff))
        return false;
    apic_on();
    io_apic_write(IO_APIC_PIN(line) + 1, read32(APIC_ID));
    io_apic_write(IO_APIC_PIN(line), VECTOR_WAKE);
    return true;
}

uint32_t interrupt_message(uint32_t *address)
{
    apic_on();
    *address = APIC | read32(APIC_ID) >> 24 << 12;
    return VECTOR_WAKE;
}

/* Measures the time stamp counter over 2 ms. */
static void start(void)
{
    apic_on();
    write32(APIC_TIMER_DIVIDE, DIVIDE_BY_1);
    write32(APIC_TIMER, MASKED | VECTOR_WAKE);
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
    write32(APIC_TIMER, VECTOR_WAKE); /* once */
    have_timer = true;
}

uint64_t timer_milliseconds(void)
{
    if (!tsc_per_ms)
        start();
    return rdtsc() / tsc_per_ms;
}

void timer_sleep(unsigned milliseconds)
{
    if (!tsc_per_ms)
        start();
    if (!have_timer) {
        pause();
        return;
    }
    if (milliseconds > SLEEP_MAX_MS)
        milliseconds = SLEEP_MAX_MS;
    write32(APIC_TIMER_INITIAL, milliseconds * NS_PER_MS);
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}
