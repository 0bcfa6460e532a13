# SPDX-License-Identifier: Apache-2.0
"""Reads images: OCI layouts and archives, Docker's archives, references by skopeo, folders with a
root filesystem.

An image is a stranger's: blobs must have their digests, paths are looked up among what the layers
list, links are followed there alone.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from contextlib import ExitStack
from hashlib import sha256
from shutil import copyfileobj, which
from subprocess import run

from urunc.errors import HostError, ImageError, reason
from urunc.image.tree import Entry, of_file
from urunc.jsontext import loads
from urunc.linux.files import open_in_root
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

JSON_LIMIT_BYTES = 16 << 20
MEMBERS_LIMIT = 1 << 20
LINKS = 40
"""How many links of a path are followed, as the kernel does."""
ZSTD = b"\x28\xb5\x2f\xfd"
TRANSPORTS = (
    "docker",
    "docker-daemon",
    "containers-storage",
    "oci",
    "oci-archive",
    "docker-archive",
)
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@record
class Image:
    """An image for one platform, or a folder."""

    kind: str
    """What holds it, in words."""
    config: dict[str, Any]
    """The image specification's configuration, {} for a folder."""
    annotations: dict[str, str]
    """Of its manifest."""
    entries: dict[str, Entry]
    """Path without a leading slash → entry."""

    def find(self, path: str) -> Entry | None:
        """The entry at a path, links followed within the image; None if there is none."""
        name = self.resolve(path)
        return None if name is None else self.entries.get(name)

    def resolve(self, path: str) -> str | None:
        """The path without links; None if it leads nowhere."""
        rest = [part for part in path.split("/") if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            found = self.entries.get("/".join([*done, part]))
            if found and stat.S_ISLNK(found.mode):
                links += 1
                if links > LINKS:
                    return None
                target = [part for part in found.target.split("/") if part not in ("", ".")]
                done = [] if found.target.startswith("/") else done
                rest = target + rest
                continue
            done.append(part)
        return "/".join(done)


def load(reference: str, architecture: str, stack: ExitStack) -> Image:
    """The image that a reference, folder or archive holds, for an architecture (GOARCH); its
    content can be read until the stack is closed. Raises ImageError, HostError."""
    transport, _, rest = reference.partition(":")
    path = rest if transport in ("oci", "oci-archive", "docker-archive") else reference
    if not os.path.exists(path) and transport in ("oci", "oci-archive", "docker-archive"):
        path = path.rpartition(":")[0] or path
    if os.path.isfile(f"{path}/oci-layout"):
        return _oci(_in_folder(path), "OCI layout", architecture, stack)
    if os.path.isdir(path):
        return _folder(path)
    if os.path.isfile(path):
        return _archive(path, architecture, stack)
    if reference.startswith(("/", "./", "../")):
        raise ImageError(f"read '{reference}': no such file or directory")
    return _pulled(reference, architecture, stack)


def _pulled(reference: str, architecture: str, stack: ExitStack) -> Image:
    if not which("skopeo"):
        raise HostError(
            f"image '{reference}': no such file, and skopeo is not installed to fetch it",
            "apt-get install skopeo",
        )
    transport = reference.partition(":")[0]
    source = reference if transport in TRANSPORTS else f"docker://{reference}"
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="urunc-image-"))
    words = ["skopeo", "copy", "--quiet"]
    if not source.startswith(("docker-daemon:", "containers-storage:")):
        words.append("--all")
    if is_local(source):
        words.append("--src-tls-verify=false")
    done = run(
        [*words, source, f"oci:{directory}/image"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word from skopeo"]
        raise ImageError(
            f"image '{reference}': {lines[-1]}",
            "a reference is REGISTRY/NAME:TAG, or with a transport of skopeo's in front",
        )
    return _oci(_in_folder(f"{directory}/image"), "image", architecture, stack)


def is_local(reference: str) -> bool:
    """Whether a reference is of a registry on loopback, which is asked without TLS, as Docker
    does."""
    host = reference.removeprefix("docker://").partition("/")[0].rpartition(":")[0]
    return host in ("localhost", "[::1]") or host.startswith("127.")


def _in_folder(path: str) -> Callable[[str], IO[bytes]]:
    def opened(name: str) -> IO[bytes]:
        try:
            return os.fdopen(open_in_root(path, name), "rb")
        except OSError as error:
            raise ImageError(f"read '{name}' in '{path}': {reason(error)}") from None

    return opened


def _archive(path: str, architecture: str, stack: ExitStack) -> Image:
    try:
        archive = stack.enter_context(tarfile.open(path))
        names = archive.getnames()
    except (OSError, tarfile.TarError) as error:
        raise ImageError(
            f"read '{path}': not an archive: {error}",
            "give a kernel, a folder, an OCI layout, an archive of an image, or a reference",
        ) from None

    def opened(name: str) -> IO[bytes]:
        try:
            found = archive.extractfile(name)
        except (KeyError, tarfile.TarError):
            found = None
        if found is None:
            raise ImageError(f"read '{path}': no file '{name}' in it", "copy the archive again")
        return found

    if "index.json" in names:
        return _oci(opened, "OCI archive", architecture, stack)
    if "manifest.json" in names:
        return _docker(opened, stack)
    return Image(kind="archive of files", config={}, annotations={}, entries=_members(archive))


def _json(file: IO[bytes], name: str) -> Any:
    with file:
        text = file.read(JSON_LIMIT_BYTES + 1)
    try:
        if len(text) > JSON_LIMIT_BYTES:
            raise ValueError(f"more than {JSON_LIMIT_BYTES} bytes")
        return loads(text.decode())
    except ValueError as error:
        raise ImageError(f"image: '{name}': not JSON: {error}", "copy the image again") from None


def _docker(opened: Callable[[str], IO[bytes]], stack: ExitStack) -> Image:
    try:
        (found, *_) = _json(opened("manifest.json"), "manifest.json")
        config = _json(opened(found["Config"]), "config")
        layers = [str(name) for name in found["Layers"]]
    except (KeyError, TypeError, ValueError):
        raise ImageError("image: 'manifest.json' is not docker save's") from None
    files = [_layer(opened(name), "", stack) for name in layers]
    return Image(kind="Docker archive", config=config, annotations={}, entries=_merged(files))


def _oci(
    opened: Callable[[str], IO[bytes]], kind: str, architecture: str, stack: ExitStack
) -> Image:
    def blob(descriptor: dict[str, Any]) -> tuple[IO[bytes], str]:
        digest = str(descriptor["digest"])
        algorithm, _, number = digest.partition(":")
        if algorithm != "sha256" or not number.isalnum():
            raise ImageError(f"image: digest '{digest[:80]}' is not of sha256")
        return opened(f"blobs/sha256/{number}"), number

    def document(descriptor: dict[str, Any]) -> Any:
        file, number = blob(descriptor)
        with file:
            text = file.read(JSON_LIMIT_BYTES + 1)
        if sha256(text).hexdigest() != number:
            raise _damaged(number)
        return loads(text.decode())

    try:
        index = _json(opened("index.json"), "index.json")
        for _ in range(4):  # an index may hold indexes
            chosen = _chosen(index["manifests"], architecture)
            index = document(chosen)
            if "manifests" not in index:
                break
        config = document(index["config"])
        layers = [_layer(*blob(layer), stack) for layer in index["layers"]]
        annotations = {str(key): str(value) for key, value in index.get("annotations", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"image: not an OCI image: {error}", "copy the image again") from None
    return Image(kind=kind, config=config, annotations=annotations, entries=_merged(layers))


def _chosen(manifests: list[dict[str, Any]], architecture: str) -> dict[str, Any]:
    def machine(item: dict[str, Any]) -> str:
        return str(item.get("platform", {}).get("architecture", ""))

    if not manifests:
        raise ImageError("image: its index is empty")
    fitting = [item for item in manifests if machine(item) in ("", architecture)]
    if architecture == "amd64":
        fitting += [item for item in manifests if machine(item) == "x86_64"]
    if not fitting:
        raise ImageError(
            f"image: it has nothing for {architecture}",
            f"it is for {', '.join(sorted(set(map(machine, manifests))))}",
        )
    return fitting[0]


def _damaged(number: str) -> ImageError:
    return ImageError(f"image: blob {number[:12]}: its content has another digest", "copy it again")


def _layer(file: IO[bytes], number: str, stack: ExitStack) -> tarfile.TarFile:
    """Copy a layer, checked and decompressed, to where it can be read at any place."""
    copy = stack.enter_context(tempfile.TemporaryFile())
    with file:
        copyfileobj(file, copy, 1 << 20)
    copy.seek(0)
    found = sha256()
    while part := copy.read(1 << 20):
        found.update(part)
    if number and found.hexdigest() != number:
        raise _damaged(number)
    copy.seek(0)
    if copy.read(4) == ZSTD:
        plain = stack.enter_context(tempfile.TemporaryFile())
        copy.seek(0)
        if (
            not which("zstd")
            or run(["zstd", "-dqc"], stdin=copy, stdout=plain, check=False).returncode
        ):
            raise HostError(
                "image: a layer is compressed by zstd, which fails or is not installed",
                "apt-get install zstd",
            )
        copy = plain
    copy.seek(0)
    try:
        return stack.enter_context(tarfile.open(fileobj=copy))
    except tarfile.TarError as error:
        raise ImageError(f"image: a layer is not an archive: {error}") from None


def _members(archive: tarfile.TarFile) -> dict[str, Entry]:
    return _merged([archive])


def _merged(layers: list[tarfile.TarFile]) -> dict[str, Entry]:
    """What the layers hold together (the image specification's layer.md)."""
    entries: dict[str, Entry] = {}
    for archive in layers:
        added: dict[str, Entry] = {}
        try:
            for count, member in enumerate(archive):
                if count > MEMBERS_LIMIT:
                    raise ImageError(f"image: more than {MEMBERS_LIMIT} files in a layer")
                _add(archive, member, entries, added)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ImageError(
                f"image: a layer is damaged: {error}", "copy the image again"
            ) from None
        for name in added:
            if not stat.S_ISDIR(added[name].mode):
                _remove(entries, name)
        entries |= added
    return entries


def _add(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    below: dict[str, Entry],
    added: dict[str, Entry],
) -> None:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return
    *above, last = parts
    name = "/".join(parts)
    if last == OPAQUE:
        _remove(below, "/".join(above), itself=False)
    elif last.startswith(WHITEOUT):
        _remove(below, "/".join([*above, last.removeprefix(WHITEOUT)]))
    elif member.isdir():
        added[name] = Entry(
            mode=stat.S_IFDIR | member.mode & 0o7777, uid=member.uid, gid=member.gid
        )
    elif member.issym():
        added[name] = Entry(
            mode=stat.S_IFLNK | 0o777, target=member.linkname, uid=member.uid, gid=member.gid
        )
    elif member.islnk():
        target = "/".join(part for part in member.linkname.split("/") if part not in ("", "."))
        found = added.get(target) or below.get(target)
        if found:
            added[name] = found
    elif member.isreg():

        def opened() -> IO[bytes]:
            content = archive.extractfile(member)
            if content is None:
                raise ImageError(f"image: '{name}' cannot be read")
            return content

        added[name] = Entry(
            mode=stat.S_IFREG | member.mode & 0o7777, size_bytes=member.size, open=opened,
            uid=member.uid, gid=member.gid,
        )  # fmt: skip


def _remove(entries: dict[str, Entry], name: str, *, itself: bool = True) -> None:
    gone = [path for path in entries if path.startswith(f"{name}/" if name else "")]
    for path in gone:
        del entries[path]
    if itself:
        entries.pop(name, None)


def _folder(path: str) -> Image:
    entries: dict[str, Entry] = {}
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            found = os.path.join(directory, name)
            try:
                entries[os.path.relpath(found, path)] = of_file(found)
            except (OSError, ImageError):
                continue
    return Image(kind="folder", config={}, annotations={}, entries=entries)
