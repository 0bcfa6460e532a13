# SPDX-License-Identifier: Apache-2.0
"""What the processes of a container tell each other."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.monitors import Launch


def parts(launch: Launch) -> dict[str, object]:
    """What init needs of a launch to become the monitor."""
    return {
        "argv": launch.argv,
        "files": dict(launch.files),
        "claims": launch.claims,
        "held": launch.held,
        "streams": launch.streams,
    }
