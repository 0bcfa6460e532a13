/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop.c - how a virtual machine is asked to stop: Ctrl-Alt-Del from a keyboard
 * (QEMU and Firecracker), the ACPI power button (QEMU's q35). Both are polled.
 */
#include "vm.h"

/* ---- the keyboard ----------------------------------------------------------- */

#define KEYBOARD_DATA 0x60
#define KEYBOARD_STATUS 0x64 /* read; commands are written */
#define STATUS_OUTPUT 1      /* there is something to read */
#define STATUS_INPUT 2       /* what was written has not been taken */
#define STATUS_MOUSE 0x20
#define STATUS_ABSENT 0xff   /* what a port reads as that nobody owns */
#define COMMAND_WRITE_MODE 0x60
#define MODE_POLLED 0        /* on, no interrupts, no translation to set 1 */

/* Scan codes of set 2, which keyboards send: Firecracker knows no other. The
   prefix 0xe0 tells right keys, or Delete from the number pad's: ignored. */
#define RELEASED 0xf0
#define PREFIX 0xe0
#define CTRL 0x14
#define ALT 0x11
#define DEL 0x71

static bool written(uint16_t port, uint8_t v)
{
    for (int i = 0; inb(KEYBOARD_STATUS) & STATUS_INPUT; i++)
        if (i == 1000)
            return false;
    outb(port, v);
    return true;
}

static bool listen_keyboard(void)
{
    for (int i = 0; inb(KEYBOARD_STATUS) & STATUS_OUTPUT && i < 256; i++)
        inb(KEYBOARD_DATA); /* whatever is left from before */
    return inb(KEYBOARD_STATUS) != STATUS_ABSENT &&
           written(KEYBOARD_STATUS, COMMAND_WRITE_MODE) &&
           written(KEYBOARD_DATA, MODE_POLLED);
}

static bool ctrl_alt_del(void)
{
    static bool released, ctrl, alt;
    uint8_t status;

    while ((status = inb(KEYBOARD_STATUS)) & STATUS_OUTPUT) {
        uint8_t code = inb(KEYBOARD_DATA);

        if (status & STATUS_MOUSE || code == PREFIX)
            continue;
        if (code == RELEASED) {
            released = true;
            continue;
        }
        if (code == CTRL)
            ctrl = !released;
        else if (code == ALT)
            alt = !released;
        else if (code == DEL && !released && ctrl && alt)
            return true;
        released = false;
    }
    return false;
}

/* ---- the power button ------------------------------------------------------- */

/* q35's LPC bridge, an ICH9, whose configuration places the ACPI registers. */
#define LPC pci_function(0, 31, 0)
#define LPC_ID 0x29188086
#define LPC_PMBASE 0x40
#define LPC_ACPI_CONTROL 0x44
#define PMBASE_MASK 0xff80
#define PMBASE_DEFAULT 0x600 /* where SeaBIOS and qboot put it */
#define ACPI_ENABLE 0x80

#define PM1_STATUS 0
#define PM1_ENABLE 2
#define POWER_BUTTON (1u << 8)

static uint16_t pmbase;

static bool listen_power_button(void)
{
    if (config_read32(LPC, 0) != LPC_ID)
        return false;
    pmbase = config_read32(LPC, LPC_PMBASE) & PMBASE_MASK;
    if (!pmbase) {
        pmbase = PMBASE_DEFAULT;
        config_write32(LPC, LPC_PMBASE, pmbase | 1);
    }
    config_write32(LPC, LPC_ACPI_CONTROL,
                   config_read32(LPC, LPC_ACPI_CONTROL) | ACPI_ENABLE);
    outw(pmbase + PM1_STATUS, POWER_BUTTON); /* a 1 clears it */
    /* QEMU tells of the button only where it is enabled. */
    outw(pmbase + PM1_ENABLE, inw(pmbase + PM1_ENABLE) | POWER_BUTTON);
    return true;
}

/* ---- both ------------------------------------------------------------------- */

bool platform_listen(enum stop_way way)
{
    return way == STOP_CTRL_ALT_DEL ? listen_keyboard() : listen_power_button();
}

bool platform_asked(enum stop_way way)
{
    if (way == STOP_CTRL_ALT_DEL)
        return ctrl_alt_del();
    return inw(pmbase + PM1_STATUS) & POWER_BUTTON;
}
