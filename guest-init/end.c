/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's end: nobody else runs, the host knows the exit code, file systems on disks are
 * read-only.
 */
#define _GNU_SOURCE
#include "init.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

#define DEBUG_EXIT_PORT 0x501 /* QEMU's isa-debug-exit: it ends with 2 N + 1 */
#define DEBUG_EXIT_S 1 /* from 9.1 on not at once, and what the guest does meanwhile would count */
#define ACPI_TABLE "/sys/firmware/acpi/tables/FACP"
#define REBOOT_TYPE "/sys/kernel/reboot/type"
#define REAP_S 5 /* a process may hang in a share that is gone */

static void kill_the_rest(void)
{
    long end = seconds_now() + REAP_S;
    pid_t found;

    kill(-1, SIGKILL);
    do
        while ((found = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
    while (found == 0 && pause_before(end));
}

/* What QEMU makes 2 N + 1 of: above 127 it can end with odd codes alone, as they are. */
static int debug_exit_value(int code)
{
    if (code <= 127)
        return code;
    return code % 2 ? code / 2 : 127;
}

/* Where there is such a file. */
static void write_word(const char *path, const char *word)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    if (write(fd, word, strlen(word)) < 0)
        warn("cannot write to %s: %m", path);
    close(fd);
}

static void debug_exit(int code)
{
#ifdef __x86_64__
    if (code != 0 && setting("debug_exit") && ioperm(DEBUG_EXIT_PORT, 1, 1) == 0) {
        outb(debug_exit_value(code), DEBUG_EXIT_PORT);
        sleep(DEBUG_EXIT_S);
    }
#else
    (void)debug_exit_value(code);
#endif
}

/* By no way that a panic takes: QEMU tells the two apart. Firecracker ends by a reset alone. */
static _Noreturn void leave(void)
{
    if (setting("debug_exit")) {
#ifdef __x86_64__
        if (access(ACPI_TABLE, F_OK) == 0) /* else the kernel would halt for ever */
            reboot(RB_POWER_OFF);
        write_word(REBOOT_TYPE, "pci"); /* Linux 5.11 */
#else
        reboot(RB_POWER_OFF); /* PSCI's */
#endif
    }
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

/* What fails meanwhile, for want of memory, ends it at once. */
void end(int code)
{
    static bool ending;

    if (!ending) {
        ending = true;
        kill_the_rest();
        give_back();
        finish_streams(is_end_asked(), channel_to_poll());
        tell("exit %d\n", code);
        finish_channel();
        settle_disks();
        tcdrain(STDERR_FILENO); /* the application's last bytes go first */
    }
    debug_exit(code);
    write_word("/proc/sys/kernel/printk", "0"); /* "Power down" is no output of the application's */
    leave();
}

void end_by_failure(int code, const char *line)
{
    warn("%s", line);
    tell("error %s\n", line);
    end(code);
}
