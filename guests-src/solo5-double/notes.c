/* SPDX-License-Identifier: Apache-2.0
 *
 * The guest's file: its headers and the notes that Solo5 puts into it.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "double.h"

#include <err.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOTE_ABI1 0x31494241
#define NOTE_MFT1 0x3154464d

struct abi {
    uint32_t target;
    uint32_t version;
    uint32_t reserved[2];
};

/* An entry as the note has it; the 24 bytes are the tenders' own scratch. */
struct entry_note {
    char name[NAME_MAX_LENGTH + 1];
    uint32_t type;
    uint64_t scratch[3];
    uint8_t attached;
    uint8_t padding[7];
};
_Static_assert(sizeof(struct entry_note) == 104, "a manifest entry is 104 bytes");

struct manifest_note {
    uint32_t version;
    uint32_t entries;
    struct entry_note entry[ENTRIES_MAX];
};

struct device devices[ENTRIES_MAX];
unsigned device_count;
const char *guest_path;
int guest_fd;

_Noreturn void refuse_executable(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "%s: %s: invalid executable: ", program_invocation_short_name, guest_path);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* Reads exactly `size` bytes of the guest's file, or refuses it. */
void read_guest(void *to, size_t size, off_t at, const char *what)
{
    ssize_t got = pread(guest_fd, to, size, at);

    if (got < 0)
        err(1, "%s: cannot read the %s", guest_path, what);
    if ((size_t)got != size)
        refuse_executable("%s does not match the expected size (%zd != %zu)", what, got, size);
}

Elf64_Phdr *read_headers(Elf64_Ehdr *elf)
{
    ssize_t got = pread(guest_fd, elf, sizeof *elf, 0);

    if (got >= 0 && (size_t)got != sizeof *elf)
        refuse_executable("elf header does not match the expected size (%zd != %zu)", got, sizeof *elf);
    if (got < 0 || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 ||
        elf->e_ident[EI_CLASS] != ELFCLASS64 || elf->e_ident[EI_DATA] != ELFDATA2LSB ||
        elf->e_version != EV_CURRENT || elf->e_ehsize != sizeof *elf || elf->e_phnum < 1 ||
        elf->e_phentsize != sizeof(Elf64_Phdr) || elf->e_type != ET_EXEC ||
        elf->e_machine != EM_X86_64)
        refuse_executable("invalid or unsupported executable (elf header invalid while loading note)");

    size_t size = elf->e_phnum * sizeof(Elf64_Phdr);
    Elf64_Phdr *headers = malloc(size);

    if (headers == NULL)
        err(1, "malloc");
    read_guest(headers, size, elf->e_phoff, "program header");
    return headers;
}

/* Reads the content of the Solo5 note `type`, which starts at a multiple of
 * `align` within its segment; returns its size, or -1 where there is none.
 * The tenders look at the first note of each PT_NOTE segment only. */
static ssize_t read_note(uint32_t type, size_t align, void *to, size_t most)
{
    struct {
        Elf64_Nhdr note;
        char owner[8];
    } head;
    Elf64_Ehdr elf;
    Elf64_Phdr *headers = read_headers(&elf);
    ssize_t size = -1;

    for (unsigned i = 0; i < elf.e_phnum && size < 0; i++) {
        const Elf64_Phdr *segment = &headers[i];

        if (segment->p_type != PT_NOTE)
            continue;
        if (segment->p_filesz < sizeof(Elf64_Nhdr))
            refuse_executable("phdr[%u].p_filesz note does not fall within valid size", i);
        if (segment->p_filesz < sizeof head)
            continue;
        read_guest(&head, sizeof head, segment->p_offset, "note");
        if (head.note.n_namesz != 6 || memcmp(head.owner, "Solo5", 6) != 0 ||
            head.note.n_type != type)
            continue;

        size_t start = (sizeof head + align - 1) & -align;
        size_t pad = start - sizeof head;

        if (head.note.n_descsz <= pad || head.note.n_descsz - pad > most ||
            segment->p_filesz < sizeof head + head.note.n_descsz)
            refuse_executable("phdr[%u] note does not fall within valid size", i);
        size = head.note.n_descsz - pad;
        read_guest(to, size, segment->p_offset + start, "note");
    }
    free(headers);
    return size;
}

void read_abi(void)
{
    struct abi abi;

    memset(&abi, 0, sizeof abi);
    if (read_note(NOTE_ABI1, 4, &abi, sizeof abi) == -1)
        errx(1, "%s: No Solo5 ABI information found in executable", guest_path);
    if (abi.target != ABI_TARGET)
        errx(1, "%s: Executable is not for the solo5-" TENDER " target", guest_path);
    if (abi.version != ABI_VERSION)
        errx(1, "%s: Executable requests unsupported ABI version %u", guest_path, abi.version);
}

void read_manifest(void)
{
    static struct manifest_note manifest;
    const size_t head = offsetof(struct manifest_note, entry);
    ssize_t size = read_note(NOTE_MFT1, 8, &manifest, sizeof manifest);

    if (size == -1)
        errx(1, "%s: No Solo5 manifest found in executable", guest_path);
    bool valid = (size_t)size >= head && manifest.version == 1 && manifest.entries >= 1 &&
                 manifest.entries <= ENTRIES_MAX &&
                 (size_t)size == head + manifest.entries * sizeof(struct entry_note) &&
                 manifest.entry[0].type == FIRST_ENTRY && manifest.entry[0].name[0] == '\0';
    for (unsigned i = 0; valid && i < manifest.entries; i++)
        valid = manifest.entry[i].name[NAME_MAX_LENGTH] == '\0' && manifest.entry[i].attached == 0;
    if (!valid)
        errx(1, "%s: Solo5 manifest is invalid", guest_path);

    for (unsigned i = 0; i < manifest.entries; i++) {
        if (manifest.entry[i].type >= FIRST_ENTRY)
            continue;
        struct device *device = &devices[device_count++];

        memcpy(device->name, manifest.entry[i].name, sizeof device->name);
        device->type = manifest.entry[i].type;
    }
}
