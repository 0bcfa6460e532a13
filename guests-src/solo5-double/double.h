/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the doubles of Solo5's tenders share; main.c says what they are.
 */
#ifndef DOUBLE_H
#define DOUBLE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#if defined(TENDER_HVT)
#define TENDER "hvt"
#define ABI_TARGET 1
#elif defined(TENDER_SPT)
#define TENDER "spt"
#define ABI_TARGET 2
#else
#error "define TENDER_HVT or TENDER_SPT"
#endif

#define ABI_VERSION 2

enum { BLOCK_BASIC = 1, NET_BASIC = 2, FIRST_ENTRY = 1 << 30 };
#define ENTRIES_MAX 64
#define NAME_MAX_LENGTH 67

/* A declared device and what the command line attached to it. */
struct device {
    char name[NAME_MAX_LENGTH + 1];
    uint32_t type;
    bool attached;
    int fd;
    off_t size;           /* block */
    uint16_t sector_size; /* block */
    uint8_t mac[6];       /* net */
    int mtu;              /* net */
    uint32_t address;     /* net: served under it, in network order; 0: not */
};

/* notes.c: the guest's file */
extern struct device devices[ENTRIES_MAX];
extern unsigned device_count;
extern const char *guest_path;
extern int guest_fd;
_Noreturn void refuse_executable(const char *format, ...);
void read_guest(void *to, size_t size, off_t at, const char *what); /* exactly SIZE bytes, or refuses it */
Elf64_Phdr *read_headers(Elf64_Ehdr *elf);
void read_abi(void);
void read_manifest(void);

/* devices.c */
bool net_option(const char *option);
bool mac_option(const char *option);
bool block_option(const char *option);
bool sector_size_option(const char *option);
void set_up_devices(void); /* what the tenders check once all options are read */

/* memory.c */
size_t parse_memory(const char *option);
size_t take_memory(size_t memory);
uint64_t check_segments(size_t memory); /* where the guest ends */

/* guest.c: in its place */
void join_arguments(char *const *argument);
void report(size_t memory);
int play_guest(void);

/* net.c: what is answered on its network devices */
size_t answer(uint8_t *frame, size_t size, const uint8_t *mac, uint32_t address, int *quit);

#endif
