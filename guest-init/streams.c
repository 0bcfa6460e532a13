/* SPDX-License-Identifier: Apache-2.0
 *
 * The application's standard streams: pipes or a terminal, as a process of the host's has them, and
 * init passes on what goes through them: by a port of virtio-serial or a connection of vsock for
 * each, for a terminal one. An application opens its /dev/stdout anew; a port can be opened once.
 *
 * What is held is bounded, and nothing waits. What init has written to a port may be in its queue
 * still, for as long as nobody reads at the host; no call says so. But the kernel wakes who polls
 * when the host takes something out of the queue (out_intr of drivers/char/virtio_console.c, from
 * 3.18 on), and epoll shows each such moment (EPOLLET): so there is one piece in the queue at most,
 * and after its moment there is none.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#define PIECE 32768 /* a port takes no more at once */
#define LAST_S 2    /* for a reader at the host, once the host wants an end */

struct end {
    int fd;
    bool ready; /* worth a try; of a port that is written to: nothing is in its queue */
    bool hung_up;
    bool port;
};

struct stream {
    struct end from, to;
    char *bytes;
    size_t first, last;
};

static const char *const names[] = {"stdin", "stdout", "stderr"};
static struct stream streams[3];
static int given[3] = {-1, -1, -1};
static int watched = -1;
static int terminal = -1; /* the end that is not the application's */

static void look(void);

static void watch(struct end *end)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = end};

    fcntl(end->fd, F_SETFL, fcntl(end->fd, F_GETFL) | O_NONBLOCK);
    if (epoll_ctl(watched, EPOLL_CTL_ADD, end->fd, &event) != 0)
        fail("cannot wait for the standard streams: %m");
}

/* Its ports are there a moment before it has them open. */
static void wait_for_host(int fd)
{
    struct pollfd polled = {.fd = fd};
    long end = seconds_now() + WAIT_S;

    while (poll(&polled, 1, 0) == 1 && polled.revents & POLLHUP && pause_before(end))
        ;
}

static void open_stream(int number, const struct record *record)
{
    struct stream *stream = &streams[number];
    struct end *host = number ? &stream->to : &stream->from;
    struct end *own = number ? &stream->from : &stream->to;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        fail("cannot make a pipe: %m");
    host->port = strcmp(field(record, 0), "virtio") == 0;
    host->fd = open_transport(record);
    if (number && host->port)
        wait_for_host(host->fd);
    own->fd = ends[number ? 0 : 1];
    given[number] = ends[number ? 1 : 0];
    stream->bytes = allocate(PIECE);
    watch(host);
    watch(own);
}

/* One way for both directions; its other end is made once there is a /dev/pts. */
static void open_transport_of_terminal(const struct record *record)
{
    streams[0].from.fd = open_transport(record);
    streams[1].to.fd = fcntl(streams[0].from.fd, F_DUPFD_CLOEXEC, 3);
    streams[0].from.port = streams[1].to.port = strcmp(field(record, 0), "virtio") == 0;
    if (streams[0].from.port)
        wait_for_host(streams[0].from.fd);
    for (int number = 0; number < 2; number++)
        streams[number].bytes = allocate(PIECE);
}

void open_terminal(void)
{
    int unlocked = 0, place, console;

    if (first("terminal") == NULL || watched < 0)
        return;
    place = find(root, "/dev/pts/ptmx");
    terminal = open(text(DESCRIPTOR, place), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0 || ioctl(terminal, TIOCSPTLCK, &unlocked) != 0 ||
        /* kept, so that it is never without one */
        ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC) < 0)
        fail("cannot make a terminal: %m");
    close(place);
    place = find(root, TERMINAL);
    console = find(root, "/dev/console");
    if (console >= 0)
        mount_at(text(DESCRIPTOR, place), console, "/dev/console", NULL, MS_BIND, NULL);
    close(place);
    close(console);
    streams[1].from.fd = terminal;
    streams[0].to.fd = fcntl(terminal, F_DUPFD_CLOEXEC, 3);
    for (int number = 0; number < 2; number++) {
        watch(&streams[number].from);
        watch(&streams[number].to);
    }
    look();
}

bool terminal_is_ours(void)
{
    return first("terminal") && watched >= 0;
}

bool resize_terminal(const struct winsize *size)
{
    return terminal >= 0 && ioctl(terminal, TIOCSWINSZ, size) == 0;
}

static void look(void)
{
    struct epoll_event events[2 * 3];
    int count = epoll_wait(watched, events, 2 * 3, 0);

    for (int i = 0; i < count; i++) {
        struct end *end = events[i].data.ptr;

        end->ready = true;
        end->hung_up = events[i].events & (EPOLLHUP | EPOLLERR);
    }
}

void open_streams(void)
{
    for (int number = 0; number < 3; number++)
        streams[number].from.fd = streams[number].to.fd = -1;
    for (int number = 0; number < 3; number++) {
        const struct record *record = first(names[number]);

        if (record == NULL || strcmp(field(record, 0), "null") == 0)
            continue;
        if (watched < 0 && (watched = epoll_create1(EPOLL_CLOEXEC)) < 0)
            fail("cannot wait for the standard streams: %m");
        if (first("terminal")) {
            open_transport_of_terminal(record);
            break;
        }
        open_stream(number, record);
    }
    if (watched >= 0)
        look(); /* what each is from the start: no moment of a queue's */
}

int stream_to_give(int number)
{
    return given[number];
}

void close_given_streams(void)
{
    for (int number = 0; number < 3; number++)
        if (given[number] >= 0) {
            close(given[number]);
            given[number] = -1;
        }
}

static void close_end(struct end *end)
{
    if (end->fd >= 0)
        close(end->fd);
    end->fd = -1;
}

/* Whether something was read. */
static bool fill(struct stream *stream)
{
    struct end *from = &stream->from;
    ssize_t count;

    if (stream->first < stream->last || !from->ready || from->fd < 0)
        return false;
    count = read(from->fd, stream->bytes, PIECE);
    if (count == 0 && from->port) /* the host may have closed it between a look and the next */
        count = read(from->fd, stream->bytes, PIECE);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        from->ready = errno == EINTR;
        return from->ready;
    }
    if (count <= 0) {
        close_end(from);
        return true;
    }
    stream->first = 0;
    stream->last = count;
    return true;
}

/* Whether something was written, or cannot be any more. */
static bool empty(struct stream *stream)
{
    struct end *to = &stream->to;
    ssize_t count;

    if (to->port && to->hung_up)
        close_end(to);
    if (to->fd < 0 && stream->from.fd >= 0) {
        stream->first = stream->last = 0;
        close_end(&stream->from); /* SIGPIPE for who writes to it */
        return true;
    }
    if (stream->first == stream->last || !to->ready || to->fd < 0)
        return false;
    count = write(to->fd, stream->bytes + stream->first, stream->last - stream->first);
    if (count < 0 && errno == EINTR)
        return true;
    if (count < 0 && errno != EAGAIN)
        close_end(to);
    to->ready = count > 0 && !to->port;
    stream->first += count > 0 ? count : 0;
    return count > 0 || to->fd < 0;
}

void close_stream(int number)
{
    if (number == 1 || number == 2)
        close_end(&streams[number].to);
}

int streams_to_poll(void)
{
    return watched;
}

void relay_streams(void)
{
    if (watched < 0)
        return;
    look();
    for (int number = 0; number < 3; number++) {
        struct stream *stream = &streams[number];

        while (fill(stream) | empty(stream))
            ;
        if (number == 0 && stream->from.fd < 0 && stream->first == stream->last)
            close_end(&stream->to);
    }
}

/* Nobody is left who writes to them: what there is to read is all. */
static bool settled(void)
{
    for (int number = 1; number < 3; number++) {
        struct stream *stream = &streams[number];

        if (stream->to.fd >= 0 &&
            (stream->first < stream->last || (stream->from.fd >= 0 && stream->from.ready) ||
             (stream->to.port && !stream->to.ready)))
            return false;
    }
    return true;
}

/* To the last byte, as long as it takes who reads at the host; unless the host wants an end, or
 * says anything now by the channel. */
void finish_streams(bool hurry, int channel)
{
    long end = seconds_now() + LAST_S;
    char word[256];

    if (watched < 0)
        return;
    relay_streams();
    while (!settled() && (!hurry || seconds_now() < end)) {
        struct pollfd polled[2] = {{.fd = watched, .events = POLLIN},
                                   {.fd = hurry ? -1 : channel, .events = POLLIN}};

        poll(polled, 2, hurry ? 100 : -1);
        relay_streams();
        if (polled[1].revents) {
            hurry = true;
            end = seconds_now() + LAST_S;
        }
    }
    for (int number = 1; number < 3; number++) {
        struct pollfd answer = {.fd = streams[number].to.fd, .events = POLLIN};

        if (answer.fd >= 0 && !streams[number].to.port && shutdown(answer.fd, SHUT_WR) == 0)
            while (poll(&answer, 1, LAST_S * 1000) == 1 &&
                   read(answer.fd, word, sizeof word) > 0)
                ;
    }
}
