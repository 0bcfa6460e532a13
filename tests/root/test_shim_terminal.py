# SPDX-License-Identifier: Apache-2.0
"""A process's terminal in the shim, whoever opens first and whoever goes away; all is closed."""

from __future__ import annotations

import array
import os
import pathlib
import pty
import select
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest

from lib.patience import patient, until
from lib.streams import SETTLING, Client, logger, nothing_left_open, opened, three_fifos
from urunc.errors import HostError
from urunc.shim.stdio import TaskStreams
from urunc.shim.terminal import Terminal

closed = pytest.fixture(autouse=True)(nothing_left_open)
fifos = pytest.fixture(three_fifos)


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
        SETTLING.settle()

    def until(self, condition: Callable[[], object], timeout_s: float = 10) -> None:
        def found() -> object:
            done = condition()
            if not done:
                self.turn()
            return done

        until(found, timeout_s=timeout_s)

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
    assert SETTLING.settle()
    out = Client(fifos[1])
    assert out.finish() == b"early\r\n"
    streams.close()


def test_terminal_of_a_quick_process(fifos: tuple[str, str, str], tmp_path: pathlib.Path) -> None:
    """It has ended before the loop has looked at the console socket."""
    streams = opened("", fifos[1], "", terminal=True)
    screen = Screen(streams, tmp_path, "echo", "quick")
    screen.process.wait(patient(10))
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
    screen.until(out.ended.is_set)
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
    until(lambda: not SETTLING.settle())
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
