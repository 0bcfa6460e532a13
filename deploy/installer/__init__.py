# SPDX-License-Identifier: Apache-2.0
"""The node installer: makes urunc a runtime of the node's containerd, CRI-O, k3s or RKE2.

Standard library alone. Two rules hold everywhere. What is put in place was judged before by the
very program that will read it; and the configuration that results may differ from the one before by
the runtime `urunc`, and by nothing else.
"""
