/* SPDX-License-Identifier: Apache-2.0
 *
 * One mount in the application's root, which all that mounts there is made of.
 */
#define _GNU_SOURCE
#include "init.h"

#include <sys/mount.h>
#include <unistd.h>

void mount_at(const char *source, int target, const char *path, const char *type,
              unsigned long flags, const char *data)
{
    if (mount(source, text(DESCRIPTOR, target), type, flags, data) != 0)
        fail("cannot mount %s at %s%s%s: %m", type ? type : "what is shared or copied", path,
             data && *data ? ", options " : "", data ? data : "");
}

/* Found anew, since it is covered by what was mounted there last. */
void restrict_mount(const char *path, unsigned long flags)
{
    int target = find(root, path);

    if (target < 0 ||
        mount(NULL, text(DESCRIPTOR, target), NULL, MS_REMOUNT | MS_BIND | flags, NULL) != 0)
        fail("cannot set the options of %s: %m", path);
    close(target);
}
