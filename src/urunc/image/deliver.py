# SPDX-License-Identifier: Apache-2.0
"""Where a built image goes: a folder, an archive, an engine, a registry.

The archive is an OCI archive and docker save's in one, so that skopeo, Docker, Podman and ctr all
read it. Whatever is written appears under its name whole, or not at all.
"""

from __future__ import annotations

import os
import tarfile
from contextlib import suppress
from io import BytesIO
from json import dumps
from shutil import rmtree, which
from subprocess import DEVNULL, run
from tempfile import TemporaryDirectory

from urunc.errors import HostError, ImageError, UsageError, reason
from urunc.image import blobs
from urunc.image.build import MANIFEST_TYPE, descriptor
from urunc.image.images import is_local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from urunc.image.blobs import Blob
    from urunc.image.build import Built

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
FORMS = (
    "oci:FOLDER, archive:FILE, docker, podman, containerd[:NAMESPACE] or docker://REGISTRY/NAME:TAG"
)
ARCHIVES = ("archive", "docker-archive", "oci-archive")
LOADERS = {"docker": ["docker", "load"], "podman": ["podman", "load"]}


def check(target: str, name: str) -> tuple[str, str]:
    """(kind, the rest) of a target; raises UsageError before anything is built."""
    kind, _, rest = target.partition(":")
    if not target:
        raise UsageError("option '--output': missing", f"one of {FORMS}")
    if kind not in ("oci", "docker", "podman", "containerd", *ARCHIVES):
        raise UsageError(f"option '--output': '{target}' is unknown", f"one of {FORMS}")
    if kind in ("oci", *ARCHIVES) and not rest:
        raise UsageError(f"option '--output': '{target}' has no path", f"write {kind}:PATH")
    if kind == "docker" and rest:
        return "registry", target
    if kind in (*LOADERS, "containerd") and not name:
        raise UsageError(
            "option '--name': missing", f"{kind} keeps images by name, for example hello:1"
        )
    return kind, rest


def directory_of(kind: str, rest: str) -> str:
    """Where content is kept until it is whole: the file system that it stays on."""
    import tempfile

    if kind in ("oci", *ARCHIVES):
        return os.path.dirname(os.path.abspath(rest))
    return tempfile.gettempdir()


def deliver(images: list[Built], kind: str, rest: str, name: str, directory: str) -> str:
    """Write it, load it or push it; returns what to say of it. Raises HostError, ImageError."""
    files, index = _layout(images, name, directory)
    if kind == "oci":
        _folder(files, index, os.path.abspath(rest))
        return f"OCI layout {rest}"
    if kind == "registry":
        _push(files, index, rest, directory)
        return rest
    archive = _archive(files, index, images, name, directory)
    if kind in ARCHIVES:
        archive.name(os.path.abspath(rest))
        return f"archive {rest}"
    words = LOADERS.get(kind) or [
        "ctr", "--namespace", rest or "default", "images", "import", "--all-platforms", "-",
    ]  # fmt: skip
    _call(words, archive)
    return f"{name} in {kind}"


def _push(files: list[Blob], index: Blob, target: str, directory: str) -> None:
    """By skopeo, which wants files with names."""
    with TemporaryDirectory(prefix="urunc-image-", dir=directory) as folder:
        _folder(files, index, f"{folder}/image")
        words = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", *_plain(target)]
        _call([*words, f"oci:{folder}/image", target])


def _plain(target: str) -> list[str]:
    """A registry on loopback is asked without TLS, as Docker does."""
    return ["--dest-tls-verify=false"] if is_local(target) else []


def _call(words: list[str], archive: Blob | None = None) -> None:
    if not which(words[0]):
        package = {"docker": "docker.io", "ctr": "containerd"}.get(words[0], words[0])
        raise HostError(f"'{words[0]}' is not installed", f"apt-get install {package}")
    if archive:
        archive.file.seek(0)
    done = run(
        words, stdin=archive.file if archive else DEVNULL, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word from it").splitlines()[-1]
        raise HostError(f"{' '.join(words[:2])}: {said}", "the image is built; nothing was kept")


def reference(name: str) -> str:
    """With the tag that engines add."""
    return name if ":" in name.rpartition("/")[2] or not name else f"{name}:latest"


def _layout(images: list[Built], name: str, directory: str) -> tuple[list[Blob], Blob]:
    """All blobs, and index.json; several platforms have an index of their own below it."""
    files: dict[str, Blob] = {}
    manifests = []
    for image in images:
        for blob in (image.layer, image.config, image.manifest):
            files[blob.digest] = blob
        manifests.append(
            {
                **descriptor(image.manifest, MANIFEST_TYPE),
                "platform": {"architecture": image.architecture, "os": "linux"},
            }
        )
    if len({image.architecture for image in images}) < len(images):
        raise ImageError(
            f"two of the images are for {images[0].architecture}",
            "one build file or table for each architecture",
        )
    if len(images) > 1:
        inner = blobs.of_json(directory, _index(manifests))
        files[inner.digest] = inner
        manifests = [descriptor(inner, INDEX_TYPE)]
    if name:
        whole = reference(name)
        manifests[0]["annotations"] = {
            "org.opencontainers.image.ref.name": whole.rpartition(":")[2],
            "io.containerd.image.name": _qualified(whole),
        }
    return list(files.values()), blobs.of_json(directory, _index(manifests))


def _qualified(name: str) -> str:
    """With the registry, as containerd wants it."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _index(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}


def _folder(files: list[Blob], index: Blob, path: str) -> None:
    if os.path.exists(path) and not os.path.isfile(f"{path}/oci-layout") and os.listdir(path):
        raise ImageError(f"write '{path}': it is there, and no OCI layout", "name another folder")
    temporary, old = f"{path}.{os.getpid()}.part", f"{path}.{os.getpid()}.old"
    try:
        os.makedirs(f"{temporary}/blobs/sha256")
        for blob in files:
            blob.link(f"{temporary}/blobs/sha256/{blob.digest.partition(':')[2]}")
        index.link(f"{temporary}/index.json")
        with open(f"{temporary}/oci-layout", "w") as out:
            out.write(LAYOUT)
        if os.path.exists(path):
            os.rename(path, old)
        os.rename(temporary, path)
    except OSError as error:
        if os.path.exists(old):
            os.rename(old, path)
        raise HostError(f"write '{path}': {reason(error)}") from None
    finally:
        with suppress(OSError):
            rmtree(temporary, ignore_errors=True)
            rmtree(old, ignore_errors=True)


def _archive(
    files: list[Blob], index: Blob, images: list[Built], name: str, directory: str
) -> Blob:
    archive = blobs.Blob(directory)
    first = images[0]
    listed = [
        {
            "Config": _path(first.config),
            "RepoTags": [reference(name)] if name else [],
            "Layers": [_path(first.layer)],
        }
    ]
    with tarfile.open(fileobj=archive.file, mode="w", format=tarfile.PAX_FORMAT) as out:
        for blob in sorted(files, key=lambda item: item.digest):
            _member(out, _path(blob), blob.size_bytes, blob.file)
        index.file.seek(0)
        texts = {
            "index.json": index.file.read(),
            "manifest.json": dumps(listed).encode(),
            "oci-layout": LAYOUT.encode(),
        }
        for path, content in texts.items():
            if path == "manifest.json" and len(images) > 1:
                continue  # docker save's form has one platform
            _member(out, path, len(content), BytesIO(content))
    return archive.finish()


def _path(blob: Blob) -> str:
    return f"blobs/sha256/{blob.digest.partition(':')[2]}"


def _member(out: tarfile.TarFile, path: str, size: int, content: Any) -> None:
    member = tarfile.TarInfo(path)
    member.size = size
    content.seek(0)
    out.addfile(member, content)
