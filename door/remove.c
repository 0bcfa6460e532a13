/* SPDX-License-Identifier: Apache-2.0
 *
 * What `delete` takes away beside the container's directory: the actions of a recipe, each with its
 * fields, newest first (`removal` of the classes in src/urunc/journaled.py and net/resources.py).
 * Each can be repeated: where one fails, Python does all of them again, and says what is wrong.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ATTEMPTS 100 /* of journaled.ControlGroups */

static void kill_members(const char *group)
{
    char path[4096];
    struct bytes members;

    if (snprintf(path, sizeof path, "%s/cgroup.procs", group) >= (int)sizeof path ||
        !read_file(AT_FDCWD, path, &members))
        return;
    for (char *line = strtok(members.start, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        pid_t pid = atoi(line);

        if (pid > 1)
            kill(pid, SIGKILL);
    }
    free(members.start);
}

/* Its processes are dead by now, but the kernel may still be reaping them. */
static bool remove_group(const char *path)
{
    for (int attempt = 1; attempt <= ATTEMPTS; attempt++) {
        struct timespec pause = {0, 1000000L * (attempt < 20 ? attempt : 20)};

        if (rmdir(path) == 0 || errno == ENOENT)
            return true;
        if (errno != EBUSY)
            return false;
        kill_members(path);
        nanosleep(&pause, NULL);
    }
    return false;
}

static bool remove_if_it_says(const char *path, const char *content)
{
    struct bytes now;

    if (!read_file(AT_FDCWD, path, &now))
        return errno == ENOENT;
    return now.length != strlen(content) || memcmp(now.start, content, now.length) != 0 ||
           unlink(path) == 0 || errno == ENOENT;
}

/* A file below a directory, which no link leads out of, gets its owner and mode back. */
static bool give_back(const char *root, const char *path, char **place)
{
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    unsigned long long inode = strtoull(next(place), NULL, 10);
    uid_t uid = strtoul(next(place), NULL, 10);
    gid_t gid = strtoul(next(place), NULL, 10);
    mode_t mode = strtoul(next(place), NULL, 10);
    int directory = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = directory < 0 ? -1 : syscall(SYS_openat2, directory, path, &how, sizeof how);
    bool gone = fd < 0 && errno == ENOENT, done = false;
    struct stat facts;

    if (fd >= 0 && fstat(fd, &facts) == 0)
        done = facts.st_ino != inode || (fchown(fd, uid, gid) == 0 && fchmod(fd, mode) == 0);
    if (directory >= 0)
        close(directory);
    if (fd >= 0)
        close(fd);
    return done || gone;
}

/* Where a network namespace is, by its identity: at its path, or else where somebody has mounted
 * it; a socket in it. False where that cannot be told, so Python shall look. */
static bool enter(const char *path, const char *identity, int *socket)
{
    const char *inode = strchr(identity, ' ');
    char root[64];
    struct bytes mounts;

    *socket = open_in_namespace(path, identity);
    if (*socket >= 0)
        return true;
    if (inode == NULL || !read_file(AT_FDCWD, "/proc/self/mountinfo", &mounts))
        return false;
    snprintf(root, sizeof root, " net:[%s] ", inode + 1);
    return strstr(mounts.start, root) == NULL; /* it is no more, with all that was in it */
}

static bool change(char *action, char **place, int *socket)
{
    const char *first = next(place);

    if (strcmp(action, "group") == 0)
        return remove_group(first);
    if (strcmp(action, "parent") == 0)
        return rmdir(first) == 0 || errno == ENOENT || errno == EBUSY;
    if (strcmp(action, "file") == 0)
        return remove_if_it_says(first, next(place));
    if (strcmp(action, "tree") == 0)
        return remove_tree(AT_FDCWD, first);
    if (strcmp(action, "owner") == 0)
        return give_back(first, next(place), place);
    if (strcmp(action, "namespace") == 0)
        return enter(first, next(place), socket);
    if (strcmp(action, "gone") == 0)
        return enter(first, next(place), socket) && *socket < 0;
    if (strcmp(action, "ask") == 0 || strcmp(action, "unless") == 0) {
        const char *errors = next(place);
        enum answer answer = *socket < 0 ? DONE : ask(*socket, first, errors);

        if (answer == SOMETHING && *action == 'u') {
            close(*socket); /* the rest of what is in this namespace stays */
            *socket = -1;
        }
        return answer != REFUSED;
    }
    return false;
}

bool take(char *actions)
{
    int socket = -1;

    for (char *action = next(&actions); *action != '\0'; action = next(&actions)) {
        if (strcmp(action, "namespace") == 0 && socket >= 0)
            close(socket);
        if (!change(action, &actions, &socket))
            return false;
    }
    return true;
}
