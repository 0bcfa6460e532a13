/* SPDX-License-Identifier: Apache-2.0
 *
 * What containerd tells a shim that it starts, and what it is answered (shim/bootstrap.py): fields
 * of protobuf messages. Options are the runtime's; of them only ShimCgroup concerns the start, and
 * is Python's, as is what is not runc's own message of options.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS "containerd.runc.v1.Options"
#define SHIM_CGROUP 3 /* the number of its field */
#define TABLE "runtimeoptions.v1.Options"
#define BODY 3
#define DIGITS "0123456789"
/* BootstrapResult's protocol, and an extension: MountCapabilities with the type erofs */
#define REST "\x1a\x05ttrpc2/\n-\n\"containerd.types.MountCapabilities\x12\x07\n\x05" "erofs"

struct field {
    unsigned number, type; /* type 0: a varint; 2: bytes; else of fixed length, passed over */
    const char *start;
    size_t length;
};

static bool take_varint(const char **place, const char *end, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && *place < end; shift += 7) {
        unsigned char byte = *(*place)++;

        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool take_field(const char **place, const char *end, struct field *field)
{
    uint64_t tag, value;

    if (!take_varint(place, end, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return false;
    field->number = tag >> 3;
    field->type = tag & 7;
    switch (field->type) {
    case 0:
        return take_varint(place, end, &value);
    case 1:
        value = 8;
        break;
    case 2:
        if (!take_varint(place, end, &value))
            return false;
        break;
    case 5:
        value = 4;
        break;
    default:
        return false;
    }
    if (value > (uint64_t)(end - *place))
        return false;
    field->start = *place;
    field->length = value;
    *place += value;
    return true;
}

/* A copy of a field of text; NULL where it is none. */
static const char *text_of(const struct field *field)
{
    if (field->type != 2 || memchr(field->start, '\0', field->length) != NULL)
        return NULL;
    return strndup(field->start, field->length);
}

/* Whether these options say nothing that concerns the start: in all of their fields, none of this
 * number. */
static bool has_no_field(const struct field *options, unsigned number)
{
    const char *place = options->start, *end = place + options->length;
    struct field field;

    while (place < end) {
        if (!take_field(&place, end, &field) || field.number == number)
            return false;
    }
    return true;
}

/* Whether an Any of options is one that the start can pass over. */
static bool is_harmless(const char *place, const char *end)
{
    struct field field, value = {.start = ""};
    const char *type = "";

    while (place < end) {
        if (!take_field(&place, end, &field))
            return false;
        if (field.number == 1 && (type = text_of(&field)) == NULL)
            return false;
        if (field.number == 2 && field.type != 2)
            return false;
        if (field.number == 2)
            value = field;
    }
    if (strrchr(type, '/') != NULL)
        type = strrchr(type, '/') + 1;
    if (strcmp(type, OPTIONS) == 0)
        return has_no_field(&value, SHIM_CGROUP);
    return strcmp(type, TABLE) == 0 && has_no_field(&value, BODY);
}

/* The same of an Extension, which has an Any in its first field. */
static bool is_harmless_extension(const struct field *extension)
{
    const char *place = extension->start, *end = place + extension->length;
    struct field field;

    if (extension->type != 2)
        return false;
    while (place < end) {
        if (!take_field(&place, end, &field) || field.number != 1 || field.type != 2 ||
            !is_harmless(field.start, field.start + field.length))
            return false;
    }
    return true;
}

/* Where a field of BootstrapParams goes to. */
static const char **target_of(struct parameters *into, const char *identity[2], unsigned number)
{
    switch (number) {
    case 1:
        return &identity[0];
    case 2:
        return &identity[1];
    case 4:
        return &into->version;
    case 5:
        return &into->events;
    case 6:
        return &into->address;
    case 9:
        return &into->directory;
    default:
        return NULL;
    }
}

static bool read_bootstrap(struct bytes data, const char *id, const char *name_space,
                           struct parameters *into)
{
    const char *place = data.start, *end = place + data.length, *identity[2] = {"", ""};
    struct field field;

    while (place < end) {
        const char **target;

        if (!take_field(&place, end, &field))
            return false;
        target = target_of(into, identity, field.number);
        if (target != NULL && (*target = text_of(&field)) == NULL)
            return false;
        if (field.number == 8 && !is_harmless_extension(&field))
            return false;
    }
    return *id != '\0' && strcmp(identity[0], id) == 0 && strcmp(identity[1], name_space) == 0;
}

bool read_parameters(struct bytes data, const char *id, const char *name_space,
                     struct parameters *into)
{
    static const struct parameters nothing = {false, "", "", "", ""};

    *into = nothing;
    if (data.length == 0)
        return true;
    into->given = read_bootstrap(data, id, name_space, into);
    if (into->given)
        return true;
    *into = nothing; /* of an older containerd: an Any of options */
    return is_harmless(data.start, data.start + data.length);
}

/* Whether it is told version 3 (SANDBOXED in shim/bootstrap.py): from 2.4 on. */
static bool is_sandboxed(const char *version)
{
    size_t major, minor;

    version += *version == 'v';
    major = strspn(version, DIGITS);
    minor = version[major] == '.' ? strspn(version + major + 1, DIGITS) : 0;
    if (major == 0 || minor == 0 || major + minor > 8 ||
        strchr(".", version[major + 1 + minor]) == NULL)
        return false;
    return atoi(version) > 2 || (atoi(version) == 2 && atoi(version + major + 1) >= 4);
}

bool answer(const struct parameters *parameters, const char *address, struct bytes *into)
{
    int length;

    if (!parameters->given)
        length = asprintf(&into->start, "%s", address);
    else /* a socket's address is shorter than 128 bytes, so its length is one */
        length = asprintf(&into->start, "\x08%c\x12%c%s%s", is_sandboxed(parameters->version) ? 3 : 2,
                          (int)strlen(address), address, REST);
    into->length = length;
    return length >= 0;
}
