# SPDX-License-Identifier: Apache-2.0
"""The supervisor, with small programs in the place of a monitor: whose exit code it ends with, what
it does with signals, and that nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lib.patience import patient, until
from lib.support import PROJECT, need

SUPERVISOR = PROJECT / "build/prefix/lib/urunc"


class Supervised:
    """A monitor below the supervisor; it says `ready` once it is there."""

    def __init__(self, directory: pathlib.Path) -> None:
        need("installed")
        (self.program,) = SUPERVISOR.glob("*/supervisor")
        self.fifo = directory / "channel.out"
        os.mkfifo(self.fifo)
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, script: str, *before: str, channel: str = "", flag: str = ""
    ) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [*before, str(self.program), *([flag] if flag else []), channel or str(self.fifo),
             sys.executable, "-c", f"import os, signal, sys, time\n{script}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.process

    def run(self, script: str, *before: str, flag: str = "") -> tuple[int, str, str]:
        process = self.start(script, *before, flag=flag)
        out, err = process.communicate(timeout=patient(20))
        return process.returncode, out, err

    def says(self, *lines: str) -> str:
        """The part of a script that writes what a guest's init says."""
        text = "".join(f"{line}\n" for line in lines)
        return f"fifo = os.open({str(self.fifo)!r}, os.O_RDWR); os.write(fifo, {text.encode()!r})\n"


@pytest.fixture
def supervised(tmp_path: pathlib.Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    if made.process:
        made.process.kill()
        made.process.communicate()


@pytest.mark.parametrize(
    ("lines", "ending", "expected"),
    [
        (["ready", "exit 5"], "sys.exit(0)", 5),
        (["ready", "exit 0"], "sys.exit(7)", 0),
        (["exit 143"], "os.kill(os.getpid(), 9)", 143),
        (["ready"], "sys.exit(7)", 7),
        (["ready"], "os.kill(os.getpid(), 15)", -15),
        (["ready"], "os.kill(os.getpid(), 9)", -9),
        (["ready"], "sys.exit(0)", 0),
        ([], "sys.exit(0)", 253),
        (["exit 256", "exit -1", "exit 3x", "exit", " exit", "x" * 9000], "sys.exit(6)", 6),
        (["x" * 9000, "exit 4"], "sys.exit(0)", 4),
    ],
)
def test_whose_exit_code(
    supervised: Supervised, lines: list[str], ending: str, expected: int
) -> None:
    """The application's if the guest told it, else the monitor's own."""
    assert supervised.run(supervised.says(*lines) + ending)[0] == expected


def test_as_the_first_process(supervised: Supervised) -> None:
    """PID 1 cannot end by a signal: it ends with the code that a shell makes of one; it reaps."""
    need("root")
    namespace = ("unshare", "--pid", "--fork", "--mount-proc")
    assert supervised.run("os.kill(os.getpid(), 15)", *namespace)[0] == 128 + 15
    script = """
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    time.sleep(0.2)
    os._exit(0)
os.wait()
time.sleep(0.6)
print([open(f"/proc/{pid}/stat").read().split()[2] for pid in os.listdir("/proc") if pid.isdigit()])
"""
    assert supervised.run(script, *namespace)[1] == "['S', 'R']\n"


def test_more_than_a_fifo_holds(supervised: Supervised) -> None:
    """What a guest says is read while it runs: a talkative one does not stop its monitor."""
    script = supervised.says("ready") + "os.write(fifo, b'nothing\\n' * 40_000); sys.exit(3)"
    assert supervised.run(script)[0] == 3


def test_errors_are_shown(supervised: Supervised) -> None:
    said = supervised.says('error exec: "x": not found', "exit 127")
    assert supervised.run(said)[::2] == (127, 'urunc: exec: "x": not found\n')


SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33)
    and number not in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
]
"""32 and 33 are the C library's."""


def test_signals_reach_the_monitor(supervised: Supervised) -> None:
    """Every one that can be caught, and is no request to stop."""
    # not print(): the next signal may come before that has returned, which is an error
    script = f"""
def note(number, frame):
    os.write(1, b"%d\\n" % number)
for number in {list(map(int, SIGNALS))}:
    signal.signal(number, note)
print("ready", flush=True)
while True:
    time.sleep(10)
"""
    process = supervised.start(script)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    for number in SIGNALS:
        process.send_signal(number)
        assert process.stdout.readline() == f"{int(number)}\n"


def test_a_monitor_s_signals_are_as_before(supervised: Supervised) -> None:
    """None is blocked, whatever the supervisor does for itself."""
    script = "print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(15) == 0)"
    assert supervised.run(script)[1] == "set() True\n"


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop(supervised: Supervised, number: signal.Signals, inherited: signal.Handlers) -> None:
    """It ends as if by the signal, whatever the monitor would make of it, and its caller too (a
    shell has what it starts in the background ignore two of them)."""
    before = signal.signal(number, inherited)
    try:
        process = supervised.start(
            f"signal.signal({int(number)}, lambda *_: sys.exit(0));"
            "print('ready', flush=True); time.sleep(60)"
        )
    finally:
        signal.signal(number, before)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(patient(10)) == -number


def test_a_monitor_that_cannot_tell(supervised: Supervised) -> None:
    """Its 0 is no success then."""
    said = supervised.says("ready") + "sys.exit(0)"
    assert supervised.run(said, flag="-u")[0] == 253
    assert supervised.run(supervised.says("exit 0") + "sys.exit(0)", flag="-u")[0] == 0
    assert supervised.run("sys.exit(7)", flag="-u")[0] == 7


def test_the_monitor_does_not_outlive_it(supervised: Supervised) -> None:
    process = supervised.start("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout
    monitor = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    process.wait(patient(10))
    until(lambda: select.select([monitor], [], [], 0)[0], "the monitor runs on")
    os.close(monitor)


def test_no_program(supervised: Supervised, tmp_path: pathlib.Path) -> None:
    for command in (["/no/such"], [str(tmp_path)]):
        process = subprocess.run(
            [supervised.program, supervised.fifo, *command], capture_output=True
        )
        assert process.returncode == 127
        assert b"urunc supervisor: cannot execute" in process.stderr
    process = subprocess.run(
        [supervised.program, tmp_path / "none", "/bin/true"], capture_output=True
    )
    assert process.returncode == 127
    assert b"cannot open" in process.stderr


def test_a_socket(supervised: Supervised, tmp_path: pathlib.Path) -> None:
    """As Firecracker's vsock: the first to connect is the guest's init, nobody else is heard; it is
    closed once it has said all."""
    path = tmp_path / "vsock_1"
    script = f"""
import socket
def connected():
    made = socket.socket(socket.AF_UNIX)
    made.settimeout({patient(10)})
    made.connect({str(path)!r})
    return made
guest = connected()
guest.send(b"ready\\nex")
time.sleep(0.2)
try:
    connected().send(b"exit 9\\n")
except OSError:
    print("refused")
guest.send(b"it 5\\n")
guest.shutdown(socket.SHUT_WR)
print(guest.recv(1))
"""
    process = supervised.start(script, channel=f"vsock:{path}")
    out, err = process.communicate(timeout=patient(20))
    assert (process.returncode, out) == (5, "refused\nb''\n"), err
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as late, pytest.raises(OSError):
        late.connect(str(path))
