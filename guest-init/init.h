/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of urunc's init for Linux guests; main.c has the order of things, docs/guests.md what
 * it promises. It is PID 1 of a machine that runs one application: whatever fails ends the machine,
 * with a message on its console and through the channel. Before the application starts nobody else
 * runs, so nothing here is raced.
 */
#ifndef INIT_H
#define INIT_H

#include <stdbool.h>
#include <sys/types.h>

#define FAILED 126    /* the exit code where the application could not be started */
#define NOT_FOUND 127 /* where it was not found */

/* Directories of the initramfs, hidden once the application's root is mounted above them. */
#define PRIVATE "/urunc"
#define ROOT PRIVATE "/root"
#define SHARE PRIVATE "/share"
#define LAYER PRIVATE "/layer"
#define VOLUMES PRIVATE "/volumes"
#define FILES PRIVATE "/files"
#define GROUPS PRIVATE "/groups"
#define CONTAINER "container" /* the application's group there */
#define DESCRIPTOR "/proc/self/fd/%d"

/* messages.c */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* With an exit code of its own. */
_Noreturn void fail_with(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What a failure ends by, from here on; it does not return. */
void end_failures_by(void (*ending)(int code, const char *line));
char *text(const char *format, ...) __attribute__((format(printf, 1, 2))); /* never freed */
char *copy_of(const char *word);                                           /* nor is this */
void *allocate(size_t size);

/* kernel.c: what the kernel has, and is to load */
void look_at_kernel(void); /* /dev, /proc and /sys for init alone */
void open_console(void);   /* as the standard streams */
void load_modules(void);   /* /modules/order */
char *kernel_word(const char *name);
#define WAIT_S 5 /* for a device: a driver may look for it in the background */
long seconds_now(void);
bool pause_before(long end);       /* a moment; false once it is late */
void wait_for(const char *device); /* until there is a node of that name */
void write_setting(const char *path, const char *value);

/* config.c: the configuration disk */
struct record {
    const char *key;
    char **fields;
    int count;
    struct record *next;
};
void read_configuration(const char *path); /* in place of what was read before */
const struct record *first(const char *key);
const struct record *following(const struct record *record);
const char *field(const struct record *record, int number); /* "" where there is none */
const char *setting(const char *key); /* of the last record; NULL where there is none */
unsigned long long number(const char *word, int base, const char *what);

/* paths.c: paths in the application's root */
enum kind { DIRECTORY, FILE_ };
extern int root;                                    /* O_PATH */
int find(int top, const char *path);                /* an O_PATH descriptor, or -1 */
int find_source(int top, const char *path);         /* of what is to be bound elsewhere */
int find_or_make(const char *path, enum kind kind); /* with its parents */

/* options.c */
struct options {
    unsigned long flags; /* MS_ */
    char *data;          /* what the file system is to read */
    bool copy_up;        /* tmpfs: with what was in the directory */
    bool unbindable;     /* mount_namespaces(7) */
};
struct options parse_options(const char *words);

/* attach.c */
void mount_at(const char *source, int target, const char *path, const char *type,
              unsigned long flags, const char *data); /* PATH: for the message */
void restrict_mount(const char *path, unsigned long flags); /* the one that is on top there */

/* held.c */
void hold(int fd); /* a file system on a disk, by an O_PATH descriptor */
void settle_disks(void); /* makes them read-only */

/* mounts.c */
void mount_kernel_filesystems(void);
void mount_process_filesystem(void);
void mount_groups(void);
void mount_volumes(void);
void write_files(void);
void renew_files(void); /* with what the configuration says by now */
void make_working_directory(void);
void hide_paths(void);

/* tmpfs.c */
void mount_tmpfs(const char *path, const struct options *options);

/* root.c */
void build_root(void);
extern bool root_stays_readonly; /* where it is, but for mount points that had to be made */

/* archive.c */
/* To LAYER/upper and VOLUMES, which are on the layer's disk if it has one. */
void unpack(const char *device, bool layer_is_a_disk);

/* returned.c */
void hold_returned(void);
void give_back(void);
void look_at_returned(void);
int returned_to_poll(void);
int returned_rest_ms(void); /* until it is to be looked at all the same, -1 for never */

/* network.c */
void set_up_network(void);
void leave_network(void); /* addresses and routes are no more */
void renew_network(void); /* by another configuration of the same devices */

/* transport.c */
int open_transport(const struct record *record); /* `virtio PORT` or `vsock PORT` */

/* channel.c */
void open_channel(void);
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
void finish_channel(void);    /* a connection: until the host has read all, and closed it */
int channel_to_poll(void);    /* -1 where there is nothing to hear from */
bool hear(pid_t application); /* false where nobody listens now */
bool is_end_asked(void);      /* by the host */

/* streams.c */
#define TERMINAL "/dev/pts/0"
struct winsize;
void open_streams(void);
void open_terminal(void); /* once there is a /dev/pts */
bool resize_terminal(const struct winsize *size); /* false where it is not ours */
bool terminal_is_ours(void);
int stream_to_give(int number); /* the application's end; -1 where the stream is no pipe */
void close_given_streams(void);
int streams_to_poll(void); /* -1 where there is nothing to pass on */
void relay_streams(void);
void close_stream(int number); /* nobody reads it at the host any more */
/* Once nobody is left who could write; in a hurry, or by what comes through the channel, not to the
 * end. */
void finish_streams(bool hurry, int channel);

/* groups.c */
void make_group(void);
bool has_group(void); /* the kernel may have none */
void join_group(void);
bool freeze_group(bool still); /* false where there is none that can be frozen */
void limit_processes(const char *limit);

/* memory.c */
void watch_memory(void);
int memory_to_poll(void); /* -1 where the kernel has no log */
void look_at_memory(void); /* tells the host where a process was killed for want of it */

/* application.c */
pid_t prepare_application(void); /* forks what waits to become the application */
void start_application(void);
void signal_application(pid_t application, int signal);
int ending_signal(int signal); /* what ended it, where it was killed in another's place */

/* again.c: the guest is saved, and goes on as another container's */
void name_machine(void);
void hold_application(void);
void let_application_go(void);
void go_on_as_another(const char *words); /* SECONDS.NANOSECONDS SEED */

/* credentials.c */
uid_t application_user(void);
void take_credentials(void);

/* end.c */
_Noreturn void end(int code);
void end_by_failure(int code, const char *line); /* which the host is told of */

#endif
