/* SPDX-License-Identifier: Apache-2.0
 *
 * The guest's memory, and whether its segments fit into it.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "double.h"

#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define HVT_PAGE ((size_t)2 << 20) /* hvt's memory comes in these */
#define HVT_LIMIT ((size_t)4 << 30)
#define LOWEST_ADDRESS 0x100000     /* guests load at or above it */

size_t parse_memory(const char *option)
{
    ssize_t mebibytes;

    if (sscanf(option, "--mem=%zd", &mebibytes) != 1 || (size_t)mebibytes << 20 == 0)
        errx(1, "Malformed argument to --mem");
    return (size_t)mebibytes << 20;
}

/* Takes the memory and, for hvt, the hypervisor that a tender would take. */
size_t take_memory(size_t memory)
{
#if defined(TENDER_HVT)
    size_t whole = memory / HVT_PAGE * HVT_PAGE;

    if (whole == 0)
        whole = HVT_PAGE;
    if (whole != memory)
        warnx("adjusting memory to %zu bytes", whole);
    if (whole > HVT_LIMIT)
        errx(1, "guest memory size %zu bytes exceeds the max size %zu bytes", whole, HVT_LIMIT);
    memory = whole;

    /* Opening is as far as it goes: the double is for machines where KVM
     * creates no virtual machine, but a missing or refused device must show. */
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm == -1)
        err(1, "Could not open: /dev/kvm");
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0);

    if (version == -1)
        err(1, "KVM: ioctl (GET_API_VERSION) failed");
    if (version != KVM_API_VERSION)
        errx(1, "KVM: API version is %d, solo5-hvt requires version 12", version);
    const int sharing = MAP_SHARED;
#else
    const int sharing = MAP_PRIVATE;
#endif
    if (mmap(NULL, memory, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        err(1, "Error allocating guest memory");
    return memory;
}

/* Checks that the guest's segments fit `memory`, as loading them would.  Returns
 * where the guest ends, with what it has beyond its file (.bss): a segment of
 * that alone is nothing to load, but the guest needs the room. */
uint64_t check_segments(size_t memory)
{
    Elf64_Ehdr elf;
    Elf64_Phdr *headers = read_headers(&elf);
    uint64_t end = 0, last = 0, guest_end = 0;

    if (elf.e_entry < LOWEST_ADDRESS || elf.e_entry >= memory)
        refuse_executable("e_entry does not fall within the memory allocation range"
                          " (%ju < %u || %ju >= %zu)",
                          (uintmax_t)elf.e_entry, LOWEST_ADDRESS, (uintmax_t)elf.e_entry, memory);
    for (unsigned i = 0; i < elf.e_phnum; i++) {
        const Elf64_Phdr *segment = &headers[i];
        uint64_t align = segment->p_align, top = 0;

        if (segment->p_type != PT_LOAD)
            continue;
        if (segment->p_vaddr + segment->p_memsz > guest_end)
            guest_end = segment->p_vaddr + segment->p_memsz;
        if (segment->p_filesz == 0)
            continue;
        if (segment->p_vaddr < last)
            refuse_executable("phdr[%u].p_vaddr is not in ascending order", i);
        last = segment->p_vaddr;
        if (align == 0 || (align & (align - 1)) != 0)
            refuse_executable("phdr[%u].p_align is no power of two", i);
        if ((segment->p_vaddr & -align) < LOWEST_ADDRESS || (segment->p_vaddr & -align) < end)
            refuse_executable("phdr[%u].p_vaddr is outside of memory range", i);
        if (segment->p_memsz < segment->p_filesz ||
            __builtin_add_overflow(segment->p_vaddr, segment->p_memsz, &top) ||
            __builtin_add_overflow(top, align - 1, &top) || (top &= -align) > memory)
            refuse_executable("phdr[%u] program memory segment falls outside of valid range"
                              " (%ju (p_vaddr_end) > %zu (mem_size))",
                              i, (uintmax_t)top, memory);
        if (((segment->p_vaddr & -align) | top) & 0xfff)
            refuse_executable("phdr[%u] not aligned with architectural page size", i);
        if ((segment->p_flags & PF_W) && (segment->p_flags & PF_X))
            refuse_executable("phdr[%u] requests WRITE and EXEC permissions", i);

        char byte;

        read_guest(&byte, 1, segment->p_offset + segment->p_filesz - 1, "file segment");
        end = top;
    }
    free(headers);
    return guest_end;
}
