/* SPDX-License-Identifier: Apache-2.0
 *
 * Paths in a root that is not ours: an image's links lead nowhere else (openat2, Linux 5.6).
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_LINKS 40 /* as the kernel's own */

int root = -1;

static int find_as(int top, const char *path, int flags)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | flags,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};

    return syscall(SYS_openat2, top, *path ? path : ".", &how, sizeof how);
}

int find(int top, const char *path)
{
    return find_as(top, path, 0);
}

/* Where the host has something mounted at a directory, virtiofs announces it, and O_DIRECTORY has
 * it mounted here (follow_automount, fs/namei.c): else it would be later, on top of what is bound. */
int find_source(int top, const char *path)
{
    int fd = find_as(top, path, O_DIRECTORY);

    return fd >= 0 || errno != ENOTDIR ? fd : find(top, path);
}

static int made(const char *path, enum kind kind, int links);

/* What a link that leads nowhere points at, made. */
static int made_behind(int parent, const char *directory, const char *name, enum kind kind, int links)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(parent, name, target, sizeof target - 1);

    if (length < 0 || links == 0)
        return -1;
    target[length] = '\0';
    return made(*target == '/' ? target : text("%s/%s", directory, target), kind, links - 1);
}

static int made(const char *path, enum kind kind, int links)
{
    char *directory = copy_of(path), *name;
    int parent, error, fd = find(root, path);

    if (fd >= 0 || errno != ENOENT)
        return fd;
    while ((name = strrchr(directory, '/')) != NULL && name[1] == '\0' && name != directory)
        *name = '\0'; /* slashes at the end */
    name = name ? name : directory;
    if (*name == '/')
        *name++ = '\0';
    else
        directory = "";
    parent = made(directory, DIRECTORY, links);
    if (parent < 0)
        return -1;
    error = kind == DIRECTORY ? mkdirat(parent, name, 0755) : mknodat(parent, name, S_IFREG | 0755, 0);
    if (error != 0 && errno == EEXIST)
        fd = made_behind(parent, directory, name, kind, links);
    else if (error == 0)
        fd = find(parent, name);
    error = errno;
    close(parent);
    errno = error;
    return fd;
}

int find_or_make(const char *path, enum kind kind)
{
    int fd = made(path, kind, MAX_LINKS);

    if (fd < 0)
        fail("cannot make %s: %m", path);
    return fd;
}
