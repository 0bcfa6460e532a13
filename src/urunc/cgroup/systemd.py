# SPDX-License-Identifier: Apache-2.0
"""systemd as the maker of control groups: units started, changed and stopped over D-Bus.

The client is systemd's own, sd-bus of libsystemd.so.0, which is wherever systemd runs; it is called
through ctypes, so that nobody pays for it who does not use systemd's groups. Only what a container
needs of org.freedesktop.systemd1(5) is here.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p

from urunc.cgroup.limits import DEFAULT_PERIOD_US, cpu_weight, io_weight, swap_bytes
from urunc.errors import HostError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from urunc.bundle.resources import Resources
    from urunc.cgroup.devices import DeviceRule

    Property = tuple[str, str, Any]
    """(name, D-Bus signature, value)"""

SERVICE = b"org.freedesktop.systemd1"
MANAGER = b"org.freedesktop.systemd1.Manager"
OBJECT = b"/org/freedesktop/systemd1"
PRIVATE_SOCKET = b"unix:path=/run/systemd/private"
TIMEOUT_US = 30_000_000
INFINITY = (1 << 64) - 1
ANNOTATION = "org.systemd.property."
INTEGERS = {"i": ctypes.c_int32, "u": c_uint32, "x": ctypes.c_int64, "t": c_uint64}
GONE = ("org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.NotLoaded")


class _Error(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("message", c_char_p), ("need_free", c_int)]


_Callback = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_Error))


class Bus:
    """A connection to systemd: the system's manager, or with `user` the caller's own."""

    def __init__(self, *, user: bool) -> None:
        try:
            self._library = ctypes.CDLL("libsystemd.so.0")
        except OSError as error:
            raise HostError(f"systemd: {error}", "install libsystemd (libsystemd0)") from None
        self._bus = c_void_p()
        if user:
            code = self._library.sd_bus_open_user(byref(self._bus))
        else:
            code = self._library.sd_bus_open_system(byref(self._bus))
            if code < 0:  # no message bus yet: systemd listens on a socket of its own for root
                code = self._open_private()
        if code < 0:
            raise HostError(
                f"systemd: connect over D-Bus: {_strerror(code)}",
                "without --systemd-cgroup urunc makes the control groups itself",
            )
        self._finished: dict[str, str] = {}
        self._heard = _Callback(self._job_removed)
        code = self._library.sd_bus_match_signal(
            self._bus, None, SERVICE, OBJECT, MANAGER, b"JobRemoved", self._heard, None
        )
        if code < 0:
            raise HostError(f"systemd: listen for jobs: {_strerror(code)}")
        self._call("Subscribe")

    def _open_private(self) -> int:
        library = self._library
        code: int = library.sd_bus_new(byref(self._bus))
        if code >= 0:
            code = library.sd_bus_set_address(self._bus, PRIVATE_SOCKET)
        if code >= 0:
            code = library.sd_bus_start(self._bus)
        return code

    def close(self) -> None:
        """Close the connection."""
        self._library.sd_bus_flush_close_unref.restype = c_void_p
        self._library.sd_bus_flush_close_unref(self._bus)

    def start_unit(self, name: str, slice_name: str, pid: int, properties: list[Property]) -> None:
        """Start a transient scope that holds process `pid`, or a slice, and wait until it is
        active; raises HostError."""
        base: list[Property] = [
            ("Description", "s", f"urunc container {name}"),
            ("DefaultDependencies", "b", False),
            ("MemoryAccounting", "b", True),
            ("CPUAccounting", "b", True),
            ("TasksAccounting", "b", True),
        ]
        if name.endswith(".slice"):
            base.append(("Wants", "as", [slice_name]))
        else:
            base += [("Slice", "s", slice_name), ("Delegate", "b", True), ("PIDs", "au", [pid])]
        self._job("StartTransientUnit", name, base + properties)

    def set_properties(self, name: str, properties: list[Property]) -> None:
        """Change the properties of a running unit; raises HostError."""
        if properties:
            self._call("SetUnitProperties", ("s", name), ("b", True), properties=properties)

    def stop_unit(self, name: str) -> None:
        """Stop a unit, if it is there, and make systemd forget a failed one; raises HostError."""
        try:
            self._job("StopUnit", name, None)
        except _CallError as error:
            if error.name not in GONE:
                raise
        try:
            self._call("ResetFailedUnit", ("s", name))
        except _CallError:
            pass  # it did not fail

    def control_group(self, name: str) -> str:
        """A unit's control group, as a path below the mount point; raises HostError."""
        reply = self._call("GetUnit", ("s", name))
        path = c_char_p()
        self._library.sd_bus_message_read(reply, b"o", byref(path))
        kind = b"Slice" if name.endswith(".slice") else b"Scope"
        text, error = c_char_p(), _Error()
        code = self._library.sd_bus_get_property_string(
            self._bus, SERVICE, path, b"org.freedesktop.systemd1." + kind, b"ControlGroup",
            byref(error), byref(text),
        )  # fmt: skip
        if code < 0 or not text.value:
            raise HostError(f"systemd: control group of '{name}': {_strerror(code)}")
        return text.value.decode()

    def _job(self, method: str, name: str, properties: list[Property] | None) -> None:
        """Call a method that queues a job, and wait for the job."""
        reply = self._call(
            method, ("s", name), ("s", "replace"), properties=properties,
            auxiliary=properties is not None,
        )  # fmt: skip
        path = c_char_p()
        self._library.sd_bus_message_read(reply, b"o", byref(path))
        job = (path.value or b"").decode()
        from time import monotonic

        end = monotonic() + TIMEOUT_US / 1e6
        while job not in self._finished:
            if self._library.sd_bus_process(self._bus, None) == 0:
                self._library.sd_bus_wait(self._bus, c_uint64(100_000))
            if monotonic() > end:
                raise HostError(f"systemd: {method} '{name}': no answer within 30 s")
        result = self._finished.pop(job)
        if result not in ("done", "skipped"):
            raise HostError(f"systemd: {method} '{name}': {result}")

    def _job_removed(self, message: int, _data: int, _error: Any) -> int:
        number, job, unit, result = c_uint32(), c_char_p(), c_char_p(), c_char_p()
        self._library.sd_bus_message_read(
            c_void_p(message), b"uoss", byref(number), byref(job), byref(unit), byref(result)
        )
        self._finished[(job.value or b"").decode()] = (result.value or b"").decode()
        return 0

    def _call(
        self,
        method: str,
        *arguments: tuple[str, Any],
        properties: list[Property] | None = None,
        auxiliary: bool = False,
    ) -> c_void_p:
        """Call a method of the manager; its reply. Raises _CallError."""
        library, message = self._library, c_void_p()
        library.sd_bus_message_new_method_call(
            self._bus, byref(message), SERVICE, OBJECT, MANAGER, method.encode()
        )
        for signature, value in arguments:
            self._append(message, signature, value)
        if properties is not None:
            library.sd_bus_message_open_container(message, c_int(ord("a")), b"(sv)")
            for name, signature, value in properties:
                library.sd_bus_message_open_container(message, c_int(ord("r")), b"sv")
                self._append(message, "s", name)
                library.sd_bus_message_open_container(message, c_int(ord("v")), signature.encode())
                self._append(message, signature, value)
                library.sd_bus_message_close_container(message)
                library.sd_bus_message_close_container(message)
            library.sd_bus_message_close_container(message)
        if auxiliary:
            library.sd_bus_message_append(message, b"a(sa(sv))", c_uint32(0))
        error, reply = _Error(), c_void_p()
        code = library.sd_bus_call(
            self._bus, message, c_uint64(TIMEOUT_US), byref(error), byref(reply)
        )
        if code < 0:
            name = (error.name or b"").decode()
            text = (error.message or b"").decode("utf-8", "replace") or _strerror(code)
            raise _CallError(f"systemd: {method}: {text}", name)
        return reply

    def _append(self, message: c_void_p, signature: str, value: Any) -> None:
        library = self._library
        if signature in ("s", "o"):
            code = library.sd_bus_message_append_basic(
                message, c_int(ord(signature)), c_char_p(value.encode())
            )
        elif signature == "b":
            code = library.sd_bus_message_append_basic(
                message, c_int(ord("b")), byref(c_int(value))
            )
        elif signature in INTEGERS:
            code = library.sd_bus_message_append_basic(
                message, c_int(ord(signature)), byref(INTEGERS[signature](value))
            )
        elif signature == "ay":
            code = library.sd_bus_message_append_array(
                message, c_int(ord("y")), c_char_p(value), ctypes.c_size_t(len(value))
            )
        elif signature.startswith("("):
            library.sd_bus_message_open_container(
                message, c_int(ord("r")), signature[1:-1].encode()
            )
            for kind, item in zip(signature[1:-1], value, strict=True):
                self._append(message, kind, item)
            code = library.sd_bus_message_close_container(message)
        else:
            item_signature = signature[1:]
            library.sd_bus_message_open_container(message, c_int(ord("a")), item_signature.encode())
            for item in value:
                self._append(message, item_signature, item)
            code = library.sd_bus_message_close_container(message)
        if code < 0:
            raise HostError(f"systemd: build a message: {_strerror(code)}")


class _CallError(HostError):
    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def _strerror(code: int) -> str:
    import posix

    return posix.strerror(abs(code)).lower()


def is_user() -> bool:
    """Whether to use the caller's own manager, not the system's."""
    import posix

    return posix.geteuid() != 0


def properties(resources: Resources, v1: Collection[str]) -> list[Property]:
    """The limits as unit properties (systemd.resource-control(5)), so that systemd does not reset
    them when it reloads. `v1` are the controllers of v1 hierarchies."""
    memory = resources.memory_limit_bytes
    found: list[Property] = []

    def add(name: str, value: int | None) -> None:
        if value is not None:
            found.append((name, "t", INFINITY if value < 0 else value))

    if "memory" in v1:
        add("MemoryLimit", memory)
    else:
        add("MemoryMax", memory)
        add("MemoryLow", resources.memory_reservation_bytes)
        add("MemorySwapMax", swap_bytes(resources))
    if resources.cpu_shares:
        if "cpu" in v1:
            add("CPUShares", resources.cpu_shares)
        else:
            add("CPUWeight", cpu_weight(resources.cpu_shares))
    if resources.cpu_quota_us:
        add("CPUQuotaPerSecUSec", _quota_per_second(resources))
        if resources.cpu_period_us and "cpu" not in v1:
            add("CPUQuotaPeriodUSec", resources.cpu_period_us)
    if resources.io_weight:
        if "blkio" in v1:
            add("BlockIOWeight", resources.io_weight)
        else:
            add("IOWeight", io_weight(resources.io_weight))
    add("TasksMax", resources.pids_limit)
    if "cpuset" not in v1:
        if resources.cpuset_cpus:
            found.append(("AllowedCPUs", "ay", mask(resources.cpuset_cpus)))
        if resources.cpuset_mems:
            found.append(("AllowedMemoryNodes", "ay", mask(resources.cpuset_mems)))
    return found


def annotated(annotations: Mapping[str, str]) -> list[Property]:
    """Unit properties from annotations `org.systemd.property.NAME`, as runc and crun read them: the
    value is a GVariant's text; a property whose name ends in Sec is in seconds. Raises
    SpecError."""
    found = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        signature, value = _variant(text)
        if not name.isascii() or not name.isalnum() or len(name) < 3 or not signature:
            raise SpecError(
                f"config.json: annotation '{key}': '{text}' is not a value",
                "one of 'text', true, 5, uint64 5, ['text', 'text']",
            )
        if name.endswith("Sec") and not name.endswith("USec") and signature in INTEGERS:
            name, signature, value = f"{name[:-3]}USec", "t", int(value) * 1_000_000
        found.append((name, signature, value))
    return found


def _variant(text: str) -> tuple[str, Any]:
    """(D-Bus signature, value) of the few kinds that unit properties have; ("", None) for others
    (GVariant Text Format)."""
    text = text.strip()
    if text in ("true", "false"):
        return "b", text == "true"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return "s", text[1:-1]
    if text.startswith("[") and text.endswith("]"):
        items = [_variant(item) for item in text[1:-1].split(",") if item.strip()]
        if all(signature == "s" for signature, _ in items):
            return "as", [value for _, value in items]
        return "", None
    word, _, number = text.rpartition(" ")
    kinds = {"": "i", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t"}
    if word.strip() in kinds and number.lstrip("-").isdecimal() and len(number) < 21:
        return kinds[word.strip()], int(number)
    return "", None


def device_properties(rules: tuple[DeviceRule, ...]) -> list[Property]:
    """The device rules as unit properties."""
    kinds = {"c": "char", "b": "block"}
    allowed = [
        (f"/dev/{kinds[rule.type]}/{rule.major}:{rule.minor}", "rwm")
        for rule in rules
        if rule.minor is not None
    ]
    allowed += [("char-pts", "rwm") for rule in rules if rule.minor is None]
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", allowed)]


def _quota_per_second(resources: Resources) -> int:
    quota = resources.cpu_quota_us or 0
    if quota < 0:
        return -1
    # systemd rounds down to multiples of 10 ms per second, perhaps to nothing: round up first
    exact = quota * 1_000_000 // (resources.cpu_period_us or DEFAULT_PERIOD_US)
    return -(-exact // 10_000) * 10_000


def mask(text: str) -> bytes:
    """A list of numbers and ranges (`0-2,7`) as a little-endian bit mask; raises HostError."""
    bits = 0
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise HostError(f"linux.resources.cpu: '{text}' is not a list such as 0-2,7")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little")
