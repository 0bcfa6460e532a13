# SPDX-License-Identifier: Apache-2.0
"""The compiled module, on the stable ABI: what pyproject.toml cannot say."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "urunc.linux._linux",
            ["src/urunc/linux/_linux.c"],
            py_limited_api=True,
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
