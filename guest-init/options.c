/* SPDX-License-Identifier: Apache-2.0
 *
 * mount(8)'s words: flags for those that it knows, the rest is the file system's to read.
 */
#define _GNU_SOURCE
#include "init.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256 /* Linux 5.10 */
#endif
#define MS_LAZYTIME_ (1 << 25) /* which glibc has and musl has not */

static const struct {
    const char *name;
    unsigned long set, clear;
} words[] = {
    {"defaults", 0, 0},
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"nosymfollow", MS_NOSYMFOLLOW, 0},
    {"symfollow", 0, MS_NOSYMFOLLOW},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
    {"noatime", MS_NOATIME, 0},
    {"atime", 0, MS_NOATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"relatime", MS_RELATIME, 0},
    {"norelatime", 0, MS_RELATIME},
    {"strictatime", MS_STRICTATIME, 0},
    {"nostrictatime", 0, MS_STRICTATIME},
    {"lazytime", MS_LAZYTIME_, 0},
    {"nolazytime", 0, MS_LAZYTIME_},
    {"silent", MS_SILENT, 0},
    {"loud", 0, MS_SILENT},
    /* of the host's mount; here there is one namespace, and all is bound as a whole */
    {"bind", 0, 0},
    {"rbind", 0, 0},
    {"private", 0, 0},
    {"rprivate", 0, 0},
    {"shared", 0, 0},
    {"rshared", 0, 0},
    {"slave", 0, 0},
    {"rslave", 0, 0},
};

static bool is_flag(const char *word, unsigned long *flags)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(word, words[i].name) == 0) {
            *flags = (*flags & ~words[i].clear) | words[i].set;
            return true;
        }
    }
    return false;
}

struct options parse_options(const char *list)
{
    struct options found = {.data = ""};
    char *rest = copy_of(list), *word;

    while ((word = strsep(&rest, ",")) != NULL) {
        if (*word == '\0' || is_flag(word, &found.flags))
            continue;
        if (strcmp(word, "tmpcopyup") == 0)
            found.copy_up = true;
        else if (strcmp(word, "unbindable") == 0)
            found.unbindable = true;
        else
            found.data = text("%s%s%s", found.data, *found.data ? "," : "", word);
    }
    return found;
}
