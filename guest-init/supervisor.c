/* SPDX-License-Identifier: Apache-2.0
 *
 * supervisor [-u] CHANNEL MONITOR [ARGUMENT...]: runs a monitor and ends with the exit code of the
 * guest's application.
 *
 * CHANNEL is a FIFO that the monitor writes to what the guest's init says, or vsock:PATH, a socket
 * that the monitor connects to. `exit N`, a line there, is the exit code; without one it ends as
 * the monitor did, but for a monitor's 0: if the application did not run (`ready` was not said), or
 * with -u, for monitors that end so whatever their guest did, it is 253, an end that nobody wanted.
 * SIGTERM, SIGINT and SIGQUIT kill the monitor, and it ends as if by them: a monitor would end by
 * them with a code of its own. Other signals that a process sends go to the monitor; those of the
 * kernel (a terminal's) reach it by themselves. It is PID 1 of the container, and reaps. It must
 * not need anything but the FIFO or the socket's directory, and must not outlive the monitor.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCKET "vsock:"

#define RESET_CODE 253 /* lifecycle/exit_reason.py */

static int channel, exit_code = -1;
static int stopped_by; /* the signal */
static bool listening, ready, untold;

static _Noreturn void fail(const char *what, const char *name)
{
    fprintf(stderr, "urunc supervisor: %s %s: %m\n", what, name);
    exit(127);
}

static void open_channel(const char *name)
{
    if (strncmp(name, SOCKET, strlen(SOCKET)) == 0) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        name += strlen(SOCKET);
        if (strlen(name) >= sizeof address.sun_path) {
            errno = ENAMETOOLONG;
            fail("cannot listen at", name);
        }
        strcpy(address.sun_path, name);
        channel = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (channel < 0 || bind(channel, (struct sockaddr *)&address, sizeof address) != 0 ||
            listen(channel, 1) != 0)
            fail("cannot listen at", name);
        listening = true;
    } else {
        channel = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (channel < 0)
            fail("cannot open", name);
    }
}

/* The first one to connect is the guest's init; nobody else is taken. */
static void accept_guest(void)
{
    int fd = accept4(channel, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    close(channel);
    channel = fd;
    listening = false;
}

static void understand(const char *line)
{
    int code, length = 0;

    if (sscanf(line, "exit %d%n", &code, &length) == 1 && line[length] == '\0' && code >= 0 &&
        code <= 255)
        exit_code = code;
    else if (strcmp(line, "ready") == 0)
        ready = true;
    else if (strncmp(line, "error ", 6) == 0)
        fprintf(stderr, "urunc: %s\n", line + 6);
}

/* What there is to read now. */
static void hear(void)
{
    static char line[4096];
    static size_t length;
    char bytes[4096];
    ssize_t count;

    while ((count = read(channel, bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < count; i++) {
            if (bytes[i] == '\n') {
                line[length] = '\0';
                understand(line);
                length = 0;
            } else if (length < sizeof line - 1) {
                line[length++] = bytes[i];
            }
        }
    }
    if (count == 0) {
        close(channel);
        channel = -1;
    }
}

static void listen_to_guest(void)
{
    if (listening)
        accept_guest();
    if (!listening && channel >= 0)
        hear();
}

/* By the kernel's own call: a libc keeps some signals to itself, and a process may send these too.
 */
static void set_mask(const sigset_t *mask, sigset_t *before)
{
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, mask, before, _NSIG / 8) != 0)
        fail("cannot block", "signals");
}

static pid_t start(char **command, const sigset_t *before)
{
    pid_t parent = getpid(), child = fork();

    if (child < 0)
        fail("cannot start", command[0]);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (getppid() != parent)
            _exit(1);
        set_mask(before, NULL);
        execv(command[0], command);
        fail("cannot execute", command[0]);
    }
    return child;
}

/* Whether the monitor has ended; *status says how. */
static bool reap(pid_t monitor, int *status)
{
    bool over = false;
    int found;
    pid_t ended;

    while ((ended = waitpid(-1, &found, WNOHANG)) > 0) {
        if (ended == monitor) {
            *status = found;
            over = true;
        }
    }
    return over;
}

static void forward(int signals, pid_t monitor)
{
    struct signalfd_siginfo signal;

    while (read(signals, &signal, sizeof signal) == sizeof signal) {
        int number = signal.ssi_signo;

        if (number == SIGCHLD || signal.ssi_code > 0)
            continue;
        if (number == SIGTERM || number == SIGINT || number == SIGQUIT) {
            stopped_by = number;
            number = SIGKILL;
        }
        kill(monitor, number);
    }
}

static _Noreturn void end_as(int status)
{
    static const sigset_t none;

    if (exit_code >= 0)
        exit(exit_code);
    if (!stopped_by && !WIFSIGNALED(status)) {
        bool unwanted = WEXITSTATUS(status) == 0 && (untold || !ready);

        exit(unwanted ? RESET_CODE : WEXITSTATUS(status));
    }
    if (!stopped_by)
        stopped_by = WTERMSIG(status);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* the monitor has dumped its core */
    signal(stopped_by, SIG_DFL); /* its caller may have had it ignored */
    kill(getpid(), stopped_by);
    set_mask(&none, NULL);
    exit(128 + stopped_by); /* the kernel lets PID 1 live */
}

int main(int argc, char **argv)
{
    sigset_t all, before;
    int signals, status = 0;
    pid_t monitor;

    untold = argc > 1 && strcmp(argv[1], "-u") == 0;
    argv += untold;
    argc -= untold;
    if (argc < 3) {
        fputs("usage: supervisor [-u] CHANNEL MONITOR [ARGUMENT...]\n", stderr);
        return 2;
    }
    memset(&all, 0xff, sizeof all);
    memset(&before, 0, sizeof before);
    set_mask(&all, &before);
    signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        fail("cannot wait for", "signals");
    open_channel(argv[1]);
    monitor = start(argv + 2, &before);
    while (!reap(monitor, &status)) {
        struct pollfd polled[2] = {{.fd = signals, .events = POLLIN},
                                   {.fd = channel, .events = POLLIN}};

        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            fail("cannot wait for", argv[2]);
        forward(signals, monitor);
        if (polled[1].revents)
            listen_to_guest();
    }
    listen_to_guest();
    end_as(status);
}
