/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.c - just enough of TCP for an HTTP server on one port. Of a connection
 * it keeps nothing: each begins with the same number and carries one answer, so
 * the segment that came says what is to be sent. What is lost comes again with
 * the client's repetition. A request is answered at the segment that ends its
 * head.
 *
 *   GET /fail, GET /recover    from then on every answer is 503, or 200
 *   GET /quit/N                ends serving with code N, once the client has
 *                              closed the connection
 *   any other                  the page
 */
#include "probe.h"

#define IPV4_SIZE 20
#define TCP_SIZE 20
#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16
#define FIRST 1000u /* the number of our SYN; what we say begins after it */
#define WINDOW 0xffff
#define MSS 1400
#define MSS_SIZE 4
#define PAGE_MAX 512
#define ANSWER_MAX (PAGE_MAX + 128)

/* What came, and whom an answer goes to. */
struct segment {
    const uint8_t *station;
    uint32_t from;
    uint16_t from_port, to_port;
    uint32_t seq, ack;
    unsigned flags;
    const uint8_t *data;
    size_t len;
};

static unsigned port; /* 0: no server */
static const char *page = "";
static size_t page_len;
static bool failing, quitting;
static unsigned quit_code;

void http_listen(const char *cmdline)
{
    const char *value = cmdline_option(cmdline, "probe.http"), *text;
    uint64_t number = 80;

    if (!value)
        return;
    cmdline_number(value, &number);
    port = number;
    if ((text = cmdline_option(cmdline, "probe.page"))) {
        page = text;
        page_len = cmdline_length(text);
        if (page_len > PAGE_MAX)
            page_len = PAGE_MAX;
    }
}

static void send(struct nic *nic, const struct segment *to, unsigned flags,
                 uint32_t seq, uint32_t ack, const char *text, size_t len)
{
    static uint8_t frame[ETH_SIZE + IPV4_SIZE + TCP_SIZE + ANSWER_MAX];
    size_t options = flags & SYN ? MSS_SIZE : 0;
    size_t size = TCP_SIZE + options + len;
    uint8_t *tcp;

    memset(frame, 0, ETH_SIZE + IPV4_SIZE + TCP_SIZE);
    tcp = net_put_ipv4(nic, frame, to->station, to->from, PROTO_TCP, size);
    put16(tcp, to->to_port);
    put16(tcp + 2, to->from_port);
    put32(tcp + 4, seq);
    put32(tcp + 8, ack);
    tcp[12] = (TCP_SIZE + options) / 4 << 4;
    tcp[13] = flags;
    put16(tcp + 14, WINDOW);
    if (options)
        put32(tcp + TCP_SIZE, 0x02040000 | MSS);
    memcpy(tcp + TCP_SIZE + options, text, len);
    /* It covers the addresses, which lie in front of it, too. */
    put16(tcp + 16, net_checksum(tcp - 8, 8 + size, PROTO_TCP + size));
    nic->send(nic, frame, ETH_SIZE + IPV4_SIZE + size);
}

static bool asks(const struct segment *got, const char *path)
{
    size_t len = strlen(path);

    return got->len >= len && !memcmp(got->data, path, len);
}

static void obey(const struct segment *got)
{
    static const char quit[] = "GET /quit/";

    if (asks(got, "GET /fail "))
        failing = true;
    else if (asks(got, "GET /recover "))
        failing = false;
    else if (asks(got, quit)) {
        quit_code = 0;
        for (size_t i = sizeof quit - 1; i < got->len && got->data[i] >= '0' &&
                                         got->data[i] <= '9'; i++)
            quit_code = quit_code * 10 + (got->data[i] - '0');
        quitting = true;
    }
}

/* HTTP/1.0: the page ends with the connection. */
static size_t response(char *to)
{
    static const char well[] = "HTTP/1.0 200 OK\r\n\r\n";
    static const char ill[] = "HTTP/1.0 503 Service Unavailable\r\n\r\n";
    size_t len = failing ? sizeof ill - 1 : sizeof well - 1;

    memcpy(to, failing ? ill : well, len);
    memcpy(to + len, page, page_len);
    len += page_len;
    to[len++] = '\n';
    return len;
}

static bool ends_head(const struct segment *got)
{
    return got->len >= 4 && !memcmp(got->data + got->len - 4, "\r\n\r\n", 4);
}

/* For this NIC, with its header in full; false: something else. */
static bool segment_of(const struct nic *nic, uint8_t *frame, size_t len,
                       struct segment *got)
{
    uint8_t *ip, *tcp;
    size_t size, header;

    if (!(tcp = net_payload(nic, frame, len, PROTO_TCP, &ip, &size)) ||
        size < TCP_SIZE)
        return false;
    header = (tcp[12] >> 4) * 4;
    if (header < TCP_SIZE || header > size)
        return false;
    *got = (struct segment){
        .station = frame + 6,
        .from = get32(ip + 12),
        .from_port = get16(tcp),
        .to_port = get16(tcp + 2),
        .seq = get32(tcp + 4),
        .ack = get32(tcp + 8),
        .flags = tcp[13],
        .data = tcp + header,
        .len = size - header,
    };
    return true;
}

bool http_input(struct nic *nic, uint8_t *frame, size_t len, unsigned *code)
{
    struct segment got;
    uint32_t next;
    bool said;

    if (!segment_of(nic, frame, len, &got) || got.flags & RST)
        return false;
    next = got.seq + got.len + !!(got.flags & (SYN | FIN));
    said = got.ack != FIRST + 1; /* our answer, and that it is all */
    if (!port || got.to_port != port) {
        send(nic, &got, RST | ACK, got.flags & ACK ? got.ack : 0, next, "", 0);
    } else if (got.flags & SYN) {
        send(nic, &got, SYN | ACK, FIRST, next, "", 0);
    } else if (!said && ends_head(&got)) {
        char text[ANSWER_MAX];

        obey(&got);
        send(nic, &got, PSH | FIN | ACK, FIRST + 1, next, text, response(text));
    } else if (got.flags & FIN) {
        send(nic, &got, said ? ACK : FIN | ACK, got.ack, next, "", 0);
        if (quitting)
            *code = quit_code;
        return quitting;
    } else if (got.len) {
        send(nic, &got, ACK, got.ack, next, "", 0);
    }
    return false;
}
