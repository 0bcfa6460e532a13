# SPDX-License-Identifier: Apache-2.0
"""The administrator's configuration: /etc/urunc/config.toml, then /etc/urunc/config.d/*.toml in the
order of their names.

Built-in values < file < drop-ins < annotations that the configuration allows.
docs/configuration.md lists every key; `urunc config` prints the result and where each value came
from.
"""

from __future__ import annotations

from urunc.errors import ConfigError, reason
from urunc.linux.files import exists, read_bytes
from urunc.tomltext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from urunc.vocabulary import NetworkMode

DEFAULT_PATH = "/etc/urunc/config.toml"
LIMIT_BYTES = 1 << 20
LEAST_ROOTFS_MIB = 16

# Key → built-in value, whose type is the key's; `*` stands for a name. Order is that of `urunc
# config`.
FIRMWARE = ("auto", "qboot", "seabios")
ON_UNKNOWN = ("warn", "refuse")
SNAPSHOTS = ("never", "asked", "always")
"""Which containers start from a snapshot: none, those whose annotation asks for it, or all but
those whose annotation says otherwise."""
NETWORK_MODES: tuple[NetworkMode, ...] = ("dynamic", "pod", "shared", "none")
AUTO_MODE = "auto"
"""The mode by where the container is: `pod` in a pod, else `dynamic`."""
SCHEMA: dict[str, Any] = {
    "monitors.*.path": "",
    "monitors.*.version": "",
    "monitors.*.allowed": True,
    "monitors.*.arguments": [],
    "monitors.*.memory_mib": 256,
    "monitors.*.vcpus": 1,
    "monitors.*.accelerator": "auto",
    "monitors.*.firmware": "auto",
    "monitors.*.seccomp": True,
    "monitors.*.spec_seccomp": False,
    "monitors.*.run_as_root": False,
    "monitors.*.supervisor": False,
    "guests.*.allowed": True,
    "guests.*.cmdline": "",
    "guests.*.storage": [],
    "guests.*.assigns_resources": False,
    "guests.*.kernel": "",
    "guests.*.modules": "",
    "guests.*.filesystems": [],
    "guests.*.parameters": [],
    "network.mode": AUTO_MODE,
    "network.shared_containers": ["user-container"],
    "network.shared_subnets": ["172.16.0.0/16", "192.168.0.0/16"],
    "ordinary.runtime": "",
    "ordinary.guest": "",
    "ordinary.monitor": "qemu",
    "users.first": 2_000_000_000,
    "users.count": 65_536,
    "security.selinux_type": "",
    "start.snapshots": "never",
    "start.directory": "/var/lib/urunc/snapshots",
    "start.limit_mib": 8192,
    "start.ready": "",
    "start.wait_s": 120,
    "storage.rootfs": [],
    "storage.rootfs_size_mib": 0,
    "storage.rootfs_size_limit_mib": 16_384,
    "storage.virtiofsd": "",
    "storage.private": "/var/lib/urunc/containers",
    "storage.copy_limit_mib": 64,
    "storage.cache": "/var/lib/urunc/cache",
    "storage.cache_mib": 0,
    "storage.slack_mib": 256,
    "storage.image_limit_mib": 16_384,
    "storage.build_timeout_s": 600,
    "annotations.allow": [
        "accelerator", "console", "disks", "memory", "network", "ports", "ready", "rootfs",
        "rootfsSize", "start", "vcpus", "volumes",
    ],
    "annotations.host_devices": [],
    "annotations.unknown": "warn",
    "log.file": "",
    "timestamps.file": "/var/log/urunc-timestamps.jsonl",
    "timeouts.create_s": 60,
    "timeouts.kill_s": 10,
    "timeouts.stop_s": 90,
}  # fmt: skip

MAY_BE_ZERO = frozenset(
    ("storage.cache_mib", "storage.rootfs_size_mib", "storage.slack_mib", "timeouts.stop_s")
)

BUILT_IN = "built in"


class Config:
    """Every set value by its dotted key, and the file that set it. `path` is the file that was
    asked for, "" for the usual one."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._read: list[str] = []

    def get(self, key: str) -> Any:
        """A key's value, the built-in one if no file sets it."""
        if key in self.values:
            return self.values[key]
        return SCHEMA[_pattern(key)]

    def source(self, key: str) -> str:
        """The path of the file that set a key, or BUILT_IN."""
        return self.sources.get(key, BUILT_IN)

    def files(self) -> list[str]:
        """The paths that it was made of, and those where nothing is yet."""
        file = self.path or DEFAULT_PATH
        return list(dict.fromkeys((file, _drop_ins(file), *self._read)))

    def take(self, path: str) -> None:
        """Read a file, whose keys go before those so far; raises ConfigError."""
        self._read.append(path)
        for key, value in _values_of(path):
            self.values[key] = value
            self.sources[key] = path

    def names(self, section: str) -> list[str]:
        """The names below `monitors` or `guests` (`section`) that files set keys for."""
        return sorted({key.split(".")[1] for key in self.values if key.startswith(section + ".")})


def load(path: str = "") -> Config:
    """Read the configuration file (`path`, "" for DEFAULT_PATH, which may not exist) and the
    drop-ins of the directory beside it; raises ConfigError."""
    config = Config(path)
    if path or exists(DEFAULT_PATH):
        config.take(path or DEFAULT_PATH)
    directory = _drop_ins(path or DEFAULT_PATH)
    if exists(directory):
        import posix

        try:
            names = sorted(posix.listdir(directory))
        except OSError as error:
            raise ConfigError(f"read configuration '{directory}': {reason(error)}") from None
        for name in names:
            if name.endswith(".toml"):
                config.take(f"{directory}/{name}")
    return config


def _drop_ins(path: str) -> str:
    return path.removesuffix(".toml") + ".d"


def _pattern(key: str) -> str:
    section, _, rest = key.partition(".")
    if section in ("monitors", "guests"):
        return f"{section}.*.{rest.partition('.')[2]}"
    return key


def _values_of(path: str) -> Iterator[tuple[str, Any]]:
    """A file's values by their dotted keys."""
    try:
        content = read_bytes(path, LIMIT_BYTES)
        if len(content) > LIMIT_BYTES:
            raise ValueError(f"larger than {LIMIT_BYTES} bytes")
        text = content.decode("utf-8")
        document = loads(text)
    except OSError as error:
        raise ConfigError(f"read configuration '{path}': {reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"read configuration '{path}': {error}") from None
    for key, value in _flatten(document, "", 0):
        pattern = _pattern(key)
        if pattern not in SCHEMA:
            place = f"{path}:{_line(text, key)}"
            raise ConfigError(f"configuration '{place}': unknown key '{key}'", _suggest(pattern))
        expected = SCHEMA[pattern]
        ok = type(value) is type(expected) and (
            not isinstance(value, list) or all(isinstance(item, str) for item in value)
        )
        if not ok:
            place = f"{path}:{_line(text, key)}"
            wanted = {
                str: "a string",
                bool: "true or false",
                int: "a whole number",
                list: "strings",
            }
            raise ConfigError(f"configuration '{place}': '{key}' takes {wanted[type(expected)]}")
        problem = _check(pattern, value)
        if problem:
            raise ConfigError(f"configuration '{path}:{_line(text, key)}': '{key}': {problem}")
        yield key, value


def _check(pattern: str, value: Any) -> str:
    least = 0 if pattern in MAY_BE_ZERO else 1
    if isinstance(value, int) and not isinstance(value, bool) and value < least:
        return f"{value} is below {least}" if not least else f"{value} is not above zero"
    if pattern == "storage.rootfs_size_mib" and 0 < value < LEAST_ROOTFS_MIB:
        return f"{value} is below {LEAST_ROOTFS_MIB}"
    if pattern == "users.first" and value > 0xFFFFFFFE:
        return f"{value} is not a user id"
    if pattern == "monitors.*.accelerator" and value not in ("auto", "kvm", "tcg"):
        return f"'{value}' is none of auto, kvm, tcg"
    if pattern == "monitors.*.firmware" and value not in FIRMWARE:
        return f"'{value}' is none of {', '.join(FIRMWARE)}"
    if pattern == "start.snapshots" and value not in SNAPSHOTS:
        return f"'{value}' is none of {', '.join(SNAPSHOTS)}"
    if pattern == "start.ready" and value:
        from urunc.bundle.ready import problem_of

        return problem_of(value)
    if pattern == "annotations.unknown" and value not in ON_UNKNOWN:
        return f"'{value}' is none of {', '.join(ON_UNKNOWN)}"
    if pattern == "network.mode" and value not in (AUTO_MODE, *NETWORK_MODES):
        return f"'{value}' is none of {', '.join((AUTO_MODE, *NETWORK_MODES))}"
    if pattern == "network.shared_subnets":
        wrong = [subnet for subnet in value if not _is_subnet(subnet)]
        if wrong or not value:
            return f"'{''.join(wrong[:1])}' is not an IPv4 network of /8 to /24 (172.16.0.0/16)"
    if (
        pattern.endswith((".path", ".kernel", ".modules", ".private", ".virtiofsd"))
        and value
        and not value.startswith("/")
    ):
        return f"'{value}' is not an absolute path"
    if pattern in ("storage.cache", "start.directory") and (
        not value.startswith("/") or value.endswith("/")
    ):
        return f"'{value}' is not an absolute path of a directory"
    if pattern in ("storage.rootfs", "guests.*.filesystems"):
        from urunc.storage.facts import ROOT_FORMATS

        unknown = [name for name in value if name not in ROOT_FORMATS]
        if unknown:
            return f"unknown '{unknown[0]}', known: {', '.join(ROOT_FORMATS)}"
    if pattern == "annotations.allow":
        unknown = [name for name in value if name not in SCHEMA[pattern]]
        if unknown:
            return f"unknown '{unknown[0]}', known: {', '.join(SCHEMA[pattern])}"
    return ""


def _is_subnet(text: str) -> bool:
    from ipaddress import IPv4Network

    try:
        return 8 <= IPv4Network(text).prefixlen <= 24
    except ValueError:
        return False


def _flatten(table: dict[str, Any], prefix: str, depth: int) -> list[tuple[str, Any]]:
    found = []
    for name, value in table.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, dict) and value and depth < 3:
            found += _flatten(value, key, depth + 1)
        else:
            found.append((key, value))
    return found


def _line(text: str, key: str) -> int:
    """The number of the line that sets a key, which parsers do not keep."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#")[0].strip()
        if bare.startswith("["):
            table = [part.strip(" \"'") for part in bare.strip("[]").split(".")]
            if ".".join(table) == key:
                return number
        elif "=" in bare:
            parts = [part.strip(" \"'") for part in bare.split("=")[0].split(".")]
            name = ".".join(table + parts)
            if name == key or key.startswith(name + "."):
                return number
    return 1


def _suggest(pattern: str) -> str:
    head = pattern.rpartition(".")[0]
    siblings = sorted(key.rpartition(".")[2] for key in SCHEMA if key.rpartition(".")[0] == head)
    if siblings:
        return f"known here: {', '.join(siblings)}"
    return f"known sections: {', '.join(sorted({key.split('.')[0] for key in SCHEMA}))}"
