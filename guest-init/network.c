/* SPDX-License-Identifier: Apache-2.0
 *
 * Network devices by rtnetlink: their names, then up, MTU, addresses, routes, in the order that the
 * configuration has.
 */
#define _GNU_SOURCE
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

struct message {
    struct nlmsghdr header;
    char body[512];
};

struct address {
    int family, prefix;
    size_t size;
    unsigned char bytes[16];
};

static int netlink;

static void *begin(struct message *message, int type, int flags, size_t size)
{
    memset(message, 0, sizeof *message);
    message->header.nlmsg_type = type;
    message->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message->header.nlmsg_len = NLMSG_LENGTH(size);
    return NLMSG_DATA(&message->header);
}

static void add(struct message *message, int type, const void *data, size_t size)
{
    struct rtattr *attribute = (void *)((char *)message + NLMSG_ALIGN(message->header.nlmsg_len));

    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), data, size);
    message->header.nlmsg_len =
        NLMSG_ALIGN(message->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

static void add_number(struct message *message, int type, unsigned value)
{
    add(message, type, &value, sizeof value);
}

/* 0, or -1 with errno as the kernel has it. */
static int request(struct message *message)
{
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[1024];
    } answer;

    if (send(netlink, message, message->header.nlmsg_len, 0) < 0 ||
        recv(netlink, &answer, sizeof answer, 0) < (ssize_t)NLMSG_LENGTH(sizeof answer.error))
        return -1;
    errno = answer.header.nlmsg_type == NLMSG_ERROR ? -answer.error.error : EPROTO;
    return errno ? -1 : 0;
}

/* ADDRESS or ADDRESS/PREFIX */
static struct address parse_address(const char *word)
{
    char *host = copy_of(word), *prefix = strchr(host, '/');
    struct address found = {.family = strchr(host, ':') ? AF_INET6 : AF_INET};

    found.size = found.family == AF_INET6 ? 16 : 4;
    if (prefix)
        *prefix++ = '\0';
    found.prefix = prefix ? (int)number(prefix, 10, "net") : (int)found.size * 8;
    if (inet_pton(found.family, host, found.bytes) != 1 || found.prefix > (int)found.size * 8)
        fail("net: %s is no address", word);
    return found;
}

static void change_link(int index, unsigned mtu)
{
    struct message message;
    struct ifinfomsg *link = begin(&message, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    if (mtu)
        add_number(&message, IFLA_MTU, mtu);
    else
        link->ifi_flags = link->ifi_change = IFF_UP;
    if (request(&message) != 0)
        fail("net: cannot set up device %d: %m", index);
}

/* Its routes go with it, and the addresses of IPv6. */
static void shut_link(int index)
{
    struct message message;
    struct ifinfomsg *link = begin(&message, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    link->ifi_change = IFF_UP;
    if (request(&message) != 0)
        fail("net: cannot shut device %d: %m", index);
}

static void remove_address(int index, const char *word)
{
    struct address address = parse_address(word);
    struct message message;
    struct ifaddrmsg *fields = begin(&message, RTM_DELADDR, 0, sizeof *fields);

    fields->ifa_family = address.family;
    fields->ifa_prefixlen = address.prefix;
    fields->ifa_index = index;
    add(&message, IFA_LOCAL, address.bytes, address.size);
    if (request(&message) != 0 && errno != EADDRNOTAVAIL)
        fail("net: cannot remove the address %s: %m", word);
}

static void add_address(int index, const char *word)
{
    struct address address = parse_address(word);
    struct message message;
    struct ifaddrmsg *fields =
        begin(&message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof *fields);

    fields->ifa_family = address.family;
    fields->ifa_prefixlen = address.prefix;
    fields->ifa_index = index;
    add(&message, IFA_LOCAL, address.bytes, address.size);
    add(&message, IFA_ADDRESS, address.bytes, address.size);
    if (address.family == AF_INET6) {
        fields->ifa_flags = IFA_F_NODAD;
    } else if (address.prefix < 31) {
        unsigned broadcast;

        memcpy(&broadcast, address.bytes, sizeof broadcast);
        broadcast |= htonl(address.prefix ? 0xffffffffU >> address.prefix : 0xffffffffU);
        add_number(&message, IFA_BROADCAST, broadcast);
    }
    if (request(&message) != 0)
        fail("net: cannot add the address %s: %m", word);
}

/* A gateway that is in no network of the device's is on the link all the same. */
static int try_route(int index, const struct address *to, const struct address *gateway,
                     const char *metric, unsigned flags)
{
    struct message message;
    struct rtmsg *route =
        begin(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof *route);

    route->rtm_family = to->family;
    route->rtm_dst_len = to->prefix;
    route->rtm_table = RT_TABLE_MAIN;
    route->rtm_protocol = RTPROT_BOOT;
    route->rtm_scope = gateway || to->family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    route->rtm_type = RTN_UNICAST;
    route->rtm_flags = flags;
    if (to->prefix)
        add(&message, RTA_DST, to->bytes, to->size);
    if (gateway)
        add(&message, RTA_GATEWAY, gateway->bytes, gateway->size);
    add_number(&message, RTA_OIF, index);
    if (*metric)
        add_number(&message, RTA_PRIORITY, number(metric, 10, "net"));
    return request(&message);
}

/* DEST/PREFIX[@GATEWAY][%METRIC] */
static void add_route(int index, const char *word)
{
    char *to = copy_of(word), *metric = strchr(to, '%'), *via;
    struct address destination, gateway;

    if (metric)
        *metric++ = '\0';
    via = strchr(to, '@');
    if (via)
        *via++ = '\0';
    destination = parse_address(to);
    if (via)
        gateway = parse_address(via);
    if (via && gateway.family != destination.family)
        fail("net: the gateway of %s is of another family", word);
    if (try_route(index, &destination, via ? &gateway : NULL, metric ? metric : "", 0) != 0 &&
        (!via ||
         try_route(index, &destination, &gateway, metric ? metric : "", RTNH_F_ONLINK) != 0))
        fail("net: cannot add the route %s: %m", word);
}

#define MANY 64 /* more than any monitor has */

struct device {
    const struct record *record;
    int index;
    char before[IF_NAMESIZE]; /* what the kernel calls it */
};

static struct device devices[MANY];
static int device_count;

static const char *item(const struct record *record, const char *prefix)
{
    for (int i = 1; i < record->count; i++)
        if (strncmp(field(record, i), prefix, strlen(prefix)) == 0)
            return field(record, i) + strlen(prefix);
    return NULL;
}

static bool is_taken(int index)
{
    for (int i = 0; i < device_count; i++)
        if (devices[i].index == index)
            return true;
    return false;
}

static bool has_address(const char *name, const char *mac)
{
    FILE *file = fopen(text("/sys/class/net/%s/address", name), "re");
    char line[64] = "";

    if (file) {
        if (!fgets(line, sizeof line, file))
            line[0] = '\0';
        fclose(file);
    }
    line[strcspn(line, "\n")] = '\0';
    return strcasecmp(line, mac) == 0;
}

/* The first that nobody has yet: several may have the same hardware address (ipvlan). */
static int find_device(const char *mac)
{
    struct if_nameindex *all = if_nameindex();
    int found = 0;

    for (struct if_nameindex *it = all; it && it->if_index && !found; it++)
        if (!is_taken(it->if_index) && has_address(it->if_name, mac))
            found = it->if_index;
    if (all)
        if_freenameindex(all);
    return found;
}

static void find_devices(void)
{
    for (const struct record *record = first("net"); record; record = following(record)) {
        const char *mac = item(record, "mac=");
        struct device *device = &devices[device_count];
        long end = seconds_now() + WAIT_S;

        if (device_count == MANY)
            fail("net: more than %d devices", MANY);
        device->record = record;
        if (mac)
            while ((device->index = find_device(mac)) == 0 && pause_before(end))
                ;
        else
            wait_for(text("/sys/class/net/%s", field(record, 0)));
        if (!mac)
            device->index = if_nametoindex(field(record, 0));
        if (!device->index || !if_indextoname(device->index, device->before))
            fail("net: there is no device %s", mac ? mac : field(record, 0));
        device_count++;
    }
}

static int name_device(int index, const char *name)
{
    struct message message;
    struct ifinfomsg *link = begin(&message, RTM_NEWLINK, 0, sizeof *link);

    link->ifi_index = index;
    add(&message, IFLA_IFNAME, name, strlen(name) + 1);
    return request(&message);
}

/* The pod's names. One may be another's so far, so all of them get out of the way first. */
static void name_devices(void)
{
    for (int i = 0; i < device_count; i++)
        if (strcmp(devices[i].before, field(devices[i].record, 0)) != 0 &&
            name_device(devices[i].index, text("urunc%d", i)) != 0)
            fail("net: cannot rename %s: %m", devices[i].before);
    for (int i = 0; i < device_count; i++) {
        const char *name = field(devices[i].record, 0);

        if (strcmp(devices[i].before, name) == 0)
            continue;
        if (name_device(devices[i].index, name) == 0)
            continue;
        warn("net: cannot call a device %s: %m", name);
        name_device(devices[i].index, devices[i].before);
    }
}

static void set_up(const struct device *of)
{
    const struct record *record = of->record;
    int index = of->index;
    char device[IF_NAMESIZE];

    if (!if_indextoname(index, device))
        fail("net: %s is gone", field(record, 0));
    if (access("/proc/sys/net/ipv6", F_OK) == 0) /* nobody is asked whether an address is taken */
        write_setting(text("/proc/sys/net/ipv6/conf/%s/accept_dad", device), "0");
    change_link(index, 0);
    for (int i = 1; i < record->count; i++) {
        const char *word = field(record, i);

        if (strncmp(word, "mtu=", 4) == 0)
            change_link(index, number(word + 4, 10, "mtu"));
        else if (strncmp(word, "addr=", 5) == 0)
            add_address(index, word + 5);
        else if (strncmp(word, "route=", 6) == 0)
            add_route(index, word + 6);
        else if (strncmp(word, "mac=", 4) != 0)
            fail("net: what is %s?", word);
    }
}

static void open_netlink(void)
{
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0)
        fail("net: no rtnetlink: %m");
}

void set_up_network(void)
{
    open_netlink();
    change_link(if_nametoindex("lo"), 0);
    find_devices();
    name_devices();
    for (int i = 0; i < device_count; i++)
        set_up(&devices[i]);
    close(netlink);
}

static void change_hardware_address(int index, const char *mac)
{
    struct message message;
    unsigned char octets[6];
    struct ifinfomsg *link = begin(&message, RTM_NEWLINK, 0, sizeof *link);

    if (sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &octets[0], &octets[1], &octets[2],
               &octets[3], &octets[4], &octets[5]) != 6)
        fail("net: %s is no hardware address", mac);
    link->ifi_index = index;
    add(&message, IFLA_ADDRESS, octets, sizeof octets);
    if (request(&message) != 0)
        fail("net: cannot have the hardware address %s: %m", mac);
}

void leave_network(void)
{
    open_netlink();
    for (int i = 0; i < device_count; i++) {
        const struct record *record = devices[i].record;

        for (int j = 1; j < record->count; j++)
            if (strncmp(field(record, j), "addr=", 5) == 0)
                remove_address(devices[i].index, field(record, j) + 5);
        shut_link(devices[i].index);
    }
    close(netlink);
}

void renew_network(void)
{
    const struct record *record = first("net");

    open_netlink();
    for (int i = 0; i < device_count; i++, record = following(record)) {
        const char *mac = record ? item(record, "mac=") : NULL;

        if (record == NULL)
            fail("net: there were %d devices", device_count);
        devices[i].record = record;
        if (mac)
            change_hardware_address(devices[i].index, mac);
        set_up(&devices[i]);
    }
    close(netlink);
}
