# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per verb, each with OPTIONS, USAGE, SUMMARY and `main`."""

# verb → its module, in the order of `urunc --help`
VERBS = {
    "create": "create",
    "start": "start",
    "state": "state",
    "kill": "kill",
    "delete": "delete",
    "run": "run",
    "list": "list",
    "spec": "spec",
    "plan": "plan",
    "config": "config",
    "timeline": "timeline",
}

# verbs that this version knows for ordinary containers alone
ORDINARY_VERBS = frozenset(
    ("checkpoint", "events", "exec", "pause", "ps", "restore", "resume", "update")
)
