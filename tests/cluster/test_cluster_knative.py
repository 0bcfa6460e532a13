# SPDX-License-Identifier: Apache-2.0
"""A pod of Knative's shape, a server behind a proxy in the same pod that all requests pass, and one
that is scaled from zero: what a request and a cold start take by the real kubelet."""

from __future__ import annotations

import http.client
import socket
import statistics
import threading
import time
from collections.abc import Callable

from lib.in_cluster import PORT, Namespace, Way, deployment, eventually, get, image, rolled_out
from lib.installer_image import NAME as PYTHON
from lib.patience import patient, until
from lib.places import socket_at
from lib.places.cluster import Object

PROXY_PORT = 8012
PROXY = f"""
import asyncio, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
async def pump(source, sink):
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.write_eof()
async def serve(reader, writer):
    try:
        there, back = await asyncio.open_connection("127.0.0.1", {PORT})
        await asyncio.gather(pump(reader, back), pump(there, writer))
        back.close()
    except OSError:
        pass
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "", {PROXY_PORT}) as server:
        await server.serve_forever()
asyncio.run(main())
"""
CLIENTS, REQUESTS = 4, 100
COLD_STARTS = 5


def knative(way: Way, replicas: int = 1) -> Object:
    """As Knative makes it: the container's name and PORT say what it is."""
    user = way.server("user-container", env=[{"name": "PORT", "value": str(PORT)}])
    proxy = {
        "name": "queue-proxy",
        "image": image(PYTHON),
        "command": ["/usr/bin/python3", "-Ic", PROXY],
        "ports": [{"containerPort": PROXY_PORT}],
        "readinessProbe": get() | {"httpGet": {"path": "/", "port": PROXY_PORT}},
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "1m"}},
    }
    return deployment(way, user, proxy, replicas=replicas)


def ask(network: str, address: str, port: int, limit_s: float = 0) -> None:
    """One request, by a connection of its own."""
    with socket_at(network, socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(limit_s or patient(10))
        sock.connect((address, port))
        connection = http.client.HTTPConnection(address, port)
        connection.sock = sock
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"one\n")


def rate(network: str, address: str, port: int) -> float:
    """Requests in a second, by several clients."""
    failed: list[BaseException] = []

    def client() -> None:
        try:
            for _ in range(REQUESTS):
                ask(network, address, port)
        except BaseException as error:  # handed on below
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - begin
    if failed:
        raise failed[0]
    return CLIENTS * REQUESTS / took_s


def pod_address(namespace: Namespace) -> str:
    """The address of the only pod; "" as long as it has none."""
    return "".join(pod["status"].get("podIP", "") for pod in namespace.get("pods")["items"])


def first_answer(network: str, address: str) -> None:
    """Ask until somebody answers: a probe's period of a second would hide what there is to see."""

    def answers() -> bool:
        try:
            ask(network, address, PROXY_PORT, 0.5)
        except OSError:
            time.sleep(0.01)
            return False
        return True

    until(answers, "nobody answers", 30)


def test_requests(namespace: Namespace, way: Way, measured: Callable[[str], None]) -> None:
    """Through the proxy, and to the server itself."""
    namespace.make(knative(way))
    rolled_out(namespace)
    address, network = pod_address(namespace), namespace.cluster.network
    behind, direct = rate(network, address, PROXY_PORT), rate(network, address, PORT)
    measured(f"requests/s, {way.name}: {behind:.0f} through the proxy, {direct:.0f} to the server")


def test_cold_start(namespace: Namespace, way: Way, measured: Callable[[str], None]) -> None:
    """From `replicas: 1` to the first answer, the node's image being there."""
    namespace.make(knative(way, 0))
    took_s = []
    for _ in range(COLD_STARTS):
        begin = time.monotonic()
        namespace.kubectl("scale", "deployment/app", "--replicas=1")
        address = eventually(lambda: pod_address(namespace), "there is no pod")
        first_answer(namespace.cluster.network, address)
        took_s.append(time.monotonic() - begin)
        namespace.kubectl("scale", "deployment/app", "--replicas=0")
        eventually(lambda: not namespace.get("pods")["items"], "the pod stays")
    measured(f"cold start, {way.name}: {statistics.median(took_s):.2f} s, median of {COLD_STARTS}")
