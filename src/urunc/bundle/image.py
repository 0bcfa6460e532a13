# SPDX-License-Identifier: Apache-2.0
"""How an image says "I am a unikernel": annotations, or urunc.json in the root filesystem, and its
files.

Nothing here is trusted: paths are resolved below the root filesystem and must be regular files,
sizes are bounded. Reads, and makes nothing.
"""

from __future__ import annotations

import posix
from errno import ENOENT, ENOTDIR

from urunc import guests, logs, monitors
from urunc.bundle import elf
from urunc.bundle.elf import Binary
from urunc.bundle.pods import PREFIX, annotated, container_name, is_in_pod, is_sandbox
from urunc.errors import ImageError, reason
from urunc.jsontext import loads
from urunc.linux.files import S_IFBLK, S_IFMT, S_IFREG, open_in_root, read_descriptor
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from urunc.bundle.spec import Spec
    from urunc.config import Config

KEYS = (
    "unikernelType",
    "hypervisor",
    "binary",
    "cmdline",
    "unikernelVersion",
    "initrd",
    "block",
    "blkMntPoint",
    "useDMBlock",
    "mountRootfs",
    "stopsOn",
)
OWN_KEYS = (*KEYS, "rootfs")
"""What a urunc.json may say."""
OVERRIDES = (
    "accelerator",
    "console",
    "disks",
    "memory",
    "network",
    "ports",
    "ready",
    "rootfs",
    "rootfsSize",
    "start",
    "vcpus",
    "volumes",
)
FILE = "urunc.json"
FILE_LIMIT_BYTES = 1 << 20


@record
class ImageFile:
    """A file of the image: its path in the root filesystem, or a host device's path (`inside`
    False)."""

    path: str
    inside: bool
    mode: int
    uid: int
    gid: int
    inode: int
    size_bytes: int


@record
class UnikernelImage:
    """What an image asks for, with its files looked at."""

    guest: str
    monitor: str
    kernel: ImageFile
    binary: Binary
    initrd: ImageFile | None
    blocks: tuple[ImageFile, ...]
    cmdline: str
    version: str
    block_mount_points: tuple[str, ...]
    mount_rootfs: bool = False
    """Whether the container's own root filesystem is the guest's."""
    rootfs: str = ""
    """In which form, "" where the image does not say."""
    stops_on: tuple[str, ...] | None = None
    """What the image says its guest listens to when it shall stop; None where it says nothing."""
    overrides: Mapping[str, str]
    container_name: str = ""
    """The container's name in its pod, "" where it is in none."""
    in_pod: bool = False
    """Whether the engine says that the container is one of a pod's."""
    remarks: tuple[str, ...] = ()
    """What it says that means nothing, in words for the user."""


def strangers(annotations: Mapping[str, Any], config: Config) -> list[str]:
    """Remarks on annotations under PREFIX that nobody knows, most likely misspelled; raises
    ImageError where the administrator has them refused. One for another container of the pod is
    that one's."""
    known = (*KEYS, *OVERRIDES)
    own_name = container_name(annotations)
    found = []
    for annotation in annotations:
        if not annotation.startswith(PREFIX):
            continue
        key, _, name = annotation[len(PREFIX) :].partition(".")
        if key in known or (name and own_name and name != own_name):
            continue
        text = f"annotation '{annotation}': unknown"
        if config.get("annotations.unknown") == "refuse":
            source = config.source("annotations.unknown")
            raise ImageError(text + _close(key, known), f"annotations.unknown in {source}: refuse")
        found.append(f"{text}, and without effect" + _close(key, known))
    return found


def strangers_of(document: Any, config: Config) -> list[str]:
    """Remarks on a configuration that claims to be no unikernel's: its key may be misspelled;
    raises ImageError."""
    annotations = document.get("annotations")
    if not isinstance(annotations, dict) or is_sandbox(annotations):
        return []
    return [f"{text}; an ordinary container, then" for text in strangers(annotations, config)]


def warn_of_strangers(document: Any, config: Config) -> None:
    """Say so to the user; raises ImageError."""
    for text in strangers_of(document, config):
        logs.warn(text, aloud=True)


def _close(key: str, known: tuple[str, ...]) -> str:
    """Which known key may be meant, "" for none."""
    from difflib import get_close_matches

    return "".join(map(_guess, get_close_matches(key, known, 1)))


def _guess(key: str) -> str:
    return f": is it '{key}'?"


def meant(remarks: tuple[str, ...], keys: tuple[str, ...]) -> str:
    """The first of the remarks on keys that nobody knows by which one of these may be meant; "" for
    none."""
    ends = tuple(map(_guess, keys))
    return next((text for text in remarks if text.endswith(ends)), "")


def claims(document: Any, bundle: str, config: Config) -> bool:
    """Whether a configuration's JSON value is a unikernel's: by an annotation of ours, or a
    urunc.json in its root filesystem, or because the administrator has ordinary images run as
    guests. Whatever else is in it is the ordinary runtime's to judge where not."""
    if not isinstance(document, dict):
        return True  # nobody's: the complaint is ours
    annotations, root = document.get("annotations"), document.get("root")
    if isinstance(annotations, dict) and is_sandbox(annotations):
        return False
    if config.get("ordinary.guest"):
        return True
    if isinstance(annotations, dict) and annotated(annotations, KEYS):
        return True
    path = root.get("path") if isinstance(root, dict) else None
    if not isinstance(path, str) or not path:
        return False
    return bool(_from_file(path if path.startswith("/") else f"{bundle}/{path}")[0])


def read(spec: Spec, config: Config) -> UnikernelImage:
    """The image of a container that claims to be a unikernel's. Raises ImageError."""
    found = annotated(spec.annotations, KEYS)
    source = "config.json: annotation"
    remarks = strangers(spec.annotations, config)
    if not found:
        found, more = _from_file(spec.root)
        remarks += more
        source = FILE
    if not found and config.get("ordinary.guest"):
        found, source = _ordinary(config)
    values = decode(found, source, config)
    overrides = _overrides(spec, config)
    mount_rootfs = [_truth(values, key, source) for key in ("useDMBlock", "mountRootfs")]
    machine = spec.machine
    for key, said in (
        ("binary", machine and machine.kernel),
        ("initrd", machine and machine.initrd),
    ):
        if said and values.get(key):
            raise ImageError(
                f"{source} '{key}': config.json has a vm.kernel, too", "leave one of them out"
            )
    kernel, binary = _kernel(spec, values, source, config)
    initrd = machine.initrd if machine and machine.initrd else values.get("initrd")
    blocks = [path.strip() for path in values.get("block", "").split(",") if path.strip()]
    if any(mount_rootfs) and (initrd or blocks):
        raise ImageError(
            f"{source} 'mountRootfs': not together with 'initrd' or 'block'",
            "the guest's files are the container's root filesystem, or the image's: one of them",
        )
    return UnikernelImage(
        guest=values["unikernelType"],
        monitor=values["hypervisor"],
        kernel=kernel,
        binary=binary,
        initrd=_initrd(spec, initrd, source) if initrd else None,
        blocks=tuple(_block(spec.root, path, f"{source} 'block'", config) for path in blocks),
        cmdline=values.get("cmdline", ""),
        version=values.get("unikernelVersion", ""),
        block_mount_points=tuple(
            point.strip() for point in values.get("blkMntPoint", "").split(",") if point.strip()
        ),
        mount_rootfs=any(mount_rootfs),
        rootfs=values.get("rootfs", ""),
        stops_on=_stops_on(values["stopsOn"], source) if "stopsOn" in values else None,
        overrides=overrides,
        container_name=container_name(spec.annotations),
        in_pod=is_in_pod(spec.annotations),
        remarks=tuple(remarks),
    )


def _overrides(spec: Spec, config: Config) -> dict[str, str]:
    found = annotated(spec.annotations, OVERRIDES)
    for key in found:
        if key not in config.get("annotations.allow"):
            where = config.source("annotations.allow")
            raise ImageError(
                f"annotation '{PREFIX}{key}': not allowed on this machine", f"set in {where}"
            )
    if "start" in found or "ready" in found:
        from urunc.bundle.ready import check

        check(found)
    return found


def _stops_on(text: str, source: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip() not in ("", "none"))
    for word in words:
        if word not in guests.STOP_REQUESTS:
            known = ", ".join((*guests.STOP_REQUESTS, "none"))
            raise ImageError(f"{source} 'stopsOn': '{word}' is unknown", f"known: {known}")
    return words


def _from_file(root: str) -> tuple[dict[str, str], list[str]]:
    """What a urunc.json says, and remarks on what in it means nothing."""
    try:
        fd = open_in_root(root, FILE)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        if error.errno == ENOTDIR:
            return {}, []
        raise ImageError(f"read '{FILE}' in '{root}': {reason(error)}") from None
    try:
        if posix.fstat(fd).st_mode & S_IFMT != S_IFREG:
            raise ImageError(f"read '{FILE}' in '{root}': not a regular file")
        content = read_descriptor(fd, FILE_LIMIT_BYTES)
    finally:
        posix.close(fd)
    if len(content) > FILE_LIMIT_BYTES:
        raise ImageError(f"read '{FILE}': larger than {FILE_LIMIT_BYTES} bytes")
    try:
        document: Any = loads(content.decode("utf-8"))
    except ValueError as error:
        raise ImageError(f"read '{FILE}': not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ImageError(f"read '{FILE}': expected an object of strings")
    found, remarks = {}, []
    for key, value in document.items():
        short = key.removeprefix(PREFIX)
        if short in OWN_KEYS:
            if not isinstance(value, str):
                raise ImageError(f"read '{FILE}': '{key}': expected a string")
            found[short] = value
        else:
            guess = _close(short.partition(".")[0], OWN_KEYS)
            remarks.append(f"{FILE} '{key}': unknown, and without effect{guess}")
    return found, remarks


def decode(found: dict[str, str], source: str, config: Config) -> dict[str, str]:
    """The values as text: all plain or all base64, told apart by the two whose values are known
    words."""
    for key in ("unikernelType", "hypervisor"):
        if not found.get(key):
            state = "empty" if key in found else "missing"
            raise ImageError(f"{source} '{PREFIX}{key}': {state}", _known_hint(key, config))
    decoded: dict[str, str] = {}
    for key, value in found.items():
        text = _base64(value)
        if text is not None:
            decoded[key] = text
    pairs: list[tuple[str, Callable[[str], bool]]] = [
        ("unikernelType", lambda name: guests.known(name, config)),
        ("hypervisor", monitors.known),
    ]
    built_in = {"unikernelType": guests.BUILT_IN, "hypervisor": tuple(monitors.BUILT_IN)}
    # built-in words first: looking further reads package metadata
    for values in (found, decoded):
        if all(values.get(key) in words for key, words in built_in.items()):
            return _complete(values, found, source)
    for values in (found, decoded):
        if all(key in values and is_known(values[key]) for key, is_known in pairs):
            return _complete(values, found, source)
    for key, is_known in pairs:
        value, other = found[key], decoded.get(key)
        if not is_known(value) and not (other and is_known(other)):
            as_base64 = f"; as base64 it says '{other}'" if other and other.isprintable() else ""
            kind = "guest" if key == "unikernelType" else "monitor"
            raise ImageError(
                f"{source} '{PREFIX}{key}': unknown {kind} '{value}'{as_base64}",
                _known_hint(key, config),
            )
    raise ImageError(
        f"{source}: 'unikernelType' and 'hypervisor' are not both plain text or both base64",
        "write every value of the source the same way",
    )


def _complete(values: dict[str, str], found: dict[str, str], source: str) -> dict[str, str]:
    for key, value in found.items():
        if key not in values:
            raise ImageError(
                f"{source} '{PREFIX}{key}': '{value}' is not base64, though the others are"
            )
        if "\0" in values[key]:
            raise ImageError(f"{source} '{PREFIX}{key}': holds a NUL character")
    return values


def _base64(value: str) -> str | None:
    from binascii import Error, a2b_base64

    try:
        return a2b_base64(value.encode(), strict_mode=True).decode("utf-8")
    except (Error, ValueError):
        return None


def _known_hint(key: str, config: Config) -> str:
    if key == "unikernelType":
        return f"known guests: {', '.join(guests.names(config))}"
    if key == "hypervisor":
        return f"known monitors: {', '.join(monitors.names())}"
    return "the path of the unikernel in the root filesystem"


def _truth(values: dict[str, str], key: str, source: str) -> bool:
    text = values.get(key, "").lower()
    if text not in ("", "false", "true"):
        raise ImageError(f"{source} '{key}': '{values[key]}' is neither true nor false")
    return text == "true"


def _ordinary(config: Config) -> tuple[dict[str, str], str]:
    """What the administrator says of images that say nothing: (values, where that is set)."""
    values = {
        "unikernelType": config.get("ordinary.guest"),
        "hypervisor": config.get("ordinary.monitor"),
        "mountRootfs": "true",
    }
    return values, config.source("ordinary.guest")


def _kernel(
    spec: Spec, values: dict[str, str], source: str, config: Config
) -> tuple[ImageFile, Binary]:
    """The image's own kernel or config.json's, else the one that the administrator has for its kind
    of guest."""
    path = values.get("binary", "")
    if path:
        fd, facts = _open(spec.root, path, f"{source} 'binary'")
    elif spec.machine and spec.machine.kernel:
        path = spec.machine.kernel
        fd, facts = _host_file(path, "config.json: vm.kernel.path")
    else:
        key = f"guests.{values['unikernelType']}.kernel"
        path = config.get(key)
        if not path:
            state = "empty" if "binary" in values else "missing"
            raise ImageError(
                f"{source} '{PREFIX}binary': {state}",
                f"{_known_hint('binary', config)}; or set {key} in /etc/urunc/config.toml",
            )
        fd, facts = _host_file(path, f"{key} of {config.source(key)}")
    try:
        return facts, elf.inspect(fd, path)
    except OSError as error:
        raise ImageError(f"read '{path}': {reason(error)}") from None
    finally:
        posix.close(fd)


def _initrd(spec: Spec, path: str, source: str) -> ImageFile:
    if spec.machine and spec.machine.initrd:
        fd, facts = _host_file(path, "config.json: vm.kernel.initrd")
        posix.close(fd)
        return facts
    return _file(spec.root, path, f"{source} 'initrd'")


def _host_file(path: str, where: str) -> tuple[int, ImageFile]:
    """A file of the host's that the administrator or config.json names."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"{where}: '{path}': {reason(error)}") from None
    facts = posix.fstat(fd)
    if facts.st_mode & S_IFMT != S_IFREG:
        posix.close(fd)
        raise ImageError(f"{where}: '{path}': not a regular file")
    return fd, _facts(path, facts, inside=False)


def _file(root: str, path: str, where: str) -> ImageFile:
    fd, facts = _open(root, path, where)
    posix.close(fd)
    return facts


def _open(root: str, path: str, where: str) -> tuple[int, ImageFile]:
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else 1 if part not in ("", ".") else 0
        if depth < 0:
            raise ImageError(f"{where}: '{path}' leads out of the root filesystem")
    try:
        fd = open_in_root(root, path, posix.O_NONBLOCK)
    except OSError as error:
        hint = ""
        if error.errno == ENOENT:
            hint = f"looked for it in '{root}'; symbolic links are followed inside it only"
        raise ImageError(f"{where}: '{path}': {reason(error)}", hint) from None
    facts = posix.fstat(fd)
    if facts.st_mode & S_IFMT != S_IFREG:
        posix.close(fd)
        raise ImageError(f"{where}: '{path}': not a regular file")
    return fd, _facts(path, facts, inside=True)


def _block(root: str, path: str, where: str, config: Config) -> ImageFile:
    patterns = config.get("annotations.host_devices")
    if patterns and path.startswith("/dev/"):
        from fnmatch import fnmatchcase
        from os.path import normpath

        if normpath(path) == path and any(fnmatchcase(path, pattern) for pattern in patterns):
            try:
                facts = posix.stat(path)
            except OSError as error:
                raise ImageError(f"{where}: host device '{path}': {reason(error)}") from None
            if facts.st_mode & S_IFMT != S_IFBLK:
                raise ImageError(f"{where}: host device '{path}': not a block device")
            return _facts(path, facts, inside=False)
    try:
        return _file(root, path, where)
    except ImageError as error:
        if path.startswith("/dev/"):
            hint = (
                "host devices are given to guests only where `annotations.host_devices` allows them"
            )
            raise ImageError(error.message, hint) from None
        raise


def _facts(path: str, facts: posix.stat_result, *, inside: bool) -> ImageFile:
    return ImageFile(
        path=path,
        inside=inside,
        mode=facts.st_mode & 0o7777,
        uid=facts.st_uid,
        gid=facts.st_gid,
        inode=facts.st_ino,
        size_bytes=facts.st_size,
    )
