# SPDX-License-Identifier: Apache-2.0
"""`deploy/install label`, against an API server of a few lines, with a certificate."""

from __future__ import annotations

import http.server
import json
import pathlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from urunc.installer.host import Failure
from urunc.installer.label import label


class Server(http.server.BaseHTTPRequestHandler):
    """Answers PATCH, and remembers it."""

    seen: ClassVar[list[tuple[str, str, str, Any]]] = []

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, token = self.headers["Content-Type"], self.headers["Authorization"]
        self.seen.append((self.path, kind, token, body))
        self.send_response(403 if "forbidden" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def account(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "ca.crt")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    (tmp_path / "token").write_text("secret\n")
    server = http.server.HTTPServer(("localhost", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    Server.seen.clear()
    yield str(tmp_path)
    server.shutdown()
    server.server_close()


def test_label(account: str) -> None:
    label("node-1", ["urunc.io/urunc-runtime=true", "old-"], account)
    assert Server.seen == [
        (
            "/api/v1/nodes/node-1",
            "application/merge-patch+json",
            "Bearer secret",
            {"metadata": {"labels": {"urunc.io/urunc-runtime": "true", "old": None}}},
        )
    ]


def test_refused(account: str) -> None:
    with pytest.raises(Failure, match="403"):
        label("forbidden", ["a=b"], account)
    with pytest.raises(Failure, match="expected"):
        label("node-1", ["a"], account)


def test_no_account(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Failure, match="label node"):
        label("node-1", ["a=b"], str(tmp_path))
