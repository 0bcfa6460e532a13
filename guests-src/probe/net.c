/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - just enough of a network: each NIC announces its address, answers ARP
 * and ICMP echo requests, and echoes UDP datagrams sent to port 7 (HTTP is http.c's).
 * Replies are made in place, in the frame that came. Fragments are not handled.
 */
#include "probe.h"

#define ECHO_PORT 7
#define IPV4_SIZE 20
#define UDP_SIZE 8

uint16_t get16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

void put16(uint8_t *p, uint16_t v)
{
    p[0] = v >> 8;
    p[1] = v;
}

void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

uint16_t net_checksum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (; len > 1; len -= 2, p += 2)
        sum += get16(p);
    if (len)
        sum += *p << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

void net_ask(struct nic *nic, uint32_t address)
{
    static const uint8_t start[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* to all */
        0,    0,    0,    0,    0,    0,    0x08, 0x06,
        0,    1,    8,    0,    6,    4,    0,    1, /* an ARP request */
    };
    uint8_t frame[ETH_SIZE + ARP_SIZE] = {0};

    memcpy(frame, start, sizeof start);
    memcpy(frame + 6, nic->mac, 6);
    memcpy(frame + 22, nic->mac, 6);
    put32(frame + 28, nic->config.ip);
    put32(frame + 38, address);
    nic->send(nic, frame, sizeof frame);
}

/* An ARP request for its own address: whoever is already waiting to send to the
   guest need not ask again, which takes a second. */
void net_announce(void)
{
    for (unsigned i = 0; i < guest.nnics; i++)
        if (guest.nics[i].config.have_ip)
            net_ask(&guest.nics[i], guest.nics[i].config.ip);
}

/* Sends the frame back to the station it came from. */
static void reply(struct nic *nic, uint8_t *frame, size_t len)
{
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, nic->mac, 6);
    nic->send(nic, frame, len);
}

static void arp_input(struct nic *nic, uint8_t *frame, size_t len)
{
    static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
    uint8_t *arp = frame + ETH_SIZE;

    if (len < ETH_SIZE + ARP_SIZE || memcmp(arp, request, sizeof request) ||
        get32(arp + 24) != nic->config.ip)
        return;
    arp[7] = 2;                      /* a reply */
    memcpy(arp + 18, arp + 8, 10);   /* to whoever asked */
    memcpy(arp + 8, nic->mac, 6);
    put32(arp + 14, nic->config.ip);
    reply(nic, frame, ETH_SIZE + ARP_SIZE);
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

uint8_t *net_payload(const struct nic *nic, uint8_t *frame, size_t len,
                     unsigned protocol, uint8_t **ip, size_t *size)
{
    uint8_t *packet = frame + ETH_SIZE;
    size_t header, total;

    if (len < ETH_SIZE + IPV4_SIZE || get16(frame + 12) != ETHERTYPE_IPV4 ||
        packet[0] >> 4 != 4 || packet[9] != protocol)
        return NULL;
    header = (packet[0] & 15) * 4;
    total = get16(packet + 2);
    if (header < IPV4_SIZE || total < header + 8 || total > len - ETH_SIZE)
        return NULL; /* both protocols' headers have 8 bytes */
    if (get16(packet + 6) & 0x3fff) /* a fragment */
        return NULL;
    if (!nic->config.have_ip || get32(packet + 16) != nic->config.ip)
        return NULL;
    if (protocol == PROTO_UDP && (get16(packet + header + 4) < UDP_SIZE ||
                                  get16(packet + header + 4) > total - header))
        return NULL;
    *ip = packet;
    *size = total - header;
    return packet + header;
}

static void put_ip_checksum(uint8_t *ip)
{
    put16(ip + 10, 0);
    put16(ip + 10, net_checksum(ip, (ip[0] & 15) * 4, 0));
}

uint8_t *net_put_ipv4(struct nic *nic, uint8_t *frame, const uint8_t *station,
                      uint32_t to, uint8_t protocol, size_t len)
{
    static const uint8_t start[] = {0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64};
    uint8_t *ip = frame + ETH_SIZE;

    memcpy(frame, station, 6);
    memcpy(frame + 6, nic->mac, 6);
    memcpy(frame + 12, start, sizeof start);
    ip[9] = protocol;
    put16(ip + 2, IPV4_SIZE + len);
    put32(ip + 12, nic->config.ip);
    put32(ip + 16, to);
    put_ip_checksum(ip);
    return ip + IPV4_SIZE;
}

void net_send_udp(struct nic *nic, const struct udp *udp, uint8_t *frame,
                  size_t payload_len)
{
    size_t len = UDP_SIZE + payload_len;
    uint8_t *header =
        net_put_ipv4(nic, frame, udp->station, udp->to, PROTO_UDP, len);
    uint16_t sum;

    put16(header, udp->from_port);
    put16(header + 2, udp->to_port);
    put16(header + 4, len);
    put16(header + 6, 0);
    /* It covers the addresses, which lie in front of it, too. */
    sum = net_checksum(header - 8, 8 + len, PROTO_UDP + len);
    put16(header + 6, sum ? sum : 0xffff);
    nic->send(nic, frame, ETH_SIZE + IPV4_SIZE + len);
}

static bool ipv4_input(struct nic *nic, uint8_t *frame, size_t len,
                       unsigned *code)
{
    uint8_t *ip, *payload;
    size_t size;
    bool quit = false;

    if ((payload = net_payload(nic, frame, len, PROTO_ICMP, &ip, &size)) &&
        payload[0] == 8) {
        payload[0] = 0; /* echo reply */
        put16(payload + 2, 0);
        put16(payload + 2, net_checksum(payload, size, 0));
    } else if ((payload = net_payload(nic, frame, len, PROTO_UDP, &ip, &size)) &&
               get16(payload + 2) == ECHO_PORT) {
        quit = is_quit(payload + UDP_SIZE, get16(payload + 4) - UDP_SIZE, code);
        /* Swapping ports and addresses leaves the UDP checksum as it is. */
        put16(payload + 2, get16(payload));
        put16(payload, ECHO_PORT);
    } else {
        return http_input(nic, frame, len, code);
    }

    memcpy(ip + 16, ip + 12, 4);
    put32(ip + 12, nic->config.ip);
    ip[8] = 64; /* time to live */
    put_ip_checksum(ip);
    reply(nic, frame, ETH_SIZE + get16(ip + 2));
    return quit;
}

bool net_input(struct nic *nic, uint8_t *frame, size_t len, unsigned *code)
{
    if (!nic->config.have_ip || len < ETH_SIZE)
        return false;
    switch (get16(frame + 12)) {
    case ETHERTYPE_ARP:
        arp_input(nic, frame, len);
        return false;
    case ETHERTYPE_IPV4:
        return ipv4_input(nic, frame, len, code);
    }
    return false;
}
