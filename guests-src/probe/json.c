/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json.c - strictly valid, compact JSON on the console, one line at a time.
 *
 * A line is collected in a buffer and handed over in as few pieces as
 * possible, so that it is not torn by whatever else writes to the same place.
 */
#include "probe.h"

static char line[16 * 1024];
static size_t used;

static void flush(void)
{
    if (used)
        platform_console(line, used);
    used = 0;
}

static void put(char c)
{
    if (used == sizeof line)
        flush();
    line[used++] = c;
}

static void put_hex(uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";

    put(digits[byte >> 4]);
    put(digits[byte & 15]);
}

void json_raw(const char *text)
{
    while (*text)
        put(*text++);
}

/*
 * Every byte outside printable ASCII, the quote and the backslash become
 * \u00XX, whatever encoding the bytes are in: the reader gets the exact bytes
 * back by encoding the decoded string as Latin-1.
 */
void json_string(const char *bytes, size_t len)
{
    put('"');
    for (size_t i = 0; i < len; i++) {
        uint8_t c = bytes[i];

        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            json_raw("\\u00");
            put_hex(c);
        } else {
            put(c);
        }
    }
    put('"');
}

void json_cstring(const char *text)
{
    json_string(text, strlen(text));
}

void json_number(uint64_t value)
{
    char digits[20];
    unsigned n = 0;

    do
        digits[n++] = '0' + value % 10;
    while (value /= 10);
    while (n)
        put(digits[--n]);
}

void json_hex(const uint8_t *bytes, size_t len, const char *separator)
{
    put('"');
    for (size_t i = 0; i < len; i++) {
        if (i)
            json_raw(separator);
        put_hex(bytes[i]);
    }
    put('"');
}

void json_ipv4(uint32_t address)
{
    put('"');
    for (int shift = 24; shift >= 0; shift -= 8) {
        json_number(address >> shift & 255);
        if (shift)
            put('.');
    }
    put('"');
}

void json_end_line(void)
{
    put('\n');
    flush();
}
