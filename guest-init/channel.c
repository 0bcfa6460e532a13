/* SPDX-License-Identifier: Apache-2.0
 *
 * The channel to the host, lines both ways: a port of virtio-serial, which the kernel lets one
 * process open, or a connection of vsock, of which the host takes one. It is opened first and never
 * closed.
 */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h> /* needs the one before */
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"
#define WRITE_MS 5000 /* then the host does not listen */
#define CLOSE_MS 1000 /* for the host to read the last line */

static int channel = -1;
bool hurry;

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

int open_way(const struct record *record)
{
    if (strcmp(field(record, 0), "virtio") == 0)
        return open_port(field(record, 1));
    if (strcmp(field(record, 0), "vsock") == 0)
        return connect_to_host(number(field(record, 1), 10, record->key));
    fail("what is a %s of %s?", record->key, field(record, 0));
}

void open_channel(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (first("channel"))
        channel = open_way(first("channel"));
}

/* A port hands over what is written before write returns only where the monitor has no ioeventfd
 * for it. */
void tell(const char *format, ...)
{
    struct pollfd ready = {.fd = channel, .events = POLLOUT};
    char *line = NULL;
    va_list arguments;

    va_start(arguments, format);
    if (channel >= 0 && vasprintf(&line, format, arguments) >= 0 &&
        poll(&ready, 1, WRITE_MS) == 1 && ready.revents & POLLOUT &&
        write(channel, line, strlen(line)) < 0)
        warn("cannot tell the host: %m");
    va_end(arguments);
    free(line);
}

void finish_channel(void)
{
    struct pollfd answer = {.fd = channel, .events = POLLIN};
    char bytes[256];

    if (channel >= 0 && shutdown(channel, SHUT_WR) == 0) /* a port is no socket */
        while (poll(&answer, 1, CLOSE_MS) == 1 && read(channel, bytes, sizeof bytes) > 0)
            ;
}

int channel_to_poll(void)
{
    return channel;
}

static void obey(char *line, pid_t application)
{
    struct winsize window = {0};
    int signal, stream;

    if (sscanf(line, "signal %d", &signal) == 1) {
        hurry |= signal == SIGINT || signal == SIGQUIT || signal == SIGTERM;
        signal_application(application, signal);
    } else if (strncmp(line, "pids ", 5) == 0)
        limit_processes(line + 5);
    else if (sscanf(line, "closed %d", &stream) == 1)
        close_stream(stream);
    else if (sscanf(line, "window %hu %hu", &window.ws_row, &window.ws_col) == 2)
        (void)(resize_terminal(&window) || ioctl(STDIN_FILENO, TIOCSWINSZ, &window));
    else
        warn("what the host says is not understood: %s", line);
}

bool hear(pid_t application)
{
    static char lines[256];
    static size_t length;
    ssize_t count = read(channel, lines + length, sizeof lines - 1 - length);
    char *end;

    if (count <= 0)
        return count < 0 && (errno == EAGAIN || errno == EINTR);
    length += count;
    lines[length] = '\0';
    while ((end = strchr(lines, '\n')) != NULL) {
        *end++ = '\0';
        obey(lines, application);
        length -= end - lines;
        memmove(lines, end, length + 1);
    }
    if (length == sizeof lines - 1)
        length = 0; /* no line that init knows is so long */
    return true;
}
