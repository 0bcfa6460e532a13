# SPDX-License-Identifier: Apache-2.0
"""containerd's side: what its shim protocol needs, in modules that import next to nothing."""
