/* SPDX-License-Identifier: Apache-2.0
 *
 * urunc [OPTION...] start|state|kill|delete ID: as the container's recipe says, where there is one
 * and it holds; all else, to the letter, is Python's. `URUNC_DOOR=off`: everything is.
 * `URUNC_DOOR=only`, by the shim, which has Python running: no other is started, the exit code says
 * that it is needed, and standard output has what init said.
 */
#define _GNU_SOURCE
#include "door.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_ROOT "/run/urunc"
#define ID_LIMIT 255
#define ID_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."

static char **words;
static bool only;
static struct call *understood; /* NULL where the command line was not, or once it is Python's */

void hand_over(void)
{
    const struct call *call = understood;

    understood = NULL;
    if (only)
        _exit(NOT_MINE);
    if (call != NULL)
        become_ordinary(call, words);
    become_python(words);
}

/* A global option. Of those with a value, but two are for what Python alone has: messages. */
static bool take_option(struct call *call, char ***word)
{
    static const char *const names[] = {"--root", "--config", "--log-format", "--log",
                                        "--rootless"};

    if (strcmp(**word, "--systemd-cgroup") == 0)
        return true;
    for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
        size_t length = strlen(names[index]);
        const char *value;

        if (strncmp(**word, names[index], length) != 0 || strchr("=", (**word)[length]) == NULL)
            continue;
        value = (**word)[length] == '=' ? **word + length + 1 : *++*word;
        if (value == NULL)
            return false;
        if (index == 0)
            call->root = value;
        if (index == 1)
            call->configuration = value;
        return index != 2 || strcmp(value, "json") == 0 || strcmp(value, "text") == 0;
    }
    return false;
}

static bool take_word(struct call *call, const char *word)
{
    if (*word == '-') {
        bool *flag = strcmp(call->verb, "delete") == 0 ? &call->force
                     : strcmp(call->verb, "kill") == 0 ? &call->all
                                                       : NULL;
        const char *name = flag == &call->force ? "--force" : "--all";

        if (flag == NULL || (strcmp(word, name) != 0 && strncmp(word, name + 1, 2) != 0) ||
            (word[1] != '-' && word[2] != '\0'))
            return false;
        return *flag = true;
    }
    if (call->id == NULL)
        call->id = word;
    else if (strcmp(call->verb, "kill") == 0 && call->signal == NULL)
        call->signal = word;
    else
        return false;
    return true;
}

/* Whether the command line is one of those that are understood here. */
static bool read_words(struct call *call)
{
    char **word = words + 1;

    for (; *word != NULL && **word == '-'; word++) {
        if (!take_option(call, &word))
            return false;
    }
    if (*word == NULL)
        return false;
    call->verb = *word;
    while (*++word != NULL) {
        if (!take_word(call, *word))
            return false;
    }
    return call->id != NULL && strlen(call->id) <= ID_LIMIT &&
           strspn(call->id, ID_CHARACTERS) == strlen(call->id) && strcmp(call->id, ".") != 0 &&
           strcmp(call->id, "..") != 0 && *call->id != '\0';
}

/* The root as places.py finds it, for those who say none, where it is the usual one. */
static bool find_root(struct call *call)
{
    const char *directory = getenv("XDG_RUNTIME_DIR"), *user = getenv("USER");

    call->root_said = call->root != NULL;
    if (call->root_said)
        return *call->root == '/';
    call->root = DEFAULT_ROOT; /* Python alone looks where a container of another caller's is */
    return geteuid() == 0 && (directory == NULL || *directory == '\0' ||
                              (user != NULL && strcmp(user, "root") == 0));
}

static void look_at_network(const struct recipe *recipe)
{
    char path[32];
    bool same;
    int socket;

    if (*recipe->network == '\0')
        return;
    snprintf(path, sizeof path, "/proc/%d/ns/net", recipe->pid);
    socket = open_in_namespace(path, recipe->namespace_identity);
    if (socket < 0)
        hand_over();
    same = strcmp(recipe->network, "empty") == 0 ? network_is_empty(socket)
                                                 : network_is_same(socket, recipe->dump);
    if (!same)
        hand_over();
    close(socket);
}

static int start(const struct call *call)
{
    struct recipe recipe;
    struct bytes said;
    int answer, go;

    stamp(11, "start invoked");
    open_recipe(&recipe, call, true);
    stamp(12, "state read");
    if (*recipe.timestamps == '\0' && getenv("URUNC_TIMESTAMPS") != NULL)
        hand_over();
    if (*recipe.letter == '\0' || status_of(&recipe) != CREATED)
        hand_over();
    look_at_network(&recipe);
    answer = openat(recipe.directory, STARTED, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    stamp(13, "start sent to init");
    if (answer < 0 || !write_stamps(recipe.timestamps, call->id))
        hand_over();
    /* what is opened is heard: init reads until the end, and there is no other try */
    go = openat(recipe.directory, START, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (go < 0)
        hand_over();
    fcntl(go, F_SETFL, 0);
    fcntl(answer, F_SETFL, 0);
    if (!write_all(go, recipe.letter, strlen(recipe.letter)))
        hand_over();
    close(go);
    if (!read_whole(answer, &said))
        hand_over();
    if (said.length > 0) {
        if (only)
            write_all(1, said.start, said.length);
        else
            setenv(SAID, said.start, 1);
        hand_over();
    }
    return 0;
}

static int state(const struct call *call)
{
    static const char *const names[] = {"running", "created", "paused", "stopped"};
    struct recipe recipe;
    enum status status;
    char *text;
    int length;

    open_recipe(&recipe, call, false);
    status = status_of(&recipe);
    length = asprintf(&text, "%s%s%s%d%s\n", recipe.state[0], names[status], recipe.state[1],
                      status == STOPPED ? 0 : recipe.pid, recipe.state[2]);
    if (length < 0)
        hand_over();
    if (write_all(1, text, length))
        return 0;
    if (errno != EPIPE) /* whoever does not read any more wants no message */
        hand_over();
    return 1;
}

static int end(const struct call *call)
{
    struct recipe recipe;
    enum status status;
    int pidfd;

    if (call->signal == NULL ||
        (strcmp(call->signal, "9") != 0 && strcmp(call->signal, "KILL") != 0 &&
         strcmp(call->signal, "SIGKILL") != 0))
        hand_over();
    open_recipe(&recipe, call, false);
    status = status_of(&recipe);
    if (status == STOPPED && call->all)
        return 0;
    if ((status != CREATED && status != RUNNING) ||
        faccessat(recipe.directory, NOTE, F_OK, 0) == 0)
        hand_over();
    pidfd = pidfd_of(&recipe);
    if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) != 0)
        hand_over();
    return 0;
}

static bool ran_out_of_memory(const char *path)
{
    struct bytes text;
    const char *count;

    if (*path == '\0' || !read_file(AT_FDCWD, path, &text))
        return false;
    count = strstr(text.start, "oom_kill ");
    return count != NULL && strncmp(count, "oom_kill 0\n", 11) != 0;
}

static bool is_missing(const char *path)
{
    return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
}

static int delete(const struct call *call)
{
    static const char *const last[] = {"container.json", "journal", NULL}; /* as directory.py has it */
    struct recipe recipe;
    char *path;

    if (asprintf(&path, "%s/%s", call->root, call->id) < 0)
        hand_over();
    if (call->force && call->root_said && is_missing(path))
        return 0; /* runc's shim asks so after each container */
    open_recipe(&recipe, call, true);
    if (!recipe.removable || status_of(&recipe) != STOPPED || ran_out_of_memory(recipe.oom) ||
        !take(recipe.actions) || !remove_tree_with_last(AT_FDCWD, path, last))
        hand_over();
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct call *call);
    } verbs[] = {{"start", start}, {"state", state}, {"kill", end}, {"delete", delete}};
    static struct call call = {.configuration = ""};
    const char *door = getenv("URUNC_DOOR");

    words = argv;
    if (argc < 1)
        return 1;
    unsetenv(SAID); /* only what is said below counts */
    only = door != NULL && strcmp(door, "only") == 0;
    if ((door != NULL && strcmp(door, "off") == 0) || !read_words(&call) || !find_root(&call))
        hand_over();
    if (!streams_are_open())
        hand_over();
    understood = &call;
    signal(SIGPIPE, SIG_IGN);
    for (size_t index = 0; index < sizeof verbs / sizeof *verbs; index++) {
        if (strcmp(call.verb, verbs[index].name) == 0)
            return verbs[index].run(&call);
    }
    understood = NULL;
    hand_over();
}
