# SPDX-License-Identifier: Apache-2.0
"""urunc's shim without a containerd: started as containerd starts it, asked over ttrpc, its events
received."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from typing import Any

from lib import busybox
from lib.patience import patient, until
from lib.support import RUN, URUNC, Bundle
from urunc.shim import ttrpc
from urunc.shim.messages import any_of, decode, encode, type_of
from urunc.shim.tables import METHODS

PROGRAM = URUNC.parent / "containerd-shim-urunc-v2"
NAMESPACE = f"tests-{RUN}"
EVENTS = "containerd.services.events.ttrpc.v1.Events"


class Events:
    """containerd's end of the events: it keeps (topic, event) of each, in their order."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.address = str(directory / "events")
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            connection = ttrpc.Connection(peer, {EVENTS: {"Forward"}})
            with contextlib.closing(connection):
                while not connection.closed and select.select([connection], [], [], patient(10))[0]:
                    for request in connection.receive():
                        self._take(request.payload)
                        connection.respond(request.stream, b"")
            if self.seen and self.seen[-1][0] == "end":
                return

    def _take(self, payload: bytes) -> None:
        name = "containerd.services.events.ttrpc.v1.ForwardRequest"
        envelope = decode(name, payload)["envelope"]
        event = envelope["event"]
        self.seen.append((envelope["topic"], decode(type_of(event), event["value"])))

    def topics(self) -> list[str]:
        """The topics so far."""
        return [topic.removeprefix("/tasks/") for topic, _ in self.seen]

    def close(self) -> None:
        """Stop."""
        self.seen.append(("end", {}))
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.address)
        self._thread.join(patient(15))
        self._listener.close()


class Shim:
    """A shim for one container, `id`, in its bundle. What it is asked is by the methods' names."""

    def __init__(
        self, directory: pathlib.Path, bundle: Bundle, program: str = str(PROGRAM)
    ) -> None:
        self.bundle = bundle
        self.directory = directory
        self.id = bundle.path.name
        self.program = program
        self.root = str(directory / "root")
        self.sockets = tempfile.mkdtemp(prefix="u")  # a socket's path has 106 bytes at most
        self.address = ""
        self.pid = 0
        self.events = Events(directory)
        self._log = -1

    def prepare(self) -> None:
        """Make what is in a bundle before `start`."""
        if not (self.bundle.path / "config.json").exists():
            self.bundle.write()
        if self._log < 0:
            log = self.bundle.path / "log"
            os.mkfifo(log)
            self._log = os.open(log, os.O_RDWR | os.O_NONBLOCK)

    def start(
        self, options: dict[str, Any] | None = None, *, check: bool = True, version: str = "2.4.2"
    ) -> str:
        """`start`, as a version of containerd from 2.3 on does it, with an Any of options; "", or
        what went wrong."""
        self.prepare()
        values = {
            "instance_id": self.id,
            "namespace": NAMESPACE,
            "containerd_version": version,
            "containerd_ttrpc_address": self.events.address,
            "containerd_grpc_address": self.events.address,
            "socket_dir": self.sockets,
            "extensions": [{"value": options}] if options else [],
        }
        data = encode("containerd.runtime.bootstrap.v1.BootstrapParams", values)
        result = self.command("start", stdin=data)
        if result.returncode:
            assert not check, result.stderr
            return result.stderr.decode()
        assert not result.stderr
        answer = decode("containerd.runtime.bootstrap.v1.BootstrapResult", result.stdout)
        assert answer["version"] == (3 if version >= "2.4" else 2)
        self.address = answer["address"]
        self.pid = self("Connect")["shim_pid"]
        return ""

    def command(
        self, action: str, *words: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the program as containerd does."""
        given = ("-namespace", NAMESPACE, "-address", self.events.address, "-id", self.id)
        return subprocess.run(
            [self.program, *given, *words, action],
            cwd=self.bundle.path, input=stdin, capture_output=True, timeout=patient(30),
            env=os.environ | {"TTRPC_ADDRESS": self.events.address},
        )  # fmt: skip

    def __call__(self, method: str, timeout_s: float = 30, **values: Any) -> dict[str, Any]:
        """One call; raises StatusError."""
        request, response = METHODS[method]
        package = "containerd.task.v3"
        payload = encode(f"{package}.{request}", {"id": self.id, **values})
        answer = ttrpc.call(
            self.address, f"{package}.Task", method, payload, patient(timeout_s), {}
        )
        return decode(response if "." in response else f"{package}.{response}", answer)

    def create(self, options: dict[str, Any] | None = None, **values: Any) -> int:
        """`Create`; its pid."""
        options = options or runc_options(root=self.root)
        pid = self("Create", bundle=str(self.bundle.path), options=options, **values)["pid"]
        assert isinstance(pid, int)
        return pid

    def end(self, code: int | None = None) -> None:
        """Kill and delete the container, and have the shim leave; `code` is how it must end."""
        with contextlib.suppress(ttrpc.StatusError):  # it has ended; Wait says how
            self("Kill", signal=signal.SIGKILL)
        found = self("Wait")["exit_status"]
        assert code is None or found == code
        self("Delete")
        self.leave()

    def leave(self) -> None:
        """`Shutdown`, and see it end."""
        self("Shutdown", now=True)
        until(lambda: not os.path.exists(f"/proc/{self.pid}"))
        assert os.listdir(self.sockets) == []
        self.pid = 0

    def said(self) -> str:
        """What it wrote into its log."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._log, 1 << 16).decode()
        return ""

    def close(self) -> None:
        """Take back what is left."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self.address:
            self.command("delete", "-bundle", str(self.bundle.path))
        self.events.close()
        shutil.rmtree(self.sockets)
        if self._log >= 0:
            os.close(self._log)


def box(directory: pathlib.Path, *args: str) -> Bundle:
    """A bundle of an ordinary container."""
    made = Bundle(directory)
    busybox.install(made.root / "bin", "sh", "sleep", "echo", "true", "cat")
    made.config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    made.config["process"]["env"] = ["PATH=/bin"]
    made.args(*args)
    return made


def runc_options(**values: Any) -> dict[str, Any]:
    """runc's options."""
    return any_of("containerd.runc.v1.Options", values)
