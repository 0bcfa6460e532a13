# SPDX-License-Identifier: Apache-2.0
"""`urunc create`: makes a container up to an init that waits for `start`."""

from __future__ import annotations

import posix

from urunc import timing
from urunc.bundle import image, spec
from urunc.bundle.document import read_document
from urunc.bundle.resources import read
from urunc.cli.options import CREATE, Arguments
from urunc.errors import SpecError, UsageError, reason
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.lifecycle.create import CreateOptions
    from urunc.lifecycle.relay import Relay
    from urunc.state import State

OPTIONS = CREATE
USAGE = "[OPTION...] ID"
SUMMARY = "Create a container from a bundle."


def main(arguments: Arguments) -> int:
    create(arguments)
    return 0


def create(
    arguments: Arguments,
    terminal: Callable[[], int] | None = None,
    relay: Relay | None = None,
) -> State:
    """Create a container, for `create` and `run`; for a bundle without a unikernel, become the
    ordinary runtime.

    If config.json asks for a terminal, `terminal` returns a socket's descriptor to send it to; for
    a container without one, `relay` passes the streams on.
    """
    from urunc.lifecycle import create

    identifier, parsed, unikernel, asked = request(arguments, terminal, relay)
    config = arguments.config()
    return create.create(arguments.root, identifier, parsed, unikernel, config, asked)


def request(
    arguments: Arguments, terminal: Callable[[], int] | None, relay: Relay | None
) -> tuple[str, Spec, UnikernelImage, CreateOptions]:
    """The container's id, what its bundle is, and how to make it; as in `create`."""
    (identifier,) = arguments.only("container id")
    config = arguments.config()
    bundle = bundle_directory(arguments.get("--bundle"))
    document = arguments.document
    if document is None:
        document = read_document(bundle)
    if not image.claims(document, bundle, config):
        image.warn_of_strangers(document, config)
        arguments.hand_over(config)
    parsed = spec.parse(document, bundle)
    unikernel = image.read(parsed, config)
    timing.stamp(1)
    from urunc.lifecycle.create import CreateOptions

    asked = CreateOptions(relay=relay, **options(arguments))
    if parsed.terminal and terminal:
        asked = replace(asked, console_descriptor=terminal())
    return identifier, parsed, unikernel, asked


def options(arguments: Arguments) -> dict[str, Any]:
    """The fields of lifecycle.create.CreateOptions that the command line sets; raises UsageError
    and SpecError."""
    count = arguments.get("--preserve-fds", "0")
    if not count.isdecimal() or len(count) > 9:
        raise UsageError(f"option '--preserve-fds': '{count}' is not a whole number")
    return {
        "pid_file": absolute(arguments.get("--pid-file")),
        "console_socket": absolute(arguments.get("--console-socket")),
        "systemd": arguments.has("--systemd-cgroup"),
        "preserve_fds": int(count),
        "pivot": not arguments.has("--no-pivot"),
        "keyring": not arguments.has("--no-new-keyring"),
        "pod": read(pod) if (pod := arguments.get("--pod-resources")) else None,
    }


def absolute(path: str) -> str:
    """A path from the current directory; "" stays."""
    return f"{posix.getcwd()}/{path}" if path and not path.startswith("/") else path


def bundle_directory(path: str) -> str:
    """The absolute path of a bundle's directory, the current one for ""; raises SpecError."""
    here = posix.getcwd()
    if not path:
        return here
    try:
        posix.stat(path)
    except OSError as error:
        raise SpecError(
            f"bundle '{path}': {reason(error)}", "--bundle names its directory"
        ) from None
    return path.rstrip("/") if path.startswith("/") else f"{here}/{path.rstrip('/')}"
