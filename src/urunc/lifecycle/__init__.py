# SPDX-License-Identifier: Apache-2.0
"""What the verbs do, in the caller's process, with its privilege, in the host's namespaces.

A module a verb or a question about a container: create, start, pause, kill, update, delete, how it
ended, what happens to it. They hold the container's lock and call the other rooms; cli/ and shim/
call them and nothing below imports them.
"""
