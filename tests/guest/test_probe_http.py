# SPDX-License-Identifier: Apache-2.0
"""The probe's HTTP server, which tests of engines and clusters stand on."""

from __future__ import annotations

import http.client
import pathlib
import uuid

import pytest

from lib.places.cni import Node, bare, bridge
from lib.support import PARTS, RUN, Bundle, Urunc, need


def test_pages(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Its page; the state that a client sets; a port that nobody has; the end with a code."""
    need("cni", "root", "tun", "installed", "firecracker", "kvm", "probe")
    bundle = Bundle(tmp_path / "b", "unikraft", "firecracker")
    bundle.add("unikernel", PARTS / "probe.pvh")
    bundle.args("app", "probe.serve", "probe.http=8080", "probe.page=one")
    with Node(RUN + uuid.uuid4().hex[:6]) as node:
        pod = node.pod(bridge("net", "10.22.0.0/24"))
        bundle.network(pod.path)
        address = bare(pod.addresses[0])
        container = urunc.create(bundle)
        container.start()
        container.event("serving")
        for _ in range(3):
            assert node.inside.http(address, port=8080) == "one\n"
        with pytest.raises(ConnectionRefusedError):
            node.inside._http(address, "/", "", 81)
        for path in ("/fail", "/"):
            with pytest.raises(http.client.HTTPException, match="503"):
                node.inside._http(address, path, "", 8080)
        assert node.inside.http(address, "/recover", port=8080) == "one\n"
        assert node.inside.http(address, "/quit/3", port=8080) == "one\n"
        assert container.event("exit")["code"] == 3
        container.wait_stopped()
        container.delete()
