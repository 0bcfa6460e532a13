# SPDX-License-Identifier: Apache-2.0
"""The installer: makes urunc a runtime of the machine's engines, and takes it out again, for
`urunc install` and, on a cluster's nodes, deploy/install.

Standard library alone. Two rules hold everywhere. What is put in place was judged before by the
very program that will read it; and the configuration that results may differ from the one before by
the runtime `urunc`, and by nothing else.
"""
