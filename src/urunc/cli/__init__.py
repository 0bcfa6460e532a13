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
    "ps": "ps",
    "exec": "refused",
    "pause": "pause",
    "resume": "resume",
    "update": "update",
    "events": "events",
    "checkpoint": "refused",
    "restore": "refused",
    "features": "features",
    "spec": "spec",
    "plan": "plan",
    "config": "config",
    "timeline": "timeline",
    "cache": "cache",
}

# verbs whose options are the ordinary runtime's where the container is: its table may know more
# than ours, so the container is looked for first
FOREIGN = frozenset(("checkpoint", "events", "exec", "pause", "ps", "restore", "resume", "update"))
