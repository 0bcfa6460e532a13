/* SPDX-License-Identifier: Apache-2.0
 *
 * How these programs become Python: the script that does everything, with the very same arguments.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANOTHER "/usr/bin/python3"

/* The Python script (launcher/urunc.in). The installation writes its path behind the mark; nothing
 * shorter would be long enough for any prefix. */
#define MARK "urunc-launcher:"
static const volatile char launcher[sizeof MARK + 1024] = MARK;

char *launcher_path(void)
{
    return (char *)launcher + strlen(MARK);
}

/* The script with the distribution's Python, where its own has gone (an upgrade of the
 * distribution): launcher/another.py goes on from there. */
static void run_with_another(char **words)
{
    size_t count = 0;
    char **longer;

    while (words[count] != NULL)
        count++;
    longer = access(words[0], R_OK) == 0 ? calloc(count + 3, sizeof *longer) : NULL;
    if (longer == NULL)
        return;
    longer[0] = ANOTHER;
    longer[1] = "-ISXutf8";
    memcpy(longer + 2, words, count * sizeof *words);
    execv(ANOTHER, longer);
    free(longer);
}

bool streams_are_open(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            return false;
    }
    return true;
}

void become_python(char **words)
{
    int why;

    words[0] = launcher_path();
    execv(words[0], words);
    why = errno;
    if (why == ENOENT)
        run_with_another(words);
    dprintf(2, "urunc: error: run '%s': %s: it or its Python has gone: install urunc again\n",
            words[0], strerror(why));
    _exit(1);
}
