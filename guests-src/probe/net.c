/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - just enough of a network: announces its address, answers ARP and ICMP
 * echo requests, and echoes UDP datagrams sent to port 7. Replies are made in
 * place, in the frame that came. Fragments are not handled.
 */
#include "probe.h"

#define ETH_SIZE 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define PROTO_ICMP 1
#define PROTO_UDP 17
#define ECHO_PORT 7

static uint16_t get16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = v >> 8;
    p[1] = v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

static uint16_t checksum(const uint8_t *p, size_t len)
{
    uint32_t sum = 0;

    for (; len > 1; len -= 2, p += 2)
        sum += get16(p);
    if (len)
        sum += *p << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* An ARP request for its own address: whoever is already waiting to send to the
   guest need not ask again, which takes a second. */
void net_announce(const struct ipconfig *config)
{
    static const uint8_t start[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* to all */
        0,    0,    0,    0,    0,    0,    0x08, 0x06,
        0,    1,    8,    0,    6,    4,    0,    1, /* an ARP request */
    };
    struct nic *nic = &guest.nics[0];
    uint8_t frame[ETH_SIZE + 28] = {0};

    if (!config->have_ip || !guest.nnics)
        return;
    memcpy(frame, start, sizeof start);
    memcpy(frame + 6, nic->mac, 6);
    memcpy(frame + 22, nic->mac, 6);
    put32(frame + 28, config->ip);
    put32(frame + 38, config->ip);
    nic->send(nic, frame, sizeof frame);
}

/* Sends the frame back to the station it came from. */
static void reply(struct nic *nic, uint8_t *frame, size_t len)
{
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, nic->mac, 6);
    nic->send(nic, frame, len);
}

static void arp_input(struct nic *nic, const struct ipconfig *config,
                      uint8_t *frame, size_t len)
{
    static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
    uint8_t *arp = frame + ETH_SIZE;

    if (nic != &guest.nics[0]) /* the address is the first NIC's */
        return;
    if (len < ETH_SIZE + 28 || memcmp(arp, request, sizeof request) ||
        get32(arp + 24) != config->ip)
        return;
    arp[7] = 2;                      /* a reply */
    memcpy(arp + 18, arp + 8, 10);   /* to whoever asked */
    memcpy(arp + 8, nic->mac, 6);
    put32(arp + 14, config->ip);
    reply(nic, frame, ETH_SIZE + 28);
}

/* "quit N" at the start of a datagram */
static bool is_quit(const uint8_t *data, size_t len, unsigned *code)
{
    unsigned n = 0, digits = 0;

    if (len < 6 || memcmp(data, "quit ", 5))
        return false;
    for (size_t i = 5; i < len && data[i] >= '0' && data[i] <= '9'; i++) {
        n = n * 10 + (data[i] - '0');
        digits++;
    }
    *code = n;
    return digits > 0;
}

static bool ipv4_input(struct nic *nic, const struct ipconfig *config,
                       uint8_t *frame, size_t len, unsigned *code)
{
    uint8_t *ip = frame + ETH_SIZE;
    size_t header, total;

    if (len < ETH_SIZE + 20 || ip[0] >> 4 != 4)
        return false;
    header = (ip[0] & 15) * 4;
    total = get16(ip + 2);
    if (header < 20 || total < header || total > len - ETH_SIZE)
        return false;
    if (get16(ip + 6) & 0x3fff) /* a fragment */
        return false;
    if (get32(ip + 16) != config->ip)
        return false;

    uint8_t *payload = ip + header;
    size_t payload_len = total - header;
    bool quit = false;

    if (ip[9] == PROTO_ICMP && payload_len >= 8 && payload[0] == 8) {
        payload[0] = 0; /* echo reply */
        put16(payload + 2, 0);
        put16(payload + 2, checksum(payload, payload_len));
    } else if (ip[9] == PROTO_UDP && payload_len >= 8 &&
               get16(payload + 2) == ECHO_PORT &&
               get16(payload + 4) >= 8 && get16(payload + 4) <= payload_len) {
        quit = is_quit(payload + 8, get16(payload + 4) - 8, code);
        /* Swapping ports and addresses leaves the UDP checksum as it is. */
        put16(payload + 2, get16(payload));
        put16(payload, ECHO_PORT);
    } else {
        return false;
    }

    memcpy(ip + 16, ip + 12, 4);
    put32(ip + 12, config->ip);
    ip[8] = 64; /* time to live */
    put16(ip + 10, 0);
    put16(ip + 10, checksum(ip, header));
    reply(nic, frame, ETH_SIZE + total);
    return quit;
}

bool net_input(struct nic *nic, const struct ipconfig *config, uint8_t *frame,
               size_t len, unsigned *code)
{
    if (!config->have_ip || len < ETH_SIZE)
        return false;
    switch (get16(frame + 12)) {
    case ETHERTYPE_ARP:
        arp_input(nic, config, frame, len);
        return false;
    case ETHERTYPE_IPV4:
        return ipv4_input(nic, config, frame, len, code);
    }
    return false;
}
