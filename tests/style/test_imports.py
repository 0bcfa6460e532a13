# SPDX-License-Identifier: Apache-2.0
"""Which modules each verb loads: exact, where a measured time is noise.

An isolated interpreter without `site` imports what a verb's start imports; the modules that a bare
one has are taken away. What a verb imports later, within its functions, is not seen here. When a
change is meant, print the table anew and put it in place of EXPECTED:

    python tests/style/test_imports.py
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "src"
VERBS = ("create", "start", "state", "kill", "delete")

EXPECTED: dict[str, str] = {
    "": """
        __future__
        _json
        errno
        urunc
        urunc.__main__
        urunc.cli
        urunc.cli.options
        urunc.errors
        urunc.jsontext
        urunc.linux
        urunc.linux._linux
        urunc.linux.files
        urunc.linux.process
        urunc.logs
        urunc.state
        urunc.timing
    """,
    "create": """
        _struct
        fcntl
        select
        urunc.bundle
        urunc.bundle.document
        urunc.bundle.elf
        urunc.bundle.image
        urunc.bundle.namespaces
        urunc.bundle.network_files
        urunc.bundle.pods
        urunc.bundle.resources
        urunc.bundle.spec
        urunc.cgroup
        urunc.cgroup.devices
        urunc.cgroup.groups
        urunc.cgroup.limits
        urunc.cgroup.making
        urunc.cli.create
        urunc.directory
        urunc.guest_channel
        urunc.guests
        urunc.ids
        urunc.init
        urunc.init.clone
        urunc.init.hooks
        urunc.init.letters
        urunc.init.main
        urunc.init.root_steps
        urunc.init.setup
        urunc.init.steps
        urunc.journal
        urunc.journaled
        urunc.lifecycle
        urunc.lifecycle.create
        urunc.lifecycle.guest_network
        urunc.lifecycle.init_process
        urunc.lifecycle.run_hooks
        urunc.linux.cgroups
        urunc.linux.mounts
        urunc.linux.namespaces
        urunc.linux.seccomp
        urunc.monitors
        urunc.net
        urunc.net.attach
        urunc.net.facts
        urunc.places
        urunc.plan
        urunc.plan.compatibility
        urunc.plan.decide
        urunc.plan.device_nodes
        urunc.plan.host
        urunc.plan.model
        urunc.plan.network
        urunc.plan.prepare
        urunc.plan.realize
        urunc.plan.sizing
        urunc.plan.unsupported
        urunc.programs
        urunc.record
        urunc.storage
        urunc.storage.facts
        urunc.users
    """,
    "start": """
        fcntl
        select
        urunc.cli.start
        urunc.cli.verb
        urunc.directory
        urunc.init
        urunc.init.letters
        urunc.lifecycle
        urunc.lifecycle.run_hooks
        urunc.lifecycle.start
        urunc.record
    """,
    "state": """
        urunc.cli.state
        urunc.cli.verb
    """,
    "kill": """
        urunc.cli.kill
        urunc.cli.verb
        urunc.lifecycle
        urunc.lifecycle.kill
    """,
    "delete": """
        fcntl
        urunc.cli.delete
        urunc.cli.verb
        urunc.directory
        urunc.lifecycle
        urunc.lifecycle.delete
        urunc.lifecycle.pause
        urunc.lifecycle.run_hooks
    """,
}

# what a verb imports once it knows that the bundle is a unikernel's
LATER = {"create": ("urunc.lifecycle.create",)}

PROBE = """
import sys
bare = set(sys.modules)
sys.path.insert(0, sys.argv[1])
__import__("urunc.__main__")
for name in sys.argv[2:]:
    __import__(name)
print(*sorted(set(sys.modules) - bare))
"""


def loaded(verb: str) -> set[str]:
    """The modules that this verb's start loads."""
    modules = [f"urunc.cli.{verb}", *LATER.get(verb, ())]
    command = [sys.executable, "-I", "-S", "-c", PROBE, str(SOURCE), *modules]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def table() -> str:
    """EXPECTED as it would have to be now: what all verbs share under "", the rest by verb."""
    found = {verb: loaded(verb) for verb in VERBS}
    shared = set.intersection(*found.values())
    rows = {"": shared, **{verb: modules - shared for verb, modules in found.items()}}
    lines = ["EXPECTED: dict[str, str] = {"]
    for verb, modules in rows.items():
        lines += [
            f'    "{verb}": """',
            *(f"        {name}" for name in sorted(modules)),
            '    """,',
        ]
    return "\n".join([*lines, "}"])


@pytest.mark.parametrize("verb", VERBS)
def test_modules(verb: str) -> None:
    assert loaded(verb) == {*EXPECTED[""].split(), *EXPECTED[verb].split()}


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
