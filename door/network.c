/* SPDX-License-Identifier: Apache-2.0
 *
 * rtnetlink(7), with messages that Python made: some are sent as they are, and what a network
 * namespace holds is compared with what it held when the container was created. Compared is what
 * src/urunc/net/look.py reads, and a little more: more only means that Python looks once more.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER (1 << 17) /* a datagram of a dump is 32 KiB at most */
#define MOST_OWN 64      /* TAP devices of ours */
#define RETURNS 10       /* how often to try to come back from a namespace */

static char datagram[BUFFER];
static unsigned sequence;

static bool is_of(int namespace, const char *identity)
{
    struct stat facts;
    char now[64];

    if (fstat(namespace, &facts) != 0)
        return false;
    snprintf(now, sizeof now, "%llu %llu", (unsigned long long)facts.st_dev,
             (unsigned long long)facts.st_ino);
    return strcmp(now, identity) == 0;
}

/* The kernel may have no memory for it. Python must not go on from here: it would take the container's
 * namespace for the host's, in which it changes nothing. */
static void come_back(int home)
{
    static const char message[] = "urunc: error: come back from the container's network namespace: "
                                  "the kernel refused it (try again)\n";

    for (int attempt = 0; attempt < RETURNS; attempt++)
        if (setns(home, CLONE_NEWNET) == 0)
            return;
    if (write(2, message, sizeof message - 1) < 0)
        _exit(1);
    _exit(1);
}

int open_in_namespace(const char *path, const char *identity)
{
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int there = open(path, O_RDONLY | O_CLOEXEC), fd = -1;

    if (there < 0 && errno != ENOENT && errno != ENOTDIR)
        hand_over(); /* whether it is there cannot be told */
    if (home < 0 || is_of(home, identity))
        hand_over(); /* it is this program's own, in which nothing is changed */
    if (there >= 0 && (*identity == '\0' || is_of(there, identity))) {
        /* the first is no change, but the root of a user namespace has no way back from there */
        if (setns(home, CLONE_NEWNET) != 0 || setns(there, CLONE_NEWNET) != 0)
            hand_over();
        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        come_back(home);
        if (fd < 0)
            hand_over();
    }
    close(home);
    if (there >= 0)
        close(there);
    return fd;
}

/* Sends a message and gives its answers to a function, until they end; their error, 0 for none. */
static int converse(int socket, struct nlmsghdr *message,
                    void (*take)(const struct nlmsghdr *message, void *with), void *with)
{
    message->nlmsg_seq = ++sequence;
    if (send(socket, message, message->nlmsg_len, 0) != (ssize_t)message->nlmsg_len)
        return errno;
    while (true) {
        ssize_t count = recv(socket, datagram, sizeof datagram, 0);
        unsigned left = count;

        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? errno : EIO;
        for (struct nlmsghdr *answer = (void *)datagram; NLMSG_OK(answer, left);
             answer = NLMSG_NEXT(answer, left)) {
            if (answer->nlmsg_flags & NLM_F_DUMP_INTR)
                return EAGAIN;
            if (answer->nlmsg_type == NLMSG_DONE)
                return 0;
            if (answer->nlmsg_type == NLMSG_ERROR)
                return -((struct nlmsgerr *)NLMSG_DATA(answer))->error;
            take(answer, with);
        }
    }
}

static int dump(int socket, int kind, size_t body,
                void (*take)(const struct nlmsghdr *message, void *with), void *with)
{
    struct {
        struct nlmsghdr header;
        char body[16];
    } message = {.header = {NLMSG_LENGTH(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0}};

    return converse(socket, &message.header, take, with);
}

/* What is compared of a namespace: one message after the other, each without what changes by
 * itself. */
struct facts {
    char *start;
    size_t length, room;
    int own[MOST_OWN]; /* the indexes of TAP devices of ours, which are no facts */
    int owned;
    bool devices, overflow;
};

static void add(struct facts *facts, const void *start, size_t length)
{
    if (facts->length + length > facts->room) {
        size_t room = 2 * facts->room + length + 4096;
        char *larger = realloc(facts->start, room);

        if (larger == NULL) {
            facts->overflow = true;
            return;
        }
        facts->start = larger;
        facts->room = room;
    }
    for (size_t place = 0; place < length; place++)
        facts->start[facts->length++] = ((const char *)start)[place];
}

static void add_number(struct facts *facts, unsigned number)
{
    add(facts, &number, sizeof number);
}

/* The attributes of these kinds; of IFLA_LINKINFO the kind alone, for the rest counts. */
static void add_attributes(struct facts *facts, const struct rtattr *first, int left,
                           const unsigned char *kinds)
{
    for (const struct rtattr *one = first; RTA_OK(one, left); one = RTA_NEXT(one, left)) {
        const struct rtattr *shown = one;

        if (strchr((const char *)kinds, one->rta_type & NLA_TYPE_MASK) == NULL ||
            (one->rta_type & NLA_TYPE_MASK) == 0)
            continue;
        if (*kinds == IFLA_LINKINFO && (one->rta_type & NLA_TYPE_MASK) == IFLA_LINKINFO &&
            RTA_PAYLOAD(one) >= sizeof *one)
            shown = RTA_DATA(one); /* IFLA_INFO_KIND, which comes first */
        add_number(facts, one->rta_type & NLA_TYPE_MASK);
        add(facts, RTA_DATA(shown), RTA_PAYLOAD(shown));
    }
}

static const struct rtattr *find(const struct rtattr *first, int left, unsigned kind)
{
    for (const struct rtattr *one = first; RTA_OK(one, left); one = RTA_NEXT(one, left)) {
        if ((one->rta_type & NLA_TYPE_MASK) == kind)
            return one;
    }
    return NULL;
}

static unsigned value_of(const struct rtattr *attribute, unsigned otherwise)
{
    return attribute != NULL && RTA_PAYLOAD(attribute) >= sizeof(unsigned)
               ? *(unsigned *)RTA_DATA(attribute)
               : otherwise;
}

/* tap0_urunc, … (net/look.py): made after create looked. */
static bool is_own_name(const struct rtattr *name)
{
    const char *digits = name != NULL ? RTA_DATA(name) : "";
    size_t count;

    if (strncmp(digits, "tap", 3) != 0)
        return false;
    count = strspn(digits + 3, "0123456789");
    return count > 0 && strcmp(digits + 3 + count, "_urunc") == 0;
}

static bool is_own(const struct facts *facts, int index)
{
    for (int number = 0; number < facts->owned; number++) {
        if (facts->own[number] == index)
            return true;
    }
    return false;
}

static void take_link(const struct nlmsghdr *message, struct facts *facts)
{
    static const unsigned char kinds[] = {IFLA_LINKINFO, IFLA_ADDRESS, IFLA_IFNAME,       IFLA_MTU,
                                          IFLA_LINK,     IFLA_MASTER,  IFLA_LINK_NETNSID, 0};
    const struct ifinfomsg *link = NLMSG_DATA(message);
    int left = IFLA_PAYLOAD(message);

    if (is_own_name(find(IFLA_RTA(link), left, IFLA_IFNAME))) {
        if (facts->owned == MOST_OWN)
            facts->overflow = true;
        else
            facts->own[facts->owned++] = link->ifi_index;
        return;
    }
    facts->devices |= !(link->ifi_flags & IFF_LOOPBACK);
    add_number(facts, message->nlmsg_type);
    add_number(facts, link->ifi_type);
    add_number(facts, link->ifi_index);
    add_number(facts, link->ifi_flags & (IFF_UP | IFF_LOOPBACK));
    add_attributes(facts, IFLA_RTA(link), left, kinds);
}

static void take_address(const struct nlmsghdr *message, struct facts *facts)
{
    static const unsigned char kinds[] = {IFA_ADDRESS, IFA_LOCAL, 0};
    const struct ifaddrmsg *address = NLMSG_DATA(message);
    int left = IFA_PAYLOAD(message);
    unsigned flags = value_of(find(IFA_RTA(address), left, IFA_FLAGS), address->ifa_flags);

    /* IPv6's own on each link comes a moment after the device, and is told nobody */
    if (is_own(facts, address->ifa_index) ||
        (address->ifa_family == AF_INET6 && address->ifa_scope == RT_SCOPE_LINK))
        return;
    add_number(facts, message->nlmsg_type);
    add_number(facts, address->ifa_family);
    add_number(facts, address->ifa_prefixlen);
    add_number(facts, address->ifa_scope);
    add_number(facts, address->ifa_index);
    add_number(facts, flags & (IFA_F_DADFAILED | IFA_F_TEMPORARY));
    add_attributes(facts, IFA_RTA(address), left, kinds);
}

static void take_route(const struct nlmsghdr *message, struct facts *facts)
{
    static const unsigned char kinds[] = {RTA_DST,       RTA_OIF, RTA_GATEWAY, RTA_PRIORITY,
                                          RTA_MULTIPATH, RTA_VIA, 0};
    const struct rtmsg *route = NLMSG_DATA(message);
    int left = RTM_PAYLOAD(message);
    const struct rtattr *to = find(RTM_RTA(route), left, RTA_DST);
    bool on_link = route->rtm_family == AF_INET6 && route->rtm_dst_len == 64 && to != NULL &&
                   RTA_PAYLOAD(to) == 16 && IN6_IS_ADDR_LINKLOCAL((struct in6_addr *)RTA_DATA(to));

    if (value_of(find(RTM_RTA(route), left, RTA_TABLE), route->rtm_table) != RT_TABLE_MAIN ||
        route->rtm_type != RTN_UNICAST || on_link ||
        is_own(facts, value_of(find(RTM_RTA(route), left, RTA_OIF), 0)))
        return;
    add_number(facts, message->nlmsg_type);
    add_number(facts, route->rtm_family);
    add_number(facts, route->rtm_dst_len);
    add_attributes(facts, RTM_RTA(route), left, kinds);
}

static void take_neighbour(const struct nlmsghdr *message, struct facts *facts)
{
    static const unsigned char kinds[] = {NDA_DST, NDA_LLADDR, 0};
    const struct ndmsg *neighbour = NLMSG_DATA(message);
    int left = NLMSG_PAYLOAD(message, sizeof *neighbour);

    if (!(neighbour->ndm_state & NUD_PERMANENT) || is_own(facts, neighbour->ndm_ifindex))
        return;
    add_number(facts, message->nlmsg_type);
    add_number(facts, neighbour->ndm_family);
    add_number(facts, neighbour->ndm_ifindex);
    add_attributes(facts, (const void *)((const char *)neighbour + NLMSG_ALIGN(sizeof *neighbour)),
                   left, kinds);
}

static void take_message(const struct nlmsghdr *message, void *with)
{
    struct facts *facts = with;

    if (message->nlmsg_type == RTM_NEWLINK)
        take_link(message, facts);
    else if (message->nlmsg_type == RTM_NEWADDR)
        take_address(message, facts);
    else if (message->nlmsg_type == RTM_NEWROUTE)
        take_route(message, facts);
    else if (message->nlmsg_type == RTM_NEWNEIGH)
        take_neighbour(message, facts);
}

bool network_is_empty(int socket)
{
    struct facts facts = {0};

    return dump(socket, RTM_GETLINK, sizeof(struct ifinfomsg), take_message, &facts) == 0 &&
           !facts.overflow && !facts.devices && facts.owned == 0;
}

bool network_is_same(int socket, struct bytes known)
{
    struct facts before = {0}, now = {0};
    unsigned left = known.length;
    struct nlmsghdr *message = (void *)known.start;

    for (; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left))
        take_message(message, &before);
    return dump(socket, RTM_GETLINK, sizeof(struct ifinfomsg), take_message, &now) == 0 &&
           dump(socket, RTM_GETADDR, sizeof(struct ifaddrmsg), take_message, &now) == 0 &&
           dump(socket, RTM_GETROUTE, sizeof(struct rtmsg), take_message, &now) == 0 &&
           dump(socket, RTM_GETNEIGH, sizeof(struct ndmsg), take_message, &now) == 0 &&
           !before.overflow && !now.overflow && before.length == now.length &&
           memcmp(before.start, now.start, now.length) == 0;
}

static void note(const struct nlmsghdr *message, void *with)
{
    (void)message;
    *(bool *)with = true;
}

/* The message of a hexadecimal text, in place of what is in `datagram`; its length, 0 for none. */
static size_t message_of(const char *hexadecimal, char *into, size_t room)
{
    size_t length = strlen(hexadecimal) / 2;

    if (length < sizeof(struct nlmsghdr) || length > room)
        return 0;
    for (size_t place = 0; place < length; place++) {
        char digits[3] = {hexadecimal[2 * place], hexadecimal[2 * place + 1], '\0'};

        into[place] = strtoul(digits, NULL, 16);
    }
    return ((struct nlmsghdr *)into)->nlmsg_len == length ? length : 0;
}

enum answer ask(int socket, const char *hexadecimal, const char *errors)
{
    static _Alignas(struct nlmsghdr) char message[4096];
    bool something = false;
    char *after;
    int error;

    if (message_of(hexadecimal, message, sizeof message) == 0)
        return REFUSED;
    error = converse(socket, (void *)message, note, &something);
    if (error == 0)
        return something ? SOMETHING : DONE;
    for (long allowed = strtol(errors, &after, 10); after != errors;
         errors = after, allowed = strtol(errors, &after, 10)) {
        if (allowed == error)
            return DONE;
    }
    return REFUSED;
}
