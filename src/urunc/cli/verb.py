# SPDX-License-Identifier: Apache-2.0
"""What the verbs on an existing container share."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.state import check_id, is_ours


def ours(arguments: Arguments, *more: str) -> str:
    """The id that a verb is for; becomes the ordinary runtime where the container is that one's."""
    words = arguments.only("container id", *more)
    identifier = check_id(words[0])
    if not is_ours(arguments.root, identifier):
        from urunc.ordinary import is_ordinary

        if is_ordinary(arguments.root, identifier):
            arguments.hand_over()
    return identifier
