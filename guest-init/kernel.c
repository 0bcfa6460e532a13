/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's own file systems as init sees them, its line, its modules, its settings.
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
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void look_at_kernel(void)
{
    static const char *const types[][2] = {
        {"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}};

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        mkdir(types[i][0], 0755);
        /* devtmpfs may be there already (CONFIG_DEVTMPFS_MOUNT is not for an initramfs) */
        if (mount(types[i][1], types[i][0], types[i][1], 0, NULL) != 0 && errno != EBUSY)
            fail("cannot mount %s: %m", types[i][1]);
    }
    mkdir(PRIVATE, 0700);
}

/* The kernel did so before the first program, if the archive has the node and no module brings the
 * driver. */
void open_console(void)
{
    int opened = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC), fd;

    if (opened < 0)
        opened = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (opened < 0)
        return;
    fd = fcntl(opened, F_DUPFD_CLOEXEC, 3); /* it may have been given a stream's number */
    close(opened);
    if (fd < 0)
        return;
    for (int stream = 0; stream < 3; stream++)
        dup2(fd, stream);
    close(fd);
}

void load_modules(void)
{
    FILE *order = fopen("/modules/order", "re");
    char *line = NULL;
    size_t room = 0;

    if (order == NULL)
        return;
    while (getline(&line, &room, order) > 0) {
        char *parameters = line, *name = strsep(&parameters, " \n");
        char *path = text("/modules/%s.ko", name);
        int fd;

        if (*name == '\0')
            continue;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        parameters = parameters ? parameters : "";
        parameters[strcspn(parameters, "\n")] = '\0';
        if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) != 0 && errno != EEXIST))
            warn("module %s: %m", name);
        close(fd);
        unlink(path); /* its memory is the guest's */
    }
    fclose(order);
}

char *kernel_word(const char *name)
{
    FILE *file = fopen("/proc/cmdline", "re");
    char *line = NULL, *word, *found = NULL;
    size_t room = 0, length = strlen(name);

    if (file == NULL || getline(&line, &room, file) < 0)
        fail("cannot read /proc/cmdline: %m");
    fclose(file);
    while ((word = strsep(&line, " \n")) != NULL && strcmp(word, "--") != 0)
        if (strncmp(word, name, length) == 0 && word[length] == '=')
            found = word + length + 1;
    return found;
}

long seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

bool pause_before(long end)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    nanosleep(&pause, NULL);
    return seconds_now() < end;
}

void wait_for(const char *device)
{
    long end = seconds_now() + WAIT_S;

    while (access(device, F_OK) != 0)
        if (!pause_before(end))
            fail("there is no %s", device);
}

void write_setting(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        fail("cannot write %s to %s: %m", value, path);
    close(fd);
}
