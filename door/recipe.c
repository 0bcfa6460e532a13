/* SPDX-License-Identifier: Apache-2.0
 *
 * A container's recipe (src/urunc/lifecycle/recipe.py): fields that end with a NUL, in the order in
 * which they are read here; then a dump of its network, aligned for a netlink message. What it
 * depends on is checked before anything is done: this boot, and that nobody has changed the files
 * that it was made of.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define ALIGNMENT 4
#define COMMAND 16 /* TASK_COMM_LEN of the kernel */

static char *end; /* of the recipe's fields */
static long long start_time;
static const char *freezer, *thawed;

char *next(char **place)
{
    char *field = *place;

    if (field >= end)
        hand_over();
    *place = field + strlen(field) + 1;
    return field;
}

char *fields_of(const struct bytes *content)
{
    end = content->start + content->length;
    return content->start;
}

long long number(char **place)
{
    char *field = next(place), *after;
    long long value = strtoll(field, &after, 10);

    if (*field == '\0' || *after != '\0')
        hand_over();
    return value;
}

/* The directory, as directory.py locks it: it may have been removed while this waited. */
static int open_directory(const char *path, bool lock)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat opened, now;

    if (fd < 0)
        hand_over();
    if (!lock)
        return fd;
    while (flock(fd, LOCK_EX) != 0) {
        if (errno != EINTR)
            hand_over();
    }
    if (fstat(fd, &opened) != 0 || stat(path, &now) != 0 || opened.st_ino != now.st_ino ||
        opened.st_dev != now.st_dev)
        hand_over();
    return fd;
}

static bool is_this_boot(const char *identity)
{
    struct bytes now;

    return read_file(AT_FDCWD, BOOT_ID, &now) && now.length == strlen(identity) + 1 &&
           strncmp(now.start, identity, now.length - 1) == 0;
}

void check_unchanged(int directory, const char *path, const char *known)
{
    struct stat facts;
    char now[160] = "";

    if (fstatat(directory, path, &facts, 0) == 0)
        snprintf(now, sizeof now, "%llu %llu %lld %lld.%09ld %lld.%09ld",
                 (unsigned long long)facts.st_dev, (unsigned long long)facts.st_ino,
                 (long long)facts.st_size, (long long)facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec,
                 (long long)facts.st_ctim.tv_sec, facts.st_ctim.tv_nsec);
    if (strcmp(now, known) != 0)
        hand_over();
}

static void read_fields(struct recipe *recipe, char *content, const char *configuration)
{
    char *place = content;

    if (strcmp(next(&place), FIRST_FIELD) != 0 || strcmp(next(&place), configuration) != 0 ||
        !is_this_boot(next(&place)))
        hand_over();
    recipe->pid = number(&place);
    start_time = number(&place);
    freezer = next(&place);
    thawed = next(&place);
    for (long long count = number(&place); count > 0; count--) {
        const char *path = next(&place);

        check_unchanged(recipe->directory, path, next(&place));
    }
    for (int part = 0; part < 3; part++)
        recipe->state[part] = next(&place);
    recipe->timestamps = next(&place);
    recipe->letter = next(&place);
    recipe->network = next(&place);
    recipe->namespace_identity = next(&place);
    recipe->removable = *next(&place) != '\0';
    recipe->oom = next(&place);
    recipe->actions = place;
    while (*next(&place) != '\0')
        ;
    place += -(place - content) & (ALIGNMENT - 1);
    recipe->dump.start = place;
    recipe->dump.length = place < end ? end - place : 0;
}

void open_recipe(struct recipe *recipe, const struct call *call, bool lock)
{
    struct bytes content;
    char *path;

    if (asprintf(&path, "%s/%s", call->root, call->id) < 0)
        hand_over();
    recipe->directory = open_directory(path, lock);
    free(path);
    if (!read_file(recipe->directory, RECIPE, &content))
        hand_over();
    read_fields(recipe, fields_of(&content), call->configuration);
}

/* The process's command and its one-letter state (proc_pid_stat(5)); false where another one has
 * its pid, or none. */
static bool look_at_process(int pid, char command[COMMAND], char *state)
{
    char path[32], *first, *last;
    struct bytes text;
    long long since;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_file(AT_FDCWD, path, &text))
        return false;
    first = strchr(text.start, '(');
    last = strrchr(text.start, ')');
    if (first == NULL || last == NULL || last - first > COMMAND)
        hand_over();
    memcpy(command, first + 1, last - first - 1);
    command[last - first - 1] = '\0';
    *state = last[2];
    /* the 22nd field: 20 after the command's end */
    for (int field = 0; field < 20 && last != NULL; field++)
        last = strchr(last + 1, ' ');
    if (last == NULL)
        hand_over();
    since = strtoll(last, NULL, 10);
    free(text.start);
    return since == start_time;
}

static bool is_frozen(void)
{
    struct bytes text;

    return *freezer != '\0' && read_file(AT_FDCWD, freezer, &text) &&
           (strncmp(text.start, thawed, strlen(thawed)) != 0 ||
            text.start[strlen(thawed)] != '\n');
}

enum status status_of(const struct recipe *recipe)
{
    char command[COMMAND] = "", state;

    if (!look_at_process(recipe->pid, command, &state) || state == 'Z' || state == 'X')
        return STOPPED;
    if (is_frozen())
        return PAUSED;
    return strcmp(command, INIT_NAME) == 0 ? CREATED : RUNNING;
}

int pidfd_of(const struct recipe *recipe)
{
    int fd = syscall(SYS_pidfd_open, recipe->pid, 0);
    char command[COMMAND], state;

    if (fd >= 0 && !look_at_process(recipe->pid, command, &state)) {
        close(fd);
        return -1;
    }
    return fd;
}
