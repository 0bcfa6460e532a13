/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_mmio.c - virtio devices behind memory-mapped registers, modern
 * (version 2) and legacy (version 1, what QEMU's microvm has by default).
 *
 * Firecracker and microvm name them in the command line; on a microvm that was
 * told not to, they are looked for in its 24 fixed places.
 */
#include "vm.h"

#define MAGIC 0x000
#define MAGIC_VALUE 0x74726976 /* "virt" */
#define VERSION 0x004
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SELECT 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SELECT 0x024
#define LEGACY_PAGE_SIZE 0x028
#define QUEUE_SELECT 0x030
#define QUEUE_SIZE_MAX 0x034
#define QUEUE_SIZE_SET 0x038
#define LEGACY_QUEUE_ALIGN 0x03c
#define LEGACY_QUEUE_PAGE 0x040
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define INTERRUPT_ACKNOWLEDGE 0x064
#define INTERRUPT_USED 1 /* it has used a buffer */
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_AVAIL 0x090
#define QUEUE_USED 0x0a0
#define CONFIG 0x100

#define PAGE 4096

static void set_status(struct virtio *dev, uint8_t status)
{
    write32(dev->base + STATUS, status);
}

static uint8_t get_status(struct virtio *dev)
{
    return read32(dev->base + STATUS);
}

static uint64_t get_features(struct virtio *dev)
{
    uint64_t features;

    write32(dev->base + DEVICE_FEATURES_SELECT, 0);
    features = read32(dev->base + DEVICE_FEATURES);
    if (!dev->legacy) {
        write32(dev->base + DEVICE_FEATURES_SELECT, 1);
        features |= (uint64_t)read32(dev->base + DEVICE_FEATURES) << 32;
    }
    return features;
}

static void set_features(struct virtio *dev, uint64_t features)
{
    write32(dev->base + DRIVER_FEATURES_SELECT, 0);
    write32(dev->base + DRIVER_FEATURES, features);
    if (dev->legacy) {
        write32(dev->base + LEGACY_PAGE_SIZE, PAGE);
        return;
    }
    write32(dev->base + DRIVER_FEATURES_SELECT, 1);
    write32(dev->base + DRIVER_FEATURES, features >> 32);
}

static unsigned select_queue(struct virtio *dev, unsigned index)
{
    write32(dev->base + QUEUE_SELECT, index);
    return read32(dev->base + QUEUE_SIZE_MAX);
}

static void write_address(uint64_t where, uint64_t address)
{
    write32(where, address);
    write32(where + 4, address >> 32);
}

static void enable_queue(struct virtio *dev, struct queue *queue,
                         uint64_t descriptors, uint64_t avail, uint64_t used)
{
    (void)queue;
    write32(dev->base + QUEUE_SIZE_SET, QUEUE_SIZE);
    if (dev->legacy) {
        write32(dev->base + LEGACY_QUEUE_ALIGN, PAGE);
        write32(dev->base + LEGACY_QUEUE_PAGE, descriptors / PAGE);
        return;
    }
    write_address(dev->base + QUEUE_DESC, descriptors);
    write_address(dev->base + QUEUE_AVAIL, avail);
    write_address(dev->base + QUEUE_USED, used);
    write32(dev->base + QUEUE_READY, 1);
}

static void notify(struct virtio *dev, struct queue *queue)
{
    write32(dev->base + QUEUE_NOTIFY, queue->index);
}

static bool interrupt(struct virtio *dev)
{
    return dev->line >= 0 && interrupts_from(dev->line);
}

static void acknowledge(struct virtio *dev)
{
    write32(dev->base + INTERRUPT_ACKNOWLEDGE, INTERRUPT_USED);
}

static const struct virtio_transport transport = {
    .bus = "mmio",
    .set_status = set_status,
    .get_status = get_status,
    .get_features = get_features,
    .set_features = set_features,
    .select_queue = select_queue,
    .enable_queue = enable_queue,
    .notify = notify,
    .interrupt = interrupt,
    .acknowledge = acknowledge,
};

static void look_at(uint64_t base, int line)
{
    struct virtio dev = {
        .transport = &transport,
        .base = base,
        .config = base + CONFIG,
        .line = line,
    };

    if (!map_range(base, PAGE) || read32(base + MAGIC) != MAGIC_VALUE)
        return;
    dev.legacy = read32(base + VERSION) == 1;
    dev.type = read32(base + DEVICE_ID);
    if (dev.type)
        virtio_found(&dev);
}

/* virtio_mmio.device=SIZE@0xADDRESS:LINE, any number of times */
unsigned virtio_mmio_from_cmdline(void)
{
    const char *text = guest.cmdline;
    unsigned n = 0;

    while ((text = cmdline_option(text, "virtio_mmio.device"))) {
        uint64_t base = 0;

        while (*text && *text != ' ' && *text != '@')
            text++;
        if (!starts_with(text, "@0x"))
            continue;
        for (text += 3;; text++) {
            if (*text >= '0' && *text <= '9')
                base = base * 16 + (*text - '0');
            else if (*text >= 'a' && *text <= 'f')
                base = base * 16 + (*text - 'a' + 10);
            else
                break;
        }
        uint64_t line = 0;
        bool has_line = *text == ':' && cmdline_number(text + 1, &line);

        n++;
        look_at(base, has_line ? (int)line : -1);
    }
    return n;
}

#define MICROVM_BASE 0xfeb00000ull
#define MICROVM_STRIDE 512
#define MICROVM_SLOTS 24

/* microvm fills its places from the last to the first. */
void virtio_mmio_scan(void)
{
    for (int slot = MICROVM_SLOTS - 1; slot >= 0; slot--)
        look_at(MICROVM_BASE + slot * MICROVM_STRIDE, -1);
}
