/* SPDX-License-Identifier: Apache-2.0
 *
 * A key-value store over HTTP, small enough to be read: PUT /KEY keeps the
 * request's body, GET /KEY returns it, DELETE /KEY forgets it; GET / lists all
 * keys.  `kv [PORT]` listens on all addresses, on port 80 without a word.
 *
 * One request a connection, one connection at a time, all in memory.  What does
 * not fit is refused: keys above 127 bytes, values above 64 KiB, more than 256
 * keys.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { KEYS = 256, KEY_SIZE = 128, HEAD_SIZE = 8192, VALUE_BYTES = 1 << 16, PATIENCE_S = 5 };

struct item {
    char key[KEY_SIZE]; /* "" for a free place */
    size_t length;
    char value[VALUE_BYTES];
};

static struct item items[KEYS];

static struct item *find(const char *key)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strcmp(items[i].key, key) == 0)
            return &items[i];
    return NULL;
}

static void send_all(int client, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(client, bytes, length, MSG_NOSIGNAL);

        if (sent <= 0)
            return; /* it has gone */
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void answer(int client, const char *status, const char *body, size_t length)
{
    char head[256];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                        status, length);

    send_all(client, head, (size_t)size);
    send_all(client, body, length);
}

static void say(int client, const char *status)
{
    char line[128];
    int size = snprintf(line, sizeof line, "%s\n", status + 4);

    answer(client, status, line, (size_t)size);
}

static void list(int client)
{
    static char text[KEYS * KEY_SIZE];
    size_t length = 0;

    for (size_t i = 0; i < KEYS; i++) {
        size_t size = strlen(items[i].key);

        if (size == 0)
            continue;
        memcpy(text + length, items[i].key, size);
        text[length + size] = '\n';
        length += size + 1;
    }
    answer(client, "200 OK", text, length);
}

/* Keep a value of `length` bytes, of which `have` are at `first`. */
static void put(int client, const char *key, const char *first, size_t have, size_t length)
{
    static char value[VALUE_BYTES];
    struct item *item = find(key);

    if (item == NULL)
        item = find("");
    if (item == NULL) {
        say(client, "507 full");
        return;
    }
    have = have < length ? have : length;
    memcpy(value, first, have);
    while (have < length) {
        ssize_t got = recv(client, value + have, length - have, 0);

        if (got <= 0)
            return; /* half a value is none */
        have += (size_t)got;
    }
    memcpy(item->value, value, length);
    item->length = length;
    memcpy(item->key, key, strnlen(key, KEY_SIZE - 1) + 1);
    say(client, "201 kept");
}

static void forget(int client, struct item *item)
{
    memset(item, 0, sizeof *item);
    say(client, "200 forgotten");
}

/* Read up to the empty line; the bytes that are there, 0 for no request. */
static size_t read_head(int client, char *head)
{
    size_t have = 0;

    while (have < HEAD_SIZE - 1) {
        ssize_t got = recv(client, head + have, HEAD_SIZE - 1 - have, 0);

        if (got <= 0)
            return 0;
        have += (size_t)got;
        head[have] = '\0';
        if (strstr(head, "\r\n\r\n") != NULL)
            return have;
    }
    return 0;
}

static void serve(int client)
{
    static char head[HEAD_SIZE];
    char method[8], path[KEY_SIZE + 2];
    size_t have = read_head(client, head);
    struct item *item;

    if (have == 0 || sscanf(head, "%7s %129s", method, path) != 2 || path[0] != '/' ||
        strlen(path + 1) >= KEY_SIZE) {
        say(client, "400 not understood");
        return;
    }
    if (strcmp(method, "GET") == 0 && path[1] == '\0') {
        list(client);
        return;
    }
    if (strcmp(method, "PUT") == 0 && path[1] != '\0') {
        const char *field = strcasestr(head, "\r\nContent-Length:");
        const char *body = strstr(head, "\r\n\r\n") + 4;
        size_t length = field != NULL ? strtoul(field + 17, NULL, 10) : 0;

        if (length > VALUE_BYTES)
            say(client, "413 too large");
        else
            put(client, path + 1, body, have - (size_t)(body - head), length);
        return;
    }
    item = path[1] != '\0' ? find(path + 1) : NULL;
    if (item == NULL)
        say(client, "404 no such key");
    else if (strcmp(method, "GET") == 0)
        answer(client, "200 OK", item->value, item->length);
    else if (strcmp(method, "DELETE") == 0)
        forget(client, item);
    else
        say(client, "405 not understood");
}

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static void end(int number)
{
    (void)number;
    _exit(0);
}

int main(int argc, char **argv)
{
    int port = argc > 1 ? atoi(argv[1]) : 80, on = 1, off = 0;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int server = socket(AF_INET6, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = PATIENCE_S};

    if (server < 0)
        return fail("socket");
    signal(SIGTERM, end);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(server, (struct sockaddr *)&any, sizeof any) != 0 || listen(server, 16) != 0)
        return fail("listen");
    printf("kv: port %d\n", port);
    fflush(stdout);
    for (;;) {
        int client = accept(server, NULL, NULL);

        if (client < 0)
            continue;
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        serve(client);
        close(client);
    }
}
