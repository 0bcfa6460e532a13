# SPDX-License-Identifier: Apache-2.0
"""`urunc restore`: makes a container whose guest goes on from where it was saved.

The options are runc's, as for `checkpoint`; without --detach it waits for the end, as `run` does.
"""

from __future__ import annotations

from urunc.cli.checkpoint import IMAGE, INHERENT, REFUSED, image_path, refuse
from urunc.cli.create import bundle_directory, request
from urunc.cli.options import CREATE, FLAG, VALUE, Arguments
from urunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.bundle.spec import Spec
    from urunc.config import Config
    from urunc.lifecycle.relay import Relay
    from urunc.state import State

OPTIONS = (
    CREATE
    | IMAGE
    | {
        "--detach": (FLAG, "return while it runs"),
        "--keep": (FLAG, "do not delete it when it ends"),
        "--no-subreaper": (FLAG, "accepted: urunc is none"),
        "--lsm-profile": (VALUE, "accepted where it is config.json's"),
        "--lsm-mount-context": (VALUE, "accepted where it is config.json's"),
    }
    | INHERENT
    | REFUSED
)
USAGE = "[OPTION...] ID"
SUMMARY = "Restore a saved container."


def before(arguments: Arguments, words: list[str], _identifier: str) -> None:
    """Hand an ordinary bundle over before the options are read: its runtime may know more."""
    from urunc.bundle import image
    from urunc.bundle.document import read_document

    bundle = ""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--bundle", "-b"):
            bundle = value if equals else "".join(words[index + 1 : index + 2])
    config = arguments.config()
    directory = bundle_directory(bundle)
    if not image.claims(read_document(directory), directory, config):
        arguments.hand_over(config)


def main(arguments: Arguments) -> int:
    refuse(arguments, REFUSED)
    from urunc.cli.run import carry
    from urunc.lifecycle.restore import Restoring

    restoring = Restoring(image_path(arguments))

    def make(
        arguments: Arguments, terminal: Callable[[], int] | None, relay: Relay | None
    ) -> State:
        identifier, parsed, unikernel, asked = request(arguments, terminal, relay)
        _check_labels(arguments, parsed)
        config = arguments.config()
        return restoring.create(arguments.root, identifier, parsed, unikernel, config, asked)

    def begin(root: str, identifier: str, config: Config) -> None:
        restoring.start(root, identifier, config)

    try:
        return carry(arguments, make, begin)
    finally:
        restoring.close()


def _check_labels(arguments: Arguments, spec: Spec) -> None:
    """Raise UsageError for a label that is not the container's own."""
    profile = arguments.get("--lsm-profile")
    own = (f"apparmor:{spec.apparmor_profile}", f"selinux:{spec.selinux_label}")
    if profile and profile not in own:
        raise UsageError(f"option '--lsm-profile': '{profile}' is not config.json's")
    context = arguments.get("--lsm-mount-context")
    if context and context != spec.mount_label:
        raise UsageError(f"option '--lsm-mount-context': '{context}' is not config.json's")
