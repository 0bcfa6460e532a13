# SPDX-License-Identifier: Apache-2.0
"""Thin wrappers of kernel interfaces, in the kernel's words. No policy; nothing here imports
upward.

Modules on the path of a container's start use `posix` in place of `os`: `os` adds 1.5 ms to an
isolated interpreter's start, and every verb pays it.
"""
