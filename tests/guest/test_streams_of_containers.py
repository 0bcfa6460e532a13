# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a Linux guest's application through urunc: of `run`, and of a container
whose engine holds pipes. Whatever the caller gave is afterwards as it was."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lib.patience import patient, until
from lib.rooted import by_runc, configure, linux, run
from lib.streams import wait_full
from lib.support import PARTS, Bundle, Container, Urunc, need, nothing_left

MUCH = 10 << 20
ECHO = "cat; echo error >&2; echo again >/dev/stderr; exit 3"


@pytest.fixture(autouse=True)
def guests(urunc: Urunc) -> None:
    need("linux", "qemu", "images")
    configure(urunc, "ext4")


def words(urunc: Urunc, bundle: Bundle) -> list[str]:
    """The command line of a `run`."""
    return urunc.command("run", "--bundle", str(bundle.write()), urunc.new_id())


def test_streams_are_apart(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """As under runc: output, errors, the end of the input, the exit code."""
    bundle = linux(tmp_path / "b", ECHO)
    with nothing_left(urunc.root):
        done = subprocess.run(words(urunc, bundle), input=b"one\ntwo", capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"one\ntwo"), done
    assert done.stderr == b"error\nagain\n"


def test_no_input(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """/dev/null, as the application finds it under runc, too."""
    asked = ("cat", "cat </dev/stdin", "echo x >&0 || echo no", "cat <&-")
    script = "; ".join(f"echo '== {words}'; ({words}); echo done $?" for words in asked)
    bundle = linux(tmp_path / "b", script)
    bundle.config["mounts"] = [
        {"destination": name, "source": kind, "type": kind}
        for name, kind in (("/proc", "proc"), ("/dev", "tmpfs"))
    ]
    need("runc")
    found = run(urunc, bundle)
    expected = by_runc(urunc, bundle)
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout), found
    assert found.stdout.count("== ") == found.stdout.count("done ") == len(asked)


def test_a_closed_input(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    bundle = linux(tmp_path / "b", "cat; echo done")
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *words(urunc, bundle)]
    done = subprocess.run(command, capture_output=True, timeout=patient(60))
    assert (done.returncode, done.stdout) == (0, b"done\n"), done


def test_who_reads_no_more_ends_the_writer(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """SIGPIPE, as under runc, and what ignores that gets EPIPE; the other stream goes on."""
    script = "yes | cat; trap '' PIPE; yes >/dev/stdout; echo over $? >&2; exit 5"
    bundle = linux(tmp_path / "b", script)
    process = subprocess.Popen(
        words(urunc, bundle), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(patient(60)) == 5
    assert errors.endswith(b"over 1\n")


SO_SNDBUFFORCE = 32
"""socket(7)."""


class Descriptors:
    """Kinds of what a caller may have for its standard streams."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.kept: list[int] = []

    def make(self, kind: str, *, output: bool) -> int:
        """One for an output or for input, which ends at once."""
        if kind == "pipe":
            reader, writer = os.pipe()
            self.kept.append(reader if output else -1)
            if not output:
                os.close(writer)
            return writer if output else reader
        if kind == "socket":
            ours, theirs = socket.socketpair()
            ours.shutdown(socket.SHUT_WR)
            # nobody reads it, and each small piece takes a page of the room
            theirs.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 24)
            self.kept.append(ours.detach())
            return theirs.detach()
        if kind == "terminal":
            master, slave = os.openpty()
            self.kept.append(master)
            os.write(master, b"\x04")
            return slave
        flags = os.O_CREAT | (os.O_WRONLY if kind == "file" and output else os.O_RDWR)
        return os.open(self._directory / f"{kind}-{output}", flags, 0o600)


def modes(fd: int) -> tuple[object, ...]:
    """What a monitor may change of a descriptor."""
    terminal = termios.tcgetattr(fd) if os.isatty(fd) else None
    return fcntl.fcntl(fd, fcntl.F_GETFL), terminal


def printing(path: pathlib.Path, ending: str) -> Bundle:
    """A guest that says something, and ends with 0 at once or not at all: the probe, whose serial
    port is QEMU's standard input and output."""
    need("probe")
    bundle = Bundle(path, "unikraft", "qemu", accelerator="tcg")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.exit=0" if ending == "exit" else "probe.hang")
    return bundle


KINDS = ("pipe", "socket", "terminal", "file", "file to read and write")
OF_LINUX = ("socket", "terminal", "file to read and write")
"""Of a guest whose three streams have ways of their own."""


@pytest.mark.parametrize("ending", ["exit", "killed"])
@pytest.mark.parametrize(
    "kinds", [*((kind,) * 3 for kind in KINDS), OF_LINUX], ids=[*KINDS, "of Linux"]
)
def test_descriptors_are_left_as_they_were(
    urunc: Urunc, tmp_path: pathlib.Path, kinds: tuple[str, ...], ending: str
) -> None:
    """While the guest runs, and after it, also where its monitor was killed that had made its own
    non-blocking."""
    if kinds == OF_LINUX:
        script = "echo out; echo err >&2; " + ("cat" if ending == "exit" else "sleep 99")
        bundle = linux(tmp_path / "b", script)
    else:
        bundle = printing(tmp_path / "b", ending)
    made = Descriptors(tmp_path)
    given = [made.make(kind, output=number > 0) for number, kind in enumerate(kinds)]
    before = [modes(fd) for fd in given]
    command = words(urunc, bundle)
    process = subprocess.Popen(command, stdin=given[0], stdout=given[1], stderr=given[2])
    if ending == "killed":
        until(lambda: '"running"' in urunc("state", command[-1], check=False).stdout, "no start")
        pid = urunc.state(command[-1])["pid"]
        until(lambda: not_blocking(pid), "the monitor does not open its streams")
        assert [modes(fd) for fd in given] == before
        os.kill(pid, signal.SIGKILL)
    assert process.wait(patient(60)) == {"exit": 0, "killed": 137}[ending]
    assert [modes(fd) for fd in given] == before
    for fd in (*given, *made.kept):
        if fd >= 0:
            os.close(fd)


def not_blocking(pid: int) -> bool:
    """Whether a process's standard input is so (proc_pid_fdinfo(5))."""
    said = pathlib.Path(f"/proc/{pid}/fdinfo/0").read_text().splitlines()
    flags = next(line.split()[1] for line in said if line.startswith("flags:"))
    return bool(int(flags, 8) & os.O_NONBLOCK)


def test_much_through_run(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """10 MiB each way at the same time; who reads begins late."""
    script = """
        head -c 10485760 /dev/urandom >/tmp/r; sha256sum /tmp/r >&2
        cat /tmp/r & tee /tmp/in | sha256sum >&2; wait
    """
    bundle = linux(tmp_path / "b", script)
    content = os.urandom(MUCH)
    process = subprocess.Popen(
        words(urunc, bundle), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin and process.stdout and process.stderr
    stdin = process.stdin
    writer = threading.Thread(target=lambda: (stdin.write(content), stdin.close()))
    writer.start()
    wait_full(process.stdout.fileno())
    out = process.stdout.read()
    errors = process.stderr.read().decode().split()
    assert process.wait(patient(60)) == 0
    writer.join()
    assert len(out) == MUCH
    sums = [hashlib.sha256(data).hexdigest() for data in (out, content)]
    assert errors[::2] == sums


class Held:
    """A container whose streams are pipes of an engine's."""

    def __init__(self, urunc: Urunc, bundle: Bundle) -> None:
        pipes = [os.pipe() for _ in range(3)]
        self.stdin = os.fdopen(pipes[0][1], "wb", buffering=0)
        self.stdout, self.stderr = (os.fdopen(pipe[0], "rb", buffering=0) for pipe in pipes[1:])
        given = (pipes[0][0], pipes[1][1], pipes[2][1])
        identifier = urunc.new_id()
        command = urunc.command("create", "--bundle", str(bundle.write()), identifier)
        before = [modes(fd) for fd in given]
        subprocess.run(command, stdin=given[0], stdout=given[1], stderr=given[2], check=True)
        self.container = Container(urunc, identifier, bundle.path)
        self.container.start()
        assert [modes(fd) for fd in given] == before
        for fd in given:
            os.close(fd)

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


Hold = Callable[[Bundle], Held]


@pytest.fixture
def holding(urunc: Urunc) -> Iterator[Hold]:
    made: list[Held] = []

    def hold(bundle: Bundle) -> Held:
        made.append(Held(urunc, bundle))
        return made[-1]

    yield hold
    for held in made:
        held.close()


def test_nobody_reads(urunc: Urunc, tmp_path: pathlib.Path, holding: Hold) -> None:
    """One stream is full: the others go on, a signal arrives, and a stop ends it; what was written
    before is there to the last byte that had room."""
    script = "trap 'echo usr1 >&2' USR1; trap 'exit 4' TERM; echo here >&2; yes & "
    script += "while :; do sleep 0.1; done"
    bundle = linux(tmp_path / "b", script)
    with nothing_left(urunc.root):
        held = holding(bundle)
        assert held.stderr.read(100) == b"here\n"
        wait_full(held.stdout.fileno())
        urunc("kill", held.container.id, "USR1")
        assert held.stderr.read(100) == b"usr1\n"
        urunc("kill", held.container.id, "TERM")
        held.container.wait_stopped()
        found = held.stdout.readall()
        assert found == (b"y\n" * len(found))[: len(found)]
        assert len(found) >= 1 << 16
        held.container.delete()
        held.close()


def test_the_last_bytes_wait_for_their_reader(
    urunc: Urunc, tmp_path: pathlib.Path, holding: Hold
) -> None:
    """Much more than a pipe holds, from an application that is long gone; and a process that it
    left behind holds nothing up."""
    script = "sleep 1000 & head -c 300000 /dev/zero; echo end"
    bundle = linux(tmp_path / "b", script)
    held = holding(bundle)
    held.stdin.close()
    wait_full(held.stdout.fileno())
    time.sleep(2)  # what the application could hand on meanwhile, it has
    found = held.stdout.readall()
    assert found == bytes(300000) + b"end\n"
    held.container.wait_stopped()
    held.container.delete()


SHOWN = [
    "/dev/pts/0", "40 120", " echo ", "mine", "to the console", "ready", "read early",
    "^Cinterrupted", " 03 0d 61\nend",
]  # fmt: skip
"""What TERMINAL shows of `early` typed ahead, Ctrl-C, and in raw mode Ctrl-C, return, a."""
TERMINAL = """
    sleep 1; tty; stty size; stty -a | grep -o ' echo '; exec 3</dev/tty && echo mine
    echo to the console >/dev/console; echo ready; read line; echo read $line
    trap 'echo interrupted; go=on' INT; while [ -z "$go" ]; do sleep 0.1; done
    stty raw -echo; head -c3 | od -An -tx1; stty sane; echo end
"""


def test_a_terminal_is_one(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Its size, who it belongs to, the line's editing, keys that are signals, raw mode; what was
    typed before the guest was there is not lost; the user's own is left as it was."""
    bundle = linux(tmp_path / "b", TERMINAL)
    bundle.config["process"]["terminal"] = True
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    before = modes(theirs)
    process = subprocess.Popen(words(urunc, bundle), stdin=theirs, stdout=theirs, stderr=theirs)
    os.write(ours, b"early\n")
    shown = ""
    keys = {"read early": b"\x03", "interrupted": b"\x03\ra"}
    while "end" not in shown:
        shown += os.read(ours, 4096).decode()
        for after, pressed in list(keys.items()):
            if after in shown:
                time.sleep(0.3)  # until it is in raw mode
                os.write(ours, pressed)
                del keys[after]
    assert process.wait(patient(60)) == 0
    assert modes(theirs) == before
    # the terminal shows the key before or after what the signal brings about
    lines = shown.replace("interrupted\r\n^C", "^Cinterrupted\r\n").split("\r\n")
    # shown by the user's terminal, which was not raw yet, and by the guest's
    assert [line for line in lines if line] == ["early", "early", *SHOWN], shown
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("console", ["", "boot"])
def test_the_kernel_speaks_on_standard_error(
    urunc: Urunc, tmp_path: pathlib.Path, console: str
) -> None:
    """Its errors, and by an annotation its boot; the application's output is its own."""
    script = "mknod /kmsg c 1 11; echo '<3>a fault' >/kmsg; echo '<6>a word' >/kmsg; echo done"
    asked = {"console": console} if console else {}
    done = run(urunc, linux(tmp_path / "b", script, **asked))
    assert (done.returncode, done.stdout) == (0, "done\n"), done
    assert "a fault" in done.stderr
    assert ("Linux version" in done.stderr, "a word" in done.stderr) == (bool(console),) * 2


def test_a_user_opens_its_output_anew(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Its pipes are its own, as under runc: nginx as nobody logs to /dev/stdout."""
    bundle = linux(tmp_path / "b", "echo out >/dev/stdout; echo err >/dev/stderr; id -u")
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    done = run(urunc, bundle)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n1000\n", "err\n"), done


def test_readers_that_are_gone(urunc: Urunc, tmp_path: pathlib.Path, holding: Hold) -> None:
    """An engine's process was killed: the writer waits, and nobody is busy with trying."""
    script = "echo here >&2; trap 'exit 4' TERM; yes & sleep 1000 & wait"
    bundle = linux(tmp_path / "b", script)
    held = holding(bundle)
    assert held.stderr.read(100) == b"here\n"
    wait_full(held.stdout.fileno())
    held.stdout.close()
    held.stderr.close()
    pid = held.container.pid
    until(lambda: all(busy_s(pid) < 0.1 for _ in range(2)), "the writer goes on trying")
    urunc("kill", held.container.id, "TERM")
    held.container.wait_stopped()
    held.container.delete()


def busy_s(pid: int) -> float:
    """The CPU time that a process takes of half a second."""

    def used_s() -> float:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before_s = used_s()
    time.sleep(0.5)
    return used_s() - before_s
