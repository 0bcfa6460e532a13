/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - what the platform-neutral half (main.c, net.c, ...) and the
 * platform half (platform_*.c, virtio*.c) of the probe guest know of each other.
 *
 * The probe is a freestanding program: no libc, no floating point, no SSE.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_DISKS 16
#define MAX_NICS 8
#define MAX_OTHERS 16
#define MAX_INITRD_ENTRIES 64
#define CMDLINE_MAX (64 * 1024)
#define MAX_DNS 2
#define FRAME_MAX (9 * 1024) /* an MTU of 9000, its Ethernet header, and some */

/* ---- what the guest was given; filled in by platform_discover() ---------- */

struct disk {
    const char *bus;  /* "mmio", "pci" or "solo5" */
    const char *name; /* the manifest's name on Solo5, NULL elsewhere */
    uint64_t size;    /* bytes */
    bool writable;
    unsigned first_len; /* how many bytes of first[] could be read: 0 or 16 */
    uint8_t first[16];
};

/* An address, as the command line tells it. */
struct ipconfig {
    bool have_ip, have_prefix, have_gateway;
    uint32_t ip, gateway; /* host byte order */
    unsigned prefix;
};

struct nic {
    const char *bus;
    const char *name;
    uint8_t mac[6];
    int mtu;       /* -1: the device does not say */
    void *device;  /* the platform's own */
    struct ipconfig config; /* main.c's */
    /* Next frame into buf; its length, or 0 when none is waiting. */
    size_t (*receive)(struct nic *nic, void *buf, size_t size);
    void (*send)(struct nic *nic, const void *frame, size_t len);
};

/* A virtio device that is neither a disk nor a NIC: only reported. */
struct other {
    const char *bus;
    unsigned type;  /* virtio device id: 9 = 9P, 19 = vsock, 26 = virtio-fs */
    char tag[64];   /* the mount tag of a 9P or virtio-fs device, else "" */
    uint64_t cid;   /* the context id of a vsock device, else 0 */
};

struct guest {
    const char *boot; /* "pvh", "linux64", "hvt" or "spt" */
    char cmdline[CMDLINE_MAX];
    uint64_t memory; /* bytes of RAM */
    unsigned vcpus;
    const uint8_t *initrd; /* NULL: none */
    size_t initrd_size;
    struct disk disks[MAX_DISKS];
    unsigned ndisks;
    struct nic nics[MAX_NICS];
    unsigned nnics;
    struct other others[MAX_OTHERS];
    unsigned nothers;
};

extern struct guest guest;

/* The platform's entry code ends up here, with guest.boot set. */
_Noreturn void probe_main(void);

/* ---- the platform's side -------------------------------------------------- */

void platform_discover(void);                 /* fills in `guest` */
void platform_console(const char *text, size_t len);
uint64_t platform_milliseconds(void);         /* monotonic, from any origin */
void platform_wait(unsigned milliseconds);    /* until a frame may have come */
#define WAIT_FOREVER (~0u)                    /* ... or never to be woken */
uint64_t platform_fill(uint64_t bytes);       /* touch RAM; how much was there */
#define FILL_ALL UINT64_MAX                   /* ... what is in use, too */
_Noreturn void platform_exit(unsigned code);
_Noreturn void platform_crash(void);          /* as a kernel dies that is lost */
_Noreturn void platform_stray(void);          /* run what is no memory */

/* How somebody outside may ask the guest to stop. */
enum stop_way { STOP_CTRL_ALT_DEL, STOP_POWER_BUTTON, STOP_WAYS };
bool platform_listen(enum stop_way way);      /* false: nothing to listen to */
bool platform_asked(enum stop_way way);       /* since platform_listen() */

/* ---- cmdline.c ------------------------------------------------------------ */

/* Finds the word `name` or `name=VALUE`; the value ("" without one) or NULL. */
const char *cmdline_option(const char *cmdline, const char *name);
bool cmdline_number(const char *text, uint64_t *value); /* decimal, K/M/G */
bool cmdline_is(const char *text, const char *word); /* and ends there */
size_t cmdline_length(const char *text); /* of the word that begins here */

/* The address of the NIC with that number, from 0. */
void cmdline_ipconfig(const char *cmdline, unsigned number,
                      struct ipconfig *config);
/* The name servers, in host byte order; how many. */
unsigned cmdline_dns(const char *cmdline, uint32_t servers[MAX_DNS]);

/* ---- cpio.c --------------------------------------------------------------- */

struct cpio_entry {
    const char *name;
    size_t name_len;
    uint64_t size;
};

/* The next member of a (concatenated) newc archive from *offset on. */
bool cpio_next(const uint8_t *image, size_t size, size_t *offset,
               struct cpio_entry *entry);

/* ---- json.c: writes one line to the console ------------------------------- */

void json_raw(const char *text);
void json_string(const char *bytes, size_t len); /* with quotes, escaped */
void json_cstring(const char *text);
void json_number(uint64_t value);
void json_hex(const uint8_t *bytes, size_t len, const char *separator);
void json_ipv4(uint32_t address);
void json_end_line(void);

/* ---- net.c ---------------------------------------------------------------- */

#define ETH_SIZE 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ARP_SIZE 28
#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17

uint16_t get16(const uint8_t *p); /* in network byte order, as they are sent */
uint32_t get32(const uint8_t *p);
void put16(uint8_t *p, uint16_t v);
void put32(uint8_t *p, uint32_t v);

/* Of the bytes, and of what has been summed up already. */
uint16_t net_checksum(const uint8_t *p, size_t len, uint32_t sum);

/* Puts the headers of Ethernet and IPv4, of a packet with so many bytes behind
   them; where those begin. */
uint8_t *net_put_ipv4(struct nic *nic, uint8_t *frame, const uint8_t *station,
                      uint32_t to, uint8_t protocol, size_t len);

void net_announce(void);
void net_ask(struct nic *nic, uint32_t address); /* an ARP request */

/* What a frame carries as the given IPv4 protocol for this NIC, with its size;
   NULL: something else. *ip is the packet's header. */
uint8_t *net_payload(const struct nic *nic, uint8_t *frame, size_t len,
                     unsigned protocol, uint8_t **ip, size_t *size);

/* Sends the UDP datagram whose payload lies in the frame at UDP_PAYLOAD. */
#define UDP_PAYLOAD (ETH_SIZE + 20 + 8)
struct udp {
    const uint8_t *station; /* whom the frame goes to */
    uint32_t to;
    uint16_t from_port, to_port;
};
void net_send_udp(struct nic *nic, const struct udp *udp, uint8_t *frame,
                  size_t payload_len);

/* Handles one frame; true with *code set when "quit N" or /quit/N came. */
bool net_input(struct nic *nic, uint8_t *frame, size_t len, unsigned *code);

/* ---- http.c: a server on one port ------------------------------------------ */

void http_listen(const char *cmdline); /* where a word there asks for it */
/* Handles an IPv4 frame; true with *code set when it was asked to quit. */
bool http_input(struct nic *nic, uint8_t *frame, size_t len, unsigned *code);

/* ---- resolve.c: one question to a name server ----------------------------- */

struct lookup {
    struct nic *nic;
    uint32_t server, next_hop; /* host byte order */
    const char *name;
    size_t name_len;
    bool have_station;
    uint8_t station[6]; /* the next hop's */
    uint64_t asked;     /* when, in milliseconds */
    unsigned tries;
    uint16_t id, port;
    bool have_rcode, have_address; /* the answer */
    unsigned rcode;
    uint32_t address;
};

/* False: there is nobody to ask, or no way there, or that is no name. */
bool lookup_begin(struct lookup *lookup, const char *name, size_t name_len);
/* Asks (again) when it is time to; false: it has given up. */
bool lookup_continue(struct lookup *lookup, uint64_t now);
/* Looks at a frame; true: it was the answer. */
bool lookup_input(struct lookup *lookup, struct nic *nic, uint8_t *frame,
                  size_t len);

/* ---- util.c --------------------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool starts_with(const char *s, const char *prefix);

#endif
