# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' service links: the variables that the kubelet sets in each container for every
service of its namespace (pkg/kubelet/envvars; `enableServiceLinks`). They are left out first if a
guest has no room for its environment. Pure.

A service NAME is recognised by NAME_SERVICE_HOST, NAME_SERVICE_PORT and the four variables of at
least one port (NAME_PORT_80_TCP and the same with _PROTO, _PORT and _ADDR), if all have the same
address. Variables that a user has set to something else are kept.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KUBERNETES = "KUBERNETES"
"""The service of the cluster's API, whose variables clients read."""
HOST, PORT = "_SERVICE_HOST", "_SERVICE_PORT"
PROTOCOLS = ("TCP", "UDP", "SCTP")
NAMED = 8
"""The most services that a warning names."""


def reduced(env: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(a smaller environment, a warning that says what is left out), smaller each time: without the
    links in Docker's old form, without all links but those to the cluster's API, without any."""
    values = dict(variable.partition("=")[::2] for variable in env)
    ports, named = _ports(values), _named(values)
    services = {
        name: found
        for name in (key.removesuffix(HOST) for key in values if key.endswith(HOST))
        if (found := _service(name, values, ports.get(name, ()), named.get(name, ())))
    }
    left_out: set[str] = set()
    for wanted, what in (
        (_links, "in the form NAME_PORT_80_TCP "),
        (_others, f"but {KUBERNETES}{HOST} and …{PORT} "),
        (_all, ""),
    ):
        more = {
            key for name, (links, rest) in services.items() for key in wanted(name, links, rest)
        }
        if more <= left_out:
            continue
        left_out |= more
        kept = tuple(variable for variable in env if variable.partition("=")[0] not in left_out)
        names = [*sorted(services)[:NAMED], *("…",)[: len(services) > NAMED]]
        links = f"the service links of {len(services)} services ({', '.join(names)})"
        yield (
            kept,
            f"process.env: no room for {len(left_out)} of {len(env)} variables: {links} {what}are "
            "left out",
        )


def _links(name: str, links: set[str], rest: set[str]) -> set[str]:
    return links


def _others(name: str, links: set[str], rest: set[str]) -> set[str]:
    return links if name == KUBERNETES else links | rest


def _all(name: str, links: set[str], rest: set[str]) -> set[str]:
    return links | rest


def _service(
    name: str, values: Mapping[str, str], ports: Sequence[tuple[str, str]], named: Sequence[str]
) -> tuple[set[str], set[str]] | None:
    """A service's variables: (names of those in Docker's old form, names of the others); None if
    the service is not complete."""
    address = values[name + HOST]
    ports = [
        (port, prefix)
        for port, prefix in ports
        if values.get(f"{prefix}_ADDR") == address
        and values.get(f"{prefix}_PORT") == port
        and f"{prefix}_PROTO" in values
    ]
    numbers = {port for port, _ in ports}
    if not address or values.get(name + PORT) not in numbers:
        return None
    links = {prefix + suffix for _, prefix in ports for suffix in ("", "_PROTO", "_PORT", "_ADDR")}
    if "://" in values.get(f"{name}_PORT", ""):
        links.add(f"{name}_PORT")
    return links, {name + HOST, name + PORT, *(key for key in named if values[key] in numbers)}


# each once through the whole environment: a namespace may have thousands of services


def _ports(values: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Service → (port number, name of the variable) of everything that looks like its ports."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, value in values.items():
        start, _, protocol = key.rpartition("_")
        start, _, port = start.rpartition("_")
        name = start.removesuffix("_PORT")
        if name != start and port.isdecimal() and protocol in PROTOCOLS and "://" in value:
            found.setdefault(name, []).append((port, key))
    return found


def _named(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Service → the variables that may be of its named ports (NAME_SERVICE_PORT_HTTP)."""
    found: dict[str, list[str]] = {}
    for key in values:
        at = key.find(f"{PORT}_")
        while at >= 0:  # the service's own name may contain it, too
            found.setdefault(key[:at], []).append(key)
            at = key.find(f"{PORT}_", at + 1)
    return found
