/* SPDX-License-Identifier: Apache-2.0
 *
 * What is mounted in the application's root: the kernel's file systems as runc's default has them,
 * volumes, files, and what covers paths. A mount point is a descriptor found in that root, never a
 * path.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SAFE (MS_NOSUID | MS_NODEV | MS_NOEXEC)

/* Which mount a descriptor is on (proc_pid_fdinfo(5)), 0 where that is not to be known. */
static long mount_of(int fd)
{
    FILE *facts = fopen(text("/proc/self/fdinfo/%d", fd), "re");
    char line[64];
    long id = 0;

    while (facts && fgets(line, sizeof line, facts))
        if (sscanf(line, "mnt_id: %ld", &id) == 1)
            break;
    if (facts)
        fclose(facts);
    return id;
}

static long own_dev; /* the mount of it */

/* --- the kernel's ----------------------------------------------------------- */

/* What the configuration asks for at one of the kernel's places, in place of what is usual. */
static const struct record *asked(const char *path)
{
    const struct record *found = NULL;

    for (const struct record *record = first("mount"); record; record = following(record))
        if (strcmp(field(record, 0), "kernel") == 0 && strcmp(field(record, 2), path) == 0)
            found = record;
    return found;
}

static void mount_kernel(const char *type, const char *path, unsigned long flags, const char *data)
{
    const struct record *record = asked(path);
    int target = find_or_make(path, DIRECTORY);

    if (record) {
        struct options options = parse_options(field(record, 3));

        type = field(record, 1);
        flags = options.flags;
        data = options.data;
    }
    mount_at(type, target, path, type, flags, data);
    close(target);
}

static void make_nodes(void)
{
    static const struct {
        const char *name;
        int major, minor;
        mode_t mode;
    } nodes[] = {{"null", 1, 3, 0666},   {"zero", 1, 5, 0666},    {"full", 1, 7, 0666},
                 {"random", 1, 8, 0666}, {"urandom", 1, 9, 0666}, {"tty", 5, 0, 0666},
                 {"console", 5, 1, 0600}};
    static const char *const links[][2] = {
        {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
        {"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"},      {"ptmx", "pts/ptmx"}};
    int directory = find(root, "dev");

    for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
        if (mknodat(directory, nodes[i].name, S_IFCHR | nodes[i].mode,
                    makedev(nodes[i].major, nodes[i].minor)) != 0)
            fail("cannot make /dev/%s: %m", nodes[i].name);
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
        if (symlinkat(links[i][1], directory, links[i][0]) != 0)
            fail("cannot make /dev/%s: %m", links[i][0]);
    close(directory);
}

void mount_process_filesystem(void)
{
    mount_kernel("proc", "/proc", SAFE, NULL);
}

/* Whether the configuration has something mounted there. */
static bool is_asked(const char *path)
{
    const struct record *record = first("mount");

    while (record && strcmp(field(record, 2), path) != 0)
        record = following(record);
    return record != NULL;
}

void mount_kernel_filesystems(void)
{
    int dev;

    mount_kernel("tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=0755,size=65536k");
    dev = find(root, "dev");
    own_dev = mount_of(dev);
    close(dev);
    make_nodes();
    mount_kernel("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
                 "newinstance,ptmxmode=0666,mode=0620,gid=5");
    if (!is_asked("/dev/shm"))
        mount_kernel("tmpfs", "/dev/shm", SAFE, "mode=1777,size=65536k");
    mount_kernel("mqueue", "/dev/mqueue", SAFE, NULL);
    mount_kernel("sysfs", "/sys", SAFE | MS_RDONLY, NULL);
    mount_groups();
}

/* --- volumes ---------------------------------------------------------------- */

static void bind_on(int source, const char *path, unsigned long flags)
{
    struct stat found;
    int target;

    if (fstat(source, &found) != 0)
        fail("cannot look at the source of %s: %m", path);
    target = find_or_make(path, S_ISDIR(found.st_mode) ? DIRECTORY : FILE_);
    mount_at(text(DESCRIPTOR, source), target, path, NULL, MS_BIND | MS_REC, NULL);
    close(target);
    if (flags)
        restrict_mount(path, flags);
}

static void bind_below(const char *directory, const char *source, const char *path,
                       unsigned long flags)
{
    int top = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = top < 0 ? -1 : find_source(top, source);

    if (fd < 0)
        fail("cannot find %s, the source of %s: %m", source, path);
    bind_on(fd, path, flags);
    close(fd);
    close(top);
}

/* What the host has mounted below a volume, if it is there still and can be reached. */
static void bind_again(const char *source, const char *path, unsigned long flags)
{
    int top = open(SHARE, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = top < 0 ? -1 : find_source(top, source), place = find(root, path);

    if (fd >= 0 && place >= 0)
        bind_on(fd, path, flags);
    close(place);
    close(fd);
    close(top);
}

/* For who looks for limits or, where it is asked for, divides what there is. */
void mount_groups(void)
{
    const char *path = "/sys/fs/cgroup";
    int place = find(root, path);
    unsigned long flags = SAFE | MS_RDONLY;

    if (asked(path))
        flags = parse_options(field(asked(path), 3)).flags;
    if (place >= 0 && has_group())
        bind_below(GROUPS, CONTAINER, path, flags);
    close(place);
}

static void set_owner(const char *path, char *options)
{
    char *word, *value;

    while ((word = strsep(&options, ",")) != NULL) {
        value = strchr(word, '=');
        if (value == NULL)
            continue; /* ro is the disk's own property */
        *value++ = '\0';
        if ((strcmp(word, "mode") == 0 && chmod(path, number(value, 8, word)) != 0) ||
            (strcmp(word, "uid") == 0 && chown(path, number(value, 10, word), -1) != 0) ||
            (strcmp(word, "gid") == 0 && chown(path, -1, number(value, 10, word)) != 0))
            fail("cannot set the %s of %s: %m", word, path);
    }
}

/* A node of a device, bound: its directory may be read-only, and something may be there already. */
static void give_device(const char *source, const char *path, char *options)
{
    int fd;

    wait_for(source);
    set_owner(source, options);
    fd = open(source, O_PATH | O_CLOEXEC);
    if (fd < 0)
        fail("cannot find %s: %m", source);
    bind_on(fd, path, 0);
    close(fd);
}

/* A character device of this kernel's (c:MAJOR:MINOR) or a FIFO (p), in the place of what is there:
 * made in a /dev of init's own, elsewhere bound, as a volume or its root may not hold nodes. */
static void make_node(const char *what, const char *path, char *options)
{
    static int count;
    unsigned major = 0, minor = 0;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *made = text(PRIVATE "/node%d", count++);
    int directory, dev, fd;

    if (sscanf(what, "c:%u:%u", &major, &minor) == 2 &&
        access(text("/sys/dev/char/%u:%u", major, minor), F_OK) != 0) {
        warn("%s: the guest's kernel has no such device", path);
        return;
    }
    if (mknod(made, (*what == 'p' ? S_IFIFO : S_IFCHR) | 0600, makedev(major, minor)) != 0)
        fail("cannot make %s: %m", path);
    set_owner(made, options);
    directory = find_or_make(text("%.*s", (int)(name - path), path), DIRECTORY);
    dev = find(root, "dev");
    if (dev >= 0 && mount_of(directory) == mount_of(dev) && mount_of(dev) == own_dev) {
        struct stat found;

        unlinkat(directory, name, 0);
        if (stat(made, &found) != 0 ||
            mknodat(directory, name, found.st_mode, found.st_rdev) != 0 ||
            fchownat(directory, name, found.st_uid, found.st_gid, 0) != 0 ||
            fchmodat(directory, name, found.st_mode & 07777, 0) != 0)
            fail("cannot make %s: %m", path);
    } else {
        fd = open(made, O_PATH | O_CLOEXEC);
        if (fd < 0)
            fail("cannot make %s: %m", path);
        bind_on(fd, path, 0);
        close(fd);
    }
    close(dev);
    close(directory);
}

static void make_unbindable(const char *path)
{
    int target = find(root, path);

    if (target < 0 || mount(NULL, text(DESCRIPTOR, target), NULL, MS_UNBINDABLE, NULL) != 0)
        fail("cannot make %s unbindable: %m", path);
    close(target);
}

/* A file system of the kernel's own at a place that is not the usual one. */
static void mount_of_kernel(const char *type, const char *path, const struct options *options)
{
    static const char *const usual[] = {"/proc", "/sys", "/sys/fs/cgroup", "/dev/pts",
                                        "/dev/mqueue"};
    int target;

    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (strcmp(path, usual[i]) == 0)
            return; /* mount_kernel has seen to it */
    target = find_or_make(path, DIRECTORY);
    if (strcmp(type, "cgroup") == 0)
        type = "cgroup2"; /* the older hierarchies have no controllers here */
    if (mount(type, text(DESCRIPTOR, target), type, options->flags, options->data) != 0) {
        if (errno == ENODEV)
            fail("the kernel has no file system %s, for %s", type, path);
        fail("cannot mount %s at %s: %m", type, path);
    }
    close(target);
}

static void mount_volume(const struct record *record)
{
    const char *kind = field(record, 0), *source = field(record, 1), *path = field(record, 2);
    struct options options = parse_options(field(record, 3));
    int target;

    if (strcmp(kind, "share") == 0) {
        bind_below(SHARE, source, path, options.flags);
    } else if (strcmp(kind, "below") == 0) {
        bind_again(source, path, options.flags);
    } else if (strcmp(kind, "copy") == 0) {
        bind_below(PRIVATE, source, path, options.flags);
    } else if (strcmp(kind, "device") == 0) {
        give_device(source, path, copy_of(field(record, 3)));
    } else if (strcmp(kind, "node") == 0) {
        make_node(source, path, copy_of(field(record, 3)));
    } else if (strcmp(kind, "tmpfs") == 0) {
        mount_tmpfs(path, &options);
    } else if (strcmp(kind, "kernel") == 0) {
        mount_of_kernel(source, path, &options);
    } else {
        target = find_or_make(path, DIRECTORY);
        wait_for(source);
        mount_at(source, target, path, kind, options.flags, options.data);
        hold(find(root, path));
        close(target);
    }
    if (options.unbindable)
        make_unbindable(path);
}

void mount_volumes(void)
{
    for (const struct record *record = first("mount"); record; record = following(record))
        mount_volume(record);
}

/* --- files ------------------------------------------------------------------ */

/* Whether PATH, or where it would be made, is in what is mounted and not in the root itself. */
static bool is_mounted(const char *path)
{
    char *place = copy_of(path);
    int fd;
    bool elsewhere;

    while ((fd = find(root, place)) < 0 && strrchr(place, '/') != NULL)
        *strrchr(place, '/') = '\0';
    elsewhere = fd >= 0 && mount_of(fd) != mount_of(root);
    close(fd);
    return elsewhere;
}

#define MANY_FILES 8 /* more than names have */

static const char *bound[MANY_FILES]; /* the places of FILES/0 and so on */
static int bound_count;

static void write_file(const char *copy, int flags, mode_t mode, const char *content)
{
    int fd = open(copy, O_WRONLY | O_CLOEXEC | flags, mode);

    for (size_t left = strlen(content); fd >= 0 && left > 0;) {
        ssize_t written = write(fd, content, left);

        if (written < 0)
            fail("cannot write %s: %m", copy);
        content += written;
        left -= written;
    }
    if (fd < 0 || fchmod(fd, mode) != 0)
        fail("cannot write %s: %m", copy);
    close(fd);
}

/* A file in memory, bound on its place: what is there, in the image or in a volume, is not ours to
 * write to. */
static void bind_file(const char *path, mode_t mode, const char *content)
{
    char *copy = text(FILES "/%d", bound_count);
    int target;
    struct stat found;

    if (bound_count == MANY_FILES)
        fail("more than %d files", MANY_FILES);
    bound[bound_count++] = path;
    write_file(copy, O_CREAT | O_EXCL, mode, content);
    target = find_or_make(path, FILE_);
    if (fstat(target, &found) != 0 || S_ISDIR(found.st_mode))
        fail("%s is no file", path);
    mount_at(copy, target, path, NULL, MS_BIND, NULL);
    close(target);
}

void write_files(void)
{
    if (first("file") == NULL)
        return;
    mkdir(FILES, 0755);
    if (mount("tmpfs", FILES, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=8m") != 0)
        fail("cannot mount a tmpfs: %m");
    for (const struct record *record = first("file"); record; record = following(record)) {
        const char *path = field(record, 0);

        /* the engine asked for it there, or a volume has its own, if any */
        if (strcmp(field(record, 3), "asked") == 0 || !is_mounted(path))
            bind_file(path, number(field(record, 1), 8, "file"), field(record, 2));
    }
}

void renew_files(void)
{
    for (const struct record *record = first("file"); record; record = following(record))
        for (int i = 0; i < bound_count; i++)
            if (strcmp(bound[i], field(record, 0)) == 0)
                write_file(text(FILES "/%d", i), O_TRUNC, number(field(record, 1), 8, "file"),
                           field(record, 2));
}

void make_working_directory(void)
{
    const char *path = setting("cwd");

    if (path)
        close(find_or_make(path, DIRECTORY));
}

/* --- what is hidden, or cannot be written to -------------------------------- */

static void mask(const char *path)
{
    int target = find(root, path);
    struct stat found;

    if (target < 0)
        return;
    if (fstat(target, &found) == 0 && S_ISDIR(found.st_mode))
        mount_at("tmpfs", target, path, "tmpfs", MS_RDONLY, "size=0k,nr_inodes=1");
    else
        mount_at("/dev/null", target, path, NULL, MS_BIND, NULL);
    close(target);
}

/* The flags that a mount has stay. */
static unsigned long flags_of(int fd)
{
    static const unsigned long pairs[][2] = {
        {ST_NOSUID, MS_NOSUID},   {ST_NODEV, MS_NODEV},           {ST_NOEXEC, MS_NOEXEC},
        {ST_NOATIME, MS_NOATIME}, {ST_NODIRATIME, MS_NODIRATIME}, {ST_RELATIME, MS_RELATIME}};
    struct statvfs found;
    unsigned long flags = 0;

    if (fstatvfs(fd, &found) == 0)
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
            flags |= found.f_flag & pairs[i][0] ? pairs[i][1] : 0;
    return flags;
}

static void make_readonly(const char *path)
{
    int target = find(root, path);
    unsigned long flags;

    if (target < 0)
        return;
    flags = flags_of(target);
    if (strcmp(path, "/") != 0)
        mount_at(text(DESCRIPTOR, target), target, path, NULL, MS_BIND | MS_REC, NULL);
    close(target);
    restrict_mount(path, flags | MS_RDONLY);
}

void hide_paths(void)
{
    for (const struct record *record = first("masked"); record; record = following(record))
        mask(field(record, 0));
    for (const struct record *record = first("readonly"); record; record = following(record))
        make_readonly(field(record, 0));
    if (root_stays_readonly)
        make_readonly("/");
}
