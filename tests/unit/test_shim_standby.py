# SPDX-License-Identifier: Apache-2.0
"""Who stands by for the next container: the order, its streams, and that it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

from urunc.record import replace
from urunc.shim.standby import MODULES, ORDER_LIMIT_BYTES, Order, Standby
from urunc.shim.worker import Answer, RuntimeLog, Worker

RUNTIME = """#!/bin/sh
# Stands in for an ordinary runtime: says its words, and what it can read.
printf '%s\\n' "$PWD" "$@" >&2
cat
ls /proc/self/fd | tr '\\n' ' '
"""


@pytest.fixture
def order(tmp_path: pathlib.Path) -> Order:
    runtime = tmp_path / "runtime"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    (tmp_path / "config.json").write_text('{"root": {"path": "none"}}')
    return Order(
        words=("--root", str(tmp_path / "root"), "create", "--bundle", str(tmp_path), "a b"),
        runtime=str(runtime), directory=str(tmp_path), mounts=(), rootfs="",
        log=str(tmp_path / "log"),
    )  # fmt: skip


@pytest.fixture
def standby() -> Iterator[Standby]:
    made = Standby()
    yield made
    with contextlib.suppress(OSError):
        made.dismiss()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(made.pid, 0)


def answer_of(standby: Standby, order: Order) -> Answer:
    answers: list[Answer] = []
    worker = Worker(standby.pid, standby.answer, answers.append, RuntimeLog(order.log))
    worker.finish(os.waitpid(standby.pid, 0)[1])
    (answer,) = answers
    return answer


@pytest.mark.parametrize("name", MODULES)
def test_what_it_loads_is_there(name: str) -> None:
    assert importlib.util.find_spec(f"urunc.{name}")


@pytest.mark.parametrize("has_input", [True, False])
def test_its_work(standby: Standby, order: Order, tmp_path: pathlib.Path, has_input: bool) -> None:
    """It becomes the ordinary runtime, here, with these words and streams, and no descriptor of
    anybody else's."""
    (tmp_path / "in").write_text("said\n")
    flags = os.O_RDWR | os.O_CREAT
    fds = [os.open(tmp_path / name, flags) for name in ("in", "out", "err")]
    try:
        assert standby.begin(order, (fds[0] if has_input else -1, fds[1], fds[2]))
        assert answer_of(standby, order) == Answer(code=0)
    finally:
        for fd in fds:
            os.close(fd)
    log = RuntimeLog(order.log)
    assert (tmp_path / "err").read_text().splitlines() == [
        str(tmp_path), *log.options, *order.words
    ]  # fmt: skip
    out = (tmp_path / "out").read_text()
    assert out == ("said\n" if has_input else "") + "0 1 2 3 "  # 3 is the directory that ls reads


def test_its_errors(standby: Standby, order: Order, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").unlink()
    assert standby.begin(order, (-1, -1, -1))
    answer = answer_of(standby, order)
    assert answer.code == 1
    assert answer.message == f"read '{tmp_path}/config.json': no such file or directory"


def test_mounts(standby: Standby, order: Order, tmp_path: pathlib.Path) -> None:
    """They come whole, and first."""
    mounts = ({"type": "fuse.any", "source": "/é", "target": "", "options": ["a=b"]},)
    assert standby.begin(replace(order, mounts=mounts, rootfs=str(tmp_path / "rootfs")), (-1,) * 3)
    message = answer_of(standby, order).message
    assert message == f"mount '/é' (fuse.any) at '{tmp_path}/rootfs': this shim has no FUSE helper"


def test_one_that_has_gone(standby: Standby, order: Order) -> None:
    os.kill(standby.pid, signal.SIGKILL)
    os.waitpid(standby.pid, 0)
    assert not standby.begin(order, (-1, -1, -1))


def test_an_order_that_is_too_long(standby: Standby, order: Order) -> None:
    """It is not cut: another worker does it."""
    long = replace(order, words=("x" * ORDER_LIMIT_BYTES,))
    assert not standby.begin(long, (-1, -1, -1))
    standby.dismiss()
    assert os.waitstatus_to_exitcode(os.waitpid(standby.pid, 0)[1]) == 1


def test_modules_that_have_gone(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where urunc was installed anew: nothing was made, and that is said."""
    monkeypatch.setattr("urunc.shim.standby.MODULES", ("no_such_module",))
    standby = Standby()
    begun = standby.begin(order, (-1, -1, -1))  # it may have ended before
    assert answer_of(standby, order) == Answer(
        code=1,
        message="internal error: ModuleNotFoundError: No module named 'urunc.no_such_module'",
    )
    if not begun:
        standby._socket.close()
