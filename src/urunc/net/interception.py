# SPDX-License-Identifier: Apache-2.0
"""Where a pod's rules lead the TCP connections that its containers make: to a service mesh's
sidecar, or nowhere.

Such rules (Istio's, Linkerd's) are in the OUTPUT hook, for what the namespace's processes send.
What comes from a guest has passed PREROUTING in their place, where the same meshes have the rules
for connections from outside. So the rules are asked: a connection is tried, from within the
namespace to an address that is nobody's, and conntrack says who would answer. It never leaves the
namespace.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    SO_MARK,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from urunc import logs
from urunc.linux.conntrack import Conntrack
from urunc.linux.namespaces import call_in_network

NOBODY = {False: "192.0.2.1", True: "2001:db8::1"}
"""Addresses for documentation (RFC 5737, RFC 3849)."""
PORT = 80
MARK = 0x75727563
"""The mark of such a packet, by which our own rules drop it where it would leave."""


def outbound_port(namespace: str, *, ipv6: bool) -> int:
    """The port of the namespace that TCP connections to other hosts are led to, 0 for none."""
    try:
        return call_in_network(namespace, lambda: _ask(ipv6=ipv6))
    except (OSError, LookupError) as error:  # a kernel without ctnetlink, no route, …
        logs.detail(f"no answer to where the namespace leads connections: {error!r}")
        return 0


def _ask(*, ipv6: bool) -> int:
    target = NOBODY[ipv6]
    kind = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
    trial = socket(AF_INET6 if ipv6 else AF_INET, kind)
    connections = Conntrack()
    try:
        trial.setsockopt(SOL_SOCKET, SO_MARK, MARK)
        try:
            trial.connect((target, PORT))
        except (BlockingIOError, ConnectionRefusedError):
            pass
        own = trial.getsockname()
        found, port = connections.tcp_peer((own[0], own[1]), (target, PORT))
    except FileNotFoundError:
        return 0  # dropped before it was somebody's
    finally:
        trial.close()
        connections.close()
    return 0 if found == target else port
