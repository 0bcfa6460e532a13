# SPDX-License-Identifier: Apache-2.0
"""container.json: what `create` wrote about a container; and the container's status, which is read
from the kernel each time.

Written whole or not at all, checked when it is read: its keys and their types are SHAPE,
SHAPE_ONCE_CREATED and DEFAULTS. A directory below --root is urunc's if it holds a `journal`; any
other is an ordinary runtime's (see ordinary.py). directory.py makes and locks it.
"""

from __future__ import annotations

import posix

from urunc import OCI_VERSION, __version__
from urunc.errors import (
    NotFoundError,
    StateError,
    UsageError,
    WrongStatusError,
)
from urunc.jsontext import dumps, loads
from urunc.linux import process
from urunc.linux.files import exists, read_text, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from urunc.vocabulary import ChannelKind, Status, StopOrder

    Record = TypeVar("Record")
    Read = TypeVar("Read")

SCHEMA = 4
FILE = "container.json"
"""Not a name of an ordinary runtime's, which looks into every directory of a --root that it shares
with urunc: runc 1.3 to 1.5 end in a panic at a `state.json` that is not theirs, crun reads `status`
(docs/decisions/0008)."""
OLD_FILE = "state.json"
"""What it was called before. A container that was created with it keeps it as long as it lives: the
older urunc in its shim looks for no other."""
JOURNAL = "journal"
START, STARTED = "start", "started"
"""The FIFOs between `start` and init (see init/main.py)."""
INIT_NAME = "urunc:[init]"
"""The command name by which /proc tells a container that is created from one that runs: execve
changes it."""
ID_LIMIT = 255
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")

CHANNEL: StopOrder = "channel"
"""The plan's stop order where the signal is told to urunc's init in the guest (guest_channel.py),
and none to the monitor."""
CREATING: Status = "creating"
CREATED: Status = "created"
RUNNING: Status = "running"
PAUSED: Status = "paused"
STOPPED: Status = "stopped"

SHAPE: dict[str, Any] = {
    "id": str,
    "pid": int,
    "bundle": str,
    "annotations": {...: str},
    "bootId": str,
    "creatorProcess": (int, int),
    "hooks": {...: [{"path": str, "args": [str], "env": [str], "timeout_s": int}]},
}
"""What each container has recorded, as `check` wants it."""
SHAPE_ONCE_CREATED: dict[str, Any] = {
    "initProcess": (int, int),
    "plan": {
        "monitor": str,
        "channel": str,
        "memory_bytes": int,
        "overhead_bytes": int,
        "stop_signal": int,
        "stop_order": str,
        "volumes": [{"source": str, "destination": str}],
    },
    "net": dict,
    "launch": dict,
    "storage": {"disks": [{"source": str}]},
    "nicCount": int,
    "found": dict,
    "files": {"resolver": str, "hosts": str},
    "groups": {"paths": {...: str}, "unit": str},
    "resources": dict,
    "network": str,
}
"""What it has beside that when `create` is through (`ready`)."""
DEFAULTS: dict[str, Any] = {
    "ociVersion": OCI_VERSION,
    "ready": False,
    "created": "",
    "networkIdentity": [],
    "unfinished": -1,
    "timestamps": "",
    "initProcess": [0, 0],
    "groups": {"paths": {}, "unit": ""},
    "plan": {"process": None, "supervisor": "", "tasks": 0, "tells_resets": False},
    "storage": {"returned": -1},
}
"""What is meant where a key is missing: the container is not created yet, or an older urunc wrote
of it."""
KINDS = {
    str: "text", int: "an integer", bool: "true or false", dict: "an object", list: "a list",
    float: "a fraction", type(None): "null",
}  # fmt: skip


def check_id(identifier: str) -> str:
    """The id, if it is one; raises UsageError."""
    if not identifier or len(identifier) > ID_LIMIT:
        raise UsageError(
            f"container id of {len(identifier)} characters: 1 to {ID_LIMIT} are allowed"
        )
    if not ID_CHARACTERS.issuperset(identifier) or identifier in (".", ".."):
        raise UsageError(
            f"container id '{identifier}': not allowed",
            "letters, digits and the characters _ + - . only",
        )
    return identifier


def not_found(identifier: str) -> NotFoundError:
    """The error for an id that there is no container of, in the words that tools look for."""
    return NotFoundError(f"container '{identifier}' does not exist")


def is_ours(root: str, identifier: str) -> bool:
    """Whether this id is a container of urunc's own."""
    return exists(f"{root}/{identifier}/{JOURNAL}")


class PlanFacts:
    """What is read of a container's plan without the modules that make one (plan/model.py has what
    the names mean)."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        known = {**DEFAULTS["plan"], **plan}
        self.monitor: str = known["monitor"]
        self.channel: ChannelKind = known["channel"]
        self.supervisor: str = known["supervisor"]
        self.has_process = bool(known["process"])
        """Whether urunc's init runs an application in the guest."""
        self.stop_order: StopOrder = known["stop_order"]
        self.stop_signal: int = known["stop_signal"]
        self.tells_resets: bool = known["tells_resets"]
        self.memory_bytes: int = known["memory_bytes"]
        self.overhead_bytes: int = known["overhead_bytes"]
        self.tasks: int = known["tasks"]


class ReturnedFile:
    """A file that the engine reads once the container has ended
    (storage/termination_message.py)."""

    def __init__(self, disk: str, volume: Mapping[str, Any]) -> None:
        self.disk = disk
        """The host's path of the disk with what it shall say."""
        self.source: str = volume["source"]
        self.destination: str = volume["destination"]
        self.identity: tuple[int, ...] = tuple(volume["returned"])
        """(device, inode) of `source` at create."""


class State:
    """A container as recorded: its file's object, by the names and types of what it says."""

    def __init__(self, directory: str, document: dict[str, Any], file: str = FILE) -> None:
        self.directory = directory
        self._path = f"{directory}/{file}"
        self._document = document  # whole: what only a newer version reads stays in it

    @classmethod
    def begin(
        cls,
        directory: str,
        identifier: str,
        bundle: str,
        annotations: Mapping[str, str],
        hooks: Mapping[str, Any],
    ) -> State:
        """Of a container that this process creates, which has no init yet; `hooks` are records, by
        kind."""
        from urunc.record import plain

        creator = process.stat(posix.getpid())
        document = {
            "schema": SCHEMA,
            "urunc": __version__,
            "ociVersion": OCI_VERSION,
            "id": identifier,
            "pid": 0,
            "bundle": bundle,
            "annotations": dict(annotations),
            "bootId": process.boot_id(),
            "creatorProcess": [posix.getpid(), creator[2] if creator else 0],
            "hooks": plain(hooks),
        }
        return cls(directory, document)

    def set_init(self, pid: int) -> None:
        """Note the process that will become the monitor, which is there."""
        facts = process.stat(pid)
        self._document["pid"] = pid
        self._document["initProcess"] = [pid, facts[2] if facts else 0]

    def complete(
        self,
        *,
        nic_count: int,
        files: Mapping[str, str],
        group_paths: Mapping[str, str],
        unit: str,
        network: str,
        network_identity: tuple[int, ...],
        **records: object,
    ) -> None:
        """The container is created: `records` are the plan, net, launch, storage, found and
        resources; `files` the host's paths of the container's network files."""
        from time import gmtime, strftime

        from urunc.record import plain

        self._document.update(
            ready=True,
            created=strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()),
            nicCount=nic_count,
            files=dict(files),
            groups={"paths": dict(group_paths), "unit": unit},
            network=network,
            networkIdentity=list(network_identity),
            **{name: plain(item) for name, item in records.items()},
        )

    @property
    def document(self) -> Mapping[str, Any]:
        """The whole object."""
        return self._document

    def save(self, text: str = "") -> None:
        """Write it whole; `text` is `document`'s where the caller has it already."""
        write_whole(self._path, (text or dumps(self._document)).encode())

    @property
    def id(self) -> str:
        """The container's id."""
        return str(self._document["id"])

    @property
    def pid(self) -> int:
        """Init's (later the monitor's) pid in the runtime's pid namespace; 0 before there is
        one."""
        return int(self._document["pid"])

    @property
    def created(self) -> str:
        """When (RFC 3339), "" where `create` is not through."""
        return str(self._get("created"))

    @property
    def plan(self) -> PlanFacts:
        """What was planned; WrongStatusError where `create` is not through."""
        return PlanFacts(self._created("plan"))

    @property
    def nic_count(self) -> int:
        """How many interfaces the guest can have."""
        return int(self._created("nicCount"))

    @property
    def network(self) -> str:
        """The path of the network namespace that it joined, "" for one of its own."""
        return str(self._created("network"))

    @property
    def network_identity(self) -> tuple[int, ...]:
        """(device, inode) of its network namespace, () where nobody looked."""
        return tuple(self._get("networkIdentity"))

    @property
    def network_files(self) -> dict[str, str]:
        """The host's paths of what is mounted over its resolv.conf and hosts file
        (bundle/network_files.py)."""
        return dict(self._created("files"))

    @property
    def group_paths(self) -> dict[str, str]:
        """The directories of its control groups by controller (linux/cgroups.py); {} where it has
        none, or none yet."""
        return dict(self._get("groups")["paths"])

    @property
    def unit(self) -> str:
        """systemd's unit that its groups belong to, "" for none."""
        return str(self._get("groups")["unit"])

    @property
    def timestamps(self) -> str:
        """The file that its timestamps go to (timing.py), "" for none."""
        return str(self._get("timestamps"))

    @timestamps.setter
    def timestamps(self, path: str) -> None:
        self._document["timestamps"] = path

    @property
    def ready(self) -> bool:
        """Whether `create` is through."""
        return bool(self._get("ready"))

    @property
    def returned(self) -> ReturnedFile | None:
        """The file that is given back when it has ended, where it has one."""
        index = self._get("storage").get("returned", DEFAULTS["storage"]["returned"])
        if index < 0:
            return None
        volumes = self._created("plan")["volumes"]
        volume = next(item for item in volumes if item.get("returned"))
        return ReturnedFile(self._get("storage")["disks"][index]["source"], volume)

    @property
    def unfinished(self) -> int | None:
        """While `start` changes the network: how many resources were in the journal before."""
        count = int(self._get("unfinished"))
        return None if count < 0 else count

    @unfinished.setter
    def unfinished(self, count: int | None) -> None:
        self._document.pop("unfinished", None)
        if count is not None:
            self._document["unfinished"] = count

    def hooks(self, kind: str, cls: type[Record]) -> list[Record]:
        """The hooks of a kind, as records of a class (bundle.spec.Hook)."""
        from urunc.record import rebuild

        return [rebuild(cls, hook) for hook in self._document["hooks"].get(kind, ())]

    def has_hooks(self, kind: str) -> bool:
        """Whether there are hooks of a kind (poststart, poststop)."""
        return bool(self._document["hooks"].get(kind))

    def read(self, key: str, cls: type[Record]) -> Record:
        """A whole record that `complete` or `write` was given; StateError where it is none."""
        from urunc.record import rebuild

        return self.read_by(key, lambda values: rebuild(cls, values))

    def read_by(self, key: str, reader: Callable[[Mapping[str, Any]], Read]) -> Read:
        """What `reader` makes of it; StateError where that raises TypeError or ValueError."""
        try:
            return reader(self._created(key))
        except (TypeError, ValueError, AttributeError) as error:
            raise _unreadable(self._path, f"key '{key}': {error}") from None

    def write(self, **records: object) -> None:
        """Other records in place of those that `complete` was given."""
        from urunc.record import plain

        self._document.update({name: plain(item) for name, item in records.items()})

    def _get(self, key: str) -> Any:
        return self._document.get(key, DEFAULTS[key])

    def _created(self, key: str) -> Any:
        if key not in self._document:
            raise WrongStatusError(f"container '{self.id}' is not created yet")
        return self._document[key]

    def status(self) -> Status:
        """What the kernel says: creating, created, running, paused or stopped. A zombie is
        stopped."""
        who = "initProcess" if self.pid else "creatorProcess"
        pid, start_time = self._document[who]
        facts = process.stat(pid)
        if facts is None or facts[1] in "ZX" or facts[2] != start_time:
            return STOPPED
        if not self.is_of_this_boot():
            return STOPPED
        if not self.pid or not self.ready:
            return CREATING
        if self.paused():
            return PAUSED
        return CREATED if facts[0] == INIT_NAME else RUNNING

    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been started anew since it was created."""
        return bool(self._document["bootId"] == process.boot_id())

    def paused(self) -> bool:
        """Whether its control groups are frozen."""
        from urunc.linux.cgroups import frozen

        return frozen(self.group_paths)

    def pidfd(self) -> int | None:
        """A pidfd of init (or the monitor); None where it has ended."""
        pid, start_time = self._get("initProcess")
        if not pid or not self.is_of_this_boot():
            return None
        return process.open_pidfd(pid, start_time)

    def oci(self, status: str = "") -> dict[str, Any]:
        """The specification's state object; `status` says it where the caller knows better."""
        status = status or self.status()
        return {
            "ociVersion": self._get("ociVersion"),
            "id": self.id,
            "status": status,
            "pid": 0 if status == STOPPED else self.pid,
            "bundle": self._document["bundle"],
            "annotations": self._document["annotations"],
        }


def recorded(directory: str) -> str:
    """The name of the file that a container's directory has it in, "" where there is none yet."""
    return next((name for name in (FILE, OLD_FILE) if exists(f"{directory}/{name}")), "")


def load(root: str, identifier: str) -> State:
    """The recorded state of a container; NotFoundError, or StateError where it cannot be read."""
    directory = f"{root}/{check_id(identifier)}"
    file = recorded(directory) or FILE
    path = f"{directory}/{file}"
    try:
        document = loads(read_text(path, 1 << 24))
        check(document, {}, "")
        if document.get("schema") != SCHEMA:
            raise StateError(
                f"read '{path}': schema {document.get('schema')} is not {SCHEMA}",
                "another version of urunc wrote it: use that one, or `urunc delete --force`",
            )
        check_document(document)
    except OSError:
        raise not_found(identifier) from None
    except ValueError as error:
        raise _unreadable(path, str(error)) from None
    return State(directory, document, file)


def _unreadable(path: str, what: str) -> StateError:
    return StateError(f"read '{path}': {what}", "`urunc delete --force` removes the container")


def check_document(document: dict[str, Any]) -> None:
    """Raise ValueError where something is missing in a container's object, or is not of its
    type."""
    check(document, SHAPE, "")
    for key, default in DEFAULTS.items():
        _check_given(document, key, default, "")
    for key in ("plan", "storage"):
        for inner, default in DEFAULTS[key].items():
            _check_given(document.get(key, {}), inner, default, f"{key}.")
    if document.get("ready"):
        check(document, SHAPE_ONCE_CREATED, "")
        _check_returned(document)
    if document["pid"]:
        check(document, {"initProcess": SHAPE_ONCE_CREATED["initProcess"]}, "")


def _check_returned(document: dict[str, Any]) -> None:
    index = document["storage"].get("returned", -1)
    if index < 0:
        return
    volume = next((item for item in document["plan"]["volumes"] if item.get("returned")), None)
    if volume is None or index >= len(document["storage"]["disks"]):
        raise ValueError(f"key 'storage.returned' is {index}: no such disk, or no such volume")
    check(volume["returned"], (int, int), "plan.volumes.returned")


def _check_given(values: dict[str, Any], key: str, default: Any, where: str) -> None:
    if key in values and default is not None:
        check(values[key], type(default), where + key)


def check(value: Any, shape: Any, name: str) -> None:
    """Raise ValueError, with the key's name, where a JSON value has not this shape: a type; a
    tuple, for a list of exactly these; a list, for one of any length; a dict, for an object with at
    least these keys, or (`...`) with values that all are so."""
    kind: Any = shape if isinstance(shape, type) else type(shape)
    kind = list if kind is tuple else kind
    if type(value) is not kind:
        what = f"key '{name}'" if name else "the file"
        raise ValueError(f"{what} is {KINDS[type(value)]}, not {KINDS[kind]}")
    if isinstance(shape, tuple) and len(value) != len(shape):
        raise ValueError(f"key '{name}' has {len(value)} elements, not {len(shape)}")
    if isinstance(shape, dict):
        for key, inner in shape.items():
            if key is not ... and key not in value:
                raise ValueError(f"key '{name}{'.' if name else ''}{key}' is missing")
            for own in value if key is ... else (key,):
                check(value[own], inner, f"{name}.{own}" if name else own)
    elif isinstance(shape, list | tuple):
        for index, item in enumerate(value):
            check(item, shape[index if isinstance(shape, tuple) else 0], f"{name}[{index}]")
