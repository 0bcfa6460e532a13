/* SPDX-License-Identifier: Apache-2.0
 *
 * File systems on disks, which are read-only when the machine ends: such a one needs no repair.
 */
#define _GNU_SOURCE
#include "init.h"

#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#define MAX_HELD 256

static int held[MAX_HELD], held_count;

void hold(int fd)
{
    if (fd >= 0 && held_count < MAX_HELD)
        held[held_count++] = fd;
}

/* Newest first, since one may hold another's disk. */
void settle_disks(void)
{
    char path[32]; /* which there is also where there is no memory */

    sync();
    while (held_count > 0) {
        snprintf(path, sizeof path, DESCRIPTOR, held[--held_count]);
        mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
    }
}
