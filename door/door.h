/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the door: the program that is installed as `urunc`
 * (docs/decisions/0035-a-door-in-c.md). It does what a container's recipe says, and hands
 * everything else to Python, with the same arguments. It hands over before it has changed anything,
 * or where Python can do the same once more; it decides nothing, and prints nothing but what a
 * recipe has.
 */
#ifndef DOOR_H
#define DOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RECIPE "recipe"         /* lifecycle/recipe.py */
#define FIRST_FIELD "urunc recipe 1"
#define START "start"           /* state.py: the FIFOs between `start` and init */
#define STARTED "started"
#define INIT_NAME "urunc:[init]"
#define NOTE "stopped"          /* lifecycle/exit_reason.py */
#define SAID "URUNC_DOOR_SAID"  /* lifecycle/start.py: what init said in place of starting */
#define NOT_MINE 125            /* shim/door.py: the exit code where the shim's Python has to do it */

/* launcher.c */
char *launcher_path(void);
bool streams_are_open(void); /* all three standard ones, which Python opens where they are not */
_Noreturn void become_python(char **words); /* with these arguments */

/* door.c */
struct call { /* a command line */
    const char *root, *configuration, *verb, *id, *signal;
    bool root_said, force, all;
};
_Noreturn void hand_over(void); /* become Python, or say that it is needed (NOT_MINE) */

/* files.c */
struct bytes {
    char *start;
    size_t length;
};
bool read_whole(int fd, struct bytes *into);                 /* never freed; ends with a NUL */
bool read_file(int directory, const char *path, struct bytes *into);
bool write_all(int fd, const char *start, size_t length);
bool remove_tree(int directory, const char *path); /* whether nothing is left; follows no link */
bool remove_tree_with_last(int directory, const char *path, const char *const *last);

/* recipe.c: what Python wrote when the container was created */
enum status { RUNNING, CREATED, PAUSED, STOPPED };
struct recipe {
    int directory; /* the container's, locked where `open_recipe` was asked to */
    int pid;
    const char *state[3];   /* the state object: before its status, up to its pid, the rest */
    const char *timestamps; /* the file that they go to, "" for none */
    const char *letter;     /* start's, "" where Python has to start it */
    const char *network;    /* what start looks at: "" nothing, `empty`, `same` */
    const char *namespace_identity; /* the network's device and inode; "" for its init's own */
    bool removable;         /* whether Python left what there is to remove */
    const char *oom;        /* the file that counts processes killed for want of memory */
    char *actions;          /* what delete does: fields, up to an empty one */
    struct bytes dump;      /* the network as create found it: netlink messages */
};
/* Hands over where there is none, or where it does not hold any more. */
void open_recipe(struct recipe *recipe, const struct call *call, bool lock);
enum status status_of(const struct recipe *recipe);
int pidfd_of(const struct recipe *recipe); /* of the container's process; -1 where it has ended */
/* Fields that end with a NUL: where they begin, the next one, the next one as a number. Both of
 * these hand over where there is none. */
char *fields_of(const struct bytes *content);
char *next(char **place);
long long number(char **place);
void check_unchanged(int directory, const char *path, const char *known); /* or hands over */

/* ordinary.c */
void become_ordinary(const struct call *call, char **words); /* comes back where that is Python's */

/* network.c */
int open_in_namespace(const char *path, const char *identity); /* a netlink socket; -1: not there */
bool network_is_empty(int socket);                             /* but for loopback devices */
bool network_is_same(int socket, struct bytes known);
enum answer { DONE, REFUSED, SOMETHING };
enum answer ask(int socket, const char *hexadecimal, const char *errors);

/* remove.c */
bool take(char *actions); /* whether all was done */

/* timestamps.c */
void stamp(int number, const char *name); /* remember when */
bool write_stamps(const char *path, const char *id); /* false where the file cannot be opened */

#endif
