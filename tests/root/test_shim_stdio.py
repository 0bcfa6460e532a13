# SPDX-License-Identifier: Apache-2.0
"""A process's streams in the shim, with real FIFOs, files, logging binaries and terminals, whoever
opens first and whoever goes away; nothing is left open."""

from __future__ import annotations

import os
import pathlib
import stat
import time

import pytest

from lib.patience import patient, until
from lib.streams import SETTLING, Client, logger, nothing_left_open, opened, run, three_fifos
from urunc.errors import HostError
from urunc.shim import stdio
from urunc.shim.stdio import TaskStreams

closed = pytest.fixture(autouse=True)(nothing_left_open)
fifos = pytest.fixture(three_fifos)


@pytest.mark.parametrize("terminal", [False, True])
def test_owner(fifos: tuple[str, str, str], tmp_path: pathlib.Path, *, terminal: bool) -> None:
    """The FIFOs that a process has are its user's; a terminal's relay's, and files, are not."""
    file = tmp_path / "file"
    for stderr in (fifos[2], f"file://{file}"):
        streams = TaskStreams(
            *fifos[:2], stderr, terminal=terminal, namespace="ns", identifier="container",
            settling=SETTLING, owner=(1234, 5678),
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
    assert process.wait(patient(10)) == 3
    streams.release()
    assert (out.finish(), err.finish()) == (b"some input\n", b"error\n")
    writer.finish()
    streams.close()
    streams.close()


def test_clients_last(fifos: tuple[str, str, str]) -> None:
    """Who opens when the process has long ended finds all of it, and then the end."""
    streams = opened(*fifos)
    process = run(streams, "sh", "-c", "echo one; echo two >&2")
    process.wait(patient(10))
    streams.release()
    for _ in range(3):
        assert SETTLING.settle()
    out, err = Client(fifos[1]), Client(fifos[2])
    assert (out.finish(), err.finish()) == (b"one\n", b"two\n")
    assert not SETTLING.settle()
    streams.close()


def test_a_client_that_never_comes(fifos: tuple[str, str, str]) -> None:
    streams = opened(*fifos)
    run(streams, "echo", "lost").wait(patient(10))
    streams.release()
    assert SETTLING.settle()
    streams.close()
    assert not SETTLING.settle()


def test_a_client_that_comes_back(fifos: tuple[str, str, str]) -> None:
    """A restarted containerd: no SIGPIPE while nobody reads, and nothing is lost."""
    streams = opened(fifos[0], fifos[1], "")
    first = os.open(fifos[1], os.O_RDONLY)
    process = run(streams, "sh", "-c", "echo 1; read -r line; echo 2; echo 3")
    assert os.read(first, 100) == b"1\n"
    os.close(first)
    Client(fifos[0], b"go on\n").finish()
    assert process.wait(patient(10)) == 0
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
    assert (found, process.wait(patient(10))) == (1_000_000, 0)
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
    assert process.wait(patient(10)) == 0
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
        run(streams, "sh", "-c", f"echo out{number}; echo err{number} >&2").wait(patient(10))
        streams.release()
        streams.close()
    assert log.read_text() == "out0\nerr0\nout1\nerr1\n"
    assert stat.S_IMODE(log.stat().st_mode) & 0o022 == 0
    plain = tmp_path / "plain"
    plain.write_text("input\n")
    (tmp_path / "out").write_text("before\n")
    streams = opened(f"file://{plain}", str(tmp_path / "out"), fifos[2])
    run(streams, "cat").wait(patient(10))
    streams.close()
    assert (tmp_path / "out").read_text() == "before\ninput\n"


def test_one_fifo_for_both(fifos: tuple[str, str, str]) -> None:
    out = Client(fifos[1])
    streams = opened("", fifos[1], fifos[1])
    assert streams.child[1] == streams.child[2]
    run(streams, "sh", "-c", "echo a; echo b >&2").wait(patient(10))
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


@pytest.mark.parametrize("stderr_too", [True, False])
def test_logging_binary(tmp_path: pathlib.Path, stderr_too: bool) -> None:
    """What containerd's contract gives it, nothing of the shim's, all of the output, the end."""
    known = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    inherited = {fd for fd in known if os.get_inheritable(int(fd))} - {*map(str, range(7))}
    uri = f"binary://{logger(tmp_path)}?b=x%20y&a=&b=z"
    streams = opened("", uri, uri if stderr_too else "")
    streams.wait_ready()
    run(streams, "sh", "-c", "seq 20000; echo error >&2").wait(patient(10))
    streams.release()
    streams.close()
    until(lambda: not SETTLING.settle())
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
    run(streams, "echo", "x").wait(patient(10))
    streams.close()
    assert SETTLING.settle()
    until(lambda: not SETTLING.settle())
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
    until(lambda: not SETTLING.settle())


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
