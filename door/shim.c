/* SPDX-License-Identifier: Apache-2.0
 *
 * containerd-shim-urunc-v2 [-OPTION VALUE...] ACTION: what containerd runs to have a shim, to clean
 * up after one that has died, and to ask what it is. `start` finds the shim of a group, or becomes
 * a new one and answers; `delete` has its answer in the bundle most often (ENDED). All else, and
 * what is not as engines do it, is Python's with the very same arguments: `URUNC_DOOR=off` has all
 * of it.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKETS "/run/containerd/s"
#define ENDED "urunc-ended" /* shim/__init__.py */
#define ADDRESS "address"
#define SCHEME "unix://"
#define PATH_LIMIT 106
#define BACKLOG 128
#define HIGHEST_SCORE 1000

static char **words;

void hand_over(void)
{
    become_python(words);
}

struct options {
    const char *name_space, *address, *id, *bundle, *action;
};

/* One option; its value is the next word or behind a `=`, and there is one or two dashes. */
static bool take_option(struct options *options, char ***word)
{
    const struct {
        const char *name;
        const char **value;
    } known[] = {{"namespace", &options->name_space}, {"address", &options->address},
                 {"id", &options->id}, {"bundle", &options->bundle}, {"publish-binary", NULL},
                 {"socket", NULL}};
    const char *name = **word + 1 + ((**word)[1] == '-');

    if (strcmp(name, "debug") == 0)
        return true;
    for (size_t index = 0; index < sizeof known / sizeof *known; index++) {
        size_t length = strlen(known[index].name);
        const char *value;

        if (strncmp(name, known[index].name, length) != 0 || strchr("=", name[length]) == NULL)
            continue;
        value = name[length] == '=' ? name + length + 1 : *++*word;
        if (value == NULL)
            return false;
        if (known[index].value != NULL)
            *known[index].value = value;
        return true;
    }
    return false;
}

static bool read_words(struct options *options)
{
    char **word = words + 1;

    for (; *word != NULL && **word == '-'; word++) {
        if (!take_option(options, &word))
            return false;
    }
    options->action = *word;
    return *word != NULL && word[1] == NULL && *options->name_space != '\0' &&
           *options->id != '\0';
}

/* The answer that the shim has left, as octal escapes; only where its socket has gone, too. */
static bool delete(const char *bundle)
{
    struct bytes address, text;
    char *from, *to;
    int directory = open(bundle, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (directory < 0 || !read_file(directory, ENDED, &text) ||
        !read_file(directory, ADDRESS, &address) ||
        strncmp(address.start, SCHEME "/", strlen(SCHEME "/")) != 0 ||
        access(address.start + strlen(SCHEME), F_OK) == 0 || errno != ENOENT)
        return false;
    for (from = to = text.start; *from == '\\'; from += 5) {
        char digits[4] = "";

        if (from[1] != '0' || strspn(strncpy(digits, from + 2, 3), "01234567") != 3)
            return false;
        *to++ = strtol(digits, NULL, 8);
    }
    return strcmp(from, "\n") == 0 && write_all(1, text.start, to - text.start);
}

static bool make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        int done;

        if (slash != NULL)
            *slash = '\0';
        done = mkdir(path, 0700);
        if (slash != NULL)
            *slash = '/';
        if (done != 0 && errno != EEXIST)
            return false;
        if (slash == NULL)
            return true;
    }
}

/* 1: a shim listens there; 0: nobody; -1: it cannot be said. */
static int is_answered(const struct sockaddr_un *name)
{
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), found;

    if (probe < 0)
        return -1;
    found = connect(probe, (const struct sockaddr *)name, sizeof *name) == 0;
    close(probe);
    return found;
}

/* A socket that listens (shim/command.py, `_listen`), which stays open over execve; -1 where a shim
 * listens there already. Hands over where it cannot be made. */
static int listen_at(char *directory, const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int lock, listener = -1, answered;
    mode_t before;

    strncpy(name.sun_path, path, sizeof name.sun_path - 1);
    if (!make_directories(directory))
        hand_over();
    lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) != 0)
        hand_over();
    answered = is_answered(&name);
    if (answered < 0)
        hand_over();
    if (answered == 0) {
        unlink(path); /* nobody listens there any more */
        before = umask(0177);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&name, sizeof name) != 0 ||
            listen(listener, BACKLOG) != 0) {
            if (listener >= 0)
                close(listener);
            close(lock);
            umask(before);
            hand_over();
        }
        umask(before);
    }
    close(lock);
    return listener;
}

/* Let go of containerd's pipes, or it waits; what is said from here on goes to its log. All three streams
   are open (main). */
static void drop_streams(void)
{
    int null = open("/dev/null", O_RDWR), log = open("log", O_RDWR | O_NONBLOCK);

    if (null < 0) {
        dprintf(2, "containerd-shim-urunc-v2: /dev/null: %s\n", strerror(errno));
        _exit(1);
    }
    dup2(null, 0);
    dup2(null, 1);
    if (log >= 0) {
        dup2(log, 2);
        close(log);
    } else {
        dup2(null, 2);
    }
    close(null);
}

/* A little above its parent's, so that containerd is not the one to be killed for a container. */
static int score(void)
{
    struct bytes text;
    char path[48];
    int found;

    snprintf(path, sizeof path, "/proc/%d/oom_score_adj", getppid());
    if (!read_file(AT_FDCWD, path, &text))
        return 0;
    found = atoi(text.start) + 1;
    return found < HIGHEST_SCORE ? found : HIGHEST_SCORE;
}

/* Python goes on from here: shim/command.py, `serve`. */
_Noreturn static void serve(const struct options *options, int listener, const char *path,
                            const char *events, int adjust)
{
    char number[16], adjustment[16];
    char *longer[] = {launcher_path(), "-namespace", (char *)options->name_space, "-id",
                      (char *)options->id, "-listener", number, "-path", (char *)path,
                      "-events", (char *)events, "-adjust", adjustment, "serve", NULL};

    drop_streams();
    snprintf(number, sizeof number, "%d", listener);
    snprintf(adjustment, sizeof adjustment, "%d", adjust);
    if (chdir("/") == 0) /* the bundle goes before the shim does */
        setpgid(0, 0);
    become_python(longer);
}

static void say(const char *address, struct bytes answer)
{
    int fd = open(ADDRESS, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || !write_all(fd, address, strlen(address)) ||
        !write_all(1, answer.start, answer.length)) {
        dprintf(2, "containerd-shim-urunc-v2: %s\n", strerror(errno));
        _exit(1);
    }
}

/* What was read of standard input, for Python to read once more. Without it Python would answer as an
   older containerd has it. */
static void put_back(struct bytes data)
{
    int fd;

    if (data.length == 0)
        return;
    fd = memfd_create("input", MFD_CLOEXEC);
    close(0); /* and not dup2(2): gcc 16 takes a standard input that stays open for a leak */
    if (fd < 0 || !write_all(fd, data.start, data.length) || lseek(fd, 0, SEEK_SET) != 0 ||
        fcntl(fd, F_DUPFD, 0) != 0) {
        dprintf(2, "containerd-shim-urunc-v2: standard input: %s\n", strerror(errno));
        _exit(1);
    }
    close(fd);
}

static bool start(const struct options *options)
{
    struct parameters parameters;
    struct bytes config, data = {"", 0}, said;
    const char *group, *events = getenv("TTRPC_ADDRESS"), *grpc;
    char *identity, *path, *directory, *address, digits[65];
    int listener, adjust;

    if (access(launcher_path(), X_OK) != 0 || !read_file(AT_FDCWD, "config.json", &config) ||
        !find_group(config, &group))
        return false;
    if (!isatty(0) && !read_whole(0, &data))
        return false;
    put_back(data);
    if (!read_parameters(data, options->id, options->name_space, &parameters))
        return false;
    grpc = *parameters.address != '\0' ? parameters.address : options->address;
    if (*parameters.events != '\0' || events == NULL)
        events = parameters.events;
    if (asprintf(&identity, "%s/%s/%s", grpc, options->name_space,
                 *group != '\0' ? group : options->id) < 0 ||
        asprintf(&directory, "%s", *parameters.directory != '\0' ? parameters.directory : SOCKETS) < 0)
        return false;
    sha256(identity, strlen(identity), digits);
    if (*directory != '/' || asprintf(&path, "%s/%s", directory, digits) < 0 ||
        strlen(path) > PATH_LIMIT || asprintf(&address, SCHEME "%s", path) < 0 ||
        !answer(&parameters, address, &said))
        return false;
    listener = listen_at(directory, path);
    adjust = score();
    if (listener >= 0) {
        pid_t pid = fork();

        if (pid == 0)
            serve(options, listener, path, events, adjust);
        close(listener);
        if (pid < 0) {
            unlink(path);
            return false;
        }
    }
    say(address, said);
    return true;
}

int main(int argc, char **argv)
{
    const char *door = getenv("URUNC_DOOR");
    struct options options = {"", "", "", ".", ""};

    words = argv;
    if (argc < 1)
        return 1;
    unsetenv(SAID); /* it is between the door and a worker of the shim's */
    if ((door != NULL && strcmp(door, "off") == 0) || !read_words(&options))
        hand_over();
    if (!streams_are_open())
        hand_over();
    if ((strcmp(options.action, "start") == 0 && start(&options)) ||
        (strcmp(options.action, "delete") == 0 && delete(options.bundle)))
        return 0;
    hand_over();
}
