/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls that Python's standard library lacks, and nothing else: the module, made of its parts.
 */
#define _GNU_SOURCE
#include "_linux.h"

PyObject *result(long rc)
{
    if (rc < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(rc);
}

PyObject *none_or_error(long rc, PyObject *path)
{
    if (rc < 0)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    Py_RETURN_NONE;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_linux", "System calls that Python's standard library lacks.", -1, NULL,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__linux(void)
{
    PyObject *made = PyModule_Create(&module);

    if (made && (PyModule_AddFunctions(made, mount_methods) < 0 || PyModule_AddFunctions(made, process_methods) < 0 ||
                 PyModule_AddFunctions(made, filter_methods) < 0))
        Py_CLEAR(made);
    return made;
}
