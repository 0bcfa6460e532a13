/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process is and may do: its namespaces, limits, capabilities, scheduling, signals.
 */
#define _GNU_SOURCE
#include "_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MASK_BYTES 128 /* of NUMA nodes: 1,024, as many as a kernel can be built for */

/* struct clone_args (its third version, 88 bytes), as in the kernel's uapi: the C library's headers either lack it or
 * clash with the kernel's. */
struct urunc_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* struct sched_attr, its first version (sched_setattr(2)) */
struct urunc_sched_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* clone3(flags, cgroup_fd) -> pid, 0 in the child; a descriptor of -1: stay in the caller's groups. The caller must be
 * single-threaded. A sibling (CLONE_PARENT) ends with its parent's own signal. */
static PyObject *linux_clone3(PyObject *self, PyObject *args)
{
    unsigned long long flags;
    int cgroup;
    (void)self;
    if (!PyArg_ParseTuple(args, "Ki", &flags, &cgroup))
        return NULL;
    struct urunc_clone_args arguments;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = flags;
    arguments.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
    if (cgroup >= 0) {
        arguments.flags |= 0x200000000ULL; /* CLONE_INTO_CGROUP, Linux 5.7 */
        arguments.cgroup = (uint64_t)cgroup;
    }
    PyOS_BeforeFork();
    long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    int error = errno;
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    errno = error;
    return result(pid);
}

static PyObject *linux_setns(PyObject *self, PyObject *args)
{
    int fd, type;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii", &fd, &type))
        return NULL;
    return none_or_error(setns(fd, type), NULL);
}

static PyObject *linux_unshare(PyObject *self, PyObject *args)
{
    int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &flags))
        return NULL;
    return none_or_error(unshare(flags), NULL);
}

static PyObject *linux_prctl(PyObject *self, PyObject *args)
{
    int option;
    unsigned long a2 = 0, a3 = 0, a4 = 0, a5 = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "i|kkkk", &option, &a2, &a3, &a4, &a5))
        return NULL;
    return result(prctl(option, a2, a3, a4, a5));
}

static PyObject *linux_madvise(PyObject *self, PyObject *args)
{
    unsigned long address, length;
    int advice;
    (void)self;
    if (!PyArg_ParseTuple(args, "kki", &address, &length, &advice))
        return NULL;
    return result(madvise((void *)address, length, advice));
}

static PyObject *linux_set_name(PyObject *self, PyObject *args)
{
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    return none_or_error(prctl(PR_SET_NAME, name), NULL);
}

/* capset(mask): effective, permitted and inheritable all become this 64-bit mask. */
static PyObject *linux_capset(PyObject *self, PyObject *args)
{
    unsigned long long mask;
    (void)self;
    if (!PyArg_ParseTuple(args, "K", &mask))
        return NULL;
    struct {
        uint32_t version;
        int pid;
    } header = {0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */, 0};
    struct {
        uint32_t effective, permitted, inheritable;
    } data[2];
    for (int half = 0; half < 2; half++)
        data[half].effective = data[half].permitted = data[half].inheritable =
            (uint32_t)(mask >> (32 * half));
    return none_or_error(syscall(SYS_capset, &header, data), NULL);
}

/* drop_bounding(): an empty bounding set, up to the kernel's last capability (EINVAL) or the first that may not be
 * dropped. */
static PyObject *linux_drop_bounding(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    for (unsigned long capability = 0; capability < 64; capability++) {
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0)
            break;
    }
    Py_RETURN_NONE;
}

static PyObject *linux_sethostname(PyObject *self, PyObject *args)
{
    const char *name;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "s#", &name, &length))
        return NULL;
    return none_or_error(sethostname(name, (size_t)length), NULL);
}

static PyObject *linux_setdomainname(PyObject *self, PyObject *args)
{
    const char *name;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "s#", &name, &length))
        return NULL;
    return none_or_error(setdomainname(name, (size_t)length), NULL);
}

static PyObject *linux_close_range(PyObject *self, PyObject *args)
{
    unsigned int first, last, flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "III", &first, &last, &flags))
        return NULL;
    return none_or_error(syscall(SYS_close_range, first, last, flags), NULL);
}

/* tee(from, to, length): from pipe to pipe, which stays in the first one; how much it was. */
static PyObject *linux_tee(PyObject *self, PyObject *args)
{
    int from, to;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "iin", &from, &to, &length))
        return NULL;
    ssize_t size = tee(from, to, (size_t)length, SPLICE_F_NONBLOCK);
    return size < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromSsize_t(size);
}

/* setrlimit(pid, resource, soft, hard); pid 0 is the caller. */
static PyObject *linux_setrlimit(PyObject *self, PyObject *args)
{
    int pid, resource;
    unsigned long long soft, hard;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiKK", &pid, &resource, &soft, &hard))
        return NULL;
    uint64_t limit[2] = {soft, hard}; /* struct rlimit64 */
    return none_or_error(syscall(SYS_prlimit64, pid, resource, limit, NULL), NULL);
}

/* sched_setattr(pid, policy, flags, nice, priority, runtime, deadline, period); times in nanoseconds. */
static PyObject *linux_sched_setattr(PyObject *self, PyObject *args)
{
    int pid, nice;
    unsigned int policy, priority;
    unsigned long long flags, runtime, deadline, period;
    (void)self;
    if (!PyArg_ParseTuple(args, "iIKiIKKK", &pid, &policy, &flags, &nice, &priority, &runtime, &deadline, &period))
        return NULL;
    struct urunc_sched_attr attributes = {sizeof attributes, policy, flags, nice, priority, runtime, deadline, period};
    return none_or_error(syscall(SYS_sched_setattr, pid, &attributes, 0), NULL);
}

/* set_mempolicy(mode, nodes): of the calling thread, kept by execve; `nodes` are a mask's bytes in the machine's order, of
 * a length that a long divides. */
static PyObject *linux_set_mempolicy(PyObject *self, PyObject *args)
{
    int mode;
    const char *nodes;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy#", &mode, &nodes, &length))
        return NULL;
    unsigned long mask[MASK_BYTES / sizeof(long)];
    if (length > MASK_BYTES) {
        errno = EINVAL;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    memset(mask, 0, sizeof mask);
    memcpy(mask, nodes, length);
    /* the kernel reads one bit less than it is told of (mm/mempolicy.c, get_nodes) */
    return none_or_error(syscall(SYS_set_mempolicy, mode, length ? mask : NULL, length ? length * 8 + 1 : 0), NULL);
}

/* ioprio_set(pid, value): the class in the bits from 13 on, the level below (ioprio_set(2)). */
static PyObject *linux_ioprio_set(PyObject *self, PyObject *args)
{
    int pid, value;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii", &pid, &value))
        return NULL;
    return none_or_error(syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, pid, value), NULL);
}

/* join_session_keyring(name): a new session keyring, so that the container sees none of the caller's keys. */
static PyObject *linux_join_session_keyring(PyObject *self, PyObject *args)
{
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    return none_or_error(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, name), NULL);
}

/* default_signals(): every disposition default, nothing blocked. CPython ignores SIGPIPE and SIGXFSZ, and
 * what is ignored or blocked stays so across execve (signal(7)). */
static PyObject *linux_default_signals(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL); /* SIGKILL, SIGSTOP and libc's own two refuse: nothing to reset */
    sigset_t empty;
    sigemptyset(&empty);
    return none_or_error(sigprocmask(SIG_SETMASK, &empty, NULL), NULL);
}

PyMethodDef process_methods[] = {
    {"clone3", linux_clone3, METH_VARARGS, NULL},
    {"setns", linux_setns, METH_VARARGS, NULL},
    {"unshare", linux_unshare, METH_VARARGS, NULL},
    {"prctl", linux_prctl, METH_VARARGS, NULL},
    {"madvise", linux_madvise, METH_VARARGS, NULL},
    {"set_name", linux_set_name, METH_VARARGS, NULL},
    {"capset", linux_capset, METH_VARARGS, NULL},
    {"drop_bounding", linux_drop_bounding, METH_NOARGS, NULL},
    {"sethostname", linux_sethostname, METH_VARARGS, NULL},
    {"setdomainname", linux_setdomainname, METH_VARARGS, NULL},
    {"close_range", linux_close_range, METH_VARARGS, NULL},
    {"tee", linux_tee, METH_VARARGS, NULL},
    {"setrlimit", linux_setrlimit, METH_VARARGS, NULL},
    {"sched_setattr", linux_sched_setattr, METH_VARARGS, NULL},
    {"set_mempolicy", linux_set_mempolicy, METH_VARARGS, NULL},
    {"ioprio_set", linux_ioprio_set, METH_VARARGS, NULL},
    {"join_session_keyring", linux_join_session_keyring, METH_VARARGS, NULL},
    {"default_signals", linux_default_signals, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
