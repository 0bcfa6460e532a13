/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that the engine reads once the container has ended, of which the guest has a copy: what it
 * ends with goes to a disk of the host's (storage/returned.py), whatever ended the application.
 */
#define _GNU_SOURCE
#include "init.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512
#define LIMIT_BYTES 4096

static int file = -1;

/* Held from now on: the application may hide it, and cannot take it away. */
void hold_returned(void)
{
    const struct record *record = first("returned");

    if (record)
        file = open(text(PRIVATE "/%s", field(record, 1)), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

void give_back(void)
{
    static char sectors[SECTOR_BYTES + LIMIT_BYTES];
    struct stat facts;
    off_t start;
    ssize_t length;
    int disk;

    if (file < 0 || fstat(file, &facts) != 0)
        return;
    start = facts.st_size > LIMIT_BYTES ? facts.st_size - LIMIT_BYTES : 0;
    length = pread(file, sectors + SECTOR_BYTES, LIMIT_BYTES, start);
    disk = open(field(first("returned"), 0), O_WRONLY | O_CLOEXEC);
    snprintf(sectors, SECTOR_BYTES, "urunc-returned 1 %zd\n", length);
    if (length < 0 || disk < 0 || write(disk, sectors, sizeof sectors) != sizeof sectors ||
        fsync(disk) != 0)
        warn("cannot give back what is to be read at the end: %m");
    close(disk);
    file = -1;
}
