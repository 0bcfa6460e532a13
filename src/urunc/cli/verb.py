# SPDX-License-Identifier: Apache-2.0
"""The common part of the verbs on an existing container."""

from __future__ import annotations

from urunc.cli.options import Arguments
from urunc.state import check_id, is_ours


def ours(arguments: Arguments, *more: str) -> str:
    """The container id among the words, which `more` names the rest of. For an ordinary runtime's
    container, become that runtime. Raises UsageError."""
    words = arguments.only("container id", *more)
    identifier = check_id(words[0])
    if not is_ours(arguments.root, identifier):
        from urunc.ordinary import is_ordinary

        if is_ordinary(arguments.root, identifier):
            arguments.hand_over()
    return identifier
