# SPDX-License-Identifier: Apache-2.0
"""A process's streams in the shim, with real FIFOs, files, logging binaries and terminals, whoever
opens first and whoever goes away; nothing is left open."""

from __future__ import annotations

import array
import os
import pathlib
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from urunc.errors import HostError
from urunc.shim import stdio
from urunc.shim.stdio import TaskStreams
from urunc.shim.terminal import Terminal

NAMES = ("stdin", "stdout", "stderr")


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    stdio._unsettled.clear()  # a failed test's
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    until(lambda: not stdio.settle(), 15)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def fifos(tmp_path: pathlib.Path) -> tuple[str, str, str]:
    for name in NAMES:
        os.mkfifo(tmp_path / name, 0o700)
    stdin, stdout, stderr = (str(tmp_path / name) for name in NAMES)
    return stdin, stdout, stderr


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def opened(stdin: str, stdout: str, stderr: str, *, terminal: bool = False) -> TaskStreams:
    streams = TaskStreams(
        stdin, stdout, stderr, terminal=terminal, namespace="ns", identifier="container"
    )
    began = time.monotonic()
    streams.open()
    assert time.monotonic() - began < 1
    return streams


def run(streams: TaskStreams, *command: str) -> subprocess.Popen[bytes]:
    """As a worker does: the process has the descriptors, the shim lets go of them."""
    given = [fd if fd >= 0 else subprocess.DEVNULL for fd in streams.child]
    process = subprocess.Popen(command, stdin=given[0], stdout=given[1], stderr=given[2])
    streams.release_child()
    return process


class Client:
    """One that opens a FIFO as containerd's does, waiting, in a thread of its own."""

    def __init__(self, path: str, content: bytes | None = None) -> None:
        self.path = path
        self.content = content
        self.read = b""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        if self.content is None:
            with open(self.path, "rb", buffering=0) as file:
                while part := file.read(1 << 16):
                    self.read += part
        else:
            with open(self.path, "wb", buffering=0) as file:
                file.write(self.content)
        self.ended.set()

    def finish(self) -> bytes:
        until(lambda: (stdio.settle(), self.ended.is_set())[1])
        self.thread.join(5)
        return self.read


@pytest.mark.parametrize("terminal", [False, True])
def test_owner(fifos: tuple[str, str, str], tmp_path: pathlib.Path, *, terminal: bool) -> None:
    """The FIFOs that a process has are its user's; a terminal's relay's, and files, are not."""
    file = tmp_path / "file"
    for stderr in (fifos[2], f"file://{file}"):
        streams = TaskStreams(
            *fifos[:2], stderr, terminal=terminal, namespace="ns", identifier="container",
            owner=(1234, 5678),
        )  # fmt: skip
        streams.open()
        streams.close()
    given = [] if terminal else list(fifos)
    for path in (*fifos, *([] if terminal else [str(file)])):
        found = os.stat(path)
        assert (found.st_uid, found.st_gid) == ((1234, 5678) if path in given else (0, 0))


def test_clients_first(fifos: tuple[str, str, str]) -> None:
    """Three clients that wait in open(2); each output ends with the process."""
    out, err = Client(fifos[1]), Client(fifos[2])
    writer = Client(fifos[0], b"some input\n")
    time.sleep(0.1)
    streams = opened(*fifos)
    process = run(streams, "sh", "-c", "read -r line; echo $line; echo error >&2; exit 3")
    assert process.wait(10) == 3
    streams.release()
    assert (out.finish(), err.finish()) == (b"some input\n", b"error\n")
    writer.finish()
    streams.close()
    streams.close()


def test_clients_last(fifos: tuple[str, str, str]) -> None:
    """Who opens when the process has long ended finds all of it, and then the end."""
    streams = opened(*fifos)
    process = run(streams, "sh", "-c", "echo one; echo two >&2")
    process.wait(10)
    streams.release()
    for _ in range(3):
        assert stdio.settle()
    out, err = Client(fifos[1]), Client(fifos[2])
    assert (out.finish(), err.finish()) == (b"one\n", b"two\n")
    assert not stdio.settle()
    streams.close()


def test_a_client_that_never_comes(fifos: tuple[str, str, str]) -> None:
    streams = opened(*fifos)
    run(streams, "echo", "lost").wait(10)
    streams.release()
    assert stdio.settle()
    streams.close()
    assert not stdio.settle()


def test_a_client_that_comes_back(fifos: tuple[str, str, str]) -> None:
    """A restarted containerd: no SIGPIPE while nobody reads, and nothing is lost."""
    streams = opened(fifos[0], fifos[1], "")
    first = os.open(fifos[1], os.O_RDONLY)
    process = run(streams, "sh", "-c", "echo 1; read -r line; echo 2; echo 3")
    assert os.read(first, 100) == b"1\n"
    os.close(first)
    Client(fifos[0], b"go on\n").finish()
    assert process.wait(10) == 0
    second = Client(fifos[1])
    time.sleep(0.05)
    streams.release()
    assert second.finish() == b"2\n3\n"
    streams.close()


def test_a_reader_that_stops_blocks_the_process_alone(fifos: tuple[str, str, str]) -> None:
    streams = opened("", fifos[1], "")
    reader = os.open(fifos[1], os.O_RDONLY)
    process = run(streams, "head", "-c", "1000000", "/dev/zero")
    time.sleep(0.2)
    assert process.poll() is None
    found = 0
    while part := os.read(reader, 1 << 16):
        found += len(part)
    os.close(reader)
    assert (found, process.wait(10)) == (1_000_000, 0)
    streams.release()
    streams.close()


def test_stdin_ends_with_close_io(fifos: tuple[str, str, str]) -> None:
    """Not before its client came, nor with the first client that goes."""
    streams = opened(fifos[0], fifos[1], "")
    out = Client(fifos[1])
    process = run(streams, "cat")
    for text in (b"one ", b"two "):
        Client(fifos[0], text).finish()
        time.sleep(0.1)
        assert process.poll() is None
    last = os.open(fifos[0], os.O_WRONLY)
    streams.close_stdin()
    time.sleep(0.1)
    assert process.poll() is None
    os.write(last, b"three")
    os.close(last)
    assert process.wait(10) == 0
    streams.release()
    assert out.finish() == b"one two three"
    streams.close()


def test_what_the_process_gets(fifos: tuple[str, str, str]) -> None:
    """Ends that wait, each of its direction alone."""
    streams = opened(*fifos)
    wanted = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)
    for fd, mode in zip(streams.child, wanted, strict=True):
        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        text = pathlib.Path(f"/proc/self/fdinfo/{fd}").read_text()
        flags = int(text.partition("flags:")[2].split()[0], 8)
        assert flags & os.O_ACCMODE == mode
    streams.close()
    assert streams.child == (-1, -1, -1)


def test_nothing_at_all() -> None:
    streams = opened("", "", "")
    assert streams.child == (-1, -1, -1)
    streams.wait_ready()
    streams.release_child()
    streams.release()
    streams.close()


def test_files(tmp_path: pathlib.Path, fifos: tuple[str, str, str]) -> None:
    """Appended to, made where there is none, both outputs into one."""
    log = tmp_path / "new/directory/a log"
    uri = f"file://{log}".replace(" ", "%20")
    for number in range(2):
        streams = opened("", uri, uri)
        run(streams, "sh", "-c", f"echo out{number}; echo err{number} >&2").wait(10)
        streams.release()
        streams.close()
    assert log.read_text() == "out0\nerr0\nout1\nerr1\n"
    assert stat.S_IMODE(log.stat().st_mode) & 0o022 == 0
    plain = tmp_path / "plain"
    plain.write_text("input\n")
    (tmp_path / "out").write_text("before\n")
    streams = opened(f"file://{plain}", str(tmp_path / "out"), fifos[2])
    run(streams, "cat").wait(10)
    streams.close()
    assert (tmp_path / "out").read_text() == "before\ninput\n"


def test_one_fifo_for_both(fifos: tuple[str, str, str]) -> None:
    out = Client(fifos[1])
    streams = opened("", fifos[1], fifos[1])
    assert streams.child[1] == streams.child[2]
    run(streams, "sh", "-c", "echo a; echo b >&2").wait(10)
    streams.release()
    assert out.finish() == b"a\nb\n"
    streams.close()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("/nowhere/in", "", ""), "stdin '/nowhere/in': no such file or directory"),
        (("{0}", "{1}", "/nowhere/err"), "stderr '/nowhere/err': no such file or directory"),
        (("{0}", "npipe:////./pipe/x", ""), "stdout 'npipe:////./pipe/x': unknown scheme"),
        (("", "binary:///nowhere/logger", ""), "logging binary '/nowhere/logger': no such file"),
        (("{0}", "{1}", "file:///proc/nowhere/x"), "stderr 'file:///proc/nowhere/x': no such file"),
        (("{0}", "/", ""), "stdout '/': is a directory"),
    ],
)
def test_what_cannot_be_opened(
    fifos: tuple[str, str, str], names: tuple[str, str, str], said: str
) -> None:
    stdin, stdout, stderr = (name.format(*fifos) for name in names)
    with pytest.raises(HostError, match=said):
        opened(stdin, stdout, stderr)


# logging binaries

LOGGER = """#!{python} -S
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (open({directory!r} + "/terminated", "w"), os._exit(0)))
with open({directory!r} + "/facts", "w") as file:
    fds = [os.readlink(f"/proc/self/fd/{{fd}}").partition(":")[0] for fd in range(6)]
    print(sys.argv[1:], sorted(os.environ.items())[:2], fds, file=file)
    fds = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)]
    print(*fds, file=file)
{ready}
os.close(5)
for fd, name in ((3, "out"), (4, "err")):
    with open({directory!r} + "/" + name, "wb") as file:
        while part := os.read(fd, 1 << 16):
            file.write(part)
{end}
"""


def logger(directory: pathlib.Path, ready: str = "os.write(5, b'x')", end: str = "") -> str:
    program = directory / "logger"
    program.write_text(
        LOGGER.format(python=sys.executable, directory=str(directory), ready=ready, end=end)
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("stderr_too", [True, False])
def test_logging_binary(tmp_path: pathlib.Path, stderr_too: bool) -> None:
    """What containerd's contract gives it, nothing of the shim's, all of the output, the end."""
    known = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    inherited = {fd for fd in known if os.get_inheritable(int(fd))} - {*map(str, range(7))}
    uri = f"binary://{logger(tmp_path)}?b=x%20y&a=&b=z"
    streams = opened("", uri, uri if stderr_too else "")
    streams.wait_ready()
    run(streams, "sh", "-c", "seq 20000; echo error >&2").wait(10)
    streams.release()
    streams.close()
    until(lambda: not stdio.settle())
    facts, fds = (tmp_path / "facts").read_text().splitlines()
    environment = [("CONTAINER_ID", "container"), ("CONTAINER_NAMESPACE", "ns")]
    streams_given = ["/dev/null"] * 3 + ["pipe"] * 3
    assert facts.startswith(f"{['b', 'x y', 'a', '']} {environment}"), facts
    assert facts.endswith(f"{streams_given}")
    # 6 is the file itself; what may be inherited is the tests' own, not the shim's
    assert set(fds.split()) - inherited == {*map(str, range(7))}
    assert (tmp_path / "out").read_text() == "".join(f"{n}\n" for n in range(1, 20001))
    assert (tmp_path / "err").read_text() == "error\n"
    assert not (tmp_path / "terminated").exists()


def test_logging_binary_that_does_not_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "TERMINATE_AFTER_S", 0.2)
    streams = opened("", f"binary://{logger(tmp_path, end='signal.pause()')}", "")
    streams.wait_ready()
    run(streams, "echo", "x").wait(10)
    streams.close()
    assert stdio.settle()
    until(lambda: not stdio.settle())
    assert (tmp_path / "terminated").exists()


def test_logging_binary_that_does_not_listen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "TERMINATE_AFTER_S", 0.1)
    monkeypatch.setattr(stdio, "KILL_AFTER_S", 0.1)
    end = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"
    streams = opened("", f"binary://{logger(tmp_path, end=end)}", "")
    streams.wait_ready()
    streams.close()
    time.sleep(0.3)
    until(lambda: not stdio.settle())


@pytest.mark.parametrize(("scheme", "refused"), [("binary", False), ("binary-v2", True)])
def test_logging_binary_that_ends_early(tmp_path: pathlib.Path, scheme: str, refused: bool) -> None:
    """The first version's end counts as ready, as ever; the second's does not."""
    streams = opened("", f"{scheme}://{logger(tmp_path, ready='sys.exit(1)')}", "")
    try:
        if refused:
            with pytest.raises(HostError, match="ended before it was ready"):
                streams.wait_ready()
        else:
            streams.wait_ready()
    finally:
        streams.close()


def test_logging_binary_that_is_never_ready(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "READY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(stdio, "TERMINATE_AFTER_S", 0)
    streams = opened("", f"binary://{logger(tmp_path, ready='signal.pause()')}", "")
    with pytest.raises(HostError, match=r"not ready within 0\.2 s"):
        streams.wait_ready()
    streams.close()


# terminals


class Screen:
    """The terminal of a process that the test runs, played as runtime and client."""

    def __init__(
        self, streams: TaskStreams, directory: pathlib.Path, *command: str, raw: bool = False
    ) -> None:
        self.streams = streams
        self.terminal = Terminal(streams, str(directory))
        assert len(self.terminal.socket_path) < 108
        master, slave = pty.openpty()
        if raw:
            import tty

            tty.setraw(slave)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.terminal.socket_path)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))]
            connection.sendmsg([b"/dev/ptmx"], ancillary)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        os.close(master)
        self.turns = 0

    def turn(self) -> None:
        """One turn of the shim's loop."""
        poller = select.poll()
        known = dict(self.terminal.descriptors())
        for fd, events in known.items():
            poller.register(fd, events)
        for fd, events in poller.poll(20):
            self.terminal.ready(fd, events)
            self.turns += 1
        stdio.settle()

    def until(self, condition: Callable[[], object], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            self.turn()

    def end(self) -> int:
        self.until(lambda: self.process.poll() is not None)
        self.streams.release()
        return self.process.returncode


def test_terminal(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """Both ways, its size of before it came and of after, and its end."""
    out = Client(fifos[1])
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    assert streams.child == (-1, -1, -1)
    before = set(tmp_path.iterdir())
    script = "read -r line; stty size; read -r line; echo got $line; stty size; exit 5"
    screen = Screen(streams, tmp_path, "sh", "-c", script)
    screen.terminal.resize(100, 40)
    Client(fifos[0], b"go\n").finish()
    screen.until(lambda: b"40 100\r\n" in out.read)
    assert set(tmp_path.iterdir()) == before
    screen.terminal.resize(120, 50)
    Client(fifos[0], b"hello\n").finish()
    assert screen.end() == 5
    screen.until(out.ended.is_set)
    assert out.finish() == b"go\r\n40 100\r\nhello\r\ngot hello\r\n50 120\r\n"
    streams.close()


def test_terminal_passes_all_of_a_lot(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """A client that reads slowly gets all of it; little is held meanwhile."""
    streams = opened("", fifos[1], "", terminal=True)
    reader = os.open(fifos[1], os.O_RDONLY | os.O_NONBLOCK)
    screen = Screen(streams, tmp_path, "sh", "-c", "stty -opost; seq 200000")
    screen.until(lambda: screen.process.poll() is None and not idle_turns(screen))
    assert screen.process.poll() is None
    found = []

    def read() -> bool:
        if screen.process.poll() is not None:
            streams.release()
        try:
            part = os.read(reader, 10_000)
        except BlockingIOError:
            return False
        found.append(part)
        return not part

    screen.until(read, 30)
    assert b"".join(found) == "".join(f"{n}\n" for n in range(1, 200001)).encode()
    os.close(reader)
    screen.end()
    streams.close()


def idle_turns(screen: Screen) -> int:
    """How often something happens in a while: 0 when all stands still, without spinning."""
    before = screen.turns
    for _ in range(5):
        screen.turn()
    return screen.turns - before


def test_terminals_client_that_comes_last(
    fifos: tuple[str, str, str], tmp_path: pathlib.Path
) -> None:
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "echo", "early")
    screen.end()
    assert stdio.settle()
    out = Client(fifos[1])
    assert out.finish() == b"early\r\n"
    streams.close()


def test_terminal_of_a_quick_process(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """It has ended before the loop has looked at the console socket."""
    streams = opened("", fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "echo", "quick")
    screen.process.wait(10)
    out = Client(fifos[1])
    streams.release()
    assert out.finish() == b"quick\r\n"
    streams.close()
    assert not list(tmp_path.glob("urunc-*"))


def test_terminal_that_others_hold(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """What a process leaves behind does not keep its client waiting."""
    out = Client(fifos[1])
    streams = opened("", fifos[1], "", terminal=True)
    script = "trap '' HUP; sleep 30 & echo $!; echo last"
    screen = Screen(streams, tmp_path, "sh", "-c", script)
    screen.end()
    screen.until(out.ended.is_set, 3)
    pid, last = out.finish().split()
    assert last == b"last"
    os.kill(int(pid), signal.SIGKILL)
    streams.close()


@pytest.mark.parametrize("begun", [b"", b"half a line"])
def test_terminals_input_ends(
    fifos: tuple[str, str, str], tmp_path: pathlib.Path, begun: bytes
) -> None:
    """CloseIO is what a person would type; the process goes on and ends by itself."""
    out = Client(fifos[1])
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "sh", "-c", "stty -echo; echo ready; cat; echo done")
    screen.until(lambda: b"ready" in out.read)
    Client(fifos[0], b"line\n" + begun).finish()
    screen.until(lambda: b"line" in out.read)
    screen.terminal.close_stdin()
    assert screen.end() == 0
    screen.until(out.ended.is_set)
    assert out.finish() == b"ready\r\nline\r\n" + begun + b"done\r\n"
    streams.close()


def test_raw_terminals_input_ends(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """A guest's monitor passes every byte on: the guest's own terminal knows what ^D means."""
    out = Client(fifos[1])
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "sh", "-c", "head -c 1 | od -c", raw=True)
    screen.terminal.close_stdin()
    assert screen.end() == 0
    screen.until(out.ended.is_set)
    assert b"004" in out.finish()
    streams.close()


def test_terminal_takes_a_lot_of_input(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    out = Client(fifos[1])
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "sh", "-c", "sleep 0.3; head -c 300000 | cksum", raw=True)
    writer = Client(fifos[0], b"0123456789" * 30_000)
    assert screen.end() == 0
    screen.until(out.ended.is_set)
    expected = subprocess.run(
        ["cksum"], input=b"0123456789" * 30_000, capture_output=True, check=True
    )
    assert out.finish().split() == expected.stdout.split()
    writer.finish()
    streams.close()


def test_terminal_without_streams(tmp_path: pathlib.Path) -> None:
    """Nobody reads, nobody types: the process does not wait, and the loop does not spin."""
    streams = opened("", "", "", terminal=True)
    screen = Screen(streams, tmp_path, "sh", "-c", "seq 100000; sleep 0.2; exit 4")
    screen.until(lambda: not idle_turns(screen))
    assert screen.end() == 4
    streams.close()


def test_terminal_with_a_logging_binary(tmp_path: pathlib.Path) -> None:
    streams = opened("", f"binary://{logger(tmp_path)}", "", terminal=True)
    streams.wait_ready()
    screen = Screen(streams, tmp_path, "echo", "logged")
    screen.end()
    streams.close()
    until(lambda: not stdio.settle())
    assert (tmp_path / "out").read_bytes() == b"logged\r\n"


def test_terminals_logging_binary_that_dies(tmp_path: pathlib.Path) -> None:
    """The process goes on; what it writes is lost."""
    program = logger(tmp_path, end="", ready="os.write(5, b'x'); os._exit(1)")
    streams = opened("", f"binary://{program}", "", terminal=True)
    streams.wait_ready()
    screen = Screen(streams, tmp_path, "sh", "-c", "seq 100000; exit 7")
    assert screen.end() == 7
    streams.close()


def test_terminal_into_a_file(tmp_path: pathlib.Path) -> None:
    streams = opened("", f"file://{tmp_path}/log", "", terminal=True)
    screen = Screen(streams, tmp_path, "seq", "50000")
    screen.end()
    streams.close()
    assert (tmp_path / "log").read_text().replace("\r", "").split()[-1] == "50000"


def test_terminal_that_never_comes(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """The runtime failed: everything is let go of, strangers' messages too."""
    streams = opened(fifos[0], fifos[1], "", terminal=True)
    terminal = Terminal(streams, str(tmp_path))
    with socket.socket(socket.AF_UNIX) as connection, open("/dev/null") as null:
        connection.connect(terminal.socket_path)
        for payload in (b"x", b"y"):
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()]))]
            connection.sendmsg([payload], ancillary)
            for fd, events in terminal.descriptors():
                terminal.ready(fd, events)
    for _ in range(3):
        for fd, events in terminal.descriptors():
            terminal.ready(fd, events)
    assert len(terminal.descriptors()) == 1
    streams.close()
    assert not list(tmp_path.glob("urunc-*"))
    with pytest.raises(HostError, match="console socket"):
        Terminal(streams, "/nowhere")


def test_terminal_that_is_opened_again(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """The end of a terminal is the end of its output; what runs on is not hung up."""
    out = Client(fifos[1])
    streams = opened("", fifos[1], "", terminal=True)
    script = "echo one; exec <&- >&- 2>&-; sleep 0.5; exit 6"
    screen = Screen(streams, tmp_path, "sh", "-c", script)
    screen.until(out.ended.is_set)
    assert screen.process.poll() is None
    assert screen.end() == 6
    assert out.finish() == b"one\r\n"
    streams.close()
