/* SPDX-License-Identifier: Apache-2.0
 *
 * Containers of the ordinary runtime, whose start, state, kill and delete are its own: which program
 * that is, Python has noted the last time that it looked (src/urunc/ordinary.py), with all that it
 * looked at. Where that is still so, it is run without Python, with the same arguments.
 */
#define _GNU_SOURCE
#include "door.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIRECTORY "/run/urunc.d/programs/"
#define JOURNAL "/journal" /* state.py: a directory with one in it is urunc's */

static bool is_ordinary(const char *root, const char *id)
{
    struct stat facts;
    char *path;

    if (asprintf(&path, "%s/%s" JOURNAL, root, id) < 0 || access(path, F_OK) == 0)
        return false;
    path[strlen(path) - strlen(JOURNAL)] = '\0';
    return stat(path, &facts) == 0 && S_ISDIR(facts.st_mode);
}

/* The noted program, NULL where it was another command's, or something has changed. */
static const char *program(const struct call *call)
{
    const char *path = getenv("PATH");
    struct bytes note;
    char *place;

    path = path != NULL ? path : "";
    if (!read_file(AT_FDCWD, *path != '\0' ? DIRECTORY "ordinary.recipe"
                                           : DIRECTORY "ordinary-without-path.recipe", &note))
        return NULL;
    place = fields_of(&note);
    if (strcmp(next(&place), "urunc ordinary 1") != 0 ||
        strcmp(next(&place), call->configuration) != 0 || strcmp(next(&place), path) != 0)
        return NULL;
    for (long long count = number(&place); count > 0; count--) {
        const char *file = next(&place);

        check_unchanged(AT_FDCWD, file, next(&place));
    }
    return next(&place);
}

/* Without the options that are urunc's alone, and with the root, where none was said. */
static char **arguments(const struct call *call, char **words, const char *name)
{
    static char option[] = "--config", said[] = "--root";
    size_t count = 0, length = 0;
    char **made;

    while (words[count] != NULL)
        count++;
    made = calloc(count + 3, sizeof *made);
    if (made == NULL)
        return NULL;
    made[length++] = (char *)name;
    if (!call->root_said) {
        made[length++] = said;
        made[length++] = (char *)call->root;
    }
    for (char **word = words + 1; *word != NULL; word++) {
        if (strcmp(*word, option) == 0)
            word++;
        else if (strncmp(*word, option, strlen(option)) != 0 || (*word)[strlen(option)] != '=')
            made[length++] = *word;
    }
    return made;
}

/* As after Python: every disposition default, nothing blocked. */
static void reset_signals(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void become_ordinary(const struct call *call, char **words)
{
    const char *path;
    char **made;

    if (!is_ordinary(call->root, call->id))
        return;
    path = program(call);
    if (path == NULL || *path != '/')
        return;
    made = arguments(call, words, strrchr(path, '/') + 1);
    if (made == NULL)
        return;
    reset_signals();
    execv(path, made);
    free(made);
}
