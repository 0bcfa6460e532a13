/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices that a guest declares, and what the command line attaches to them.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "double.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* The declared device of this name and type; complains where there is none. */
static struct device *declared(const char *name, uint32_t type)
{
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].type == type && strcmp(devices[i].name, name) == 0)
            return &devices[i];
    warnx("Resource not declared in manifest: '%s'", name);
    return NULL;
}

/* 0 where an interface of this name is up, else errno's reason. */
static int problem_of(const char *name)
{
    struct ifaddrs *all;
    int problem = ENOENT;

    if (getifaddrs(&all) == -1)
        return errno;
    for (const struct ifaddrs *one = all; one != NULL && problem == ENOENT; one = one->ifa_next)
        if (strcmp(one->ifa_name, name) == 0)
            problem = one->ifa_flags & (IFF_UP | IFF_RUNNING) ? 0 : ENETDOWN;
    freeifaddrs(all);
    return problem;
}

/* Opens a tap that exists and is up; -1 and errno where it cannot be had. */
static int attach_tap(const char *name, int *mtu)
{
    if (name[0] == '@') {
        /* A descriptor that is open already.  Solo5 0.12 asks the interface
         * "@N" for its MTU, and so refuses every one; so does this. */
        char *end;
        long fd = strtol(name + 1, &end, 10);

        errno = 0;
        if (*end != '\0' || end == name + 1)
            errno = EINVAL;
        else if (fd < 0 || fd > INT_MAX)
            errno = ERANGE;
        else
            fcntl((int)fd, F_SETFL, O_NONBLOCK);
        return -1;
    }
    if (strlen(name) >= IFNAMSIZ) {
        errno = ENAMETOOLONG;
        return -1;
    }

    /* Opening a tap that does not exist would create it, so look first. */
    int problem = problem_of(name);

    if (problem != 0) {
        errno = problem;
        return -1;
    }

    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq request;

    if (fd == -1)
        return -1;
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    strcpy(request.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &request) == -1) {
        problem = errno;
    } else if (strcmp(request.ifr_name, name) != 0) {
        problem = EINVAL; /* a name like tap%d gave another interface */
    } else {
        int any = socket(AF_INET, SOCK_DGRAM, 0);

        if (any == -1 || ioctl(any, SIOCGIFMTU, &request) == -1)
            problem = errno;
        else
            *mtu = request.ifr_mtu;
        if (any != -1)
            close(any);
    }
    if (problem != 0) {
        close(fd);
        errno = problem;
        return -1;
    }
    return fd;
}

bool net_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    char interface[20];
    struct device *device;

    if (sscanf(option, "--net:%67[A-Za-z0-9]=%19s", name, interface) != 2 ||
        (device = declared(name, NET_BASIC)) == NULL)
        return false;
    device->fd = attach_tap(interface, &device->mtu);
    if (device->fd < 0) {
        warnx("Could not attach interface: %s: %s", interface, strerror(errno));
        return false;
    }
    device->attached = true;
    return true;
}

bool mac_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    uint8_t mac[6];
    struct device *device;

    if (sscanf(option, "--net-mac:%67[A-Za-z0-9]=%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", name,
               &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) != 7 ||
        (device = declared(name, NET_BASIC)) == NULL)
        return false;
    memcpy(device->mac, mac, sizeof mac);
    return true;
}

bool block_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    char path[PATH_MAX + 1];
    struct device *device;

    if (sscanf(option, "--block:%67[A-Za-z0-9]=%4096s", name, path) != 2 ||
        (device = declared(name, BLOCK_BASIC)) == NULL)
        return false;
    device->fd = open(path, O_RDWR); /* never written, but the tenders need it so */
    if (device->fd == -1)
        err(1, "Could not open block device: %s", path);
    device->size = lseek(device->fd, 0, SEEK_END);
    if (device->size == -1)
        err(1, "%s: Could not determine capacity", path);
    device->attached = true;
    return true;
}

bool sector_size_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    uint16_t size;
    struct device *device;

    if (sscanf(option, "--block-sector-size:%67[A-Za-z0-9]=%hu", name, &size) != 2)
        return false;
    if (size < 512 || (size & (size - 1)) != 0) {
        warnx("Block size must be a multiple of 2 greater than or equal 512");
        return false;
    }
    if ((device = declared(name, BLOCK_BASIC)) == NULL)
        return false;
    device->sector_size = size;
    return true;
}

/* What the tenders check once all options are read. */
void set_up_devices(void)
{
    bool missing = false;

    for (unsigned i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        static const uint8_t no_mac[6];

        if (!device->attached)
            continue;
        if (device->type == BLOCK_BASIC) {
            if (device->sector_size == 0)
                device->sector_size = 512;
            if (device->size % device->sector_size != 0)
                errx(1, "%s: Backing storage size must be block aligned (%hu bytes)", device->name,
                     device->sector_size);
            if (device->size < device->sector_size)
                errx(1, "%s: Backing storage must be at least 1 block (%hu bytes) in size",
                     device->name, device->sector_size);
        } else if (memcmp(device->mac, no_mac, sizeof no_mac) == 0) {
            int random = open("/dev/urandom", O_RDONLY);

            if (random == -1 || read(random, device->mac, 6) != 6)
                err(1, "Could not open /dev/urandom");
            close(random);
            device->mac[0] = (device->mac[0] & 0xfe) | 0x02;
        }
    }
    for (unsigned i = 0; i < device_count; i++) {
        if (devices[i].attached)
            continue;
        warnx("Device '%s' of type %s declared but not attached.", devices[i].name,
              devices[i].type == BLOCK_BASIC ? "BLOCK_BASIC"
              : devices[i].type == NET_BASIC ? "NET_BASIC"
                                             : "<undefined type>");
        missing = true;
    }
    if (missing)
        errx(1, "All declared devices must be attached. See --help for syntax.");
}
