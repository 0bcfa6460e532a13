/* SPDX-License-Identifier: Apache-2.0
 *
 * A cpio archive (newc) on a disk: what is below `layer/` goes to the overlay's upper directory,
 * `volumes/` onto the layer's disk, or where there is none into a tmpfs. A name that leads elsewhere
 * is refused; owners, modes, times and device nodes (an overlay's whiteouts) are kept.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define UPPER LAYER "/upper"
#define HEADER_BYTES 110
#define NAME_BYTES 8192

enum column {
    INO,
    MODE,
    UID,
    GID,
    NLINK,
    MTIME,
    SIZE,
    DEV_MAJOR,
    DEV_MINOR,
    RDEV_MAJOR,
    RDEV_MINOR,
    NAME,
    CHECK,
    COLUMNS
};

/* What is remembered of a member: directories, whose times are set last, and files with several names,
 * by inode. */
struct member {
    char *path;
    uint32_t ino, mtime;
    struct member *next;
};

#define BUCKETS 4096

static struct member *directories, *linked[BUCKETS];
static int disk;
static char buffer[1 << 16];
static size_t filled, used;
static uint64_t position;

static void take(void *to, size_t count)
{
    char *bytes = to;

    position += count;
    while (count > 0) {
        size_t part;

        if (used == filled) {
            ssize_t size = read(disk, buffer, sizeof buffer);

            if (size <= 0)
                fail("the archive is cut off: %m");
            filled = size;
            used = 0;
        }
        part = filled - used < count ? filled - used : count;
        if (bytes) {
            memcpy(bytes, buffer + used, part);
            bytes += part;
        }
        used += part;
        count -= part;
    }
}

static void align(void)
{
    take(NULL, -position & 3);
}

static void take_header(uint32_t *columns)
{
    char bytes[HEADER_BYTES + 1] = "", word[9] = "";

    take(bytes, HEADER_BYTES);
    if (strncmp(bytes, "070701", 6) != 0)
        fail("the archive is none of newc's");
    for (int i = 0; i < COLUMNS; i++) {
        memcpy(word, bytes + 6 + 8 * i, 8);
        columns[i] = number(word, 16, "archive");
    }
}

/* Where a member goes, or NULL: the directories that are there already. */
static char *place(const char *name)
{
    for (const char *part = name; part; part = strchr(part, '/'), part = part ? part + 1 : NULL)
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            fail("the archive's %s leads out of it", name);
    if (strcmp(name, "layer") == 0 || strncmp(name, "layer/", 6) == 0) {
        if (first("overlay") == NULL)
            fail("the archive has a layer, and the root has no overlay");
        return text(UPPER "%s", name + 5);
    }
    if (strncmp(name, "volumes/", 8) == 0)
        return text(VOLUMES "/%s", name + 8);
    if (strcmp(name, "volumes") != 0 && strcmp(name, ".") != 0)
        warn("the archive's %s is left out", name);
    return NULL;
}

static void copy_contents(const char *path, uint32_t size)
{
    static char bytes[1 << 16];
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        fail("cannot open %s: %m", path);
    while (size > 0) {
        size_t part = size < sizeof bytes ? size : sizeof bytes;

        take(bytes, part);
        for (size_t done = 0; done < part;) {
            ssize_t count = write(fd, bytes + done, part - done);

            if (count < 0)
                fail("cannot write %s: %m", path);
            done += count;
        }
        size -= part;
    }
    close(fd);
}

/* The first of a file's names is made, the others are linked to it; any of them may come with the
 * contents. */
static const char *other_name(uint32_t ino)
{
    for (const struct member *member = linked[ino % BUCKETS]; member; member = member->next)
        if (member->ino == ino)
            return member->path;
    return NULL;
}

static void make(const char *path, const uint32_t *columns)
{
    mode_t kind = columns[MODE] & S_IFMT;
    const char *other = columns[NLINK] > 1 && kind != S_IFDIR ? other_name(columns[INO]) : NULL;
    int error;

    if (other)
        error = link(other, path);
    else if (kind == S_IFDIR)
        error = mkdir(path, 0700) != 0 && errno != EEXIST;
    else
        error = mknod(path, kind | 0600, makedev(columns[RDEV_MAJOR], columns[RDEV_MINOR]));
    if (error)
        fail("cannot make %s: %m", path);
}

static void set_attributes(const char *path, const uint32_t *columns)
{
    const struct timespec times[2] = {{.tv_sec = columns[MTIME]}, {.tv_sec = columns[MTIME]}};

    if (lchown(path, columns[UID], columns[GID]) != 0)
        fail("cannot set the owner of %s: %m", path);
    if (!S_ISLNK(columns[MODE]) && chmod(path, columns[MODE] & 07777) != 0)
        fail("cannot set the mode of %s: %m", path);
    utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
}

static void remember(char *path, const uint32_t *columns)
{
    struct member **list = S_ISDIR(columns[MODE]) ? &directories : &linked[columns[INO] % BUCKETS];
    struct member *member = allocate(sizeof *member);

    *member =
        (struct member){.path = path, .ino = columns[INO], .mtime = columns[MTIME], .next = *list};
    *list = member;
}

static void extract(char *path, const uint32_t *columns)
{
    static char target[NAME_BYTES];

    if (S_ISLNK(columns[MODE])) {
        if (columns[SIZE] >= sizeof target)
            fail("%s points too far", path);
        take(target, columns[SIZE]);
        target[columns[SIZE]] = '\0';
        if (symlink(target, path) != 0)
            fail("cannot make %s: %m", path);
    } else {
        make(path, columns);
        if (columns[SIZE] > 0)
            copy_contents(path, columns[SIZE]);
    }
    set_attributes(path, columns);
    if (S_ISDIR(columns[MODE]) || (columns[NLINK] > 1 && other_name(columns[INO]) == NULL))
        remember(path, columns);
    else
        free(path);
}

void unpack(const char *device, bool layer_is_a_disk)
{
    static char name[NAME_BYTES];
    uint32_t columns[COLUMNS] = {0};

    mkdir(VOLUMES, 0700);
    if (layer_is_a_disk) {
        if (mkdir(LAYER "/volumes", 0700) != 0 ||
            mount(LAYER "/volumes", VOLUMES, NULL, MS_BIND, NULL) != 0)
            fail("cannot make a directory for volumes: %m");
    } else if (mount("tmpfs", VOLUMES, "tmpfs", 0, "mode=0700,size=100%") != 0) {
        fail("cannot mount a tmpfs: %m");
    }
    wait_for(device);
    disk = open(device, O_RDONLY | O_CLOEXEC);
    if (disk < 0)
        fail("cannot open %s: %m", device);
    for (;;) {
        char *path;

        take_header(columns);
        if (columns[NAME] == 0 || columns[NAME] > sizeof name)
            fail("a name of the archive is too long");
        take(name, columns[NAME]);
        name[columns[NAME] - 1] = '\0';
        align();
        if (strcmp(name, "TRAILER!!!") == 0)
            break;
        path = place(name);
        if (path)
            extract(path, columns);
        else
            take(NULL, columns[SIZE]);
        align();
    }
    close(disk);
    for (const struct member *member = directories; member; member = member->next) {
        const struct timespec times[2] = {{.tv_sec = member->mtime}, {.tv_sec = member->mtime}};

        utimensat(AT_FDCWD, member->path, times, 0);
    }
}
