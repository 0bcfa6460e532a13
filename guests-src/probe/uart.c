/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uart.c - the console: a 16550 serial port at 0x3f8, polled.
 */
#include "vm.h"

#define PORT 0x3f8
#define FIFO_SIZE 16
#define LINE_STATUS (PORT + 5)
#define FIFO_EMPTY 0x20
#define ALL_SENT 0x40

void uart_init(void)
{
    outb(PORT + 1, 0);    /* no interrupts */
    outb(PORT + 3, 0x80); /* divisor: 115200 baud */
    outb(PORT + 0, 1);
    outb(PORT + 1, 0);
    outb(PORT + 3, 0x03); /* 8 bits, no parity */
    outb(PORT + 2, 0x07); /* FIFOs on and cleared */
    outb(PORT + 4, 0x03); /* ready */
}

/* One look at the status for each full FIFO: each access leaves the guest. */
void uart_write(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (i % FIFO_SIZE == 0)
            while (!(inb(LINE_STATUS) & FIFO_EMPTY))
                pause();
        outb(PORT, text[i]);
    }
}

void uart_drain(void)
{
    while (!(inb(LINE_STATUS) & ALL_SENT))
        pause();
}
