/* SPDX-License-Identifier: Apache-2.0
 *
 * What init says of itself, on the console: failures and warnings only. What ends after a failure
 * is handed in, so that nothing here knows of the rest. And memory that is never given back.
 */
#define _GNU_SOURCE
#include "init.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void (*end_of_failure)(int code, const char *line);

void end_failures_by(void (*ending)(int code, const char *line))
{
    end_of_failure = ending;
}

/* NULL where there is no memory. */
static char *formatted(const char *format, va_list arguments)
{
    char *line = NULL;

    return vasprintf(&line, format, arguments) < 0 ? NULL : line;
}

static const char *line_of(const char *format, va_list arguments)
{
    const char *line = formatted(format, arguments);

    return line ? line : "no memory";
}

static void complain(const char *line)
{
    dprintf(STDERR_FILENO, "urunc-init: %s\r\n", line);
}

char *text(const char *format, ...)
{
    va_list arguments;
    char *line;

    va_start(arguments, format);
    line = formatted(format, arguments);
    va_end(arguments);
    if (line == NULL)
        fail("no memory");
    return line;
}

void warn(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    complain(line_of(format, arguments));
    va_end(arguments);
}

static _Noreturn void give_up(int code, const char *line)
{
    if (end_of_failure)
        end_of_failure(code, line);
    complain(line);
    _exit(code);
}

void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    give_up(FAILED, line_of(format, arguments));
}

void fail_with(int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    give_up(code, line_of(format, arguments));
}

void *allocate(size_t size)
{
    void *memory = calloc(1, size);

    if (memory == NULL)
        fail("no memory");
    return memory;
}

char *copy_of(const char *word)
{
    char *copy = strdup(word);

    if (copy == NULL)
        fail("no memory");
    return copy;
}
