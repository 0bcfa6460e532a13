/* SPDX-License-Identifier: Apache-2.0
 *
 * The annotations of config.json by which containers share a shim (GROUPS of shim/command.py).
 *
 * No general reader of JSON: values are passed over, and what engines do not write (an escape in a
 * name, a name twice, text after the end) makes it Python's, which reads all of JSON and has the
 * messages.
 */
#include "shim.h"

#include <string.h>

#define DEPTH 64

static const char *const names[] = {"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"};
#define NAMES (sizeof names / sizeof *names)

static char *place; /* in the text, which ends with a NUL */

static void skip_blanks(void)
{
    place += strspn(place, " \t\r\n");
}

static bool take_character(char character)
{
    skip_blanks();
    if (*place != character)
        return false;
    place++;
    return true;
}

/* A string; `*text` is what is in it, or NULL where it has escapes. */
static bool take_string(char **text)
{
    bool plain = true;

    if (!take_character('"'))
        return false;
    *text = place;
    for (; *place != '"'; place++) {
        if ((unsigned char)*place < ' ')
            return false;
        if (*place == '\\') {
            plain = false;
            if ((unsigned char)*++place < ' ')
                return false;
        }
    }
    if (plain)
        *place = '\0'; /* the text is read once */
    else
        *text = NULL;
    place++;
    return true;
}

static bool skip_value(int depth);

static bool skip_members(char last, bool named, int depth)
{
    char *name;

    place++;
    if (take_character(last))
        return true;
    do {
        if ((named && (!take_string(&name) || !take_character(':'))) || !skip_value(depth + 1))
            return false;
    } while (take_character(','));
    return take_character(last);
}

static bool skip_value(int depth)
{
    size_t length;
    char *text;

    skip_blanks();
    if (depth > DEPTH)
        return false;
    if (*place == '"')
        return take_string(&text);
    if (*place == '{' || *place == '[')
        return skip_members(*place + 2, *place == '{', depth); /* } and ] are two after them */
    length = strspn(place, "+-.0123456789Eabcdefghijklmnopqrstuvwxyz");
    place += length;
    return length > 0;
}

static bool take_annotations(const char *found[NAMES])
{
    char *name, *value;

    if (!take_character('{'))
        return false;
    if (take_character('}'))
        return true;
    do {
        size_t index = 0;

        if (!take_string(&name) || name == NULL || !take_character(':'))
            return false;
        while (index < NAMES && strcmp(name, names[index]) != 0)
            index++;
        if (index == NAMES) {
            if (!skip_value(2))
                return false;
            continue;
        }
        if (found[index] != NULL || !take_string(&value) || value == NULL)
            return false;
        found[index] = value;
    } while (take_character(','));
    return take_character('}');
}

bool find_group(struct bytes config, const char **group)
{
    const char *found[NAMES] = {NULL};
    bool seen = false;
    char *name;

    place = config.start;
    if (!take_character('{'))
        return false;
    if (!take_character('}')) {
        do {
            if (!take_string(&name) || name == NULL || !take_character(':'))
                return false;
            if (strcmp(name, "annotations") != 0) {
                if (!skip_value(1))
                    return false;
            } else if (seen || !take_annotations(found)) {
                return false;
            } else {
                seen = true;
            }
        } while (take_character(','));
        if (!take_character('}'))
            return false;
    }
    skip_blanks();
    *group = "";
    for (size_t index = NAMES; index-- > 0;) {
        if (found[index] != NULL && *found[index] != '\0')
            *group = found[index];
    }
    return place == config.start + config.length;
}
