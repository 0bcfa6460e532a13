/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpio.c - walks the members of an initrd: one "newc" archive or several one
 * after the other, with zero bytes between them, as Linux takes them.
 */
#include "probe.h"

#define HEADER_SIZE 110 /* "070701" or "070702" and 13 fields of 8 hex digits */
#define FIELD_FILESIZE 6
#define FIELD_NAMESIZE 11

static bool hex_field(const uint8_t *header, unsigned field, uint64_t *value)
{
    const uint8_t *p = header + 6 + 8 * field;

    *value = 0;
    for (int i = 0; i < 8; i++, p++) {
        unsigned digit;

        if (*p >= '0' && *p <= '9')
            digit = *p - '0';
        else if ((*p | 32) >= 'a' && (*p | 32) <= 'f')
            digit = (*p | 32) - 'a' + 10;
        else
            return false;
        *value = *value << 4 | digit;
    }
    return true;
}

static size_t align4(size_t n)
{
    return (n + 3) & ~(size_t)3;
}

bool cpio_next(const uint8_t *image, size_t size, size_t *offset,
               struct cpio_entry *entry)
{
    static const char trailer[] = "TRAILER!!!";

    for (;;) {
        uint64_t name_size, file_size;
        size_t pos = *offset;

        while (pos < size && image[pos] == 0)
            pos++;
        if (size - pos < HEADER_SIZE)
            return false;

        const uint8_t *header = image + pos;
        if (memcmp(header, "070701", 6) && memcmp(header, "070702", 6))
            return false;
        if (!hex_field(header, FIELD_NAMESIZE, &name_size) ||
            !hex_field(header, FIELD_FILESIZE, &file_size) || name_size == 0)
            return false;

        size_t data = align4(pos + HEADER_SIZE + name_size);
        if (data > size || file_size > size - data)
            return false;
        *offset = align4(data + file_size) < size ? align4(data + file_size)
                                                  : size;

        entry->name = (const char *)header + HEADER_SIZE;
        entry->name_len = name_size - 1;
        entry->size = file_size;
        if (entry->name_len == sizeof trailer - 1 &&
            memcmp(entry->name, trailer, sizeof trailer - 1) == 0)
            continue; /* the end of one archive; another may follow */
        return true;
    }
}
