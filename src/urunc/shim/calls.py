# SPDX-License-Identifier: Apache-2.0
"""A call of containerd's task service, with its values as dictionaries and one answer."""

from __future__ import annotations

from urunc import logs
from urunc.errors import Error
from urunc.shim.messages import MessageError, decode, encode
from urunc.shim.tables import METHODS
from urunc.shim.ttrpc import (
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNIMPLEMENTED,
    UNKNOWN,
    StatusError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from urunc.shim import ttrpc
    from urunc.shim.worker import Answer

VERSIONS = {"containerd.task.v2.Task": "v2", "containerd.task.v3.Task": "v3"}
SERVICES = dict.fromkeys(VERSIONS, METHODS)
"""What a connection serves: the methods of each service."""
FAILED = "OCI runtime {} failed: "
"""What runc's shim writes before a runtime's words; engines show it, and some look for it."""
CODES = {"missing": NOT_FOUND, "refused": UNIMPLEMENTED}
"""An answer's kind → gRPC's code; others are Unknown, as with runc's shim."""
CODES_OF_RUNNING = {**CODES, "wrong status": NOT_FOUND}
"""The same for calls that need a container which runs: one that does not is as good as gone, and
engines go on."""


class Call:
    """A call that waits for its answer."""

    def __init__(self, connection: ttrpc.Connection, called: ttrpc.Request) -> None:
        """Raises MessageError."""
        self._connection = connection
        self._package = f"containerd.task.{VERSIONS[called.service]}"
        self.stream = called.stream
        self.method = called.method
        self.values = decode(f"{self._package}.{METHODS[called.method][0]}", called.payload)
        """The request's fields."""

    @property
    def process_name(self) -> str:
        """The process that it is about, as messages have it: `ID` or `ID (EXEC_ID)`."""
        exec_id = self.values.get("exec_id", "")
        return f"{self.values['id']}{f' ({exec_id})' if exec_id else ''}"

    def answer(self, **values: Any) -> None:
        """Answer it with the method's response."""
        response = METHODS[self.method][1]
        name = response if "." in response else f"{self._package}.{response}"
        self._connection.respond(self.stream, encode(name, values))

    def refuse(self, code: int, message: str) -> None:
        """Answer it with one of gRPC's codes."""
        self._connection.fail(self.stream, StatusError(code, message))


def refuse(call: Call, answer: Answer, codes: Mapping[str, int] = CODES, verb: str = "") -> None:
    """Answer a call with a worker's error, after FAILED where a verb is named."""
    named = verb and answer.kind != "refused"
    text = f"{FAILED.format(verb)}{answer.text}" if named else answer.text
    call.refuse(codes.get(answer.kind, UNKNOWN), text)


def failure(method: str, error: Exception) -> StatusError:
    """What a client hears of a call that raised this."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, MessageError):
        return StatusError(INVALID_ARGUMENT, f"{method}: {error}")
    if isinstance(error, Error):
        return StatusError(UNKNOWN, str(error))
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename else ""
        return StatusError(UNKNOWN, f"{method}: {error.strerror or error}{where}")
    logs.warn(f"internal error in {method}: {type(error).__name__}: {error}")
    return StatusError(INTERNAL, f"{method}: {type(error).__name__}: {error}")


def guarded(call: Call, done: Callable[[Answer], None]) -> Callable[[Answer], None]:
    """`done`, whose own failure is an answer, too: who called must not wait for ever."""

    def safely(answer: Answer) -> None:
        try:
            done(answer)
        except Exception as error:
            refused = failure(call.method, error)
            call.refuse(refused.code, refused.message)

    return safely


def answering(
    call: Call, then: Callable[[], None], codes: Mapping[str, int] = CODES, verb: str = ""
) -> Callable[[Answer], None]:
    """What follows a worker: its error to the client, or `then`."""

    def done(answer: Answer) -> None:
        if answer.code:
            refuse(call, answer, codes, verb)
        else:
            then()

    return guarded(call, done)
