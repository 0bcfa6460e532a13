# SPDX-License-Identifier: Apache-2.0
"""The checks of a guest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from urunc.bundle.elf import Binary
from urunc.errors import ImageError
from urunc.guests import STOP_REQUESTS, Devices, Guest, Request, Setting, Words
from urunc.storage.facts import DISKS, ROOT_FORMATS, SHARES
from urunc.testing.cases import HUGE, NO_IPV4, ODD, SIX, disk, nic, request, root, volume
from urunc.testing.check import (
    Check,
    all_differ,
    checks_of,
    known,
    one_line,
    outcome,
    pure,
    repeatable,
    text,
    texts,
    typed,
    wrong,
)

QUIRKS = ("isa-debug-exit", "virtio-modern", "reset-by-8042")
WAYS = (*SHARES, *DISKS, "archive", "initrd", "tmpfs", "device", "node", "kernel")
NOT_TOLD = "a part was left out without a refusal or an omission:"


def guest_checks(make: Callable[[], Guest]) -> list[Check]:
    """The checks of a guest; `make` is its class, or a function that returns an instance."""
    runs: dict[str, Callable[[Any], None]] = {
        "attributes": _attributes,
        "arguments": _arguments,
        "environment": _environment,
        "hostname": _hostname,
        "network": _network,
        "names": _names,
        "files": _files,
        "devices": _devices,
        "cautions": _cautions,
        "repeatable": _repeatable,
        "pure": _pure,
    }
    return checks_of("guest", make, runs)


def _words(guest: Guest, what: str, asked: Request) -> Words | None:
    """The guest's words, checked by themselves; None where it refuses the request."""
    words: Words | None = outcome(what, ImageError, lambda: guest.words(asked))
    if words is None:
        return None
    if type(words) is not Words:
        raise wrong(what, f"words returns a {type(words).__name__}, not Words")
    text(f"{what}: program", words.program)
    text(f"{what}: config", words.config.replace("\0", ""))
    texts(f"{what}: words", words.words)
    _omissions(guest, what, asked)
    return words


def _omissions(guest: Guest, what: str, asked: Request) -> list[str]:
    told: list[str] = outcome(f"{what}: omissions", ImageError, lambda: guest.omissions(asked))
    if not isinstance(told, list):
        raise wrong(what, f"omissions returns {told!r}, not a list")
    for line in told:
        one_line(f"{what}: omissions", line)
    return told


def _all(guest: Guest, requests: Iterable[Request], field: str) -> list[tuple[str, Any]]:
    """(what, outcome) of requests that differ in `field`; an omission is part of an outcome."""
    found = []
    for asked in requests:
        what = f"{getattr(asked, field)!r:.80}"
        words = _words(guest, f"{field} {what}", asked)
        told = tuple(_omissions(guest, what, asked)) if words else ()
        found.append((what, (words, told) if words else None))
    return found


def _taken(guest: Guest, field: str, requests: list[Request], *, taken: bool) -> None:
    """What differs in a field must come out different, if the guest takes it, or else the same."""
    results = _all(guest, requests, field)
    if taken:
        all_differ(field, results, NOT_TOLD)
        if all(result is None for _, result in results):
            raise wrong(field, f"all {len(results)} are refused")
        return
    if len({result for _, result in results}) > 1:
        raise wrong(field, "the class says that it is not taken, but the words differ by it")


def _attributes(make: Callable[[], Guest]) -> None:
    guest = make()
    if not isinstance(guest, Guest):
        raise wrong(type(guest).__name__, "no subclass of urunc.guests.Guest")
    typed(guest, Guest)
    if not guest.name or guest.name != guest.name.strip().lower() or not guest.name.isascii():
        raise wrong("attribute name", f"{guest.name!r}: lower case letters, digits and hyphens")
    known("storage", guest.storage, ("initrd", "block"))
    known("stops_on", guest.stops_on, STOP_REQUESTS)
    known("quirks", guest.quirks, QUIRKS)
    known("root_forms", guest.root_forms, ROOT_FORMATS)
    known("volume_ways", guest.volume_ways, WAYS)
    if guest.max_addressed < 0 or guest.working_mib < 0 or guest.working_percent < 0:
        raise wrong("attributes", "a number is below 0")
    if guest.block_mount_point and not guest.block_mount_point.startswith("/"):
        raise wrong("attribute block_mount_point", f"'{guest.block_mount_point}' is no path")
    if not (type(guest).__doc__ or "").strip():
        raise wrong(type(guest).__name__, "has no docstring, which says what the guest is")


def _blank(word: str) -> bool:
    return word.split() != [word]


def _arguments(make: Callable[[], Guest]) -> None:
    guest = make()
    odd = [word for word in ODD if not (guest.splits_arguments and _blank(word))]
    several = [(), ("app",), ("app", "a", "b"), ("app", "b", "a"), ("app", "a", "b", "c")]
    if not guest.splits_arguments:
        several += [("app", "a b", "c"), ("app", "a", "b c"), ("app", "", "a"), ("app", "a", "")]
    requests = [request(args=args) for args in (*several, *(("app", word) for word in odd))]
    _taken(guest, "args", requests, taken=guest.takes_arguments)
    for count in (100, 1000, 10_000):
        _words(guest, f"{count} arguments", request(args=("app",) * count))
    _words(guest, "an argument of 1 MiB", request(args=("app", "x" * (1 << 20))))
    for word in ODD:
        _words(guest, f"the program {word!r:.80}", request(args=(word,)))


def _environment(make: Callable[[], Guest]) -> None:
    guest = make()
    several = [(), ("A=1",), ("A=1", "B=2"), ("A=",), ("É=1",), ("A_B=1",)]
    requests = [request(args=("app",), env=env) for env in (*several, *((f"A={w}",) for w in ODD))]
    _taken(guest, "env", requests, taken=guest.takes_environment)
    for name in ("A", "", "=", "A B=1", "a.b=1", "-=1", "ip=x", "init=/bin/sh", "x" * 5000):
        _words(guest, f"the variable {name!r:.80}", request(args=("app",), env=(name,)))
    _words(guest, "1000 variables", request(env=tuple(f"A{i}={i}" for i in range(1000))))
    if guest.takes_arguments and guest.takes_environment:
        pair = [request(args=("app", "A=1")), request(args=("app",), env=("A=1",))]
        all_differ("args, env", _all(guest, pair, "env"), NOT_TOLD)


def _hostname(make: Callable[[], Guest]) -> None:
    guest = make()
    names = ["", "box", "box2", "a-b.c", *(word for word in ODD if word not in ("", "-"))]
    requests = [request(hostname=name, nics=(nic(),)) for name in names]
    if guest.takes_hostname:
        _taken(guest, "hostname", requests[1:], taken=True)
    else:
        _taken(guest, "hostname", requests, taken=False)


def _network(make: Callable[[], Guest]) -> None:
    guest = make()
    for what, nics in (("no network", ()), ("no address", (nic(**NO_IPV4),))):
        if _words(guest, what, request(args=("app",), nics=nics)) is None:
            raise wrong(what, "refused; many containers have no network")
    cases = [
        nic(**NO_IPV4), nic(), nic(ipv4="10.88.0.8"), nic(ipv4_prefix=24, ipv4_subnet=24),
        nic(ipv4_gateway=""), nic(ipv4_gateway="10.88.0.2"),
    ]  # fmt: skip
    v4 = [request(nics=(case,)) for case in cases]
    _taken(guest, "nics", v4, taken=guest.max_addressed > 0)
    v6 = [nic(**NO_IPV4), *(nic(**NO_IPV4, **{**SIX, **more}) for more in (
        {}, {"ipv6": "fd00::8"}, {"ipv6_prefix": 48}, {"ipv6_gateway": ""},
    ))]  # fmt: skip
    asked = [request(nics=(case,)) for case in v6]
    _taken(guest, "nics", asked, taken=guest.takes_ipv6 and guest.max_addressed > 0)
    _words(guest, "both kinds of address", request(nics=(nic(**SIX),)))
    _words(guest, "no neighbour", request(nics=(nic(ipv4_prefix=32, ipv4_subnet=32),)))
    _words(guest, "a large MTU", request(nics=(nic(mtu=65_535),)))
    several = [request(nics=tuple(nic(ipv4=f"10.88.1.{i}") for i in range(n))) for n in range(1, 5)]
    _taken(guest, "nics", several[: max(guest.max_addressed, 1)], taken=guest.max_addressed > 0)
    _words(guest, "16 interfaces", request(nics=tuple(nic(ipv4=f"10.0.0.{i}") for i in range(16))))


def _names(make: Callable[[], Guest]) -> None:
    """Name servers, search domains and hosts: what is told in part must say what is not."""
    guest = make()
    base = request(args=("app",), nics=(nic(),), dns=("10.0.0.1",))
    many: dict[str, tuple[str, ...]] = {
        "dns": tuple(f"10.0.{i}.1" for i in range(60)),
        "search": tuple(f"domain{i}.example" for i in range(300)),
        "hosts": tuple(f"10.1.{i}.1 host{i} host{i}.example" for i in range(250)),
        "options": tuple(f"option{i}:1" for i in range(300)),
    }
    for field, values in many.items():
        none, one, all_ = (
            _words(guest, f"{count} of {field}", _with(base, field, values[:count]))
            for count in (0, 1, len(values))
        )
        told = all_ and _omissions(guest, field, _with(base, field, values))
        if one != none and all_ == none and not told:
            raise wrong(field, f"one is told, {len(values)} are left out without an omission")
    _words(guest, "IPv6 name servers", _with(base, "dns", ("fd00::53", "10.0.0.1")))
    _words(guest, "a domain in another script", _with(base, "search", ("例え.jp",)))


def _with(base: Request, field: str, values: tuple[str, ...]) -> Request:
    return Request(**{**base.__dict__, field: values})


def _files(make: Callable[[], Guest]) -> None:
    guest = make()
    if "initrd" in guest.storage:
        _words(guest, "an initrd", request(args=("app",), initrd=True))
    for count in (1, 2, 5, 16):
        for read_only in (False, True):
            disks = tuple(disk(name=f"d{i}", read_only=read_only) for i in range(count))
            _words(guest, f"{count} disks", request(args=("app",), disks=disks))
    if guest.block_mount_point:
        paths = ["/data", "/other", "/a b", "/é", "/a:b", '/"', "/a\\b"]
        requests = [request(disks=(disk(name="d", mount_point=path),)) for path in paths]
        _taken(guest, "disks", requests, taken=True)
    if guest.init:
        return  # its files are urunc's init's matter
    for form in guest.root_forms:
        _words(guest, f"a root as {form}", request(root=root(form), initrd=form == "cpio"))
    for way in guest.volume_ways:
        for path in ("/data", "/a b", "/a:b", "/é", '/"', "/a,b"):
            asked = request(initrd=way == "initrd", volumes=(volume(way, path),))
            _words(guest, f"a volume by {way} at {path!r}", asked)


def _devices(make: Callable[[], Guest]) -> None:
    guest = make()
    for declared in ((), (("net0", "net"),), (("net0", "net"), ("d0", "block"), ("d1", "block"))):
        for target in ("", "hvt", "spt"):
            binary = Binary(
                format="elf", machine="x86_64", interpreter="", pvh=False, solo5_target=target,
                solo5_devices=declared if target else (),
            )  # fmt: skip
            found = guest.devices(binary)
            if type(found) is not Devices:
                raise wrong(f"devices of {binary!r}", f"{found!r} is no Devices")
    texts("modules", guest.modules(("ext4", "erofs")))


def _cautions(make: Callable[[], Guest]) -> None:
    guest = make()
    for monitor in sorted(guest.monitors) or ["qemu"]:
        for version in ("", "0.1", "1.0", "v0.16.1", "0.17.0~484ff209", "99", "x", "é", "1..2"):
            for memory in (1 << 20, 1 << 28, 3 << 30, 1 << 32, HUGE):
                setting = Setting(
                    version=version, release="", monitor=monitor, monitor_version="9.0",
                    architecture="x86_64", accelerator="kvm", memory_bytes=memory,
                )  # fmt: skip
                what = f"cautions of {setting!r}"
                told = outcome(what, ImageError, partial(guest.cautions, setting))
                for line in told or ():
                    one_line(what, line)


def _full() -> Request:
    return request(
        args=("app", "-v"), env=("A=1",), hostname="box", nics=(nic(**SIX),),
        dns=("10.0.0.1",), search=("example",), hosts=("10.0.0.9 db",),
    )  # fmt: skip


def _repeatable(make: Callable[[], Guest]) -> None:
    asked = _full()
    repeatable(
        "words", "guest", make, asked, lambda guest: (guest.words(asked), guest.omissions(asked))
    )


def _pure(make: Callable[[], Guest]) -> None:
    guest, asked = make(), _full()
    guest.words(asked)  # what it imports is imported
    with pure("words"):
        guest.words(asked)
        guest.omissions(asked)
