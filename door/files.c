/* SPDX-License-Identifier: Apache-2.0
 *
 * Files: read whole, written whole, and trees of them removed.
 */
#define _GNU_SOURCE
#include "door.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIMIT (1u << 24)

bool read_whole(int fd, struct bytes *into)
{
    size_t room = 4096;

    into->length = 0;
    into->start = malloc(room);
    while (into->start != NULL) {
        ssize_t count = read(fd, into->start + into->length, room - 1 - into->length);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return false;
        into->length += count;
        into->start[into->length] = '\0';
        if (count == 0)
            return true;
        if (into->length == room - 1) {
            char *larger = room < LIMIT ? realloc(into->start, room * 4) : NULL;

            if (larger == NULL)
                return false;
            into->start = larger;
            room *= 4;
        }
    }
    return false;
}

bool read_file(int directory, const char *path, struct bytes *into)
{
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    bool done = fd >= 0 && read_whole(fd, into);

    if (fd >= 0)
        close(fd);
    return done;
}

bool write_all(int fd, const char *start, size_t length)
{
    while (length > 0) {
        ssize_t count = write(fd, start, length);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return false;
        start += count;
        length -= count;
    }
    return true;
}

static bool is_directory(int directory, const struct dirent *entry)
{
    struct stat facts;

    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_DIR;
    return fstatat(directory, entry->d_name, &facts, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISDIR(facts.st_mode);
}

static bool is_among(const char *name, const char *const *names)
{
    while (*names != NULL && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

/* Removes what is in a directory, but for what is last. */
static bool empty(DIR *stream, const char *const *last)
{
    struct dirent *entry;
    bool done = true;

    while (done && (entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            is_among(entry->d_name, last))
            continue;
        if (is_directory(dirfd(stream), entry))
            done = remove_tree(dirfd(stream), entry->d_name);
        else
            done = unlinkat(dirfd(stream), entry->d_name, 0) == 0 || errno == ENOENT;
    }
    return done;
}

bool remove_tree_with_last(int directory, const char *path, const char *const *last)
{
    int fd = openat(directory, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream;
    bool done;

    if (fd < 0)
        return errno == ENOENT;
    stream = fdopendir(fd);
    if (stream == NULL) {
        close(fd);
        return false;
    }
    done = empty(stream, last);
    for (; done && *last != NULL; last++)
        done = unlinkat(fd, *last, 0) == 0 || errno == ENOENT;
    closedir(stream);
    return done && unlinkat(directory, path, AT_REMOVEDIR) == 0;
}

bool remove_tree(int directory, const char *path)
{
    static const char *const none[] = {NULL};

    return remove_tree_with_last(directory, path, none);
}
