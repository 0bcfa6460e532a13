# SPDX-License-Identifier: Apache-2.0
"""Guests and monitors from other packages, by entry points; looked up only for names that are not
built in.

Reading package metadata costs 50 ms. An isolated interpreter without `site` sees no site
directories, so they are added here first.
"""

from __future__ import annotations

from urunc.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from typing import Any


def entry_points(group: str) -> dict[str, EntryPoint]:
    """{name: entry point} of a group."""
    import importlib.metadata
    import site
    import sys

    for directory in site.getsitepackages():
        if directory not in sys.path:
            sys.path.append(directory)
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def origin(point: EntryPoint) -> str:
    """The name and version of the package that an entry point is from."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def made(kind: str, point: EntryPoint, base: type, contract: int) -> Any:
    """An instance of a plugin's class; `kind` is "guest" or "monitor". Raises HostError for one
    that cannot be loaded, or that was not written for this version of the contract."""
    what, module = f"{kind} '{point.name}'", f"urunc.{kind}s"
    package = f"from the package {origin(point)}"
    mend = "install another version of the package, or remove it"
    try:
        cls = point.load()
    except Exception as error:
        raise HostError(
            f"{what}: {package} does not load: {type(error).__name__}: {error}", mend
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise HostError(f"{what}: {point.value} is no subclass of {module}.{base.__name__}", mend)
    stated = getattr(cls, "contract", 0)
    if stated != contract:
        written = f"is written for version {stated}" if stated else "states no version"
        raise HostError(
            f"{what}: {package} {written} of the contract, this urunc has {contract}",
            f"install a version of either that fits the other ({module}.CONTRACT)"
            if stated
            else f"its class has to set `contract`: see {module}.CONTRACT",
        )
    if getattr(cls, "name", "") != point.name:
        raise HostError(f"{what}: {point.value} calls itself '{getattr(cls, 'name', '')}'", mend)
    try:
        return cls()
    except Exception as error:
        raise HostError(
            f"{what}: {package} cannot be made: {type(error).__name__}: {error}", mend
        ) from None
