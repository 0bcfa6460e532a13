# SPDX-License-Identifier: Apache-2.0
"""`urunc try`: an image, folder or kernel run at once, without an engine: what it is, its files, a
bundle for it, a network with ports, and the process that takes it all away again.

Runs as the caller; root gets a network behind NAT, others one of pasta's. What it makes lies in
one directory and in namespaces that end with their processes; the keeper, a process of its own,
removes what the kernel does not. `create` and its kin do not import this room, and it runs no
container itself: `cli.trial` does.
"""
