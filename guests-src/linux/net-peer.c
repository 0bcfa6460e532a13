/* SPDX-License-Identifier: Apache-2.0
 *
 * The other end of the network tests, one program by two names:
 *
 *   udp-echo PORT     sends each datagram back, from the address it was sent to
 *   tcp-discard PORT  takes connections in turn, reads each to its end, answers
 *                     how many bytes that were (decimal, and a line's end)
 *
 * Both listen on all addresses, IPv6 and IPv4, or on IPv4 alone where the
 * kernel has no IPv6, say so in one line, and never end.  Busybox has neither.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[256 * 1024]; /* a datagram has 65,507 bytes at most */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void set(int fd, int level, int option, int value)
{
    if (setsockopt(fd, level, option, &value, sizeof value) != 0)
        fail("setsockopt");
}

/* A socket bound to the port on all addresses; *family says of which kind. */
static int bound(int type, int port, int *family)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(*family = AF_INET6, type, 0);

    if (fd >= 0) {
        set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
        if (bind(fd, (struct sockaddr *)&any6, sizeof any6) == 0)
            return fd;
        if (errno != EADDRNOTAVAIL)
            fail("bind");
        close(fd);
    }
    fd = socket(*family = AF_INET, type, 0);
    if (fd < 0)
        fail("socket");
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, (struct sockaddr *)&any4, sizeof any4) != 0)
        fail("bind");
    return fd;
}

/* The kernel tells the address that a datagram came to, and takes it as the one
 * that the answer comes from; the interface is left to the routes. */
static void answer_from_there(struct msghdr *message)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(message);

    if (control == NULL)
        return;
    if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO)
        ((struct in6_pktinfo *)CMSG_DATA(control))->ipi6_ifindex = 0;
    else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO)
        ((struct in_pktinfo *)CMSG_DATA(control))->ipi_ifindex = 0;
}

static _Noreturn void echo(int fd, int family)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control;

    set(fd, SOL_SOCKET, SO_RCVBUF, 1 << 20); /* or as much as the kernel allows */
    if (family == AF_INET6)
        set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    else
        set(fd, IPPROTO_IP, IP_PKTINFO, 1);
    for (;;) {
        struct sockaddr_storage peer;
        struct iovec part = {.iov_base = buffer, .iov_len = sizeof buffer};
        struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof peer,
                                 .msg_iov = &part, .msg_iovlen = 1,
                                 .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t size = recvmsg(fd, &message, 0);

        if (size < 0)
            continue; /* what an earlier answer met with */
        part.iov_len = size;
        answer_from_there(&message);
        if (sendmsg(fd, &message, 0) < 0)
            perror("udp-echo: cannot answer");
    }
}

static _Noreturn void discard(int listener)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        unsigned long long total = 0;
        ssize_t size;

        if (fd < 0)
            continue;
        while ((size = read(fd, buffer, sizeof buffer)) > 0)
            total += size;
        dprintf(fd, "%llu\n", total);
        close(fd);
    }
}

int main(int argc, char **argv)
{
    int udp = strcmp(basename(argv[0]), "udp-echo") == 0;
    int port = argc == 2 ? atoi(argv[1]) : 0, family, fd;

    if (port <= 0 || port > 65535) {
        fprintf(stderr, "usage: udp-echo PORT, or tcp-discard PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    fd = bound(udp ? SOCK_DGRAM : SOCK_STREAM, port, &family);
    if (!udp && listen(fd, 16) != 0)
        fail("listen");
    printf("%s: port %d\n", udp ? "udp-echo" : "tcp-discard", port);
    fflush(stdout);
    if (udp)
        echo(fd, family);
    discard(fd);
}
