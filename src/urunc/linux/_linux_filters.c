/* SPDX-License-Identifier: Apache-2.0
 *
 * Programs that the kernel runs: seccomp filters of system calls, and those of a control group's devices.
 */
#define _GNU_SOURCE
#include "_linux.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* load_program(type, instructions) -> descriptor of a BPF program of a BPF_PROG_TYPE_*. */
static PyObject *linux_load_program(PyObject *self, PyObject *args)
{
    unsigned int type;
    const char *code;
    Py_ssize_t length;
    (void)self;
    if (!PyArg_ParseTuple(args, "Iy#", &type, &code, &length))
        return NULL;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = type;
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

static int add_architectures(void *context, PyObject *tokens, int (*add)(void *, uint32_t))
{
    Py_ssize_t count = PySequence_Size(tokens);
    if (count < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *token = PySequence_GetItem(tokens, i);
        unsigned long value = token ? PyLong_AsUnsignedLong(token) : 0;
        Py_XDECREF(token);
        if (PyErr_Occurred())
            return -1;
        int rc = add(context, (uint32_t)value);
        if (rc < 0 && rc != -EEXIST) {
            errno = -rc;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
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
    if (add_architectures(context, architectures, add_architecture) < 0)
        goto out;
    Py_ssize_t count = PySequence_Size(rules);
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

PyMethodDef filter_methods[] = {
    {"load_program", linux_load_program, METH_VARARGS, NULL},
    {"attach_device_program", linux_attach_device_program, METH_VARARGS, NULL},
    {"set_seccomp", linux_set_seccomp, METH_VARARGS, NULL},
    {"compile_seccomp", linux_compile_seccomp, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
