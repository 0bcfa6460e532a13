/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve.c - asks the first name server for the IPv4 address of a name
 * (RFC 1035, over UDP): what a guest without a resolver of its own can say of
 * the servers it was told. The next hop's station is found by ARP.
 */
#include "probe.h"

#define DNS_PORT 53
#define DNS_HEADER 12
#define NAME_MAX 253
#define TYPE_A 1
#define CLASS_IN 1
#define FLAG_ANSWER 0x8000
#define FLAG_RECURSE 0x0100
#define RETRY_MS 1000
#define TRIES 10
#define LINK_LOCAL 0xa9fe0000u /* 169.254.0.0/16 */

/* "a.example" as 1 a 7 example 0; its size, or 0: it is no name. */
static size_t put_name(uint8_t *to, const char *name, size_t len)
{
    uint8_t *label = to, *p = to + 1;

    if (len && name[len - 1] == '.')
        len--;
    if (!len || len > NAME_MAX)
        return 0;
    for (size_t i = 0; i <= len; i++) {
        if (i < len && name[i] != '.') {
            *p++ = name[i];
            continue;
        }
        if (p - label < 2 || p - label > 64)
            return 0;
        *label = p - label - 1;
        label = p++;
    }
    *label = 0;
    return p - to;
}

/* Where frames for the server go; 0: nowhere. */
static uint32_t next_hop(const struct ipconfig *config, uint32_t server)
{
    uint32_t mask = 0;

    if (config->have_prefix && config->prefix)
        mask = ~0u << (32 - config->prefix);
    if ((server & 0xffff0000u) == LINK_LOCAL ||
        (config->have_prefix && !((server ^ config->ip) & mask)))
        return server;
    return config->have_gateway ? config->gateway : 0;
}

bool lookup_begin(struct lookup *lookup, const char *name, size_t name_len)
{
    uint8_t encoded[NAME_MAX + 2];
    uint32_t servers[MAX_DNS];
    uint64_t now = platform_milliseconds();

    memset(lookup, 0, sizeof *lookup);
    for (unsigned i = 0; i < guest.nnics && !lookup->nic; i++)
        if (guest.nics[i].config.have_ip)
            lookup->nic = &guest.nics[i];
    if (!lookup->nic || !cmdline_dns(guest.cmdline, servers) ||
        !put_name(encoded, name, name_len))
        return false;
    lookup->name = name;
    lookup->name_len = name_len;
    lookup->server = servers[0];
    lookup->next_hop = next_hop(&lookup->nic->config, servers[0]);
    lookup->id = now ^ lookup->nic->config.ip;
    lookup->port = 0xc000 | (now >> 4 & 0x3fff);
    return lookup->next_hop != 0;
}

static void ask(const struct lookup *lookup)
{
    static uint8_t frame[UDP_PAYLOAD + DNS_HEADER + NAME_MAX + 2 + 4];
    struct udp udp = {lookup->station, lookup->server, lookup->port, DNS_PORT};
    uint8_t *message = frame + UDP_PAYLOAD, *p = message + DNS_HEADER;

    memset(message, 0, DNS_HEADER);
    put16(message, lookup->id);
    put16(message + 2, FLAG_RECURSE);
    put16(message + 4, 1); /* one question */
    p += put_name(p, lookup->name, lookup->name_len);
    put16(p, TYPE_A);
    put16(p + 2, CLASS_IN);
    net_send_udp(lookup->nic, &udp, frame, p + 4 - message);
}

bool lookup_continue(struct lookup *lookup, uint64_t now)
{
    if (lookup->tries && now - lookup->asked < RETRY_MS)
        return true;
    if (lookup->tries++ == TRIES)
        return false;
    lookup->asked = now;
    if (lookup->have_station)
        ask(lookup);
    else
        net_ask(lookup->nic, lookup->next_hop);
    return true;
}

/* Whatever the next hop says by ARP tells its station. */
static void arp_input(struct lookup *lookup, const uint8_t *frame, size_t len)
{
    const uint8_t *arp = frame + ETH_SIZE;

    if (lookup->have_station || len < ETH_SIZE + ARP_SIZE ||
        get16(frame + 12) != ETHERTYPE_ARP || get32(arp + 14) != lookup->next_hop)
        return;
    memcpy(lookup->station, arp + 8, 6);
    lookup->have_station = true;
    ask(lookup);
}

/* The offset behind a name; 0: it goes on beyond the message. */
static size_t skip_name(const uint8_t *message, size_t size, size_t offset)
{
    while (offset < size) {
        uint8_t len = message[offset];

        if (len >= 0xc0)
            return offset + 2; /* the rest is elsewhere */
        offset += 1 + len;
        if (!len)
            return offset;
    }
    return 0;
}

/* The first address among the answers; aliases may come before it. */
static void find_address(struct lookup *lookup, const uint8_t *message,
                         size_t size)
{
    unsigned questions = get16(message + 4), answers = get16(message + 6);
    size_t offset = DNS_HEADER;

    while (questions--)
        if (!(offset = skip_name(message, size, offset)) || (offset += 4) > size)
            return;
    while (answers--) {
        const uint8_t *record;

        if (!(offset = skip_name(message, size, offset)) || offset + 10 > size)
            return;
        record = message + offset;
        offset += 10 + get16(record + 8);
        if (offset > size)
            return;
        if (get16(record) == TYPE_A && get16(record + 2) == CLASS_IN &&
            get16(record + 8) == 4) {
            lookup->address = get32(record + 10);
            lookup->have_address = true;
            return;
        }
    }
}

bool lookup_input(struct lookup *lookup, struct nic *nic, uint8_t *frame,
                  size_t len)
{
    uint8_t *ip, *udp, *message;
    size_t size;

    if (nic != lookup->nic)
        return false;
    arp_input(lookup, frame, len);
    udp = net_payload(nic, frame, len, PROTO_UDP, &ip, &size);
    if (!udp || get32(ip + 12) != lookup->server || get16(udp) != DNS_PORT ||
        get16(udp + 2) != lookup->port || get16(udp + 4) < 8 + DNS_HEADER)
        return false;
    message = udp + 8;
    size = get16(udp + 4) - 8;
    if (get16(message) != lookup->id || !(get16(message + 2) & FLAG_ANSWER))
        return false;
    lookup->have_rcode = true;
    lookup->rcode = get16(message + 2) & 15;
    if (!lookup->rcode)
        find_address(lookup, message, size);
    return true;
}
