# SPDX-License-Identifier: Apache-2.0
"""`urunc create`: everything that can fail, up to a monitor that waits for `start`."""

from __future__ import annotations

import posix

from urunc import timing
from urunc.bundle import image, spec
from urunc.bundle.resources import read
from urunc.cli.options import CREATE, Arguments
from urunc.errors import SpecError, UsageError, reason
from urunc.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from urunc.lifecycle.relay import Relay
    from urunc.state import State

OPTIONS = CREATE
USAGE = "[OPTION...] ID"
SUMMARY = "Make a container from a bundle, ready to start."


def main(arguments: Arguments) -> int:
    """Run the verb."""
    create(arguments)
    return 0


def create(
    arguments: Arguments,
    terminal: Callable[[], int] | None = None,
    relay: Relay | None = None,
) -> State:
    """What `create` and `run` share; becomes the ordinary runtime where the bundle is no unikernel.

    `terminal` gives a socket's descriptor to send the terminal to, where one is asked for and the
    caller takes it; `relay` passes its streams on where it has none.
    """
    (identifier,) = arguments.only("container id")
    config = arguments.config()
    bundle = bundle_directory(arguments.get("--bundle"))
    document = arguments.document
    if document is None:
        document = spec.read_document(bundle)
    if not image.claims(document, bundle, config):
        image.warn_of_strangers(document)
        arguments.hand_over(config)
    parsed = spec.parse(document, bundle)
    unikernel = image.read(parsed, config)
    timing.stamp(1)
    from urunc.lifecycle import create

    asked = create.CreateOptions(relay=relay, **options(arguments))
    if parsed.terminal and terminal:
        asked = replace(asked, console_descriptor=terminal())
    return create.create(arguments.root, identifier, parsed, unikernel, config, asked)


def options(arguments: Arguments) -> dict[str, Any]:
    """The fields of creation.Options."""
    count = arguments.get("--preserve-fds", "0")
    if not count.isdecimal() or len(count) > 9:
        raise UsageError(f"option '--preserve-fds': '{count}' is no number")
    return {
        "pid_file": _absolute(arguments.get("--pid-file")),
        "console_socket": _absolute(arguments.get("--console-socket")),
        "systemd": arguments.has("--systemd-cgroup"),
        "preserve_fds": int(count),
        "pivot": not arguments.has("--no-pivot"),
        "keyring": not arguments.has("--no-new-keyring"),
        "pod": read(pod) if (pod := arguments.get("--pod-resources")) else None,
    }


def _absolute(path: str) -> str:
    return f"{posix.getcwd()}/{path}" if path and not path.startswith("/") else path


def bundle_directory(path: str) -> str:
    """The absolute directory of a bundle."""
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
