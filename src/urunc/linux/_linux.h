/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the module share: each has a table of its functions, _linux.c joins them.
 *
 * Each function is one system call (or one call into libseccomp); policy, defaults and retries live in
 * Python. Built against the stable ABI of CPython 3.11, so that one binary serves every later Python.
 * A failure is an OSError with errno and, where there is one, the path.
 */
#ifndef URUNC_LINUX_H
#define URUNC_LINUX_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#pragma GCC visibility push(hidden)

extern PyMethodDef mount_methods[], process_methods[], filter_methods[];

PyObject *result(long rc);                        /* an int; a negative one is errno's error */
PyObject *none_or_error(long rc, PyObject *path); /* PATH may be NULL */

#pragma GCC visibility pop

#endif
