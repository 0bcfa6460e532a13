/* SPDX-License-Identifier: Apache-2.0
 *
 * What init says of itself, on the console: failures and warnings only. And memory that is never
 * given back.
 */
#define _GNU_SOURCE
#include "init.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int failures = -1;

void fail_into(int pipe)
{
    failures = pipe;
}

static char *formatted(const char *format, va_list arguments)
{
    char *line = NULL;

    if (vasprintf(&line, format, arguments) < 0)
        return "no memory";
    return line;
}

char *text(const char *format, ...)
{
    va_list arguments;
    char *line;

    va_start(arguments, format);
    line = formatted(format, arguments);
    va_end(arguments);
    return line;
}

void warn(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    dprintf(STDERR_FILENO, "urunc-init: %s\r\n", formatted(format, arguments));
    va_end(arguments);
}

static _Noreturn void give_up(int code, const char *line)
{
    if (failures >= 0) {
        dprintf(failures, "%c%s", code, line);
        _exit(code);
    }
    dprintf(STDERR_FILENO, "urunc-init: %s\r\n", line);
    tell("error %s\n", line);
    end(code);
}

void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    give_up(FAILED, formatted(format, arguments));
}

void fail_with(int code, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    give_up(code, formatted(format, arguments));
}

void *allocate(size_t size)
{
    void *memory = calloc(1, size);

    if (memory == NULL)
        fail("no memory");
    return memory;
}
