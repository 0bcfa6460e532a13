/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h - what the files of the virtual-machine platform (QEMU, Firecracker)
 * share: port and memory access, and the virtio layer's interfaces.
 */
#ifndef VM_H
#define VM_H

#include "probe.h"

/* ---- the processor -------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t v;

    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

/*
 * Device registers are accessed with plain moves only: hypervisors decode the
 * instruction that touched the register, and not all decode every form.
 */
static inline uint8_t read8(uint64_t addr)
{
    uint8_t v;

    __asm__ volatile("movb (%1), %0" : "=q"(v) : "r"(addr) : "memory");
    return v;
}

static inline uint16_t read16(uint64_t addr)
{
    uint16_t v;

    __asm__ volatile("movw (%1), %0" : "=r"(v) : "r"(addr) : "memory");
    return v;
}

static inline uint32_t read32(uint64_t addr)
{
    uint32_t v;

    __asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(addr) : "memory");
    return v;
}

static inline void write8(uint64_t addr, uint8_t v)
{
    __asm__ volatile("movb %0, (%1)" : : "q"(v), "r"(addr) : "memory");
}

static inline void write16(uint64_t addr, uint16_t v)
{
    __asm__ volatile("movw %0, (%1)" : : "r"(v), "r"(addr) : "memory");
}

static inline void write32(uint64_t addr, uint32_t v)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(v), "r"(addr) : "memory");
}

/* A write that changes nothing, whatever a device may be writing there. */
static inline void rewrite8(uint64_t addr)
{
    __asm__ volatile("lock; orb $0, (%0)" : : "r"(addr) : "memory", "cc");
}

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* ---- PCI's configuration space, by the old ports --------------------------- */

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc

typedef uint32_t pci_address; /* as CONFIG_ADDRESS wants it */

static inline pci_address pci_function(unsigned bus, unsigned slot,
                                       unsigned function)
{
    return 0x80000000u | bus << 16 | slot << 11 | function << 8;
}

static inline uint32_t config_read32(pci_address dev, unsigned offset)
{
    outl(CONFIG_ADDRESS, dev | (offset & ~3u));
    return inl(CONFIG_DATA);
}

static inline void config_write32(pci_address dev, unsigned offset, uint32_t v)
{
    outl(CONFIG_ADDRESS, dev | offset);
    outl(CONFIG_DATA, v);
}

/* ---- uart.c --------------------------------------------------------------- */

void uart_init(void);
void uart_write(const char *text, size_t len);
void uart_drain(void); /* until all of it is out */

/* ---- paging.c: the identity mapping --------------------------------------- */

/* Makes the range accessible at its own address (below 4 GiB it is already). */
bool map_range(uint64_t start, uint64_t size);

/* ---- timer.c: the time, and sleeping -------------------------------------- */

uint64_t timer_milliseconds(void);
/* Halted until an interrupt or for so many milliseconds. */
void timer_sleep(unsigned milliseconds);
void interrupts_init(void);
/* Has an interrupt line (a pin of the first I/O APIC) end sleeping; false: there is no such. */
bool interrupts_from(unsigned line);
/* What a device writes where to end it (a message-signalled interrupt). */
uint32_t interrupt_message(uint32_t *address);

/* ---- bootinfo.c: what the loader handed over ------------------------------ */

struct ram_range {
    uint64_t start, size;
};

#define MAX_RAM_RANGES 32
extern struct ram_range ram[MAX_RAM_RANGES]; /* usable, as the loader says */
extern unsigned ram_ranges;

void bootinfo_pvh(const void *start_info);
void bootinfo_linux(const void *boot_params);
bool is_qemu(void); /* has QEMU's fw_cfg device */
unsigned count_vcpus(void);

/* ---- how it ends by itself ------------------------------------------------ */

#define FAULT_CODE 125      /* after an exception */
#define UNASSIGNED_CODE 124 /* a device's registers are nowhere */

/* ---- virtio --------------------------------------------------------------- */

#define VIRTIO_NET 1
#define VIRTIO_BLOCK 2
#define VIRTIO_9P 9
#define VIRTIO_VSOCK 19
#define VIRTIO_FS 26

#define VIRTIO_F_VERSION_1 (1ull << 32)

/* Firecracker passes no frame on while the receive buffers on offer hold less
   than 64 KiB in all: with 9 KiB each, 16 of them are well enough. */
#define QUEUE_SIZE 16

struct queue_memory;

struct queue {
    struct queue_memory *memory;
    unsigned index;      /* the device's number for it */
    unsigned owed;       /* receiving: buffers on offer that it has not been told of */
    unsigned begun;      /* transmitting: buffers that have been used */
    uint64_t notify;     /* where to ring (PCI) */
    uint16_t avail, used; /* next to hand out, next to take back */
};

struct virtio;

/* What differs between the two transports. */
struct virtio_transport {
    const char *bus;
    void (*set_status)(struct virtio *dev, uint8_t status);
    uint8_t (*get_status)(struct virtio *dev);
    uint64_t (*get_features)(struct virtio *dev);
    void (*set_features)(struct virtio *dev, uint64_t features);
    /* The device's limit on its size; 0: there is no such queue. */
    unsigned (*select_queue)(struct virtio *dev, unsigned index);
    void (*enable_queue)(struct virtio *dev, struct queue *queue,
                         uint64_t descriptors, uint64_t avail, uint64_t used);
    void (*notify)(struct virtio *dev, struct queue *queue);
    /* Has the device's interrupts end sleeping; false: it has none that is known. */
    bool (*interrupt)(struct virtio *dev);
    /* What it has interrupted for is seen. */
    void (*acknowledge)(struct virtio *dev);
};

struct virtio {
    const struct virtio_transport *transport;
    uint64_t base;   /* mmio: its registers; pci: the common configuration */
    uint64_t config; /* the device-specific configuration */
    uint64_t notify_base; /* pci only */
    uint32_t notify_multiplier;
    unsigned type;   /* VIRTIO_NET, ... */
    bool legacy;     /* mmio version 1 */
    int line;        /* mmio: of its interrupts; -1: nobody has said which */
    uint64_t vectors; /* pci: its table of them (MSI-X); 0: there is none */
    bool interrupts; /* they are on */
    uint64_t features; /* negotiated */
    struct queue queues[2];
};

/* The transports call this with each device they find; it is kept. */
void virtio_found(const struct virtio *dev);

/* Whether each NIC interrupts: then nothing has to be polled for frames. Otherwise, or where frames
   have come already, there is no time to sleep. */
bool virtio_nics_interrupt(void);
bool virtio_nics_idle(void);
void virtio_drain(void); /* until NICs have sent what they were given */

unsigned virtio_mmio_from_cmdline(void); /* how many words there were */
void virtio_mmio_scan(void);             /* QEMU microvm's fixed places */
bool virtio_pci_scan(void);              /* false: there is no PCI */

#endif
