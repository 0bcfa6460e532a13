# SPDX-License-Identifier: Apache-2.0
"""What each verb asks of the kernel and the processor, in counts, which are the same on a busy
machine: system calls, files opened, bytes written, processes made (strace), page faults
(getrusage(2)), instructions (callgrind), modules imported.

strace follows what a verb makes until the verb has ended and what stays of it (`create` leaves the
container's init) waits; then it lets go.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from lib.patience import patient, until
from lib.seen import cgroups
from lib.shims import PROGRAM, Shim
from lib.support import PARTS, PROJECT, URUNC, Bundle
from urunc.linux import _linux

PR_SET_CHILD_SUBREAPER = 36

TABLES = PROJECT / "tests/root/counts.json"
IDENTIFIER = "counted"
WRITES = ("write", "writev", "pwrite64", "send", "sendto", "sendmsg")
OPENS = ("open", "openat", "openat2")
FORKS = ("fork", "vfork", "clone", "clone3")
MEMORY = ("brk", "mmap", "mprotect", "munmap", "mremap", "madvise")
"""What an allocator asks for, which depends on where the kernel has put things."""
WAITING = ("poll", "ppoll", "select", "pselect6", "futex", "wait4", "waitid", "restart_syscall",
           "sched_yield", "nanosleep", "clock_nanosleep")  # fmt: skip
"""What is asked once more where somebody else is late."""
DOORS = ("start", "state", "kill", "delete")
"""Verbs that the door has."""
UNKNOWN_TO_VALGRIND = ("kill",)
"""It knows no pidfd_open(2)."""
IMPORTS = """
import posix, sys
_, source, said, first, *sys.argv = sys.argv
sys.path.insert(0, source)
from urunc.__main__ import main
for name in first.split():
    __import__(name)
before = {*sys.modules}
leave = posix._exit
def tell(code):
    with open(said, "w") as file:
        file.write(" ".join(sorted({*sys.modules} - before)))
    leave(code)
posix._exit = tell
main()
"""
LINE = re.compile(r"^\d+ +(?:<\.{3} )?(?P<name>\w+)(?P<resumed> resumed>|\()(?P<rest>.*)$")
RESULT = re.compile(r"\) += (-?\d+)")

STRACE = ("strace", "-D", "-I2", "-f", "-qq", "-s0", "-o")
"""With a file and a command: -D has that be our child, not strace's; -I2 has strace end by a
signal, on which it lets go."""
SHIM = """#!/bin/sh
{strace} {directory}/trace {program} "$@" >{directory}/out 2>{directory}/errors
code=$?
cat {directory}/out
cat {directory}/errors >&2
exit $code
"""
"""A shim's program, traced; strace, which stays, has files for its output in place of pipes."""

Found = dict[str, Any]
Measure = Callable[["Counted", tuple[str, ...]], Found]
"""Runs a verb of a container to its end."""


def tally(trace: str) -> dict[str, Any]:
    """strace's lines as counts."""
    calls: collections.Counter[str] = collections.Counter()
    opened = written = 0
    for line in trace.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        name, rest = found["name"], found["rest"]
        if "resumed" not in found["resumed"]:
            group = "(memory)" if name in MEMORY else "(waiting)" if name in WAITING else name
            calls[group] += 1
        result = RESULT.search(rest)
        if result and int(result[1]) >= 0:
            opened += name in OPENS
            written += int(result[1]) if name in WRITES else 0
    return {
        "calls": dict(sorted(calls.items())),
        "files opened": opened,
        "bytes written": written,
        "processes made": sum(calls[name] for name in FORKS),
    }


class Counted:
    """A container and where it is: all paths have the same length each time, since they are part of
    what is written."""

    def __init__(self, directory: pathlib.Path, bundle: Bundle, door: str = "on") -> None:
        self.directory = directory
        self.bundle = bundle
        self.environment = {"PATH": f"{directory}/bin:/usr/sbin:/usr/bin", "URUNC_DOOR": door}
        self.pid_file = directory / "pid"

    def command(self, *words: str) -> list[str]:
        """urunc's command line."""
        return [str(URUNC), "--root", f"{self.directory}/r", *words]

    def run(self, command: list[str]) -> None:
        """Run a command with the guest's console in a file, which has no end to wait for."""
        with (self.directory / "console").open("a+") as out:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=patient(60),
                cwd=self.directory, env=self.environment,
            )  # fmt: skip
            out.seek(0)
            assert not done.returncode, f"{command}: {out.read()}"

    def lives(self, measure: Measure) -> dict[str, Found]:
        """Each verb's counts, from `create` to `delete`."""
        create = ("create", "--bundle", str(self.bundle.write()))
        found = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.run, self.command("delete", "--force", IDENTIFIER))
            for verb in (create, ("start",), ("state",), ("list",), ("kill",), ("delete",)):
                words = {"create": ("--pid-file", str(self.pid_file), IDENTIFIER), "list": ()}
                signal_word = ("KILL",) if verb[0] == "kill" else ()
                more = (*words.get(verb[0], (IDENTIFIER,)), *signal_word)
                if verb[0] == "kill":
                    pidfd = os.pidfd_open(self.pid)
                    undo.callback(os.close, pidfd)
                found[verb[0]] = measure(self, (*verb, *more))
                if verb[0] == "kill":
                    assert select.select([pidfd], [], [], patient(10))[0], "it does not end"
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(self.pid, 0)  # a zombie has a file more to read
        return found

    @contextlib.contextmanager
    def neighbours(self, count: int) -> Iterator[None]:
        """So many other containers, created, in the same --root."""
        bundle = str(self.bundle.write())
        with contextlib.ExitStack() as undo:
            for name in (f"other{number}" for number in range(count)):
                undo.callback(self.run, self.command("delete", "--force", name))
                self.run(self.command("create", "--bundle", bundle, name))
            yield

    @property
    def pid(self) -> int:
        """The container's process."""
        return int(self.pid_file.read_text())


def system_calls(container: Counted, words: tuple[str, ...]) -> Found:
    """What strace sees."""
    fifo = container.directory / "trace"
    if not fifo.exists():
        os.mkfifo(fifo)
    # it ends with strace, whose alone the other end is
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader:
        try:
            container.run([*STRACE, str(fifo), *container.command(*words)])
        finally:
            if words[0] == "create":
                let_go(container.pid)
            trace = reader.communicate(timeout=patient(10))[0]
    return tally(trace)


def shim_start(directory: pathlib.Path, bundle: Bundle) -> Found:
    """What strace sees of a shim's first `start`, and of the shim until it waits for calls."""
    program = directory / "shim"
    strace = " ".join(STRACE)
    program.write_text(SHIM.format(strace=strace, directory=directory, program=PROGRAM))
    program.chmod(0o755)
    fifo = directory / "trace"
    os.mkfifo(fifo)
    with (
        contextlib.closing(Shim(directory, bundle, str(program))) as shim,
        subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader,
    ):
        shim.start()
        let_go(shim.pid)
        shim.program = str(PROGRAM)
        trace = reader.communicate(timeout=patient(10))[0]
        shim("Shutdown", now=True)
        with contextlib.suppress(ChildProcessError):  # `leave` would wait for whom we have to
            os.waitpid(shim.pid, 0)
        shim.pid = 0
    return tally(trace)


def let_go(pid: int) -> None:
    """Have strace leave a process, and all that it follows beside it, once they wait."""
    tracer = status(str(pid), "TracerPid")
    assert tracer != "0", "strace has gone"
    seen: dict[str, str] = {}

    def wait() -> bool:
        nonlocal seen
        before, seen = seen, {}
        for process in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended
                if status(process, "TracerPid") == tracer:
                    asked = pathlib.Path(f"/proc/{process}/syscall").read_text()
                    seen[process] = status(process, "State") + asked
        return seen == before and all(item.startswith("S") for item in seen.values())

    until(wait, "what stays does not come to rest")
    os.kill(int(tracer), signal.SIGTERM)


def status(process: str, name: str) -> str:
    """The first word of a line of a process's status (proc_pid_status(5))."""
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def page_faults(container: Counted, words: tuple[str, ...]) -> Found:
    """Those without a disk's part."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
    container.run(container.command(*words))
    return {"page faults": resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before}


def instructions(container: Counted, words: tuple[str, ...]) -> Found:
    """What callgrind counts of the door's verbs, by the compiler that made it."""
    if words[0] not in DOORS or words[0] in UNKNOWN_TO_VALGRIND:
        container.run(container.command(*words))
        return {}
    log = container.directory / "callgrind"
    options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log}"]
    container.run(["valgrind", *options, *container.command(*words)])
    found = re.search(r"Collected : (\d+)", log.read_text())
    assert found, log.read_text()
    return {f"instructions ({compiler()})": int(found[1])}


def modules(container: Counted, words: tuple[str, ...]) -> Found:
    """What Python has imported in the end, but for what tests/style/test_imports has."""
    said = container.directory / "modules"
    first = f"urunc.cli.{words[0]}" + " urunc.lifecycle.create" * (words[0] == "create")
    interpreter = [sys.executable, "-ISXutf8", "-c", IMPORTS, str(PROJECT / "src"), str(said)]
    container.run([*interpreter, first, *container.command(*words)])
    return {"modules imported later": said.read_text()}


def compiler() -> str:
    """What built the door, by which its instructions differ."""
    version = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True)
    return f"gcc {version.stdout.strip()}, {'musl' if shutil.which('musl-gcc') else 'glibc'}"


def place() -> str:
    """What the counts depend on beside urunc: Python's version, and which control groups have to be
    made."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    return f"Python {sys.version_info[0]}.{sys.version_info[1]}, {cgroups()}, {len(lines)} groups"


@contextlib.contextmanager
def container(door: str = "on") -> Iterator[Counted]:
    """The probe on spt, without a network."""
    with tempfile.TemporaryDirectory(prefix="urunc-counts-", dir="/tmp") as scratch:
        directory = pathlib.Path(scratch)
        bundle = Bundle(directory / "b", "mirage", "spt")
        bundle.add("unikernel", PARTS / "probe-bare.spt")
        bundle.args("probe.hang")
        # in a place as deep everywhere: the monitor's root has each directory of its path
        (directory / "bin").mkdir()
        shutil.copy2(PARTS / "bin/solo5-spt", directory / "bin")
        yield Counted(directory, bundle, door)


def least(lives: list[dict[str, Found]]) -> dict[str, Found]:
    """Of several lives, the lowest of each verb's counts."""
    return {
        verb: {name: min(life[verb][name] for life in lives) for name in lives[0][verb]}
        for verb in lives[0]
    }


def counted() -> dict[str, Found]:
    """All counts, by verb; those that the door does by Python, too."""
    rows: dict[str, Found] = {}
    for door in ("on", "off"):
        with container(door) as made:
            # first what warms up: a monitor's libraries are looked up once
            lives = [least([made.lives(page_faults) for _ in range(3)]), made.lives(system_calls)]
            if door == "off":
                lives.append(made.lives(modules))
            elif shutil.which("valgrind"):
                lives.append(made.lives(instructions))
        for verb in lives[0]:
            if door == "on" and verb not in DOORS:
                continue
            row = f"{verb}, by the door" if door == "on" else verb
            rows[row] = {name: value for life in lives for name, value in life[verb].items()}
    with container() as made:
        rows["shim start"] = shim_start(made.directory, made.bundle)
    return rows


def tables() -> dict[str, dict[str, Found]]:
    """The stored tables, by place."""
    found: dict[str, dict[str, Found]] = json.loads(TABLES.read_text())
    return found


def write() -> None:
    """Put this machine's table in place of the stored one."""
    stored = tables() if TABLES.exists() else {}
    made = counted()
    for row, values in made.items():  # those of other compilers are as they were
        old = stored.get(place(), {}).get(row, {})
        kept = {name: old[name] for name in old if name.startswith("instructions (")}
        made[row] = kept | values
    TABLES.write_text(json.dumps(stored | {place(): made}, indent=1, sort_keys=True) + "\n")


def beside(count: int) -> list[dict[str, Found]]:
    """System calls of each verb without other containers in the same --root, and beside so many."""
    with container() as made:
        made.lives(page_faults)
        alone = made.lives(system_calls)
        with made.neighbours(count):
            return [alone, made.lives(system_calls)]


def asked(*words: str) -> Any:
    """What this module prints, as a program of its own: it is the parent of what it counts."""
    command = [sys.executable, "-m", "lib.counts", *words]
    path = os.pathsep.join(map(str, (PROJECT / "src", PROJECT / "tests")))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    _linux.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # CPython asks for one handler less where a signal is ignored, as in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1:] == ["write"]:
        write()
    else:
        print(json.dumps(beside(int(sys.argv[1])) if sys.argv[1:] else counted()))
