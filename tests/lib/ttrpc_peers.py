# SPDX-License-Identifier: Apache-2.0
"""Requests and answers of ttrpc in frames."""

from __future__ import annotations

from typing import Any

from urunc.shim.messages import decode, encode
from urunc.shim.ttrpc import (
    LENGTH_MAX,
    REQUEST,
    RESPONSE,
    Parser,
    frame,
)

TASK = "containerd.task.v2.Task"

SERVICES = {TASK: {"State", "Wait"}, "containerd.task.v3.Task": {"State"}}

EVENTS = "containerd.services.events.ttrpc.v1.Events"


def asked(stream: int, method: str = "State", service: str = TASK, **more: Any) -> bytes:
    """A request's frame."""
    values = {"service": service, "method": method, "payload": b"p%d" % stream, **more}
    return frame(stream, REQUEST, encode("ttrpc.Request", values))


def answers(data: bytes) -> list[tuple[int, int, str, bytes]]:
    """(stream, code, message, payload) of each response."""
    found = []
    for received in Parser().feed(data):
        assert (received.kind, received.flags) == (RESPONSE, 0)
        values = decode("ttrpc.Response", received.payload or b"")
        status = values["status"] or {"code": 0, "message": ""}
        found.append((received.stream, status["code"], status["message"], values["payload"]))
    return found


TOO_LONG = f"message length {LENGTH_MAX + 1} exceed maximum message size of {LENGTH_MAX}"

LONG = bytes(LENGTH_MAX + 1)
