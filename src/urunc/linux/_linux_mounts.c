/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts, and paths below a root that is not trusted.
 */
#define _GNU_SOURCE
#include "_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

#ifndef SYS_statmount
#define SYS_statmount 457
#endif

/* struct mount_attr, as in the kernel's uapi: the C library's headers either lack it or clash with the kernel's. */
struct urunc_mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};

static PyObject *linux_mount(PyObject *self, PyObject *args)
{
    const char *source, *type, *data;
    PyObject *target = NULL;
    unsigned long flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "zO&zkz", &source, PyUnicode_FSConverter, &target, &type, &flags, &data))
        return NULL;
    PyObject *done = none_or_error(mount(source, PyBytes_AsString(target), type, flags, data), target);
    Py_DECREF(target);
    return done;
}

static PyObject *linux_umount2(PyObject *self, PyObject *args)
{
    PyObject *target = NULL;
    int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "O&i", PyUnicode_FSConverter, &target, &flags))
        return NULL;
    PyObject *done = none_or_error(umount2(PyBytes_AsString(target), flags), target);
    Py_DECREF(target);
    return done;
}

static PyObject *linux_open_tree(PyObject *self, PyObject *args)
{
    int dirfd;
    PyObject *path = NULL;
    unsigned int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO&I", &dirfd, PyUnicode_FSConverter, &path, &flags))
        return NULL;
    long fd = syscall(SYS_open_tree, dirfd, PyBytes_AsString(path), flags);
    PyObject *done = fd < 0 ? none_or_error(fd, path) : PyLong_FromLong(fd);
    Py_DECREF(path);
    return done;
}

/* move_mount(tree_fd, target): attach a tree from open_tree() at a path. */
static PyObject *linux_move_mount(PyObject *self, PyObject *args)
{
    int from;
    PyObject *target = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO&", &from, PyUnicode_FSConverter, &target))
        return NULL;
    long rc = syscall(SYS_move_mount, from, "", AT_FDCWD, PyBytes_AsString(target),
                      0x04 /* MOVE_MOUNT_F_EMPTY_PATH */);
    PyObject *done = none_or_error(rc, target);
    Py_DECREF(target);
    return done;
}

/* exchange(one, other): two paths of one file system change places (renameat2(2), RENAME_EXCHANGE). */
static PyObject *linux_exchange(PyObject *self, PyObject *args)
{
    PyObject *one = NULL, *other = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "O&O&", PyUnicode_FSConverter, &one, PyUnicode_FSConverter, &other))
        return NULL;
    long rc = syscall(SYS_renameat2, AT_FDCWD, PyBytes_AsString(one), AT_FDCWD, PyBytes_AsString(other),
                      0x02 /* RENAME_EXCHANGE */);
    PyObject *done = none_or_error(rc, other);
    Py_DECREF(one);
    Py_DECREF(other);
    return done;
}

/* mount_setattr(dirfd, path, at_flags, attr_set, attr_clr, propagation, userns_fd) */
static PyObject *linux_mount_setattr(PyObject *self, PyObject *args)
{
    int dirfd;
    PyObject *path = NULL;
    unsigned int at_flags;
    unsigned long long set, clear, propagation, namespace = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO&IKKK|K", &dirfd, PyUnicode_FSConverter, &path, &at_flags, &set, &clear,
                          &propagation, &namespace))
        return NULL;
    struct urunc_mount_attr attributes = {set, clear, propagation, namespace};
    long rc = syscall(SYS_mount_setattr, dirfd, PyBytes_AsString(path), at_flags, &attributes,
                      sizeof attributes);
    PyObject *done = none_or_error(rc, path);
    Py_DECREF(path);
    return done;
}

static PyObject *linux_pivot_root(PyObject *self, PyObject *args)
{
    const char *new_root, *old_root;
    (void)self;
    if (!PyArg_ParseTuple(args, "ss", &new_root, &old_root))
        return NULL;
    return none_or_error(syscall(SYS_pivot_root, new_root, old_root), NULL);
}

static PyObject *linux_openat2(PyObject *self, PyObject *args)
{
    int dirfd;
    PyObject *path = NULL;
    unsigned long long flags, mode, resolve;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO&KKK", &dirfd, PyUnicode_FSConverter, &path, &flags, &mode, &resolve))
        return NULL;
    struct open_how how;
    memset(&how, 0, sizeof how);
    how.flags = flags | O_CLOEXEC;
    how.mode = mode;
    how.resolve = resolve;
    long fd = syscall(SYS_openat2, dirfd, PyBytes_AsString(path), &how, sizeof how);
    PyObject *done = fd < 0 ? none_or_error(fd, path) : PyLong_FromLong(fd);
    Py_DECREF(path);
    return done;
}

/* statmount(fd, mask) -> what the kernel says of the mount that a descriptor is on, a struct statmount with its
 * strings (statmount(2), Linux 6.8). Mounts are told apart by numbers that are never used again
 * (STATX_MNT_ID_UNIQUE), which kernels before do not have. */
static PyObject *linux_statmount(PyObject *self, PyObject *args)
{
    int fd;
    unsigned long long mask;
    (void)self;
    if (!PyArg_ParseTuple(args, "iK", &fd, &mask))
        return NULL;
    /* struct statx: the mask, and the mount's number (linux/stat.h; the C library's may be older) */
    union {
        uint32_t mask;
        uint64_t words[32];
    } found = {0};
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, 0x4000 /* STATX_MNT_ID_UNIQUE */, &found) != 0)
        return result(-1);
    if (!(found.mask & 0x4000)) {
        errno = ENOSYS;
        return result(-1);
    }
    struct {
        uint32_t size, spare;
        uint64_t mount, parameter;
    } request = {sizeof request, 0, found.words[18], mask};
    long rc = -1;
    errno = EOVERFLOW;
    for (size_t size = 1 << 13; rc != 0 && errno == EOVERFLOW && size <= 1 << 20; size *= 4) {
        char *buffer = calloc(1, size);
        if (!buffer)
            return PyErr_NoMemory();
        rc = syscall(SYS_statmount, &request, buffer, size, 0);
        if (rc == 0) {
            uint32_t length = *(uint32_t *)buffer;
            PyObject *answer = PyBytes_FromStringAndSize(buffer, length <= size ? length : size);
            free(buffer);
            return answer;
        }
        int error = errno;
        free(buffer);
        errno = error;
    }
    return result(-1);
}

/* new_tmpfs(options) -> descriptor of a tmpfs that is mounted nowhere yet (fsopen(2), Linux 5.2); options are
 * (name, value) pairs. */
static PyObject *linux_new_tmpfs(PyObject *self, PyObject *args)
{
    PyObject *options;
    (void)self;
    if (!PyArg_ParseTuple(args, "O", &options))
        return NULL;
    int context = (int)syscall(SYS_fsopen, "tmpfs", 1 /* FSOPEN_CLOEXEC */);
    if (context < 0)
        return result(-1);
    long rc = 0;
    Py_ssize_t count = PySequence_Size(options);
    if (count < 0) {
        close(context);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count && rc == 0; i++) {
        const char *name, *value;
        PyObject *pair = PySequence_GetItem(options, i);
        if (!pair || !PyArg_ParseTuple(pair, "ss", &name, &value)) {
            Py_XDECREF(pair);
            close(context);
            return NULL;
        }
        rc = syscall(SYS_fsconfig, context, 1 /* FSCONFIG_SET_STRING */, name, value, 0);
        Py_DECREF(pair);
    }
    if (rc == 0)
        rc = syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0);
    if (rc == 0)
        rc = syscall(SYS_fsmount, context, 1 /* FSMOUNT_CLOEXEC */, 0);
    int error = errno;
    close(context);
    errno = error;
    return result(rc);
}

PyMethodDef mount_methods[] = {
    {"mount", linux_mount, METH_VARARGS, NULL},
    {"umount2", linux_umount2, METH_VARARGS, NULL},
    {"open_tree", linux_open_tree, METH_VARARGS, NULL},
    {"move_mount", linux_move_mount, METH_VARARGS, NULL},
    {"exchange", linux_exchange, METH_VARARGS, NULL},
    {"mount_setattr", linux_mount_setattr, METH_VARARGS, NULL},
    {"pivot_root", linux_pivot_root, METH_VARARGS, NULL},
    {"openat2", linux_openat2, METH_VARARGS, NULL},
    {"statmount", linux_statmount, METH_VARARGS, NULL},
    {"new_tmpfs", linux_new_tmpfs, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
