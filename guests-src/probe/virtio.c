/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.c - split queues, and the block and network drivers, over whichever
 * transport found the device. All is polled but for the frames of NICs with an
 * interrupt line.
 */
#include "vm.h"

/* ---- the layout the device sees -------------------------------------------- */

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

#define DESC_NEXT 1
#define DESC_WRITE 2 /* by the device */

/* Laid out so that it suits legacy devices too: one piece, the used ring on
   the next page. */
struct queue_memory {
    struct descriptor desc[QUEUE_SIZE];
    uint16_t avail_flags, avail_index, avail_ring[QUEUE_SIZE];
    uint8_t padding[4096 - QUEUE_SIZE * 18 - 4];
    uint16_t used_flags, used_index;
    struct {
        uint32_t id, len;
    } used_ring[QUEUE_SIZE];
    uint8_t padding2[4096 - QUEUE_SIZE * 8 - 4];
};

_Static_assert(sizeof(struct queue_memory) == 8192, "queue layout");

#define AVAIL_NO_INTERRUPT 1

static struct queue_memory queue_pool[MAX_DISKS + 2 * MAX_NICS]
    __attribute__((aligned(4096)));
static unsigned queue_pool_used;

static struct virtio devices[MAX_DISKS + MAX_NICS];
static unsigned ndevices;

/* ---- starting a device ------------------------------------------------------ */

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

/* Resets the device and agrees on those of the wanted features it offers. */
static bool begin(struct virtio *dev, uint64_t wanted)
{
    const struct virtio_transport *t = dev->transport;
    uint8_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;

    t->set_status(dev, 0);
    t->set_status(dev, STATUS_ACKNOWLEDGE);
    t->set_status(dev, status);
    if (!dev->legacy)
        wanted |= VIRTIO_F_VERSION_1;
    dev->features = t->get_features(dev) & wanted;
    t->set_features(dev, dev->features);
    if (dev->legacy)
        return true;
    t->set_status(dev, status | STATUS_FEATURES_OK);
    return t->get_status(dev) & STATUS_FEATURES_OK;
}

static bool add_queue(struct virtio *dev, unsigned index, bool interrupts)
{
    struct queue *queue = &dev->queues[index];
    struct queue_memory *memory;

    if (dev->transport->select_queue(dev, index) < QUEUE_SIZE ||
        queue_pool_used == sizeof queue_pool / sizeof queue_pool[0])
        return false;
    memory = &queue_pool[queue_pool_used++];
    memory->avail_flags = interrupts ? 0 : AVAIL_NO_INTERRUPT;
    queue->memory = memory;
    queue->index = index;
    dev->transport->enable_queue(dev, queue, (uintptr_t)memory->desc,
                                 (uintptr_t)&memory->avail_flags,
                                 (uintptr_t)&memory->used_flags);
    return true;
}

static void finish(struct virtio *dev)
{
    dev->transport->set_status(dev, STATUS_ACKNOWLEDGE | STATUS_DRIVER |
                                        STATUS_DRIVER_OK |
                                        (dev->legacy ? 0 : STATUS_FEATURES_OK));
}

/* ---- moving buffers --------------------------------------------------------- */

static void barrier(void)
{
    __asm__ volatile("lock; addl $0, (%%rsp)" : : : "memory", "cc");
}

/* Hands the chain that begins at a descriptor to the device. */
static void offer(struct queue *queue, uint16_t head)
{
    struct queue_memory *m = queue->memory;

    m->avail_ring[queue->avail++ % QUEUE_SIZE] = head;
    barrier();
    *(volatile uint16_t *)&m->avail_index = queue->avail;
    barrier();
}

static bool has_used(const struct queue *queue)
{
    return *(volatile uint16_t *)&queue->memory->used_index != queue->used;
}

/* Takes back a chain the device is done with; false: there is none. */
static bool take(struct queue *queue, uint32_t *head, uint32_t *len)
{
    struct queue_memory *m = queue->memory;

    if (!has_used(queue))
        return false;
    barrier();
    *head = m->used_ring[queue->used % QUEUE_SIZE].id;
    *len = m->used_ring[queue->used % QUEUE_SIZE].len;
    queue->used++;
    return true;
}

/* Waits for a chain, for some seconds of any plausible processor's clock. */
static bool wait_and_take(struct queue *queue, uint32_t *head, uint32_t *len)
{
    uint64_t start = rdtsc();

    while (!take(queue, head, len)) {
        if (rdtsc() - start > 20000000000ull)
            return false;
        pause();
    }
    return true;
}

/* ---- block ------------------------------------------------------------------ */

#define BLOCK_F_RO (1ull << 5)
#define BLOCK_CONFIG_CAPACITY 0 /* in sectors */
#define SECTOR 512

static bool read_first_sector(struct virtio *dev, uint8_t *sector)
{
    static struct {
        uint32_t type, reserved; /* 0: read */
        uint64_t sector;
    } request;
    static volatile uint8_t status;
    struct queue *queue = &dev->queues[0];
    struct descriptor *desc = queue->memory->desc;
    uint32_t head, len;

    status = 0xff;
    desc[0] = (struct descriptor){(uintptr_t)&request, sizeof request,
                                  DESC_NEXT, 1};
    desc[1] = (struct descriptor){(uintptr_t)sector, SECTOR,
                                  DESC_NEXT | DESC_WRITE, 2};
    desc[2] = (struct descriptor){(uintptr_t)&status, 1, DESC_WRITE, 0};
    offer(queue, 0);
    dev->transport->notify(dev, queue);
    return wait_and_take(queue, &head, &len) && status == 0;
}

static void block_found(struct virtio *dev)
{
    static uint8_t sector[SECTOR] __attribute__((aligned(SECTOR)));

    if (guest.ndisks == MAX_DISKS || !begin(dev, BLOCK_F_RO))
        return;
    struct disk *disk = &guest.disks[guest.ndisks++];

    disk->bus = dev->transport->bus;
    disk->size = read32(dev->config + BLOCK_CONFIG_CAPACITY);
    disk->size |= (uint64_t)read32(dev->config + BLOCK_CONFIG_CAPACITY + 4) << 32;
    disk->size *= SECTOR;
    disk->writable = !(dev->features & BLOCK_F_RO);
    if (!add_queue(dev, 0, false))
        return;
    finish(dev);
    if (disk->size && read_first_sector(dev, sector)) {
        memcpy(disk->first, sector, sizeof disk->first);
        disk->first_len = sizeof disk->first;
    }
}

/* ---- network ---------------------------------------------------------------- */

#define NET_F_MTU (1ull << 3)
#define NET_F_MAC (1ull << 5)
#define NET_CONFIG_MAC 0
#define NET_CONFIG_MTU 10
#define RECEIVE 0
#define TRANSMIT 1

/* In front of each frame; legacy devices leave out the last field. */
struct net_header {
    uint8_t flags, gso_type;
    uint16_t header_len, gso_size, csum_start, csum_offset, buffers;
};

#define LEGACY_HEADER_SIZE 10
#define TRANSMIT_BUFFERS 4

struct net_buffer {
    uint8_t bytes[sizeof(struct net_header) + FRAME_MAX];
};

static struct net_buffer receive_buffers[MAX_NICS][QUEUE_SIZE];
static struct net_buffer transmit_buffers[MAX_NICS][TRANSMIT_BUFFERS];

static unsigned nic_index(const struct nic *nic)
{
    return nic - guest.nics;
}

static size_t header_size(const struct virtio *dev)
{
    return dev->legacy ? LEGACY_HEADER_SIZE : sizeof(struct net_header);
}

static size_t net_receive(struct nic *nic, void *buf, size_t size)
{
    struct virtio *dev = nic->device;
    struct queue *queue = &dev->queues[RECEIVE];
    size_t skip = header_size(dev);
    uint32_t head, len;

    if (!take(queue, &head, &len))
        return 0;
    len = len > skip ? len - skip : 0;
    if (len > size)
        len = size;
    memcpy(buf, receive_buffers[nic_index(nic)][head].bytes + skip, len);
    offer(queue, head);
    /* One that has run out of buffers has used half of them since it was told of any. */
    if (++queue->owed >= QUEUE_SIZE / 2) {
        queue->owed = 0;
        dev->transport->notify(dev, queue);
    }
    return len;
}

/* Waits only while the device has not taken any of the buffers' frames. */
static void net_send(struct nic *nic, const void *frame, size_t len)
{
    struct virtio *dev = nic->device;
    struct queue *queue = &dev->queues[TRANSMIT];
    size_t skip = header_size(dev);
    uint32_t buffer, done;
    uint8_t *bytes;

    if (len > FRAME_MAX)
        return;
    if (queue->begun < TRANSMIT_BUFFERS)
        buffer = queue->begun++;
    else if (!wait_and_take(queue, &buffer, &done))
        return;
    bytes = transmit_buffers[nic_index(nic)][buffer].bytes;
    memset(bytes, 0, skip);
    memcpy(bytes + skip, frame, len);
    queue->memory->desc[buffer] =
        (struct descriptor){(uintptr_t)bytes, skip + len, 0, 0};
    offer(queue, buffer);
    dev->transport->notify(dev, queue);
}

void virtio_drain(void)
{
    for (unsigned i = 0; i < guest.nnics; i++) {
        struct queue *queue = &((struct virtio *)guest.nics[i].device)->queues[TRANSMIT];
        uint32_t buffer, done;

        while (queue->used != queue->avail && wait_and_take(queue, &buffer, &done))
            ;
    }
}

static void net_found(struct virtio *dev)
{
    if (guest.nnics == MAX_NICS || !begin(dev, NET_F_MAC | NET_F_MTU))
        return;
    struct nic *nic = &guest.nics[guest.nnics++];

    nic->bus = dev->transport->bus;
    nic->device = dev;
    nic->receive = net_receive;
    nic->send = net_send;
    if (dev->features & NET_F_MAC)
        for (int i = 0; i < 6; i++)
            nic->mac[i] = read8(dev->config + NET_CONFIG_MAC + i);
    nic->mtu = dev->features & NET_F_MTU ? read16(dev->config + NET_CONFIG_MTU)
                                         : -1;
    dev->interrupts = dev->transport->interrupt(dev);
    if (!add_queue(dev, RECEIVE, dev->interrupts) ||
        !add_queue(dev, TRANSMIT, false)) {
        guest.nnics--;
        return;
    }

    struct queue *queue = &dev->queues[RECEIVE];
    for (unsigned i = 0; i < QUEUE_SIZE; i++) {
        queue->memory->desc[i] = (struct descriptor){
            (uintptr_t)receive_buffers[nic_index(nic)][i].bytes,
            sizeof(struct net_buffer), DESC_WRITE, 0};
        offer(queue, i);
    }
    finish(dev);
    dev->transport->notify(dev, queue);
}

bool virtio_nics_interrupt(void)
{
    for (unsigned i = 0; i < guest.nnics; i++)
        if (!((struct virtio *)guest.nics[i].device)->interrupts)
            return false;
    return true;
}

/* A line that is level-triggered falls with the acknowledgement, and rises with the next frame:
   hence before the look. */
bool virtio_nics_idle(void)
{
    for (unsigned i = 0; i < guest.nnics; i++) {
        struct virtio *dev = guest.nics[i].device;

        dev->transport->acknowledge(dev);
        barrier();
        if (has_used(&dev->queues[RECEIVE]))
            return false;
    }
    return true;
}

/* ---- anything else ---------------------------------------------------------- */

/* Reads the configuration of the devices a runtime may pass on; drives none. */
static void other_found(struct virtio *dev)
{
    if (guest.nothers == MAX_OTHERS)
        return;
    struct other *other = &guest.others[guest.nothers++];
    uint64_t tag = dev->config;
    unsigned max = sizeof other->tag - 1;

    other->bus = dev->transport->bus;
    other->type = dev->type;
    switch (dev->type) {
    case VIRTIO_VSOCK:
        other->cid = read32(dev->config);
        return;
    case VIRTIO_9P: {
        unsigned len = read16(dev->config);

        tag += 2;
        max = len < max ? len : max;
        break;
    }
    case VIRTIO_FS:
        max = 36;
        break;
    default:
        return;
    }
    for (unsigned i = 0; i < max; i++)
        if (!(other->tag[i] = read8(tag + i)))
            break;
}

void virtio_found(const struct virtio *found)
{
    struct virtio *dev;

    if (found->type != VIRTIO_BLOCK && found->type != VIRTIO_NET) {
        struct virtio copy = *found;

        other_found(&copy);
        return;
    }
    if (ndevices == sizeof devices / sizeof devices[0])
        return;
    dev = &devices[ndevices++];
    *dev = *found;
    if (dev->type == VIRTIO_BLOCK)
        block_found(dev);
    else
        net_found(dev);
}
