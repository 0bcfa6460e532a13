# SPDX-License-Identifier: Apache-2.0
"""`urunc metrics`: what Prometheus asks of a machine with urunc, as its text format has it.

Each module looks at one thing that urunc leaves anyway, and says it in families (exposition.py). It
only looks: nothing is counted while containers are made, and nothing has to run beside them.
"""
