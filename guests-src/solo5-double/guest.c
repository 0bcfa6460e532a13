/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done in place of the guest: it says what it was given, and what its arguments ask of it.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "double.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define CMDLINE_SIZE 8192           /* with its terminating zero */

static char cmdline[CMDLINE_SIZE];

void join_arguments(char *const *argument)
{
    size_t used = 0;

    for (; *argument != NULL; argument++) {
        int length = snprintf(cmdline + used, sizeof cmdline - used, "%s%s", *argument,
                              argument[1] != NULL ? " " : "");

        used += length;
        if (used >= sizeof cmdline)
            errx(1, "Guest command line too long (max=%d characters)", CMDLINE_SIZE - 1);
    }
}

/* What follows `word` in the guest's arguments, or NULL: it may stand alone, or
 * within the quotes of the JSON that Rumprun takes. */
static const char *argument(const char *word)
{
    for (const char *at = cmdline; (at = strstr(at, word)) != NULL; at++)
        if (at == cmdline || strchr(" \"'", at[-1]) != NULL)
            return at + strlen(word);
    return NULL;
}

static void print_quoted(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char byte = *text;

        if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            printf("\\u%04x", byte);
        else
            putchar(byte);
    }
    putchar('"');
}

/* One line that says what a guest would have been given. */
void report(size_t memory)
{
    const char *comma = "";

    printf("{\"double\":\"" TENDER "\",\"cmdline\":");
    print_quoted(cmdline);
    printf(",\"memory\":%zu,\"disks\":[", memory);
    for (unsigned i = 0; i < device_count; i++) {
        const struct device *device = &devices[i];
        uint8_t first[16] = {0};

        if (device->type != BLOCK_BASIC)
            continue;
        if (pread(device->fd, first, sizeof first, 0) != sizeof first)
            err(1, "%s: cannot read", device->name);
        printf("%s{\"name\":\"%s\",\"size\":%jd,\"first\":\"", comma, device->name,
               (intmax_t)device->size);
        for (unsigned byte = 0; byte < sizeof first; byte++)
            printf("%02x", first[byte]);
        printf("\"}");
        comma = ",";
    }
    printf("],\"nics\":[");
    comma = "";
    for (unsigned i = 0; i < device_count; i++) {
        const uint8_t *mac = devices[i].mac;

        if (devices[i].type != NET_BASIC)
            continue;
        printf("%s{\"name\":\"%s\",\"mac\":\"%02x:%02x:%02x:%02x:%02x:%02x\",\"mtu\":%d}", comma,
               devices[i].name, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], devices[i].mtu);
        comma = ",";
    }
    printf("]}\n");
    fflush(stdout);
}

/* Waits for a frame on a device that is served, at most `ms` (-1: for ever);
 * NULL: none came.  Not poll(2) nor pause(2): the tenders wait in epoll_pwait(2). */
static const struct device *wait_readable(int ms)
{
    static int set = -1;
    struct epoll_event event;

    if (set == -1) {
        set = epoll_create1(0);
        if (set == -1)
            err(1, "Could not create wait set");
        for (unsigned i = 0; i < device_count; i++) {
            event = (struct epoll_event){.events = EPOLLIN, .data.ptr = &devices[i]};
            if (devices[i].address != 0 &&
                epoll_ctl(set, EPOLL_CTL_ADD, devices[i].fd, &event) == -1)
                err(1, "epoll_ctl(EPOLL_CTL_ADD) failed");
        }
    }
    return epoll_pwait(set, &event, 1, ms, NULL) == 1 ? event.data.ptr : NULL;
}

/* The IPv4 address of a network device, by its number, in the guest's arguments;
 * 0: there is none. */
static uint32_t find_address(unsigned number)
{
    char text[INET_ADDRSTRLEN], word[32];
    const char *at;
    struct in_addr address;
    size_t length;

    snprintf(word, sizeof word, "probe.address%u=", number);
    at = argument(number == 0 ? "--ipv4=" : word);
    if (number == 0 && at == NULL && (at = strstr(cmdline, "\"addr\"")) != NULL) {
        at += strlen("\"addr\"");
        at += strspn(at, " :\"");
    }
    if (at != NULL && (length = strspn(at, "0123456789.")) < sizeof text) {
        memcpy(text, at, length);
        text[length] = '\0';
        if (inet_pton(AF_INET, text, &address) == 1)
            return address.s_addr;
    }
    return 0;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

/* Serves on the network devices; `ms` below 0 means for ever. */
static int serve(int ms, int code)
{
    uint64_t end = now_ms() + ms;
    unsigned nics = 0;
    int quit = -1;

    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].type == NET_BASIC && (devices[i].address = find_address(nics++)) == 0 &&
            nics == 1)
            errx(1, "probe.serve: there is no IPv4 address in the arguments");
    if (nics == 0)
        errx(1, "probe.serve: the guest declares no network device");
    printf("{\"double\":\"" TENDER "\",\"event\":\"serving\"}\n");
    fflush(stdout);
    while (quit < 0) {
        uint8_t frame[9 * 1024]; /* an MTU of 9000 and a header */
        uint64_t now = now_ms();

        if (ms >= 0 && now >= end)
            return code;
        const struct device *nic = wait_readable(ms < 0 ? -1 : (int)(end - now));

        if (nic == NULL)
            continue;
        ssize_t size = read(nic->fd, frame, sizeof frame);

        if (size == -1 && errno == EAGAIN)
            continue;
        if (size <= 0)
            err(1, "Fatal error when reading");
        size = answer(frame, size, nic->mac, nic->address, &quit);
        if (size > 0 && write(nic->fd, frame, size) != size)
            err(1, "Fatal error when writing");
    }
    return quit;
}

int play_guest(void)
{
    const char *word;
    int code = 0;

    if ((word = argument("probe.exit=")) != NULL)
        code = atoi(word);
    if ((word = argument("probe.serve")) != NULL)
        return serve(*word == '=' ? atoi(word + 1) : -1, code);
    if (argument("probe.hang") != NULL)
        for (;;)
            wait_readable(-1);
    return code;
}
