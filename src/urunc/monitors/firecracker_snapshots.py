# SPDX-License-Identifier: Apache-2.0
"""Firecracker's snapshots: it writes and maps its files itself, by paths in its root
(docs/snapshotting/snapshot-support.md). The memory's file is mapped private, so that it stays as it
is, and all who come from it share its pages."""

from __future__ import annotations

from urunc.errors import MonitorError
from urunc.jsontext import dumps, loads
from urunc.monitors import Launch, Program, Snapshots, numbers
from urunc.monitors.firecracker import CONFIGURATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from urunc.monitor_client import Control
    from urunc.vocabulary import ChannelKind

STATE, MEMORY = "state", "memory"
OVERRIDES = (1, 12)
"""The first version that can be told other TAP devices than the saved ones."""
MACHINE = ("machine-config", "drives", "vsock", "network-interfaces")
HOSTS = ("host_dev_name",)
"""Keys of these that the guest sees nothing of."""
MOST_HEADERS = 64


class FirecrackerSnapshots(Snapshots):
    """What it does by its API."""

    files = (STATE, MEMORY)
    memory = MEMORY
    lent = True

    def problem(self, version: str, channel: ChannelKind) -> str:
        if channel:
            return (
                "the vsock connection of urunc's init in the guest ends with a snapshot of "
                "firecracker, and its exit code with it"
            )
        return ""

    def machine(self, launch: Launch, program: Program) -> tuple[str, ...]:
        configuration = loads(launch.files[CONFIGURATION])
        found = []
        for key in MACHINE:
            items = configuration.get(key, [])
            for item in items if isinstance(items, list) else [items]:
                seen = {name: value for name, value in item.items() if name not in HOSTS}
                found.append(f"{key}: {dumps(seen)}")
        return tuple(found)

    def words(self, launch: Launch) -> tuple[str, ...]:
        return (dumps(loads(launch.files[CONFIGURATION])["boot-source"]),)

    def waiting(self, launch: Launch) -> Launch:
        argv = list(launch.argv)
        index = argv.index("--config-file")
        del argv[index : index + 2]
        return Launch(**{**launch.__dict__, "argv": tuple(argv), "files": {}})

    def save(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        most_bytes: int,
    ) -> None:
        body = {
            "snapshot_type": "Full",
            "snapshot_path": paths[STATE],
            "mem_file_path": paths[MEMORY],
        }
        _put(control, "/snapshot/create", body)

    def load(
        self,
        control: Control,
        files: Mapping[str, int],
        paths: Mapping[str, str],
        version: str,
        taps: Mapping[str, str],
    ) -> None:
        body: dict[str, Any] = {
            "snapshot_path": paths[STATE],
            "mem_backend": {"backend_type": "File", "backend_path": paths[MEMORY]},
        }
        moved = [(index, new) for index, (old, new) in enumerate(taps.items()) if old != new]
        if moved:
            if numbers(version) < OVERRIDES:
                raise MonitorError(
                    f"firecracker {version}: the guest's TAP device has another name here, which "
                    "takes version 1.12"
                )
            body["network_overrides"] = [
                {"iface_id": f"net{index}", "host_dev_name": name} for index, name in moved
            ]
        _put(control, "/snapshot/load", body)


def _put(control: Control, path: str, body: dict[str, Any]) -> None:
    """A request on a connection of its own; raises MonitorError with Firecracker's reason."""
    text = dumps(body)
    control.send(
        f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    status = control.line().decode("ascii", "replace")
    length = 0
    for _ in range(MOST_HEADERS):
        line = control.line()
        if not line:
            break
        name, _, value = line.decode("ascii", "replace").partition(":")
        if name.lower() == "content-length":
            length = int(value)
    if status.split()[1:2] in (["200"], ["204"]):
        return
    answer = control.read(length).decode("utf-8", "replace")
    raise MonitorError(f"PUT {path}: {loads(answer).get('fault_message', status)}")


SNAPSHOTS = FirecrackerSnapshots
