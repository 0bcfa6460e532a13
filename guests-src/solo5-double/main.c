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
#include "double.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(TENDER_HVT)
#define USAGE "[ CORE OPTIONS ] [ MODULE OPTIONS ] [ -- ] KERNEL [ ARGS ]"
#else
#define USAGE "[ CORE OPTIONS ] [ -- ] KERNEL [ ARGS ]"
#endif

#define BANNER "solo5-double: a contract double of solo5-" TENDER ", not the real tender\n"
#define VERSION "v0.12.1-double"
#define DEFAULT_MEMORY ((size_t)512 << 20)
#define GUEST_SPARE 0x80000         /* Solo5 guests want this beyond their end */

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

/* The guest comes first: the options mean something by its manifest only. */
static const char *kernel_operand(char **argv, const char *program)
{
    char **at;

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
            exit(0);
        }
    }
    if (*at == NULL) {
        warnx("Missing KERNEL operand");
        usage(program);
    }
    return *at;
}

/* Reads the options; returns where the guest is named. */
static char **take_options(char **argv, const char *program, size_t *memory)
{
    char **at;

    for (at = argv + 1; **at == '-'; at++) {
        if (strcmp(*at, "--") == 0) {
            at++;
            break;
        }
        if (strncmp(*at, "--mem=", 6) == 0) {
            *memory = parse_memory(*at);
        } else if (!device_option(*at)) {
            warnx("Invalid option: `%s'", *at);
            usage(program);
        }
    }
    return at;
}

int main(int argc, char **argv)
{
    static char output[1 << 17];
    const char *program = program_invocation_short_name;
    size_t memory = DEFAULT_MEMORY;

    (void)argc;
    setvbuf(stdout, output, _IOFBF, sizeof output);
    if (write(STDOUT_FILENO, BANNER, strlen(BANNER)) == -1)
        err(1, "cannot write");

    guest_path = kernel_operand(argv, program);
    guest_fd = open(guest_path, O_RDONLY);
    if (guest_fd == -1)
        err(1, "%s: Could not open", guest_path);
    read_abi();
    read_manifest();
    char **at = take_options(argv, program, &memory);

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
