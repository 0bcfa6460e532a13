/* SPDX-License-Identifier: Apache-2.0
 *
 * The application: a child that mounts /proc (which shows the PID namespace of who mounts it),
 * waits until the rest is set up, and becomes what the configuration says. A pipe that execve
 * closes says whether it did.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define MOUNTED 'm' /* what the child says once /proc is there; else an exit code comes first */

static int from_child[2], to_child[2];
static int killed_for; /* the signal in whose place SIGKILL went */

static void set_terminal(int fd)
{
    const struct record *record = first("terminal");
    struct winsize window = {0};
    struct termios modes;

    if (record != NULL) {
        if (ioctl(fd, TIOCSCTTY, 1) != 0)
            fail("the console cannot be a terminal: %m");
        if (record->count == 3) {
            window.ws_row = number(field(record, 1), 10, "terminal");
            window.ws_col = number(field(record, 2), 10, "terminal");
            ioctl(fd, TIOCSWINSZ, &window);
        }
    } else if (tcgetattr(fd, &modes) == 0) {
        cfmakeraw(&modes);
        tcsetattr(fd, TCSANOW, &modes);
    }
}

static void set_streams(void)
{
    const char *input = setting("stdin");
    int fd = open(terminal_is_ours() ? TERMINAL : "/dev/console", O_RDWR | O_NOCTTY), null, own;

    if (fd < 0 && errno == ENODEV)
        fd = open("/dev/null", O_RDWR); /* a machine without a console */
    if (fd < 0)
        fail("cannot open the console: %m");
    fchown(fd, application_user(), -1);
    set_terminal(fd);
    for (int stream = 0; stream < 3; stream++) {
        own = stream_to_give(stream);
        if (own >= 0)
            fchown(own, application_user(), -1); /* who may open /dev/stdout */
        dup2(own < 0 ? fd : own, stream);
    }
    if (fd > 2)
        close(fd);
    if (input && strcmp(input, "null") == 0) {
        null = open("/dev/null", O_RDONLY);
        if (null < 0)
            fail("cannot open /dev/null: %m");
        dup2(null, STDIN_FILENO);
        close(null);
    }
}

/* The user's home by the image's passwd, as runc sets it where the environment has none. */
static char *home(void)
{
    FILE *file = fopen("/etc/passwd", "re");
    char *line = NULL, *found = NULL, *columns[7];
    size_t room = 0;

    while (file && !found && getline(&line, &room, file) > 0) {
        char *rest = line, *end;
        int count = 0;

        while (count < 7 && (columns[count] = strsep(&rest, ":\n")) != NULL)
            count++;
        if (count >= 6 && strtoul(columns[2], &end, 10) == application_user() &&
            end != columns[2] && !*end)
            found = copy_of(columns[5]);
    }
    if (file)
        fclose(file);
    free(line);
    return found && *found ? found : "/";
}

/* The values of a repeated key, ended by NULL, with room for one more. */
static char **values(const char *key, size_t *count)
{
    char **list;

    *count = 0;
    for (const struct record *record = first(key); record; record = following(record))
        ++*count;
    list = allocate((*count + 2) * sizeof *list);
    *count = 0;
    for (const struct record *record = first(key); record; record = following(record))
        list[(*count)++] = record->fields[0];
    return list;
}

static const char *variable(char **environment, const char *name)
{
    size_t length = strlen(name);

    for (; *environment; environment++)
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
            return *environment + length + 1;
    return NULL;
}

static bool is_program(const char *path)
{
    struct stat found;

    if (stat(path, &found) != 0)
        return false;
    errno = EACCES;
    return S_ISREG(found.st_mode) && access(path, X_OK) == 0;
}

/* As the user, since not all directories may be open to it. */
static char *look_up(char *name, char **environment)
{
    const char *path = variable(environment, "PATH");
    char *rest = copy_of(path ? path : ""), *directory;

    if (strchr(name, '/'))
        return name;
    while (*name && (directory = strsep(&rest, ":")) != NULL) {
        char *program = text("%s/%s", *directory ? directory : ".", name);

        if (is_program(program))
            return program;
    }
    fail_with(NOT_FOUND, "exec: \"%s\": executable file not found in $PATH", name);
}

static _Noreturn void become(void)
{
    const char *directory = setting("cwd");
    size_t count, variables;
    char **arguments = values("arg", &count), **environment = values("env", &variables), *program;
    sigset_t none;

    if (count == 0)
        fail("the configuration has no arg");
    setsid();
    if (fchdir(root) != 0 || chroot(".") != 0)
        fail("cannot change the root: %m");
    set_streams();
    if (chdir(directory ? directory : "/") != 0)
        fail("cannot change to the directory %s: %m", directory);
    if (variable(environment, "HOME") == NULL)
        environment[variables] = text("HOME=%s", home());
    take_credentials();
    program = look_up(arguments[0], environment);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(program, arguments, environment);
    fail_with(errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : FAILED, "exec: \"%s\": %m",
              program);
}

/* Of proc_pid_status(5) a mask of signals; this /proc is the initramfs', with init's own pids. */
static unsigned long long signal_mask(pid_t application, const char *name)
{
    unsigned long long mask = 0;
    size_t length = strlen(name);
    char line[256];
    FILE *file = fopen(text("/proc/%d/status", application), "re");

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, length) == 0)
            mask = strtoull(line + length, NULL, 16);
    if (file)
        fclose(file);
    return mask;
}

/* signal(7): those whose default is to end the process, but for SIGKILL. */
static bool ends_by_default(int signal)
{
    return signal > 0 && signal < NSIG && signal != SIGCHLD && signal != SIGCONT &&
           signal != SIGURG && signal != SIGWINCH && signal != SIGSTOP && signal != SIGTSTP &&
           signal != SIGTTIN && signal != SIGTTOU && signal != SIGKILL;
}

/* PID 1 of a namespace does not even get a signal that it has no handler for (pid_namespaces(7)):
 * it is killed then, as the signal would have ended any other process. One that ignores it is left
 * alone. */
void signal_application(pid_t application, int signal)
{
    if (setting("pid_namespace") && ends_by_default(signal) &&
        !((signal_mask(application, "SigCgt:") | signal_mask(application, "SigIgn:")) >>
              (signal - 1) & 1)) {
        killed_for = signal;
        signal = SIGKILL;
    }
    kill(application, signal);
}

int ending_signal(int signal)
{
    return signal == SIGKILL && killed_for ? killed_for : signal;
}

/* Of the clocks of the application and what it starts (time_namespaces(7)); the child to come is in
 * the new namespace. */
static void set_clocks(void)
{
    const struct record *record = first("time_offset");
    int fd;

    if (record == NULL)
        return;
    if (unshare(CLONE_NEWTIME) != 0)
        fail("linux.timeOffsets: cannot make a time namespace: %m");
    fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
    for (; record; record = following(record))
        if (fd < 0 || dprintf(fd, "%s %s %s\n", field(record, 0), field(record, 1),
                              field(record, 2)) < 0)
            fail("linux.timeOffsets.%s: %m", field(record, 0));
    close(fd);
}

/* What fails in the child is its parent's to say: a byte of exit code, and the text. */
static void tell_parent(int code, const char *line)
{
    dprintf(from_child[1], "%c%s", code, line);
    _exit(code);
}

pid_t prepare_application(void)
{
    pid_t child;
    char byte = MOUNTED;

    if (pipe2(from_child, O_CLOEXEC) != 0 || pipe2(to_child, O_CLOEXEC) != 0)
        fail("cannot make a pipe: %m");
    if (setting("pid_namespace") && unshare(CLONE_NEWPID) != 0)
        fail("cannot make a PID namespace: %m");
    set_clocks();
    child = fork();
    if (child < 0)
        fail("cannot fork: %m");
    if (child == 0) {
        end_failures_by(tell_parent);
        join_group();
        mount_process_filesystem();
        if (write(from_child[1], &byte, 1) != 1 || read(to_child[0], &byte, 1) != 1)
            _exit(FAILED);
        become();
    }
    close(from_child[1]);
    close_given_streams();
    if (read(from_child[0], &byte, 1) != 1)
        fail("the application's process is gone");
    if (byte != MOUNTED) {
        char line[512] = "";

        if (read(from_child[0], line, sizeof line - 1) < 0)
            fail("the application's process is gone");
        fail_with(byte, "%s", line);
    }
    return child;
}

void start_application(void)
{
    char line[512] = "";
    size_t length = 0;
    ssize_t count;

    if (write(to_child[1], "", 1) != 1)
        fail("the application's process is gone");
    while (length < sizeof line - 1 &&
           (count = read(from_child[0], line + length, sizeof line - 1 - length)) > 0)
        length += count;
    close(from_child[0]);
    close(to_child[0]);
    close(to_child[1]);
    if (length > 0)
        fail_with(*line, "%s", line + 1);
}
