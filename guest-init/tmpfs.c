/* SPDX-License-Identifier: Apache-2.0
 *
 * A tmpfs of the application's: with the mode of the directory that it hides where the options say
 * none, and if asked for with what is in that directory, copied with owners and modes.
 */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void copy_file(int from, int to, const char *name)
{
    static char bytes[1 << 16];
    int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int copy = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t count = 0;

    while (source >= 0 && copy >= 0 && (count = read(source, bytes, sizeof bytes)) > 0)
        for (ssize_t done = 0, part; done < count; done += part)
            if ((part = write(copy, bytes + done, count - done)) < 0)
                fail("cannot copy %s into a tmpfs: %m", name);
    if (source < 0 || copy < 0 || count < 0)
        fail("cannot copy %s into a tmpfs: %m", name);
    close(source);
    close(copy);
}

static void copy_link(int from, int to, const char *name)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(from, name, target, sizeof target - 1);

    if (length >= 0)
        target[length] = '\0';
    if (length < 0 || symlinkat(target, to, name) != 0)
        fail("cannot copy %s into a tmpfs: %m", name);
}

static void copy_directory(int from, int to);

static void copy_entry(int from, int to, const char *name)
{
    struct stat found;

    if (fstatat(from, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        fail("cannot copy %s into a tmpfs: %m", name);
    if (S_ISREG(found.st_mode)) {
        copy_file(from, to, name);
    } else if (S_ISLNK(found.st_mode)) {
        copy_link(from, to, name);
    } else if (S_ISDIR(found.st_mode)) {
        if (mkdirat(to, name, 0700) != 0)
            fail("cannot copy %s into a tmpfs: %m", name);
        copy_directory(openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
                    openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    } else if (mknodat(to, name, found.st_mode & S_IFMT, found.st_rdev) != 0) {
        fail("cannot copy %s into a tmpfs: %m", name);
    }
    if (fchownat(to, name, found.st_uid, found.st_gid, AT_SYMLINK_NOFOLLOW) != 0 ||
        (!S_ISLNK(found.st_mode) && fchmodat(to, name, found.st_mode & 07777, 0) != 0))
        fail("cannot copy %s into a tmpfs: %m", name);
}

/* Closes both. */
static void copy_directory(int from, int to)
{
    struct dirent *entry;
    DIR *directory;

    if (from < 0 || to < 0 || (directory = fdopendir(from)) == NULL)
        fail("cannot copy a directory into a tmpfs: %m");
    while ((entry = readdir(directory)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            copy_entry(from, to, entry->d_name);
    closedir(directory);
    close(to);
}

void mount_tmpfs(const char *path, const struct options *options)
{
    int target = find(root, path), hidden = -1, made;
    const char *data = options->data;
    struct stat found;

    if (target >= 0 && fstat(target, &found) == 0 && S_ISDIR(found.st_mode)) {
        /* of two modes the last one counts */
        data = text("mode=%o%s%s", found.st_mode & 07777, *data ? "," : "", data);
        hidden = open(text(DESCRIPTOR, target), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    } else {
        target = find_or_make(path, DIRECTORY);
    }
    mount_at("tmpfs", target, path, "tmpfs",
             options->copy_up ? options->flags & ~MS_RDONLY : options->flags, data);
    close(target);
    if (options->copy_up && hidden >= 0) {
        made = find(root, path);
        copy_directory(hidden, open(text(DESCRIPTOR, made), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        close(made);
    } else {
        close(hidden);
    }
    if (options->copy_up && options->flags & MS_RDONLY)
        restrict_mount(path, options->flags);
}
