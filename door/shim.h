/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the program that is installed as `containerd-shim-urunc-v2`: containerd's `start`
 * and `delete` where they are as ever. Everything else is Python's (src/urunc/shim/command.py),
 * which says what each part has to come to: nothing here goes on with what it does not know.
 */
#ifndef SHIM_H
#define SHIM_H

#include "door.h"

/* annotations.c: the id by which containers share a shim, from config.json's text: an annotation's,
 * "" where there is none. False where the text is not as plain as engines write it. */
bool find_group(struct bytes config, const char **group);

/* bootstrap.c: what containerd sends on standard input, and what it is answered */
struct parameters {
    bool given; /* BootstrapParams, from containerd 2.3 on */
    const char *version, *events, *address, *directory; /* "" where it does not say */
};
bool read_parameters(struct bytes data, const char *id, const char *name_space,
                     struct parameters *into);
bool answer(const struct parameters *parameters, const char *address, struct bytes *into);

/* sha256.c: FIPS 180-4, as 64 digits and a NUL */
void sha256(const char *start, size_t length, char digits[65]);

#endif
