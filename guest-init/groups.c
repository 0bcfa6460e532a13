/* SPDX-License-Identifier: Apache-2.0
 *
 * The application's control group (version 2), which limits how many processes it has. It sees the
 * group as the root of all there are, as in a container; init stays outside, and is not counted.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUP GROUPS "/" CONTAINER

static bool mounted, limited;

static bool write_group(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, value, strlen(value)) >= 0;

    if (fd >= 0)
        close(fd);
    return written;
}

void make_group(void)
{
    const char *limit = setting("pids");

    mkdir(GROUPS, 0700);
    /* its root's own limits are not its processes' to change */
    mounted = (mount("cgroup2", GROUPS, "cgroup2", 0, "nsdelegate") == 0 ||
               mount("cgroup2", GROUPS, "cgroup2", 0, NULL) == 0) &&
              mkdir(GROUP, 0755) == 0;
    limited = mounted && write_group(GROUPS "/cgroup.subtree_control", "+pids");
    if (limit)
        limit_processes(limit);
}

void limit_processes(const char *limit)
{
    if (!limited)
        warn("the guest's kernel has no control group for a limit of %s processes", limit);
    else if (!write_group(GROUP "/pids.max", limit))
        warn("cannot limit the processes to %s: %m", limit);
}

/* Of the caller, which is to become the application. */
void join_group(void)
{
    if (!mounted)
        return;
    if (!write_group(GROUP "/cgroup.procs", "0"))
        fail("cannot join the control group: %m");
    if (unshare(CLONE_NEWCGROUP) != 0 && errno != EINVAL) /* a kernel without */
        fail("cannot make a control group namespace: %m");
}

/* Until the kernel says that all of them stand still. */
bool freeze_group(bool still)
{
    long end = seconds_now() + WAIT_S;
    char line[128] = "";
    int fd;

    if (!mounted || !write_group(GROUP "/cgroup.freeze", still ? "1" : "0"))
        return false;
    fd = open(GROUP "/cgroup.events", O_RDONLY | O_CLOEXEC);
    while (still && fd >= 0 && pread(fd, line, sizeof line - 1, 0) > 0 &&
           strstr(line, "frozen 1") == NULL)
        if (!pause_before(end))
            fail("the application does not stand still");
    if (fd >= 0)
        close(fd);
    return true;
}

bool has_group(void)
{
    return mounted;
}
