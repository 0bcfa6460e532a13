/* SPDX-License-Identifier: Apache-2.0
 *
 * The channel to the host, lines both ways. It is opened first and never closed.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define WRITE_MS 5000 /* then the host does not listen */
#define CLOSE_MS 1000 /* for the host to read the last line */

static int channel = -1;
static bool end_asked;

void open_channel(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (first("channel"))
        channel = open_transport(first("channel"));
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

bool is_end_asked(void)
{
    return end_asked;
}

static void obey(char *line, pid_t application)
{
    struct winsize window = {0};
    int signal, stream;

    if (sscanf(line, "signal %d", &signal) == 1) {
        end_asked |= signal == SIGINT || signal == SIGQUIT || signal == SIGTERM;
        signal_application(application, signal);
    } else if (strncmp(line, "pids ", 5) == 0)
        limit_processes(line + 5);
    else if (sscanf(line, "closed %d", &stream) == 1)
        close_stream(stream);
    else if (strcmp(line, "hold") == 0) {
        hold_application();
        tell("held\n");
    } else if (strcmp(line, "go") == 0)
        let_application_go();
    else if (strncmp(line, "again ", 6) == 0) {
        go_on_as_another(line + 6);
        tell("told\n");
        let_application_go();
    } else if (sscanf(line, "window %hu %hu", &window.ws_row, &window.ws_col) == 2)
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
