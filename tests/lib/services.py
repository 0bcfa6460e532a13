# SPDX-License-Identifier: Apache-2.0
"""The variables with which a kubelet tells every container of its namespace's services
(pkg/kubelet/envvars/envvars.go, FromServices)."""

from __future__ import annotations


def service(name: str, address: str, *ports: tuple[str, int, str]) -> list[str]:
    """Of one service with ports (name, number, protocol)."""
    name = name.upper().replace("-", "_").replace(".", "_")
    env = [f"{name}_SERVICE_HOST={address}", f"{name}_SERVICE_PORT={ports[0][1]}"]
    env += [
        f"{name}_SERVICE_PORT_{port.upper().replace('-', '_')}={number}"
        for port, number, _ in ports
        if port
    ]
    joined = f"[{address}]" if ":" in address else address
    for index, (_, number, protocol) in enumerate(ports):
        url = f"{protocol.lower()}://{joined}:{number}"
        env += [f"{name}_PORT={url}"] if not index else []
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        env += [
            f"{prefix}={url}",
            f"{prefix}_PROTO={protocol.lower()}",
            f"{prefix}_PORT={number}",
            f"{prefix}_ADDR={address}",
        ]
    return env


def links(count: int) -> list[str]:
    """Of the cluster's API and so many services of its namespace less one."""
    env = service("kubernetes", "10.96.0.1", ("https", 443, "TCP"))
    for index in range(1, count):
        env += service(f"backend-{index}", f"10.96.7.{index}", ("http", 8080, "TCP"))
    return env
