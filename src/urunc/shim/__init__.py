# SPDX-License-Identifier: Apache-2.0
"""containerd's side: its shim protocol, in a process that lives as long as its containers.

It answers containerd's calls and does what the command line's verbs do, by lifecycle/, each in a
forked copy of itself; for containers that are no unikernels it runs the ordinary runtime. As long
as nothing happens it costs memory alone, so its modules import next to nothing.
"""

DEFAULT_ROOT = "/run/containerd/urunc"
ROOT_FILE = "urunc-root"
"""In a bundle: --root, --config and the ordinary runtime, for who cleans up after a dead shim."""
ENDED_FILE = "urunc-ended"
"""In a bundle, once its container is deleted and nothing of it is left: the answer to the shim's
action `delete`, as octal escapes of %b of printf(1) and a newline, for the launcher's shell."""
