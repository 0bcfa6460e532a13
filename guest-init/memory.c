/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that runs out: the host is told when the guest's kernel kills a process for it. The
 * kernel's log says when to look, its counter whether. Init itself is never chosen: it is PID 1.
 */
#define _GNU_SOURCE
#include "init.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define KILLS_TOLD 1000 /* the channel has room for them */

static int log_fd = -1;
static unsigned long long kills;
static int told;

/* Of /proc/vmstat, Linux 4.13. */
static unsigned long long count_kills(void)
{
    unsigned long long found = 0;
    char line[128];
    FILE *file = fopen("/proc/vmstat", "re");

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "oom_kill %llu", &found) == 1)
            break;
    if (file)
        fclose(file);
    return found;
}

void watch_memory(void)
{
    kills = count_kills();
    log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (log_fd >= 0)
        lseek(log_fd, 0, SEEK_END);
}

int memory_to_poll(void)
{
    return log_fd;
}

void look_at_memory(void)
{
    char record[8192]; /* CONSOLE_EXT_LOG_MAX */
    unsigned long long now;

    while (log_fd >= 0 && read(log_fd, record, sizeof record) > 0)
        ;
    now = count_kills();
    if (now > kills && told < KILLS_TOLD) {
        told++;
        tell("oom\n");
    }
    kills = now;
}
