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
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

#define DEBUG_EXIT_PORT 0x501 /* QEMU's isa-debug-exit: it ends with 2 N + 1 */
#define MAX_HELD 256
#define REAP_S 5 /* a process may hang in a share that is gone */

static int held[MAX_HELD], held_count;

void hold(int fd)
{
    if (fd >= 0 && held_count < MAX_HELD)
        held[held_count++] = fd;
}

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

/* A file system that is read-only needs no repair; newest first, since one may hold another's disk.
 */
static void settle(void)
{
    sync();
    while (held_count > 0)
        mount(NULL, text(DESCRIPTOR, held[--held_count]), NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

static void debug_exit(int code)
{
#ifdef __x86_64__
    if (code != 0 && setting("debug_exit") && ioperm(DEBUG_EXIT_PORT, 1, 1) == 0)
        outb(code > 127 ? 127 : code, DEBUG_EXIT_PORT);
#else
    (void)code;
#endif
}

void end(int code)
{
    int quiet;

    kill_the_rest();
    tell("exit %d\n", code);
    finish_channel();
    settle();
    tcdrain(STDERR_FILENO); /* the application's last bytes go first */
    debug_exit(code);
    quiet = open("/proc/sys/kernel/printk", O_WRONLY | O_CLOEXEC);
    if (quiet >= 0 &&
        write(quiet, "0", 1) == 1) /* "Restarting system" is no output of the application's */
        close(quiet);
    reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}
