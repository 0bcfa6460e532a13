/* SPDX-License-Identifier: Apache-2.0
 *
 * exit-code N: ends the machine with exit code N where the monitor can.
 *
 * QEMU's `isa-debug-exit,iobase=0x501,iosize=2` turns a write of V into its
 * own exit code (V << 1) | 1, of which a process keeps eight bits: so V is at
 * most 127, and a greater N (a signal's) is sent as 127.  Where no such device
 * is, the write goes nowhere and this returns.  From QEMU 9.1 on it does not
 * end at once, and a reset meanwhile would be its end.  The kernel of the guest has no
 * /dev/port, hence a program.  It must touch no other port.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/io.h>
#include <termios.h>
#include <unistd.h>

#define DEBUG_EXIT_PORT 0x501

int main(int argc, char **argv)
{
    int code = argc > 1 ? atoi(argv[1]) : 0;
    int console = open("/dev/console", O_WRONLY | O_NOCTTY);

    if (console >= 0)
        tcdrain(console); /* the last lines of the application go first */
    sync();
    if (ioperm(DEBUG_EXIT_PORT, 1, 1) != 0)
        return 1;
    outb(code > 127 ? 127 : code, DEBUG_EXIT_PORT);
    sleep(1);
    return 0;
}
