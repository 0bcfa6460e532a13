/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that was saved and goes on as another container's. The host has the application stand
 * still before it saves (`hold`), and here it goes on only once everything is this container's:
 * what the configuration disk says by now of names and networks, the clock, the random numbers.
 */
#define _GNU_SOURCE
#include "init.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SEED_BYTES 64

void name_machine(void)
{
    const char *name = setting("hostname"), *domain = setting("domainname");

    if (name && sethostname(name, strlen(name)) != 0)
        fail("cannot set the hostname: %m");
    if (domain && setdomainname(domain, strlen(domain)) != 0)
        fail("cannot set the domainname: %m");
}

static void stand_still(bool still)
{
    if (!freeze_group(still))
        kill(-1, still ? SIGSTOP : SIGCONT); /* all but the caller */
}

void hold_application(void)
{
    stand_still(true);
}

void let_application_go(void)
{
    stand_still(false);
}

/* What the kernel has read of the disk is what it was when the guest was saved. */
static void forget_disk(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || ioctl(fd, BLKFLSBUF, 0) != 0)
        fail("cannot read the configuration %s anew: %m", path);
    close(fd);
}

static int digit(char letter)
{
    return isdigit((unsigned char)letter) ? letter - '0' : letter - 'a' + 10;
}

static void mix(const char *hex)
{
    struct {
        struct rand_pool_info info;
        unsigned char bytes[SEED_BYTES];
    } seed = {.info = {.entropy_count = SEED_BYTES * 8, .buf_size = SEED_BYTES}};
    int fd = open("/dev/random", O_WRONLY | O_CLOEXEC);

    for (int i = 0; i < SEED_BYTES; i++)
        seed.bytes[i] = digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &seed) != 0 || ioctl(fd, RNDRESEEDCRNG) != 0)
        fail("cannot have new random numbers: %m");
    close(fd);
    explicit_bzero(&seed, sizeof seed);
}

void go_on_as_another(const char *words)
{
    struct timespec now = {0};
    char hex[SEED_BYTES * 2 + 1];
    const char *disk = kernel_word("urunc.config");

    if (sscanf(words, "%ld.%9ld %128[0-9a-f]", &now.tv_sec, &now.tv_nsec, hex) != 3 ||
        strlen(hex) != SEED_BYTES * 2)
        fail("again: what is %s?", words);
    mix(hex);
    explicit_bzero(hex, sizeof hex);
    if (clock_settime(CLOCK_REALTIME, &now) != 0)
        fail("cannot set the clock: %m");
    leave_network();
    forget_disk(disk);
    read_configuration(disk);
    name_machine();
    renew_network();
    renew_files();
}
