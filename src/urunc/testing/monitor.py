# SPDX-License-Identifier: Apache-2.0
"""The checks of a monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from urunc.errors import ImageError
from urunc.guests import STOP_REQUESTS, Words
from urunc.monitors import GIB, MIB, RUN, Launch, Machine, Monitor, Need, Program, Snapshots
from urunc.record import replace
from urunc.storage.facts import SHARES
from urunc.testing.cases import (
    HUGE,
    ODD,
    machine,
    machine_disk,
    machine_nic,
    machine_share,
    program,
)
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

FORMATS = ("elf", "elf32", "bzimage", "image")
STOP_SIGNALS = (1, 2, 3, 9, 15)
LOST = "a part was left out:"


def monitor_checks(make: Callable[[], Monitor]) -> list[Check]:
    """The checks of a monitor; `make` is its class, or a function that returns an instance."""
    runs: dict[str, Callable[[Any], None]] = {
        "attributes": _attributes,
        "launch": _launch,
        "words": _words,
        "devices": _devices,
        "sizes": _sizes,
        "answers": _answers,
        "repeatable": _repeatable,
        "pure": _pure,
    }
    return checks_of("monitor", make, runs)


def _versions(monitor: Monitor) -> tuple[str, ...]:
    """An unknown version, the least, and one that is yet to come."""
    return "", ".".join(map(str, monitor.minimum_version)), "99.9"


def _settings(monitor: Monitor) -> Iterator[tuple[str, Machine, Program]]:
    """(what, machine, program): the plainest machine by architecture, accelerator and version."""
    kinds = ["none"]
    if monitor.needs_kvm or monitor.can_emulate:
        kinds = ["kvm", *(["tcg"] if monitor.can_emulate else [])]
    for architecture in sorted(monitor.architectures):
        for accelerator in kinds:
            for version in _versions(monitor):
                what = f"{architecture}, {accelerator}, version {version or 'unknown'}"
                asked = machine(monitor, architecture, accelerator=accelerator)
                yield what, asked, program(version)


def _attributes(make: Callable[[], Monitor]) -> None:
    monitor = make()
    if not isinstance(monitor, Monitor):
        raise wrong(type(monitor).__name__, "no subclass of urunc.monitors.Monitor")
    typed(monitor, Monitor)
    if not monitor.name or monitor.name != monitor.name.strip().lower():
        raise wrong("attribute name", f"{monitor.name!r}: lower case letters, digits and hyphens")
    if not monitor.architectures:
        raise wrong("attribute architectures", "empty: it runs nowhere")
    for architecture in sorted(monitor.architectures):
        if not monitor.formats.get(architecture):
            raise wrong("attribute formats", f"no kernel boots on {architecture}")
        known("formats", monitor.formats[architecture], FORMATS)
        name = monitor.program_name(architecture)
        text("program_name", name)
        if not name or "/" in name:
            raise wrong("program_name", f"{name!r} is no name of a program on PATH")
    known("shares", monitor.shares, SHARES)
    known("orders", monitor.orders, (*STOP_REQUESTS, "pause", "resume"))
    known("channel", [monitor.channel], ("", "virtio", "vsock"))
    if monitor.needs_kvm and monitor.can_emulate:
        raise wrong("attribute needs_kvm", "it can emulate, too: one of both")
    if monitor.orders and not monitor.control_socket:
        raise wrong("attribute control_socket", "there are orders, and no socket that takes them")
    for field in ("control_socket", "events_socket", "vsock"):
        path = getattr(monitor, field)
        if path and not path.startswith(f"{RUN}/"):
            raise wrong(f"attribute {field}", f"'{path}' is not below {RUN}")
    if (monitor.channel == "vsock") != bool(monitor.vsock):
        raise wrong("attribute vsock", "it goes with the channel 'vsock'")
    if monitor.stop_signal not in STOP_SIGNALS:
        raise wrong("attribute stop_signal", f"{monitor.stop_signal} is none of {STOP_SIGNALS}")
    if min(monitor.max_nics, monitor.max_disks) < 0 or min(monitor.max_vcpus, 1) < 1:
        raise wrong("attributes", "a max_ number is too small")
    if not (type(monitor).__doc__ or "").strip():
        raise wrong(type(monitor).__name__, "has no docstring, which says what the monitor is")


def _checked(monitor: Monitor, what: str, asked: Machine, by: Program) -> Launch:
    """The launch of a machine that the monitor says it can have, checked by itself."""
    launch: Launch = outcome(what, ImageError, lambda: monitor.launch(asked, by))
    if type(launch) is not Launch:
        raise wrong(what, f"launch returns {launch!r:.80}, not a Launch")
    texts(f"{what}: argv", launch.argv)
    if launch.argv[:1] != (by.path,):
        raise wrong(what, f"argv[0] is not the program's path: {launch.argv[:1]}")
    for path, content in launch.files.items():
        if not path.startswith(f"{RUN}/") or ".." in path.split("/"):
            raise wrong(what, f"the file '{path}' is not below {RUN}")
        text(f"{what}: {path}", content)
    texts(f"{what}: devices", launch.devices)
    wanted = {"/dev/kvm": asked.accelerator == "kvm", "/dev/net/tun": bool(asked.nics)}
    for device, wants in wanted.items():
        if (device in launch.devices) != wants:
            raise wrong(what, f"{device} {'missing' if wants else 'without need'} in devices")
    if asked.seccomp and not launch.seccomp:
        raise wrong(what, "seccomp is asked for, and the launch has none")
    return launch


def _said(launch: Launch) -> str:
    """All that a launch says: its command line and its files."""
    return "\n".join((*launch.argv, *launch.files.values()))


def _key(launch: Launch) -> tuple[Any, ...]:
    return launch.argv, tuple(sorted(launch.files.items()))


def _need_said(what: str, launch: Launch, words: dict[str, str]) -> None:
    said = _said(launch)
    for field, word in words.items():
        if word not in said:
            raise wrong(what, f"{field} '{word}' is nowhere on its command line or in its files")


def _launch(make: Callable[[], Monitor]) -> None:
    monitor = make()
    for what, asked, by in _settings(monitor):
        launch = _checked(monitor, what, asked, by)
        _need_said(what, launch, {"kernel": asked.kernel})
        for changes in ({"terminal": True}, {"seccomp": False}, {"nested": True}):
            _checked(monitor, f"{what}, {changes}", replace(asked, **changes), by)
        if monitor.takes_initrd:
            full = _checked(monitor, what, replace(asked, initrd="/initrd"), by)
            _need_said(what, full, {"initrd": "/initrd"})
        own = ("--own", "argument=é")
        argv = _checked(monitor, what, replace(asked, arguments=own), by).argv
        if not any(argv[index : index + 2] == own for index in range(len(argv))):
            raise wrong(what, f"the administrator's arguments {own} are not in argv")
        for name in ("a" * 200, "box_1.é", "b" * 1024):
            _checked(monitor, f"the id {name!r:.40}", replace(asked, id=name), by)


def _words(make: Callable[[], Monitor]) -> None:
    """Whatever the guest's words are, they reach the guest."""
    monitor = make()
    asked, by = machine(monitor, min(monitor.architectures)), program()
    results = []
    for word in ("", *ODD):
        words = Words(program="", words=("a", word) if word else ())
        launch = _checked(monitor, f"the word {word!r:.80}", replace(asked, words=words), by)
        results.append((repr(word)[:80], _key(launch)))
    all_differ("word", results, LOST)
    for path in ("/a,b", "/é", "/a b", "/a=b"):
        disks = (machine_disk(0, path=path),) if monitor.max_disks else ()
        _checked(monitor, f"the path {path!r}", replace(asked, kernel=path, disks=disks), by)


def _devices(make: Callable[[], Monitor]) -> None:
    monitor = make()
    for what, asked, by in _settings(monitor):
        for count in sorted({0, 1, 2, monitor.max_nics} & set(range(monitor.max_nics + 1))):
            nics = tuple(machine_nic(index) for index in range(count))
            launch = _checked(monitor, f"{what}, {count} nics", replace(asked, nics=nics), by)
            for nic in nics:
                _need_said(what, launch, {"TAP device": nic.tap, "MAC": nic.mac})
        for count in sorted({0, 1, 2, monitor.max_disks} & set(range(monitor.max_disks + 1))):
            disks = tuple(machine_disk(index) for index in range(count))
            launch = _checked(monitor, f"{what}, {count} disks", replace(asked, disks=disks), by)
            for disk in disks:
                _need_said(what, launch, {"disk": disk.path})
        for kind in sorted(monitor.shares):
            share = machine_share(kind, 0)
            launch = _checked(monitor, f"{what}, {kind}", replace(asked, shares=(share,)), by)
            place = share.socket if kind == "virtiofs" else share.path
            _need_said(what, launch, {"share": share.tag, "its place": place})
        if monitor.channel:
            plain_one = _checked(monitor, what, asked, by)
            talking = _checked(monitor, what, replace(asked, channel=monitor.channel), by)
            if _key(plain_one) == _key(talking):
                raise wrong(what, f"the channel '{monitor.channel}' changes nothing")
    asked, by = machine(monitor, min(monitor.architectures)), program()
    if monitor.max_disks and not monitor.opens_for_writing:
        pair = [replace(asked, disks=(machine_disk(0, read_only=flag),)) for flag in (False, True)]
        all_differ("read_only", [(str(m), _key(monitor.launch(m, by))) for m in pair], LOST)


def _sizes(make: Callable[[], Monitor]) -> None:
    monitor = make()
    for what, asked, by in _settings(monitor):
        most = monitor.most_memory_bytes(by, asked.architecture)
        if type(most) is not int or most < 0:
            raise wrong(f"{what}: most_memory_bytes", f"{most!r} is no number of bytes")
        for devices in (0, 1, 16):
            room = monitor.line_room(devices, by, asked.architecture)
            if type(room) is not int or room < 0:
                raise wrong(f"{what}: line_room", f"{room!r} is no number of bytes")
        amounts = {MIB, 64 * MIB, GIB, most or HUGE}
        results = []
        for amount in sorted(amounts):
            launch = _checked(
                monitor, f"{what}, {amount} bytes", replace(asked, memory_bytes=amount), by
            )
            results.append((f"{amount} bytes", _key(launch)))
        all_differ("memory", results, LOST)
        vcpus = sorted({1, 2, monitor.max_vcpus} & set(range(monitor.max_vcpus + 1)))
        counts = [
            (str(n), _key(_checked(monitor, f"{n} vCPUs", replace(asked, vcpus=n), by)))
            for n in vcpus
        ]
        all_differ("vcpus", counts, LOST)
        need = monitor.need(monitor.max_vcpus, asked.accelerator)
        if type(need) is not Need or need.fixed_bytes <= 0 or need.per_gib_bytes < 0:
            raise wrong("need", f"{need!r}: the monitor itself takes memory (overhead_mib)")
        for amount in (MIB, GIB, HUGE):
            if need.room_in(need.limit_for(amount)) != amount:
                raise wrong("need", f"limit_for and room_in disagree for {amount} bytes")


def _answers(make: Callable[[], Monitor]) -> None:
    monitor = make()
    for code in range(256):
        one_line(f"ending({code})", monitor.ending(code))
    texts("data", monitor.data("/usr/bin/monitor"))
    for architecture in monitor.architectures:
        for version in _versions(monitor):
            if type(monitor.tells_resets(architecture, version)) is not bool:
                raise wrong("tells_resets", "neither True nor False")
    for field in ("order",) if monitor.orders else ():
        if getattr(type(monitor), field) is getattr(Monitor, field):
            raise wrong(field, "not written, though there are orders")
    if monitor.events_socket:
        for field in ("subscribe", "heard"):
            if getattr(type(monitor), field) is getattr(Monitor, field):
                raise wrong(field, "not written, though there is an events_socket")
    saves = monitor.snapshots()
    if saves is None:
        return
    for field in ("machine", "words", "waiting", "save", "load"):
        if getattr(type(saves), field) is getattr(Snapshots, field):
            raise wrong(f"snapshots: {field}", "not written")


def _full(monitor: Monitor) -> Machine:
    return machine(
        monitor,
        min(monitor.architectures),
        words=Words(program="guest", words=("a", "b")),
        nics=tuple(machine_nic(index) for index in range(min(monitor.max_nics, 2))),
        disks=tuple(machine_disk(index) for index in range(min(monitor.max_disks, 2))),
    )


def _repeatable(make: Callable[[], Monitor]) -> None:
    by, asked = program(), _full(make())
    repeatable("launch", "monitor", make, asked, lambda monitor: monitor.launch(asked, by))


def _pure(make: Callable[[], Monitor]) -> None:
    monitor, by = make(), program()
    asked = _full(monitor)
    monitor.launch(asked, by)  # what it imports is imported
    with pure("launch"):
        monitor.launch(asked, by)
        monitor.ending(0)
        monitor.line_room(2, by, asked.architecture)
