/* SPDX-License-Identifier: Apache-2.0
 *
 * urunc's init: PID 1 of a Linux guest with the root filesystem of a container. The order of
 * things, and the wait for the application's end.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLOSED_MS 100 /* how often a channel is looked at that nobody listens to now */

/* net.ipv4.ip_forward, or with slashes where a part has a dot. */
static void set_kernel_parameters(void)
{
    for (const struct record *record = first("sysctl"); record; record = following(record)) {
        char *path = copy_of(field(record, 0));

        for (char *c = strchr(path, '/') ? NULL : strchr(path, '.'); c; c = strchr(c, '.'))
            *c = '/';
        if (strstr(path, ".."))
            fail("%s is no kernel parameter", path);
        write_setting(text("/proc/sys/%s", path), field(record, 1));
    }
}

static int open_signals(void)
{
    sigset_t all;
    int fd;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        fail("cannot wait for signals: %m");
    reboot(RB_DISABLE_CAD); /* control, alt and delete are SIGINT then, from the kernel */
    return fd;
}

/* All that ended; the application's exit code, or -1. */
static int reap(pid_t application)
{
    int status, code = -1;
    pid_t ended;

    while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
        if (ended == application)
            code = WIFSIGNALED(status) ? 128 + ending_signal(WTERMSIG(status)) : WEXITSTATUS(status);
    return code;
}

/* No signal of the application's means anything to init. */
static void take_signals(int signals, pid_t application)
{
    struct signalfd_siginfo signal;

    while (read(signals, &signal, sizeof signal) == sizeof signal)
        if (signal.ssi_signo == SIGINT && signal.ssi_code == SI_KERNEL)
            signal_application(application, SIGTERM);
}

static int wait_for_end(int signals, pid_t application)
{
    bool listening = true;
    int code;

    relay_streams(); /* what came before the application did */
    while ((code = reap(application)) < 0) {
        struct pollfd polled[] = {{.fd = signals, .events = POLLIN},
                                  {.fd = listening ? channel_to_poll() : -1, .events = POLLIN},
                                  {.fd = memory_to_poll(), .events = POLLIN},
                                  {.fd = streams_to_poll(), .events = POLLIN},
                                  {.fd = returned_to_poll(), .events = POLLIN}};
        int wait_ms = returned_rest_ms();

        if (!listening && (wait_ms < 0 || wait_ms > CLOSED_MS))
            wait_ms = CLOSED_MS;
        if (poll(polled, sizeof polled / sizeof *polled, wait_ms) < 0 && errno != EINTR)
            fail("cannot wait: %m");
        take_signals(signals, application);
        /* nobody listens: POLLHUP would come at once, each time */
        if (!listening)
            listening = channel_to_poll() >= 0;
        else if (polled[1].revents)
            listening = hear(application);
        if (polled[2].revents)
            look_at_memory();
        look_at_returned();
        relay_streams();
    }
    look_at_memory();
    return code;
}

int main(void)
{
    pid_t application;
    int signals;

    if (getpid() != 1) {
        fputs("urunc-init: this is the first program of a Linux guest of urunc's\n", stderr);
        return 2;
    }
    end_failures_by(end_by_failure);
    umask(0);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    look_at_kernel();
    load_modules();
    open_console();
    if (kernel_word("urunc.config") == NULL)
        fail("the kernel's line has no urunc.config=");
    read_configuration(kernel_word("urunc.config"));
    open_channel(); /* the last of the ports: with it all are there (streams.c) */
    open_streams();
    signals = open_signals();
    build_root();
    make_group();
    application = prepare_application();
    mount_kernel_filesystems();
    open_terminal();
    name_machine();
    set_up_network();
    set_kernel_parameters();
    mount_volumes();
    hold_returned();
    write_files();
    make_working_directory();
    hide_paths();
    watch_memory();
    start_application();
    tell("ready\n");
    end(wait_for_end(signals, application));
}
