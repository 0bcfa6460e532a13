/* SPDX-License-Identifier: Apache-2.0
 *
 * What the application may do: resource limits, capabilities, user and groups, system calls; in the
 * order in which each still can.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum set { BOUNDING, EFFECTIVE, INHERITABLE, PERMITTED, AMBIENT };

/* By the kernel's numbers: the same on x86_64 and aarch64. */
static const char *const limits[] = {
    "CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
    "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};

static void set_limit(const struct record *record)
{
    const char *name = field(record, 0);
    struct rlimit limit = {.rlim_cur = number(field(record, 1), 10, name),
                           .rlim_max = number(field(record, 2), 10, name)};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        if (strncmp(name, "RLIMIT_", 7) == 0 && strcmp(name + 7, limits[i]) == 0) {
            if (setrlimit(i, &limit) != 0)
                fail("cannot set %s: %m", name);
            return;
        }
    }
    fail("there is no limit %s", name);
}

static void drop_bounding(uint64_t kept)
{
    for (int number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
        if (!(kept >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0)
            fail("cannot drop capability %d: %m", number);
}

/* Capabilities that this kernel has not are left out. */
static uint64_t known(uint64_t set)
{
    int last = 0;

    while (last < 64 && prctl(PR_CAPBSET_READ, last, 0, 0, 0) >= 0)
        last++;
    return last == 64 ? set : set & ((1ULL << last) - 1);
}

static void set_capabilities(const uint64_t *sets)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    for (int half = 0; half < 2; half++)
        data[half] = (struct __user_cap_data_struct){.effective = sets[EFFECTIVE] >> 32 * half,
                                                     .permitted = sets[PERMITTED] >> 32 * half,
                                                     .inheritable = sets[INHERITABLE] >> 32 * half};
    if (syscall(SYS_capset, &header, data) != 0)
        fail("cannot set capabilities: %m");
    for (int number = 0; number < 64; number++)
        if (sets[AMBIENT] >> number & 1 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) != 0)
            fail("cannot make capability %d ambient: %m", number);
}

static void set_groups(void)
{
    char *list = copy_of(setting("groups") ? setting("groups") : ""), *word;
    gid_t *groups = allocate((strlen(list) + 1) * sizeof *groups);
    size_t count = 0;

    while ((word = strsep(&list, ",")) != NULL)
        if (*word)
            groups[count++] = number(word, 10, "groups");
    if (setgroups(count, groups) != 0)
        fail("cannot set the groups: %m");
}

/* Flags, and a program of struct sock_filter in hexadecimal. */
static void install_filter(const struct record *record)
{
    const char *text = field(record, 1);
    size_t length = strlen(text) / 2;
    unsigned char *bytes = allocate(length + 1);
    struct sock_fprog program = {.len = length / sizeof(struct sock_filter),
                                 .filter = (struct sock_filter *)bytes};
    char pair[3] = "";

    for (size_t i = 0; i < length; i++) {
        memcpy(pair, text + 2 * i, 2);
        bytes[i] = number(pair, 16, "seccomp");
    }
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, number(field(record, 0), 10, "seccomp"),
                &program) != 0) {
        if (errno != ENOSYS && errno != EINVAL)
            fail("cannot filter system calls: %m");
        warn("linux.seccomp: this kernel has no such filters");
    }
    free(bytes);
}

static void set_personality(void)
{
    const char *domain = setting("personality");

    if (domain && personality(strcmp(domain, "LINUX32") == 0 ? PER_LINUX32 : PER_LINUX) < 0)
        fail("cannot set the personality %s: %m", domain);
}

static unsigned id(const char *key)
{
    return setting(key) ? number(setting(key), 10, key) : 0;
}

uid_t application_user(void)
{
    return id("uid");
}

void take_credentials(void)
{
    const struct record *capabilities = first("capabilities");
    const struct record *filter = first("seccomp");
    bool kept = setting("no_new_privileges") != NULL;
    uint64_t sets[5] = {0};

    set_personality();
    for (const struct record *record = first("rlimit"); record; record = following(record))
        set_limit(record);
    /* without no_new_privs it takes a capability that is about to go */
    if (filter && !kept)
        install_filter(filter);
    umask(setting("umask") ? number(setting("umask"), 8, "umask") : 022);
    if (capabilities) {
        for (int i = 0; i < 5; i++)
            sets[i] = known(number(field(capabilities, i), 16, "capabilities"));
        drop_bounding(sets[BOUNDING]);
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    }
    set_groups();
    if (setresgid(id("gid"), id("gid"), id("gid")) != 0 ||
        setresuid(id("uid"), id("uid"), id("uid")) != 0)
        fail("cannot become user %u, group %u: %m", id("uid"), id("gid"));
    if (capabilities) {
        prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
        set_capabilities(sets);
    }
    if (kept && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail("cannot set no_new_privs: %m");
    if (filter && kept)
        install_filter(filter);
}
