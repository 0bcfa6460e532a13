/* SPDX-License-Identifier: Apache-2.0
 *
 * The application's root: a disk, a directory of the shared directory or of the initramfs, and where it
 * is to be written to and cannot be, an overlay above it. It ends as the mount on init's own "/",
 * so that there is nothing behind it.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define UPPER LAYER "/upper"

bool root_stays_readonly;
static bool layer_is_a_disk;

static void mount_new(const char *source, const char *path, const char *type, unsigned long flags,
                      const char *data)
{
    mkdir(path, 0755);
    if (mount(source, path, type, flags, data) != 0)
        fail("cannot mount %s (%s): %m", source, type ? type : "bind");
}

static void mount_share(void)
{
    const struct record *share = first("share");
    const char *kind;

    if (share == NULL)
        return;
    kind = field(share, 0);
    mount_new(field(share, 1), SHARE, kind, 0,
              strcmp(kind, "9p") == 0 ? "trans=virtio,version=9p2000.L,msize=512000,cache=mmap"
                                      : NULL);
}

static void bind_root(const char *top, const char *source, unsigned long flags)
{
    int fd = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int directory = fd < 0 ? -1 : find_source(fd, source);

    if (directory < 0)
        fail("cannot find %s, the root: %m", source);
    mount_new(text(DESCRIPTOR, directory), ROOT, NULL, MS_BIND | MS_REC, NULL);
    if (flags && mount(NULL, ROOT, NULL, MS_REMOUNT | MS_BIND | flags, NULL) != 0)
        fail("cannot set the options of the root: %m");
    close(directory);
    close(fd);
}

static void mount_root(void)
{
    const struct record *record = first("root");
    const char *kind, *source;
    struct options options;

    if (record == NULL)
        fail("the configuration has no root");
    kind = field(record, 0);
    source = field(record, 1);
    options = parse_options(field(record, 2));
    if (strcmp(kind, "share") == 0) {
        bind_root(SHARE, source, options.flags);
    } else if (strcmp(kind, "initrd") == 0) {
        bind_root("/", source, options.flags);
    } else {
        wait_for(source);
        mount_new(source, ROOT, kind, options.flags, options.data);
        hold(open(ROOT, O_PATH | O_CLOEXEC));
    }
}

/* A root that cannot be written to lacks a place that something is to be put at. */
static bool lacks_a_place(void)
{
    static const char *const always[] = {"proc", "sys", "dev"};
    const struct record *record;
    int fd;
    bool lacks = false;
    int top = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct statvfs found;

    if (fstatvfs(top, &found) == 0 && !(found.f_flag & ST_RDONLY)) {
        close(top);
        return false;
    }
#define LOOK(path)                                                                                 \
    do {                                                                                           \
        fd = find(top, path);                                                                      \
        lacks = lacks || fd < 0;                                                                   \
        close(fd);                                                                                 \
    } while (0)
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        LOOK(always[i]);
    for (record = first("mount"); record; record = following(record))
        if (strncmp(field(record, 2), "/dev/", 5) != 0) /* which is init's own */
            LOOK(field(record, 2));
    for (record = first("file"); record; record = following(record))
        LOOK(field(record, 0));
    for (record = first("cwd"); record; record = following(record))
        LOOK(field(record, 0));
#undef LOOK
    close(top);
    return lacks;
}

static void mount_layer(const char *kind, const char *where, const char *words)
{
    if (strcmp(kind, "tmpfs") == 0) {
        mount_new("tmpfs", LAYER, "tmpfs", 0,
                  *where ? text("mode=0755,size=%s", where) : "mode=0755");
    } else {
        struct options options = parse_options(words);

        wait_for(where);
        mount_new(where, LAYER, kind, options.flags, options.data);
        layer_is_a_disk = true;
        hold(open(LAYER, O_PATH | O_CLOEXEC));
    }
}

/* The root's own mode and owner are the upper directory's. */
static void make_upper(void)
{
    struct stat found;

    if (mkdir(LAYER "/work", 0755) != 0 && errno != EEXIST)
        fail("cannot make the overlay's directories: %m");
    if (mkdir(UPPER, 0755) != 0) {
        if (errno == EEXIST)
            return; /* a layer that was used before */
        fail("cannot make the overlay's directories: %m");
    }
    if (stat(ROOT, &found) != 0 || chown(UPPER, found.st_uid, found.st_gid) != 0 ||
        chmod(UPPER, found.st_mode & 07777) != 0)
        fail("cannot make the overlay's directories: %m");
}

static void mark_opaque(void)
{
    int top = open(UPPER, O_PATH | O_DIRECTORY | O_CLOEXEC);

    for (const struct record *record = first("opaque"); record; record = following(record)) {
        int fd = find(top, field(record, 0));

        if (fd < 0 || setxattr(text(DESCRIPTOR, fd), "trusted.overlay.opaque", "y", 1, 0) != 0)
            fail("cannot make %s opaque: %m", field(record, 0));
        close(fd);
    }
    close(top);
}

void build_root(void)
{
    const struct record *overlay;
    bool lacks;

    mount_share();
    mount_root();
    overlay = first("overlay");
    lacks = overlay == NULL && lacks_a_place();
    if (overlay != NULL || lacks) {
        mount_layer(overlay ? field(overlay, 0) : "tmpfs", overlay ? field(overlay, 1) : "",
                    overlay ? field(overlay, 2) : "");
        make_upper();
    }
    if (setting("archive"))
        unpack(setting("archive"), layer_is_a_disk);
    if (overlay != NULL || lacks) {
        mark_opaque();
        mount_new("overlay", ROOT, "overlay", 0,
                  "lowerdir=" ROOT ",upperdir=" UPPER ",workdir=" LAYER "/work");
    }
    root_stays_readonly = lacks;
    /* What is mounted on "/" cannot be left: its parent directory is itself. */
    if (chdir(ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0)
        fail("cannot move the root to its place: %m");
    root = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || chdir("/") != 0)
        fail("cannot open the root: %m");
}
