/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls that Python's standard library lacks, and nothing else.
 *
 * Each function is one system call (or one call into libseccomp); policy, defaults and retries live in
 * Python. Built against the stable ABI of CPython 3.11, so that one binary serves every later Python.
 * A failure is an OSError with errno and, where there is one, the path.
 */
#define _GNU_SOURCE
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#define MASK_BYTES 128 /* of NUMA nodes: 1,024, as many as a kernel can be built for */

#ifndef SYS_statmount
#define SYS_statmount 457
#endif

/* struct mount_attr and struct clone_args (its third version, 88 bytes), as in the kernel's uapi: the C library's headers
 * either lack them or clash with the kernel's. */
struct urunc_mount_attr {
    uint64_t attr_set, attr_clr, propagation, userns_fd;
};

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

static PyObject *result(long rc)
{
    if (rc < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(rc);
}

static PyObject *none_or_error(long rc, PyObject *path)
{
    if (rc < 0)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    Py_RETURN_NONE;
}

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

/* load_device_program(instructions) -> descriptor of a BPF_PROG_TYPE_CGROUP_DEVICE program. */
static PyObject *linux_load_device_program(PyObject *self, PyObject *args)
{
    const char *code;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "y#", &code, &length))
        return NULL;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attributes.insn_cnt = (uint32_t)((size_t)length / sizeof(struct bpf_insn));
    attributes.insns = (uint64_t)(uintptr_t)code;
    attributes.license = (uint64_t)(uintptr_t) "Apache-2.0";
    return result(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
}

/* attach_device_program(group, program): descriptors of a control group's directory and of a loaded program. */
static PyObject *linux_attach_device_program(PyObject *self, PyObject *args)
{
    int group, program;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii", &group, &program))
        return NULL;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.target_fd = (uint32_t)group;
    attributes.attach_bpf_fd = (uint32_t)program;
    attributes.attach_type = BPF_CGROUP_DEVICE;
    attributes.attach_flags = BPF_F_ALLOW_MULTI;
    return none_or_error(syscall(SYS_bpf, BPF_PROG_ATTACH, &attributes, sizeof attributes), NULL);
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

/* set_seccomp(filter, flags): install a classic BPF program for this thread; needs no_new_privs or CAP_SYS_ADMIN. */
static PyObject *linux_set_seccomp(PyObject *self, PyObject *args)
{
    const char *filter;
    Py_ssize_t length;
    (void)self;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "y#I", &filter, &length, &flags))
        return NULL;
    struct sock_fprog program = {(unsigned short)((size_t)length / sizeof(struct sock_filter)),
                                 (struct sock_filter *)(uintptr_t)filter};
    return none_or_error(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), NULL);
}

/* compile_seccomp(default_action, rules, architectures) -> bytes of struct sock_filter. A rule is (name, action,
 * conditions), a condition (argument, comparison, value, second value) with libseccomp's numbers.
 *
 * libseccomp knows every architecture's system call numbers; it is loaded here and not linked, so that only
 * the containers that need a filter of ours pay for it. A name that this architecture does not have is
 * skipped. ImportError where the library is missing. */
struct urunc_condition { /* struct scmp_arg_cmp */
    unsigned int argument;
    int operator;
    uint64_t value, second;
};

typedef int (*urunc_add_rule)(void *, uint32_t, int, unsigned int, const struct urunc_condition *);

static int add_rule(void *context, PyObject *rule, int (*resolve)(const char *), urunc_add_rule add)
{
    const char *name;
    unsigned int action;
    PyObject *conditions;
    struct urunc_condition given[6];
    if (!PyArg_ParseTuple(rule, "sIO", &name, &action, &conditions))
        return -1;
    Py_ssize_t count = PySequence_Size(conditions);
    if (count < 0 || count > 6) {
        PyErr_SetString(PyExc_ValueError, "a system call has six arguments");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long value, second;
        PyObject *item = PySequence_GetItem(conditions, i);
        int parsed = item && PyArg_ParseTuple(item, "IiKK", &given[i].argument, &given[i].operator, &value, &second);
        Py_XDECREF(item);
        if (!parsed)
            return -1;
        given[i].value = value;
        given[i].second = second;
    }
    int number = resolve(name);
    if (number == -1 /* __NR_SCMP_ERROR; below are calls that another architecture has */)
        return 0;
    int rc = add(context, action, number, (unsigned int)count, given);
    if (rc < 0) {
        errno = -rc;
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
        return -1;
    }
    return 0;
}

static PyObject *linux_compile_seccomp(PyObject *self, PyObject *args)
{
    unsigned int default_action;
    PyObject *rules, *architectures;
    (void)self;
    if (!PyArg_ParseTuple(args, "IOO", &default_action, &rules, &architectures))
        return NULL;
    void *library = dlopen("libseccomp.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return PyErr_Format(PyExc_ImportError, "%s", dlerror());
    void *(*init)(uint32_t) = (void *(*)(uint32_t))dlsym(library, "seccomp_init");
    void (*release)(void *) = (void (*)(void *))dlsym(library, "seccomp_release");
    int (*resolve)(const char *) = (int (*)(const char *))dlsym(library, "seccomp_syscall_resolve_name");
    urunc_add_rule add = (urunc_add_rule)dlsym(library, "seccomp_rule_add_array");
    int (*export)(void *, int) = (int (*)(void *, int))dlsym(library, "seccomp_export_bpf");
    int (*add_architecture)(void *, uint32_t) = (int (*)(void *, uint32_t))dlsym(library, "seccomp_arch_add");
    if (!init || !release || !resolve || !add || !export || !add_architecture)
        return PyErr_Format(PyExc_ImportError, "libseccomp.so.2 lacks a function that urunc needs");

    PyObject *program = NULL;
    int fd = -1;
    void *context = init(default_action);
    if (!context)
        return PyErr_NoMemory();
    Py_ssize_t count = PySequence_Size(architectures);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *token = PySequence_GetItem(architectures, i);
        unsigned long value = token ? PyLong_AsUnsignedLong(token) : 0;
        Py_XDECREF(token);
        if (PyErr_Occurred())
            goto out;
        int rc = add_architecture(context, (uint32_t)value);
        if (rc < 0 && rc != -EEXIST) {
            errno = -rc;
            PyErr_SetFromErrno(PyExc_OSError);
            goto out;
        }
    }
    count = PySequence_Size(rules);
    if (count < 0)
        goto out;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *rule = PySequence_GetItem(rules, i);
        int rc = rule ? add_rule(context, rule, resolve, add) : -1;
        Py_XDECREF(rule);
        if (rc < 0)
            goto out;
    }
    fd = (int)syscall(SYS_memfd_create, "urunc-seccomp", 1 /* MFD_CLOEXEC */);
    if (fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto out;
    }
    int rc = export(context, fd);
    if (rc < 0) {
        errno = -rc;
        PyErr_SetFromErrno(PyExc_OSError);
        goto out;
    }
    char buffer[65536];
    ssize_t size = pread(fd, buffer, sizeof buffer, 0);
    if (size < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        program = PyBytes_FromStringAndSize(buffer, size);
out:
    if (fd >= 0)
        close(fd);
    release(context);
    return program;
}

static PyMethodDef methods[] = {
    {"clone3", linux_clone3, METH_VARARGS, NULL},
    {"setns", linux_setns, METH_VARARGS, NULL},
    {"unshare", linux_unshare, METH_VARARGS, NULL},
    {"mount", linux_mount, METH_VARARGS, NULL},
    {"umount2", linux_umount2, METH_VARARGS, NULL},
    {"open_tree", linux_open_tree, METH_VARARGS, NULL},
    {"move_mount", linux_move_mount, METH_VARARGS, NULL},
    {"mount_setattr", linux_mount_setattr, METH_VARARGS, NULL},
    {"pivot_root", linux_pivot_root, METH_VARARGS, NULL},
    {"openat2", linux_openat2, METH_VARARGS, NULL},
    {"prctl", linux_prctl, METH_VARARGS, NULL},
    {"madvise", linux_madvise, METH_VARARGS, NULL},
    {"set_name", linux_set_name, METH_VARARGS, NULL},
    {"capset", linux_capset, METH_VARARGS, NULL},
    {"sethostname", linux_sethostname, METH_VARARGS, NULL},
    {"setdomainname", linux_setdomainname, METH_VARARGS, NULL},
    {"close_range", linux_close_range, METH_VARARGS, NULL},
    {"tee", linux_tee, METH_VARARGS, NULL},
    {"setrlimit", linux_setrlimit, METH_VARARGS, NULL},
    {"sched_setattr", linux_sched_setattr, METH_VARARGS, NULL},
    {"set_mempolicy", linux_set_mempolicy, METH_VARARGS, NULL},
    {"ioprio_set", linux_ioprio_set, METH_VARARGS, NULL},
    {"load_device_program", linux_load_device_program, METH_VARARGS, NULL},
    {"attach_device_program", linux_attach_device_program, METH_VARARGS, NULL},
    {"statmount", linux_statmount, METH_VARARGS, NULL},
    {"new_tmpfs", linux_new_tmpfs, METH_VARARGS, NULL},
    {"join_session_keyring", linux_join_session_keyring, METH_VARARGS, NULL},
    {"default_signals", linux_default_signals, METH_NOARGS, NULL},
    {"set_seccomp", linux_set_seccomp, METH_VARARGS, NULL},
    {"compile_seccomp", linux_compile_seccomp, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_linux", "System calls that Python's standard library lacks.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__linux(void)
{
    return PyModule_Create(&module);
}
