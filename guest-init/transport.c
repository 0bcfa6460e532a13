/* SPDX-License-Identifier: Apache-2.0
 *
 * A transport to the host, as the configuration names it: a port of virtio-serial, which the kernel
 * lets one process open, or a connection of vsock, of which the host takes one.
 */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h> /* needs the one before */
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"

/* The port's device, or NULL; its name comes a little later than the port. */
static char *port_device(const char *name)
{
    DIR *directory = opendir(PORTS);
    struct dirent *entry;
    char *found = NULL;

    while (directory && !found && (entry = readdir(directory)) != NULL) {
        char line[256] = "";
        int fd = open(text(PORTS "/%s/name", entry->d_name), O_RDONLY | O_CLOEXEC);

        if (fd >= 0 && read(fd, line, sizeof line - 1) > 0) {
            line[strcspn(line, "\n")] = '\0';
            if (strcmp(line, name) == 0)
                found = text("/dev/%s", entry->d_name);
        }
        close(fd);
    }
    if (directory)
        closedir(directory);
    return found;
}

static int open_port(const char *name)
{
    long end = seconds_now() + WAIT_S;
    char *device;
    int fd;

    while ((device = port_device(name)) == NULL)
        if (!pause_before(end))
            fail("there is no virtio port %s", name);
    wait_for(device);
    fd = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fail("cannot open %s: %m", device);
    return fd;
}

static int connect_to_host(unsigned port)
{
    struct sockaddr_vm host = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&host, sizeof host) != 0)
        fail("cannot connect to the host's vsock port %u: %m", port);
    return fd;
}

int open_transport(const struct record *record)
{
    if (strcmp(field(record, 0), "virtio") == 0)
        return open_port(field(record, 1));
    if (strcmp(field(record, 0), "vsock") == 0)
        return connect_to_host(number(field(record, 1), 10, record->key));
    fail("what is a %s of %s?", record->key, field(record, 0));
}
