# SPDX-License-Identifier: Apache-2.0
"""containerd's side: what its shim protocol needs, in modules that import next to nothing."""

DEFAULT_ROOT = "/run/containerd/urunc"
ROOT_FILE = "urunc-root"
"""In a bundle: --root, --config and the ordinary runtime, for who cleans up after a dead shim."""
