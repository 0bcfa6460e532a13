/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_pci.c - modern virtio devices on PCI, found by way of the old
 * configuration ports. Firmware that leaves the address registers of devices
 * empty (qboot) gets them assigned here; a build with TRUST_FIRMWARE does as
 * most small kernels do: it takes them as they are, and stops where there are
 * none.
 */
#include "vm.h"

#define PCI_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_HEADER_TYPE 0x0e
#define PCI_BAR0 0x10
#define PCI_SECONDARY_BUS 0x19
#define PCI_SUBSYSTEM_ID 0x2e
#define PCI_CAPABILITIES 0x34

#define COMMAND_MEMORY 2
#define COMMAND_BUS_MASTER 4
#define STATUS_CAPABILITIES 0x10
#define CAPABILITY_VENDOR 9
#define CAPABILITY_MSIX 0x11
#define VENDOR_VIRTIO 0x1af4

/* struct virtio_pci_cap */
#define CAP_NEXT 1
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_NOTIFY_MULTIPLIER 16
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_DEVICE 4

/* MSI-X: the capability, whose first 32 bits have the enabling one, and an entry of the table */
#define MSIX_ENABLE (1u << 31)
#define MSIX_TABLE 4
#define MSIX_TABLE_BAR 7u
#define ENTRY_ADDRESS 0
#define ENTRY_DATA 8
#define ENTRY_CONTROL 12 /* bit 0: masked */

/* ---- configuration space ---------------------------------------------------- */

static uint16_t config_read16(pci_address dev, unsigned offset)
{
    return config_read32(dev, offset) >> (offset & 2) * 8;
}

static uint8_t config_read8(pci_address dev, unsigned offset)
{
    return config_read32(dev, offset) >> (offset & 3) * 8;
}

/* ---- the transport ---------------------------------------------------------- */

/* struct virtio_pci_common_cfg */
#define DEVICE_FEATURES_SELECT 0x00
#define DEVICE_FEATURES 0x04
#define DRIVER_FEATURES_SELECT 0x08
#define DRIVER_FEATURES 0x0c
#define STATUS 0x14
#define QUEUE_SELECT 0x16
#define QUEUE_SIZE_FIELD 0x18
#define QUEUE_VECTOR 0x1a
#define QUEUE_ENABLE 0x1c
#define QUEUE_NOTIFY_OFF 0x1e
#define QUEUE_DESC 0x20
#define QUEUE_AVAIL 0x28
#define QUEUE_USED 0x30

static void set_status(struct virtio *dev, uint8_t status)
{
    write8(dev->base + STATUS, status);
}

static uint8_t get_status(struct virtio *dev)
{
    return read8(dev->base + STATUS);
}

static uint64_t get_features(struct virtio *dev)
{
    uint64_t features;

    write32(dev->base + DEVICE_FEATURES_SELECT, 0);
    features = read32(dev->base + DEVICE_FEATURES);
    write32(dev->base + DEVICE_FEATURES_SELECT, 1);
    return features | (uint64_t)read32(dev->base + DEVICE_FEATURES) << 32;
}

static void set_features(struct virtio *dev, uint64_t features)
{
    write32(dev->base + DRIVER_FEATURES_SELECT, 0);
    write32(dev->base + DRIVER_FEATURES, features);
    write32(dev->base + DRIVER_FEATURES_SELECT, 1);
    write32(dev->base + DRIVER_FEATURES, features >> 32);
}

static unsigned select_queue(struct virtio *dev, unsigned index)
{
    write16(dev->base + QUEUE_SELECT, index);
    return read16(dev->base + QUEUE_SIZE_FIELD);
}

static void write_address(uint64_t where, uint64_t address)
{
    write32(where, address);
    write32(where + 4, address >> 32);
}

static void enable_queue(struct virtio *dev, struct queue *queue,
                         uint64_t descriptors, uint64_t avail, uint64_t used)
{
    write16(dev->base + QUEUE_SIZE_FIELD, QUEUE_SIZE);
    write_address(dev->base + QUEUE_DESC, descriptors);
    write_address(dev->base + QUEUE_AVAIL, avail);
    write_address(dev->base + QUEUE_USED, used);
    if (dev->interrupts)
        write16(dev->base + QUEUE_VECTOR, 0); /* the table's first; the others are not used */
    queue->notify = dev->notify_base + (uint64_t)dev->notify_multiplier *
                                           read16(dev->base + QUEUE_NOTIFY_OFF);
    write16(dev->base + QUEUE_ENABLE, 1);
}

static void notify(struct virtio *dev, struct queue *queue)
{
    (void)dev;
    write16(queue->notify, queue->index);
}

/* All queues that interrupt have the first vector. */
static bool interrupt(struct virtio *dev)
{
    uint32_t address, data;

    if (!dev->vectors)
        return false;
    data = interrupt_message(&address);
    write_address(dev->vectors + ENTRY_ADDRESS, address);
    write32(dev->vectors + ENTRY_DATA, data);
    write32(dev->vectors + ENTRY_CONTROL, 0);
    return true;
}

/* A message needs no acknowledgement. */
static void acknowledge(struct virtio *dev)
{
    (void)dev;
}

static const struct virtio_transport transport = {
    .bus = "pci",
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

/* ---- finding devices -------------------------------------------------------- */

#define BAR_IO 1
#define BAR_64BIT 4
#define BAR_FLAGS 15u

#ifdef TRUST_FIRMWARE

static void report_bar(pci_address dev, unsigned bar)
{
    json_raw("{\"probe\":1,\"event\":\"unassigned\",\"slot\":");
    json_number(dev >> 11 & 31);
    json_raw(",\"bar\":");
    json_number(bar);
    json_raw("}");
    json_end_line();
}

/* Ends the guest where the firmware gave no address to a BAR, memory or ports,
   that the device has. */
static void trust_bar(pci_address dev, unsigned bar)
{
    unsigned offset = PCI_BAR0 + 4 * bar;
    uint32_t low = config_read32(dev, offset);
    uint32_t flags = low & BAR_IO ? 3 : BAR_FLAGS;
    uint32_t high = 0;

    if (!(low & BAR_IO) && low & BAR_64BIT)
        high = config_read32(dev, offset + 4);
    if (low & ~flags || high)
        return;
    config_write32(dev, offset, 0xffffffff);
    if (config_read32(dev, offset) & ~flags) {
        report_bar(dev, bar);
        platform_exit(UNASSIGNED_CODE);
    }
}

#else

/* Where registers go that the firmware did not place: in the gap below 4 GiB,
   far from where firmware that does place them begins. */
static uint64_t free_address = 0xe0000000;

static void trust_bar(pci_address dev, unsigned bar)
{
    (void)dev;
    (void)bar;
}

#endif

/* The address of a memory BAR, assigned and mapped; 0: it has none. */
static uint64_t bar_address(pci_address dev, unsigned bar)
{
    unsigned offset = PCI_BAR0 + 4 * bar;
    uint32_t low = config_read32(dev, offset);
    bool is_64bit = low & BAR_64BIT;
    uint64_t addr = low & ~BAR_FLAGS, size;

    if (low & BAR_IO)
        return 0;
    if (is_64bit)
        addr |= (uint64_t)config_read32(dev, offset + 4) << 32;

    /* Writing ones tells the size (of less than 4 GiB). */
    config_write32(dev, offset, 0xffffffff);
    size = ~(config_read32(dev, offset) & ~BAR_FLAGS) + 1;
    if (size == 0)
        return 0;
#ifndef TRUST_FIRMWARE
    if (!addr) {
        addr = (free_address + size - 1) & ~(size - 1);
        free_address = addr + size;
        if (is_64bit)
            config_write32(dev, offset + 4, 0);
    }
#endif
    config_write32(dev, offset, addr);
    return map_range(addr, size) ? addr : 0;
}

/* 0x1040 + type is a modern device's id; transitional ones have the type as
   their subsystem id. */
static unsigned device_type(pci_address dev)
{
    unsigned id = config_read16(dev, PCI_ID + 2);

    return id >= 0x1040 ? id - 0x1040 : config_read16(dev, PCI_SUBSYSTEM_ID);
}

/* The table of its interrupts, which are turned on (each is masked until it has an entry); 0: it
   has none. */
static uint64_t vectors_of(pci_address dev, unsigned cap, const uint64_t *bars)
{
    uint32_t table = config_read32(dev, cap + MSIX_TABLE);
    unsigned bar = table & MSIX_TABLE_BAR;

    if (bar >= 6 || !bars[bar])
        return 0;
    config_write32(dev, cap, config_read32(dev, cap) | MSIX_ENABLE);
    return bars[bar] + (table & ~MSIX_TABLE_BAR);
}

static void look_at(pci_address dev)
{
    struct virtio found = {.transport = &transport};
    uint64_t bars[6];
    unsigned cap;

    found.type = device_type(dev);
    if (!(config_read16(dev, PCI_STATUS) & STATUS_CAPABILITIES))
        return;

    /* Sizing moves the BARs about: not while the device answers to them. */
    uint32_t command = config_read32(dev, PCI_COMMAND) & 0xffff;
    config_write32(dev, PCI_COMMAND, command & ~COMMAND_MEMORY);
    for (unsigned bar = 0; bar < 6; bar++) {
        uint32_t low = config_read32(dev, PCI_BAR0 + 4 * bar);

        trust_bar(dev, bar);
        bars[bar] = bar_address(dev, bar);
        if (!(low & BAR_IO) && low & BAR_64BIT)
            bars[++bar] = 0; /* the upper half */
    }
    config_write32(dev, PCI_COMMAND,
                   command | COMMAND_MEMORY | COMMAND_BUS_MASTER);

    for (cap = config_read8(dev, PCI_CAPABILITIES) & ~3u; cap;
         cap = config_read8(dev, cap + CAP_NEXT) & ~3u) {
        unsigned bar = config_read8(dev, cap + CAP_BAR);
        uint64_t addr;

        if (config_read8(dev, cap) == CAPABILITY_MSIX)
            found.vectors = vectors_of(dev, cap, bars);
        if (config_read8(dev, cap) != CAPABILITY_VENDOR || bar >= 6 ||
            !bars[bar])
            continue;
        addr = bars[bar] + config_read32(dev, cap + CAP_OFFSET);
        switch (config_read8(dev, cap + CAP_TYPE)) {
        case CAP_COMMON:
            found.base = addr;
            break;
        case CAP_NOTIFY:
            found.notify_base = addr;
            found.notify_multiplier =
                config_read32(dev, cap + CAP_NOTIFY_MULTIPLIER);
            break;
        case CAP_DEVICE:
            found.config = addr;
            break;
        }
    }
    if (found.base && found.notify_base)
        virtio_found(&found);
}

static void scan_bus(unsigned bus)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        unsigned functions = 1;

        for (unsigned function = 0; function < functions; function++) {
            pci_address dev = pci_function(bus, slot, function);
            uint32_t id = config_read32(dev, PCI_ID);
            uint8_t header;

            if ((id & 0xffff) == 0xffff)
                continue;
            header = config_read8(dev, PCI_HEADER_TYPE);
            if (function == 0 && header & 0x80)
                functions = 8;
            if ((header & 0x7f) == 1) {
                /* A bridge that firmware has set up leads to a higher bus. */
                unsigned secondary = config_read8(dev, PCI_SECONDARY_BUS);

                if (secondary > bus)
                    scan_bus(secondary);
            } else if ((id & 0xffff) == VENDOR_VIRTIO) {
                look_at(dev);
            }
        }
    }
}

/*
 * The address register keeps what is written to it if it exists. The write to
 * port 0x80 (where nothing listens) in between is for monitors that leave, for
 * a port nobody owns, the bytes of the last access in place.
 */
bool virtio_pci_scan(void)
{
    outl(CONFIG_ADDRESS, 0x80000000);
    outl(0x80, 0x12345678);
    if (inl(CONFIG_ADDRESS) != 0x80000000)
        return false;
    scan_bus(0);
    return true;
}
