/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that the engine reads once the container has ended, of which the guest has a copy: what it
 * ends with goes to a disk of the host's (storage/termination_message.py) after each change, some times a
 * second at most, and at the end: the machine may be killed at any time.
 */
#define _GNU_SOURCE
#include "init.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR_BYTES 512
#define LIMIT_BYTES 4096
#define REST_MS 200 /* between two writes */

static int file = -1;
static int changes = -1;
static long rest_until; /* milliseconds; 0: there is no rest to take */

static long milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

/* Held from now on: the application may hide it, and cannot take it away. */
void hold_returned(void)
{
    const struct record *record = first("returned");

    if (record)
        file = open(text(PRIVATE "/%s", field(record, 1)), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0)
        return;
    changes = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (inotify_add_watch(changes, text(DESCRIPTOR, file), IN_MODIFY) < 0)
        warn("what is to be read at the end is lost if this machine is killed: %m");
}

int returned_to_poll(void)
{
    return rest_until ? -1 : changes;
}

int returned_rest_ms(void)
{
    long rest = rest_until ? rest_until - milliseconds_now() : -1;

    return rest_until && rest < 0 ? 0 : (int)rest;
}

void look_at_returned(void)
{
    char events[1024];
    bool changed = false;

    if (rest_until && rest_until > milliseconds_now())
        return;
    rest_until = 0;
    while (changes >= 0 && read(changes, events, sizeof events) > 0)
        changed = true;
    if (changed) {
        give_back();
        rest_until = milliseconds_now() + REST_MS;
    }
}

void give_back(void)
{
    static struct {
        char head[SECTOR_BYTES], content[LIMIT_BYTES];
    } sectors;
    struct stat facts;
    off_t start;
    ssize_t length;
    int disk;

    if (file < 0 || fstat(file, &facts) != 0)
        return;
    start = facts.st_size > LIMIT_BYTES ? facts.st_size - LIMIT_BYTES : 0;
    length = pread(file, sectors.content, LIMIT_BYTES, start);
    disk = open(field(first("returned"), 0), O_WRONLY | O_CLOEXEC);
    snprintf(sectors.head, SECTOR_BYTES, "urunc-returned 1 %zd\n", length);
    if (length < 0 || disk < 0 || write(disk, &sectors, sizeof sectors) != sizeof sectors ||
        fsync(disk) != 0)
        warn("cannot give back what is to be read at the end: %m");
    close(disk);
}
