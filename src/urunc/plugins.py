# SPDX-License-Identifier: Apache-2.0
"""Guests and monitors from other packages, by entry points; looked up only for names that are not
built in.

Reading package metadata costs 50 ms. An isolated interpreter without `site` sees no site
directories, so they are added here first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str) -> dict[str, EntryPoint]:
    """{name: entry point} of a group."""
    import importlib.metadata
    import site
    import sys

    for directory in site.getsitepackages():
        if directory not in sys.path:
            sys.path.append(directory)
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}
