# SPDX-License-Identifier: Apache-2.0
"""The gallery's key-value store (docs/try.md), as a program of this machine."""

from __future__ import annotations

import http.client
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from lib.patience import patient

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "guests-src/kv/kv.c"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port where it listens."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    program = tmp_path_factory.mktemp("kv") / "kv"
    subprocess.run(["gcc", "-std=gnu11", "-o", program, SOURCE], check=True)
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::", 0))
        number: int = free.getsockname()[1]
    with subprocess.Popen([program, str(number)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == f"kv: port {number}\n"
        yield number
        process.terminate()
        assert process.wait() == 0


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """(status, body) of a request's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patient(10))
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_keeps_and_forgets(port: int) -> None:
    assert ask(port, "PUT", "/a", b"one\0two") == (201, b"kept\n")
    assert ask(port, "GET", "/a") == (200, b"one\0two")
    assert ask(port, "PUT", "/a", b"") == (201, b"kept\n")
    assert ask(port, "GET", "/a") == (200, b"")
    assert ask(port, "GET", "/") == (200, b"a\n")
    assert ask(port, "DELETE", "/a") == (200, b"forgotten\n")
    assert ask(port, "GET", "/a")[0] == 404


def test_what_does_not_fit(port: int) -> None:
    assert ask(port, "PUT", "/big", b"x" * (1 << 16))[0] == 201
    assert ask(port, "PUT", "/larger", b"x" * ((1 << 16) + 1))[0] == 413
    assert ask(port, "PUT", "/" + "k" * 127, b"x")[0] == 201
    assert ask(port, "PUT", "/" + "k" * 128, b"x")[0] == 400
    assert ask(port, "POST", "/big", b"x")[0] == 405
    kept = [ask(port, "PUT", f"/n{number}", b"x")[0] for number in range(256)]
    assert kept == [201] * 254 + [507] * 2
