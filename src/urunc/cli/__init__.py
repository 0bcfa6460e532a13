# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per verb, each with OPTIONS, USAGE, SUMMARY and `main`.

`options` parses words, `verb` is what verbs on an existing container share, `help` is what `--help`
prints. A verb's module imports what that verb needs and no more: it is a process of its own, and
each import is time. What a verb does is in lifecycle/.
"""

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
