# SPDX-License-Identifier: Apache-2.0
"""`urunc metrics`: starts, failures, containers and the cache, in the text format of Prometheus."""

from __future__ import annotations

import sys

from urunc import __version__, logs
from urunc.cli.options import FILE, VALUE, Arguments
from urunc.errors import HostError, UsageError, reason
from urunc.linux.files import write_whole
from urunc.metrics import containers, failures, starts, stored
from urunc.metrics.exposition import CONTENT_TYPE, Family, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {
    "--output": (FILE, "write them into this file, at once as a whole, for a textfile collector"),
    "--listen": (VALUE, "serve them by HTTP at ADDRESS:PORT, until a signal ends it"),
}
USAGE = "[--output FILE | --listen ADDRESS:PORT]"
SUMMARY = "Show starts, failures and memory as metrics for Prometheus."
PATH = "/metrics"
TIMEOUT_S = 10.0
"""How long one client may take."""
PORTS = range(1, 1 << 16)


def main(arguments: Arguments) -> int:
    arguments.only()
    output, address = arguments.get("--output"), arguments.get("--listen")
    if output and address:
        raise UsageError("option '--listen': not with --output")
    if address:
        _serve(*_address(address), lambda: _page(arguments))
        return 0
    page = _page(arguments)
    if output:
        try:
            write_whole(output, page.encode(), 0o644)
        except OSError as error:
            raise HostError(f"write '{output}': {reason(error)}") from None
    else:
        sys.stdout.write(page)
    return 0


def _page(arguments: Arguments) -> str:
    """All of it, as it is now. What is not there has no metrics."""
    config = arguments.config()
    about = Family("urunc_build_info", "gauge", "The version of urunc.")
    about.add(1, version=__version__)
    found = [about, *containers.families(containers.roots(arguments.root))]
    for key, look in (("timestamps.file", starts.families), ("log.file", failures.families)):
        path = config.get(key)
        try:
            found += look(path) if path else []
        except FileNotFoundError:
            pass  # nothing has been written yet
        except OSError as error:
            logs.warn(f"metrics: read '{path}': {reason(error)}")
    return text([*found, *stored.families(config)])


def _address(given: str) -> tuple[str, int]:
    """(address, port); of IPv6 the address is in brackets, "" stands for all."""
    host, colon, port = given.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not port.isdecimal()
        or int(port) not in PORTS
        or (":" in bare and bare == host)
    ):
        raise UsageError(
            f"option '--listen': '{given}' is not ADDRESS:PORT",
            "such as 127.0.0.1:9464, [::1]:9464, or :9464 for all addresses",
        )
    return bare, int(port)


def _serve(host: str, port: int, page: Callable[[], str]) -> None:
    """Until SIGTERM or SIGINT. One client after the other: each is answered at once, or waits no
    longer than TIMEOUT_S."""
    import signal
    import socket
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        server_version = f"urunc/{__version__}"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in (PATH, "/"):
                self.send_error(404, f"the metrics are at {PATH}")
                return
            body = page().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Each scrape is no news."""

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def leave(*_given: object) -> None:
        raise SystemExit(0)

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise HostError(f"listen at '{host}:{port}': {reason(error)}") from None
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    logs.info(f"metrics at http://{host or '*'}:{port}{PATH}")
    try:
        server.serve_forever()
    except SystemExit:
        pass
    finally:
        server.server_close()
