/* SPDX-License-Identifier: Apache-2.0
 *
 * A contract double of the Solo5 tenders solo5-hvt and solo5-spt, for tests on
 * machines that have neither: no package registry carries them.
 *
 * It takes the tenders' command line, reads the guest's real ELF notes, opens
 * the same devices and refuses what the tenders refuse, in their order, with
 * their exit code and nearly their words.  Where a tender would run the guest
 * it prints one line of JSON that says what the guest would have been given,
 * and then does what words among the guest's arguments ask of it:
 *
 *   probe.exit=N       exit with N (default 0)
 *   probe.hang         never exit
 *   probe.serve[=MS]   answer ARP, ICMP echo and UDP echo (port 7) on the
 *                      network devices, for ever or MS milliseconds: on the
 *                      first with the IPv4 address found in the arguments
 *                      ("addr":"IP" as Rumprun has it, or --ipv4=IP/LEN as
 *                      MirageOS has it), on a further one, number N from 1,
 *                      with that of probe.addressN=IP/LEN, if there is one;
 *                      a datagram `quit N` is echoed and ends it with N
 *
 * It must never pass for the real thing (its first line says what it is), must
 * not run guest code, must not create an interface or change a disk, and must
 * make no system call that the real solo5-hvt does not make: a seccomp filter
 * written for that one has to suit this one.
 *
 * What it says of the tenders is true of Solo5 0.12.
 */

#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <arpa/inet.h>
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#if defined(TENDER_HVT)
#define TENDER "hvt"
#define ABI_TARGET 1
#define USAGE "[ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]"
#elif defined(TENDER_SPT)
#define TENDER "spt"
#define ABI_TARGET 2
#define USAGE "[ CORE OPTIONS ] [ -- ] KERNEL [ ARGS ]"
#else
#error "define TENDER_HVT or TENDER_SPT"
#endif

#define BANNER "solo5-double: a contract double of solo5-" TENDER ", not the real tender\n"
#define VERSION "v0.12.1-double"
#define ABI_VERSION 2
#define DEFAULT_MEMORY ((size_t)512 << 20)
#define LOWEST_ADDRESS 0x100000     /* guests load at or above it */
#define CMDLINE_SIZE 8192           /* with its terminating zero */
#define HVT_PAGE ((size_t)2 << 20)  /* hvt's memory comes in these */
#define HVT_LIMIT ((size_t)4 << 30)
#define GUEST_SPARE 0x80000         /* Solo5 guests want this beyond their end */

#define NOTE_ABI1 0x31494241
#define NOTE_MFT1 0x3154464d

/* --- the guest's notes ---------------------------------------------------- */

enum { BLOCK_BASIC = 1, NET_BASIC = 2, FIRST_ENTRY = 1 << 30 };
#define ENTRIES_MAX 64
#define NAME_MAX_LENGTH 67

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

/* A declared device and what the command line attached to it. */
struct device {
    char name[NAME_MAX_LENGTH + 1];
    uint32_t type;
    bool attached;
    int fd;
    off_t size;           /* block */
    uint16_t sector_size; /* block */
    uint8_t mac[6];       /* net */
    int mtu;              /* net */
    uint32_t address;     /* net: served under it, in network order; 0: not */
};

static struct device devices[ENTRIES_MAX];
static unsigned device_count;
static const char *guest_path;
static int guest_fd;

static _Noreturn void refuse_executable(const char *format, ...)
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
static void read_guest(void *to, size_t size, off_t at, const char *what)
{
    ssize_t got = pread(guest_fd, to, size, at);

    if (got < 0)
        err(1, "%s: cannot read the %s", guest_path, what);
    if ((size_t)got != size)
        refuse_executable("%s does not match the expected size (%zd != %zu)", what, got, size);
}

static Elf64_Phdr *read_headers(Elf64_Ehdr *elf)
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

static void read_abi(void)
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

static void read_manifest(void)
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

/* --- devices -------------------------------------------------------------- */

/* The declared device of this name and type; complains where there is none. */
static struct device *declared(const char *name, uint32_t type)
{
    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].type == type && strcmp(devices[i].name, name) == 0)
            return &devices[i];
    warnx("Resource not declared in manifest: '%s'", name);
    return NULL;
}

/* Opens a tap that exists and is up; -1 and errno where it cannot be had. */
static int attach_tap(const char *name, int *mtu)
{
    if (name[0] == '@') {
        /* A descriptor that is open already.  Solo5 0.12 asks the interface
         * "@N" for its MTU, and so refuses every one; so does this. */
        char *end;
        long fd = strtol(name + 1, &end, 10);

        errno = 0;
        if (*end != '\0' || end == name + 1)
            errno = EINVAL;
        else if (fd < 0 || fd > INT_MAX)
            errno = ERANGE;
        else
            fcntl((int)fd, F_SETFL, O_NONBLOCK);
        return -1;
    }
    if (strlen(name) >= IFNAMSIZ) {
        errno = ENAMETOOLONG;
        return -1;
    }

    /* Opening a tap that does not exist would create it, so look first. */
    struct ifaddrs *all;
    int problem = ENOENT;

    if (getifaddrs(&all) == -1)
        return -1;
    for (const struct ifaddrs *one = all; one != NULL && problem == ENOENT; one = one->ifa_next)
        if (strcmp(one->ifa_name, name) == 0)
            problem = one->ifa_flags & (IFF_UP | IFF_RUNNING) ? 0 : ENETDOWN;
    freeifaddrs(all);
    if (problem != 0) {
        errno = problem;
        return -1;
    }

    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    struct ifreq request;

    if (fd == -1)
        return -1;
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    strcpy(request.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &request) == -1) {
        problem = errno;
    } else if (strcmp(request.ifr_name, name) != 0) {
        problem = EINVAL; /* a name like tap%d gave another interface */
    } else {
        int any = socket(AF_INET, SOCK_DGRAM, 0);

        if (any == -1 || ioctl(any, SIOCGIFMTU, &request) == -1)
            problem = errno;
        else
            *mtu = request.ifr_mtu;
        if (any != -1)
            close(any);
    }
    if (problem != 0) {
        close(fd);
        errno = problem;
        return -1;
    }
    return fd;
}

static bool net_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    char interface[20];
    struct device *device;

    if (sscanf(option, "--net:%67[A-Za-z0-9]=%19s", name, interface) != 2 ||
        (device = declared(name, NET_BASIC)) == NULL)
        return false;
    device->fd = attach_tap(interface, &device->mtu);
    if (device->fd < 0) {
        warnx("Could not attach interface: %s: %s", interface, strerror(errno));
        return false;
    }
    device->attached = true;
    return true;
}

static bool mac_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    uint8_t mac[6];
    struct device *device;

    if (sscanf(option, "--net-mac:%67[A-Za-z0-9]=%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", name,
               &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) != 7 ||
        (device = declared(name, NET_BASIC)) == NULL)
        return false;
    memcpy(device->mac, mac, sizeof mac);
    return true;
}

static bool block_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    char path[PATH_MAX + 1];
    struct device *device;

    if (sscanf(option, "--block:%67[A-Za-z0-9]=%4096s", name, path) != 2 ||
        (device = declared(name, BLOCK_BASIC)) == NULL)
        return false;
    device->fd = open(path, O_RDWR); /* never written, but the tenders need it so */
    if (device->fd == -1)
        err(1, "Could not open block device: %s", path);
    device->size = lseek(device->fd, 0, SEEK_END);
    if (device->size == -1)
        err(1, "%s: Could not determine capacity", path);
    device->attached = true;
    return true;
}

static bool sector_size_option(const char *option)
{
    char name[NAME_MAX_LENGTH + 1];
    uint16_t size;
    struct device *device;

    if (sscanf(option, "--block-sector-size:%67[A-Za-z0-9]=%hu", name, &size) != 2)
        return false;
    if (size < 512 || (size & (size - 1)) != 0) {
        warnx("Block size must be a multiple of 2 greater than or equal 512");
        return false;
    }
    if ((device = declared(name, BLOCK_BASIC)) == NULL)
        return false;
    device->sector_size = size;
    return true;
}

/* What the tenders check once all options are read. */
static void set_up_devices(void)
{
    bool missing = false;

    for (unsigned i = 0; i < device_count; i++) {
        struct device *device = &devices[i];
        static const uint8_t no_mac[6];

        if (!device->attached)
            continue;
        if (device->type == BLOCK_BASIC) {
            if (device->sector_size == 0)
                device->sector_size = 512;
            if (device->size % device->sector_size != 0)
                errx(1, "%s: Backing storage size must be block aligned (%hu bytes)", device->name,
                     device->sector_size);
            if (device->size < device->sector_size)
                errx(1, "%s: Backing storage must be at least 1 block (%hu bytes) in size",
                     device->name, device->sector_size);
        } else if (memcmp(device->mac, no_mac, sizeof no_mac) == 0) {
            int random = open("/dev/urandom", O_RDONLY);

            if (random == -1 || read(random, device->mac, 6) != 6)
                err(1, "Could not open /dev/urandom");
            close(random);
            device->mac[0] = (device->mac[0] & 0xfe) | 0x02;
        }
    }
    for (unsigned i = 0; i < device_count; i++) {
        if (devices[i].attached)
            continue;
        warnx("Device '%s' of type %s declared but not attached.", devices[i].name,
              devices[i].type == BLOCK_BASIC ? "BLOCK_BASIC"
              : devices[i].type == NET_BASIC ? "NET_BASIC"
                                             : "<undefined type>");
        missing = true;
    }
    if (missing)
        errx(1, "All declared devices must be attached. See --help for syntax.");
}

/* --- memory --------------------------------------------------------------- */

static size_t parse_memory(const char *option)
{
    ssize_t mebibytes;

    if (sscanf(option, "--mem=%zd", &mebibytes) != 1 || (size_t)mebibytes << 20 == 0)
        errx(1, "Malformed argument to --mem");
    return (size_t)mebibytes << 20;
}

/* Takes the memory and, for hvt, the hypervisor that a tender would take. */
static size_t take_memory(size_t memory)
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
static uint64_t check_segments(size_t memory)
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

/* --- in place of the guest ------------------------------------------------ */

static char cmdline[CMDLINE_SIZE];

static void join_arguments(char *const *argument)
{
    size_t used = 0;

    for (; *argument != NULL; argument++) {
        int length = snprintf(cmdline + used, sizeof cmdline - used, "%s%s", *argument,
                              argument[1] != NULL ? " " : "");

        used += length;
        if (used >= sizeof cmdline)
            errx(1, "Guest command line too long (max=%d characters)", CMDLINE_SIZE - 1);
    }
}

/* What follows `word` in the guest's arguments, or NULL: it may stand alone, or
 * within the quotes of the JSON that Rumprun takes. */
static const char *argument(const char *word)
{
    for (const char *at = cmdline; (at = strstr(at, word)) != NULL; at++)
        if (at == cmdline || strchr(" \"'", at[-1]) != NULL)
            return at + strlen(word);
    return NULL;
}

static void print_quoted(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char byte = *text;

        if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            printf("\\u%04x", byte);
        else
            putchar(byte);
    }
    putchar('"');
}

/* One line that says what a guest would have been given. */
static void report(size_t memory)
{
    const char *comma = "";

    printf("{\"double\":\"" TENDER "\",\"cmdline\":");
    print_quoted(cmdline);
    printf(",\"memory\":%zu,\"disks\":[", memory);
    for (unsigned i = 0; i < device_count; i++) {
        const struct device *device = &devices[i];
        uint8_t first[16] = {0};

        if (device->type != BLOCK_BASIC)
            continue;
        if (pread(device->fd, first, sizeof first, 0) != sizeof first)
            err(1, "%s: cannot read", device->name);
        printf("%s{\"name\":\"%s\",\"size\":%jd,\"first\":\"", comma, device->name,
               (intmax_t)device->size);
        for (unsigned byte = 0; byte < sizeof first; byte++)
            printf("%02x", first[byte]);
        printf("\"}");
        comma = ",";
    }
    printf("],\"nics\":[");
    comma = "";
    for (unsigned i = 0; i < device_count; i++) {
        const uint8_t *mac = devices[i].mac;

        if (devices[i].type != NET_BASIC)
            continue;
        printf("%s{\"name\":\"%s\",\"mac\":\"%02x:%02x:%02x:%02x:%02x:%02x\",\"mtu\":%d}", comma,
               devices[i].name, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], devices[i].mtu);
        comma = ",";
    }
    printf("]}\n");
    fflush(stdout);
}

/* Waits for a frame on a device that is served, at most `ms` (-1: for ever);
 * NULL: none came.  Not poll(2) nor pause(2): the tenders wait in epoll_pwait(2). */
static const struct device *wait_readable(int ms)
{
    static int set = -1;
    struct epoll_event event;

    if (set == -1) {
        set = epoll_create1(0);
        if (set == -1)
            err(1, "Could not create wait set");
        for (unsigned i = 0; i < device_count; i++) {
            event = (struct epoll_event){.events = EPOLLIN, .data.ptr = &devices[i]};
            if (devices[i].address != 0 &&
                epoll_ctl(set, EPOLL_CTL_ADD, devices[i].fd, &event) == -1)
                err(1, "epoll_ctl(EPOLL_CTL_ADD) failed");
        }
    }
    return epoll_pwait(set, &event, 1, ms, NULL) == 1 ? event.data.ptr : NULL;
}

/* The IPv4 address of a network device, by its number, in the guest's arguments;
 * 0: there is none. */
static uint32_t find_address(unsigned number)
{
    char text[INET_ADDRSTRLEN], word[32];
    const char *at;
    struct in_addr address;
    size_t length;

    snprintf(word, sizeof word, "probe.address%u=", number);
    at = argument(number == 0 ? "--ipv4=" : word);
    if (number == 0 && at == NULL && (at = strstr(cmdline, "\"addr\"")) != NULL) {
        at += strlen("\"addr\"");
        at += strspn(at, " :\"");
    }
    if (at != NULL && (length = strspn(at, "0123456789.")) < sizeof text) {
        memcpy(text, at, length);
        text[length] = '\0';
        if (inet_pton(AF_INET, text, &address) == 1)
            return address.s_addr;
    }
    return 0;
}

static uint16_t get16(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

static void swap(uint8_t *one, uint8_t *other, size_t size)
{
    for (; size-- > 0; one++, other++) {
        uint8_t byte = *one;

        *one = *other;
        *other = byte;
    }
}

static uint16_t checksum(const uint8_t *at, size_t size)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += i % 2 == 0 ? at[i] << 8 : at[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Turns the request in `frame` into its answer, in place.  The frame's size is
 * what remains; 0 means that there is no answer.  `quit` is set by a datagram. */
static size_t answer(uint8_t *frame, size_t size, const uint8_t *mac, uint32_t address, int *quit)
{
    uint8_t *packet = frame + 14;

    if (size >= 14 + 28 && get16(frame + 12) == 0x0806) { /* ARP */
        if (get16(packet + 6) != 1 || memcmp(packet + 24, &address, 4) != 0)
            return 0;
        packet[7] = 2;
        memcpy(packet + 18, packet + 8, 10); /* the asker becomes the target */
        memcpy(packet + 8, mac, 6);
        memcpy(packet + 14, &address, 4);
    } else if (size >= 14 + 20 && get16(frame + 12) == 0x0800) { /* IPv4 */
        size_t head = (packet[0] & 15) * 4, length = get16(packet + 2);
        uint8_t *body = packet + head;

        if (packet[0] >> 4 != 4 || head < 20 || length < head + 8 || length > size - 14 ||
            memcmp(packet + 16, &address, 4) != 0 || (get16(packet + 6) & 0x3fff) != 0)
            return 0; /* not a whole packet for us */
        size_t rest = length - head;

        if (packet[9] == 1 && body[0] == 8) { /* ICMP echo */
            body[0] = 0;
            body[2] = body[3] = 0;
            uint16_t sum = checksum(body, rest);

            body[2] = sum >> 8;
            body[3] = sum;
        } else if (packet[9] == 17 && get16(body + 2) == 7) { /* UDP echo */
            char text[16] = "";

            memcpy(text, body + 8, rest - 8 < sizeof text - 1 ? rest - 8 : sizeof text - 1);
            (void)sscanf(text, "quit %d", quit);
            swap(body, body + 2, 2); /* which leaves the checksum as it is */
        } else {
            return 0;
        }
        swap(packet + 12, packet + 16, 4);
        size = 14 + length;
    } else {
        return 0;
    }
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    return size;
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

/* Serves on the network devices; `ms` below 0 means for ever. */
static int serve(int ms, int code)
{
    uint64_t end = now_ms() + ms;
    unsigned nics = 0;
    int quit = -1;

    for (unsigned i = 0; i < device_count; i++)
        if (devices[i].type == NET_BASIC && (devices[i].address = find_address(nics++)) == 0 &&
            nics == 1)
            errx(1, "probe.serve: there is no IPv4 address in the arguments");
    if (nics == 0)
        errx(1, "probe.serve: the guest declares no network device");
    printf("{\"double\":\"" TENDER "\",\"event\":\"serving\"}\n");
    fflush(stdout);
    while (quit < 0) {
        uint8_t frame[9 * 1024]; /* an MTU of 9000 and a header */
        uint64_t now = now_ms();

        if (ms >= 0 && now >= end)
            return code;
        const struct device *nic = wait_readable(ms < 0 ? -1 : (int)(end - now));

        if (nic == NULL)
            continue;
        ssize_t size = read(nic->fd, frame, sizeof frame);

        if (size == -1 && errno == EAGAIN)
            continue;
        if (size <= 0)
            err(1, "Fatal error when reading");
        size = answer(frame, size, nic->mac, nic->address, &quit);
        if (size > 0 && write(nic->fd, frame, size) != size)
            err(1, "Fatal error when writing");
    }
    return quit;
}

static int play_guest(void)
{
    const char *word;
    int code = 0;

    if ((word = argument("probe.exit=")) != NULL)
        code = atoi(word);
    if ((word = argument("probe.serve")) != NULL)
        return serve(*word == '=' ? atoi(word + 1) : -1, code);
    if (argument("probe.hang") != NULL)
        for (;;)
            wait_readable(-1);
    return code;
}

/* --- the command line ----------------------------------------------------- */

static void usage(const char *program)
{
    fprintf(stderr,
            "usage: %s " USAGE "\n"
            "KERNEL is the filename of the unikernel to run.\n"
            "ARGS are optional arguments passed to the unikernel.\n"
            "Core options:\n"
            "  [ --mem=512 ] (guest memory in MB)\n"
            "    --help (display this help)\n"
            "    --version (display version information)\n"
            "Compiled-in modules: core block net \n"
            "Compiled-in module options:\n"
            "    --block:NAME=PATH (attach block device/file at PATH as block storage NAME)\n"
            "  [ --block-sector-size:NAME=SECTORSIZE ] (set sector size for block device NAME)\n"
            "    --net:NAME=IFACE | @NN (attach tap at IFACE or at fd @NN as network NAME)\n"
            "  [ --net-mac:NAME=HWADDR ] (set HWADDR for network NAME)\n",
            program);
    exit(1);
}

static bool device_option(const char *option)
{
    static const struct {
        const char *prefix;
        bool (*handle)(const char *);
    } options[] = {
        {"--block:", block_option},
        {"--block-sector-size:", sector_size_option},
        {"--net:", net_option},
        {"--net-mac:", mac_option},
    };

    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (strncmp(option, options[i].prefix, strlen(options[i].prefix)) == 0)
            return options[i].handle(option);
    return false;
}

#if defined(TENDER_HVT)
static void end_on_signal(int number)
{
    errx(1, "Exiting on signal %d", number);
}
#endif

int main(int argc, char **argv)
{
    static char output[1 << 17];
    const char *program = program_invocation_short_name;
    size_t memory = DEFAULT_MEMORY;
    char **at;

    (void)argc;
    setvbuf(stdout, output, _IOFBF, sizeof output);
    if (write(STDOUT_FILENO, BANNER, strlen(BANNER)) == -1)
        err(1, "cannot write");

    /* The guest comes first: the options mean something by its manifest only. */
    for (at = argv + 1; *at != NULL && **at == '-'; at++) {
        if (strcmp(*at, "--") == 0) {
            at++;
            break;
        }
        if (strcmp(*at, "--help") == 0)
            usage(program);
        if (strcmp(*at, "--version") == 0) {
            fprintf(stderr, "%s tender, version " VERSION "\nABI version %d\n", program,
                    ABI_VERSION);
            return 0;
        }
    }
    if (*at == NULL) {
        warnx("Missing KERNEL operand");
        usage(program);
    }
    guest_path = *at;
    guest_fd = open(guest_path, O_RDONLY);
    if (guest_fd == -1)
        err(1, "%s: Could not open", guest_path);
    read_abi();
    read_manifest();

    for (at = argv + 1; **at == '-'; at++) {
        if (strcmp(*at, "--") == 0) {
            at++;
            break;
        }
        if (strncmp(*at, "--mem=", 6) == 0) {
            memory = parse_memory(*at);
        } else if (!device_option(*at)) {
            warnx("Invalid option: `%s'", *at);
            usage(program);
        }
    }

#if defined(TENDER_HVT)
    struct sigaction action = {.sa_handler = end_on_signal};

    sigfillset(&action.sa_mask);
    if (sigaction(SIGINT, &action, NULL) == -1 || sigaction(SIGTERM, &action, NULL) == -1)
        err(1, "Could not install signal handler");
#endif

    memory = take_memory(memory);
    uint64_t end = check_segments(memory);

    close(guest_fd);
    set_up_devices();
    join_arguments(at + 1);

    if (end + GUEST_SPARE > memory) {
        /* not a tender's word, but that of every guest's Solo5 bindings */
        dprintf(STDOUT_FILENO, "Solo5: ABORT: mem.c:54: Not enough memory\n");
        return 255;
    }
    report(memory);
    return play_guest();
}
