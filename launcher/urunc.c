/* SPDX-License-Identifier: Apache-2.0
 *
 * The installed `urunc`: becomes an isolated Python that runs the library beside it, and nothing else.
 *
 * Finds its prefix from where it is (PREFIX/bin/urunc → PREFIX/lib/urunc/VERSION/start.pyc), so that an installation can
 * be moved and several can stand side by side. -I: no environment, no user's folders; -S: no `site`; UTF-8
 * whatever the locale. A shell script would do the same in twice the time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PYTHON
#error "PYTHON: the interpreter's path"
#endif
#ifndef VERSION
#error "VERSION: the library's folder name"
#endif

int main(int argc, char **argv)
{
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) {
        fprintf(stderr, "urunc: readlink '/proc/self/exe': %s\n", strerror(errno));
        return 1;
    }
    path[length] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        if (slash)
            *slash = '\0';
    }
    char *library = NULL;
    char **words = calloc((size_t)argc + 8, sizeof *words);
    if (!words || asprintf(&library, "%s/lib/urunc/%s/start.pyc", path, VERSION) < 0) {
        fprintf(stderr, "urunc: out of memory\n");
        return 1;
    }
    char *const fixed[] = {"urunc", "-I", "-S", "-X", "utf8", library};
    size_t count = sizeof fixed / sizeof *fixed;
    memcpy(words, fixed, sizeof fixed);
    memcpy(words + count, argv + 1, (size_t)(argc > 0 ? argc - 1 : 0) * sizeof *words);
    execv(PYTHON, words);
    fprintf(stderr, "urunc: exec '%s': %s\n", PYTHON, strerror(errno));
    return 1;
}
