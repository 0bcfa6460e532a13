# SPDX-License-Identifier: Apache-2.0
"""A registry of images that pulls are answered from: as much of the OCI distribution specification
as that takes, over plain HTTP, from archives as images.py writes them.

It listens in a network namespace of somebody else's and runs in the tests' own process.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import pathlib
import socket
import tarfile
import threading
from collections.abc import Iterator, Sequence

from lib.places import socket_at

ADDRESS = ("127.0.0.1", 5000)
MEDIA = "application/vnd.oci.image"


@contextlib.contextmanager
def registry(namespace: str, archives: Sequence[pathlib.Path]) -> Iterator[None]:
    """Serve the images in a network namespace, given by its path."""
    contents: dict[str, tuple[str, bytes]] = {}
    for archive in archives:
        contents |= _image(archive)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]  # a mirror is asked with ns=HOST
            media_type, content = contents.get(path, ("", b""))
            self.send_response(200 if content or path == "/v2/" else 404)
            self.send_header("Content-Type", media_type or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", _digest(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(ADDRESS, Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket_at(namespace, socket.AF_INET)
    server.server_bind()
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _image(archive: pathlib.Path) -> dict[str, tuple[str, bytes]]:
    """An archive's image: what is at which path, and of which type."""
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file
            return file.read()

        (described,) = json.loads(read("manifest.json"))
        config = read(described["Config"])
        layers = [read(name) for name in described["Layers"]]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer) for layer in layers],
        }
    ).encode()
    name, _, tag = described["RepoTags"][0].partition(":")
    found = {
        f"/v2/{name}/manifests/{reference}": (f"{MEDIA}.manifest.v1+json", manifest)
        for reference in (tag, _digest(manifest))
    }
    for blob in (config, *layers):
        found[f"/v2/{name}/blobs/{_digest(blob)}"] = ("application/octet-stream", blob)
    return found


def _descriptor(kind: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
