# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per verb, each with OPTIONS, USAGE, SUMMARY and `main`, which takes
the parsed Arguments, returns the exit code and raises Error.

`options` parses words, `verb` is what verbs on an existing container share, `help` is what `--help`
prints. A verb's module imports what that verb needs and no more: it is a process of its own, and
each import is time. What a verb does is in lifecycle/.
"""

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
    "checkpoint": "checkpoint",
    "restore": "restore",
    "features": "features",
    "spec": "spec",
    "plan": "plan",
    "config": "config",
    "timeline": "timeline",
    "metrics": "metrics",
    "cache": "cache",
    "snapshot": "snapshot",
    "image": "image",
    "try": "trial",
    "completion": "completion",
    "doctor": "doctor",
    "install": "install",
    "uninstall": "uninstall",
}

"""A verb → its module, in the order of `urunc --help`."""

FOREIGN = frozenset(("checkpoint", "events", "exec", "pause", "ps", "restore", "resume", "update"))
"""Verbs for which the container is looked for before options are parsed: for an ordinary container
the options are those of its runtime, which may know more than urunc."""
