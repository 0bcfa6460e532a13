/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration disk: a magic word, then records KEY=VALUE, each ended by a NUL, up to an empty
 * one. A value's fields are separated by tabs; within a field \t, \n and \\ stand for tab, newline
 * and backslash.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "urunc-guest 1"
#define MAX_BYTES (64 << 20)

static struct record *records;

static const char *const known[] = {"share",
                                    "root",
                                    "overlay",
                                    "archive",
                                    "opaque",
                                    "mount",
                                    "returned",
                                    "file",
                                    "hostname",
                                    "domainname",
                                    "net",
                                    "arg",
                                    "env",
                                    "cwd",
                                    "uid",
                                    "gid",
                                    "groups",
                                    "umask",
                                    "capabilities",
                                    "no_new_privileges",
                                    "personality",
                                    "seccomp",
                                    "time_offset",
                                    "rlimit",
                                    "sysctl",
                                    "masked",
                                    "readonly",
                                    "terminal",
                                    "stdin", "stdout", "stderr",
                                    "pid_namespace",
                                    "pids",
                                    "channel",
                                    "debug_exit"};

static void unescape(char *word)
{
    char *to = word;

    for (const char *from = word; *from; from++) {
        if (*from == '\\' && from[1] != '\0') {
            from++;
            *to++ = *from == 't' ? '\t' : *from == 'n' ? '\n' : *from;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
}

static void check_key(const char *key)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(key, known[i]) == 0)
            return;
    warn("unknown key of the configuration: %s", key);
}

static struct record *parse(char *line)
{
    struct record *record = allocate(sizeof *record);
    char *value = strchr(line, '=');
    int tabs = 0;

    if (value == NULL)
        fail("the configuration has a record without a key");
    *value++ = '\0';
    check_key(line);
    for (const char *c = value; *c; c++)
        tabs += *c == '\t';
    record->key = line;
    record->fields = allocate((tabs + 1) * sizeof *record->fields);
    while (value != NULL) {
        char *word = strsep(&value, "\t");

        unescape(word);
        record->fields[record->count++] = word;
    }
    return record;
}

/* The whole disk; a NUL is put behind it, so that what is cut off is seen as such. */
static char *contents(const char *path, size_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t length = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    char *bytes;

    if (length < 0)
        fail("cannot read the configuration %s: %m", path);
    if (length > MAX_BYTES)
        fail("the configuration %s is too large", path);
    bytes = allocate(length + 1);
    for (*size = 0; *size < (size_t)length;) {
        ssize_t count = pread(fd, bytes + *size, length - *size, *size);

        if (count <= 0)
            fail("cannot read the configuration %s: %m", path);
        *size += count;
    }
    close(fd);
    return bytes;
}

void read_configuration(const char *path)
{
    struct record **last = &records;
    size_t size;
    char *at, *end;

    records = NULL;
    wait_for(path);
    at = contents(path, &size);
    end = at + size;
    if (strcmp(at, MAGIC) != 0)
        fail("%s holds no configuration", path);
    for (at += sizeof MAGIC; at < end && *at; at += strlen(at) + 1) {
        size_t length = strlen(at);

        if (at + length >= end)
            break;
        /* parsing shortens the text in place: step over what was there */
        *last = parse(copy_of(at));
        last = &(*last)->next;
    }
    if (at >= end || *at)
        fail("the configuration %s is cut off", path);
}

static const struct record *with_key(const struct record *record, const char *key)
{
    while (record != NULL && strcmp(record->key, key) != 0)
        record = record->next;
    return record;
}

const struct record *first(const char *key)
{
    return with_key(records, key);
}

const struct record *following(const struct record *record)
{
    return with_key(record->next, record->key);
}

const char *field(const struct record *record, int number)
{
    return number < record->count ? record->fields[number] : "";
}

const char *setting(const char *key)
{
    const char *value = NULL;

    for (const struct record *record = first(key); record; record = following(record))
        value = field(record, 0);
    return value;
}

unsigned long long number(const char *word, int base, const char *what)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(word, &end, base);
    if (end == word || *end != '\0' || errno != 0)
        fail("%s: %s is no number", what, word);
    return value;
}
