# SPDX-License-Identifier: Apache-2.0
"""Makes an image of a recipe: one layer, its configuration and its manifest."""

from __future__ import annotations

import os
from base64 import b64encode
from json import dumps
from time import gmtime, strftime

from urunc import guests, monitors
from urunc.bundle.image import FILE, OVERRIDES, OWN_KEYS
from urunc.bundle.pods import PREFIX
from urunc.errors import Error, ImageError, reason
from urunc.image import blobs, images, kernels
from urunc.image.recipe import ARCHITECTURES, closest
from urunc.image.tree import Entry, Tree, of_bytes, of_file
from urunc.plan.compatibility import check_kernel
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import Any

    from urunc.config import Config
    from urunc.image.blobs import Blob
    from urunc.image.images import Image
    from urunc.image.kernels import Kernel
    from urunc.image.recipe import Include, Recipe, Source

KERNEL, INITRD, BLOCK = "/.boot/kernel", "/.boot/initrd", "/.boot/block"
"""Where they are in the image."""
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@record
class Built:
    """An image for one platform."""

    architecture: str
    """As the image specification names it."""
    layer: Blob
    config: Blob
    manifest: Blob
    said: dict[str, str]
    """What its urunc.json says, by short keys."""
    remarks: tuple[str, ...]


class Builder:
    """Builds images into files without names in a directory."""

    def __init__(self, directory: str, epoch: int, config: Config, stack: ExitStack) -> None:
        self.directory = directory
        self.epoch = epoch
        self.config = config
        self.stack = stack
        self._images: dict[tuple[str, str], Image] = {}

    def build(self, recipe: Recipe) -> Built:
        """Raises ImageError (with file and line), HostError, OSError."""
        host = os.uname().machine
        machine = recipe.architecture or (host if recipe.kernel.image else "")
        kernel = self._file(recipe.kernel, machine or host)
        facts = self._look(kernel, recipe.kernel)
        machine = recipe.architecture or facts.binary.machine.replace("i386", "x86_64")
        if machine not in ARCHITECTURES:
            raise recipe.kernel.place.error(
                f"kernel '{recipe.kernel.path}': built for {machine}",
                f"urunc runs on {', '.join(ARCHITECTURES)}",
            )
        said = self._said(recipe, facts, machine)
        tree = Tree()
        self._include(tree, recipe.files, machine)
        tree.put(KERNEL, kernel, recipe.kernel.place)
        if initrd := self._initrd(recipe, machine):
            tree.put(INITRD, initrd, recipe.place)
            said["initrd"] = INITRD
        if recipe.block:
            tree.put(BLOCK, self._file(recipe.block, machine), recipe.block.place)
            said["block"] = BLOCK
        if recipe.mount_rootfs and (recipe.block or "initrd" in said):
            raise recipe.at("mount_rootfs").error(
                "mount_rootfs: not together with an initrd or a block image",
                "the guest's files are the image's, or in a file: one of them",
            )
        if recipe.mount_rootfs:
            said["mountRootfs"] = "true"
        labels = {PREFIX + key: value for key, value in said.items()}
        text = dumps({key: b64encode(value.encode()).decode() for key, value in labels.items()})
        tree.put(FILE, of_bytes(f"{text}\n".encode()), recipe.place)
        labels |= {key: text for key, text in recipe.annotations.items() if _is_foreign(key)}
        return self._image(recipe, tree, machine, labels, said)

    def _image(
        self, recipe: Recipe, tree: Tree, machine: str, labels: dict[str, str], said: dict[str, str]
    ) -> Built:
        layer = blobs.Blob(self.directory)
        tree.write_tar(layer.file, self.epoch)
        layer.finish()
        created = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(self.epoch))
        runs = {"Cmd": recipe.command, "Entrypoint": recipe.entrypoint, "Env": recipe.environment}
        config = {
            "architecture": ARCHITECTURES[machine],
            "os": "linux",
            "created": created,
            "config": {
                **{key: list(words) for key, words in runs.items() if words},
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            "history": [{"created": created, "created_by": "urunc image build"}],
        }
        document = blobs.of_json(self.directory, config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(document, CONFIG_TYPE),
            "layers": [descriptor(layer, LAYER_TYPE)],
            "annotations": labels,
        }
        remarks = []
        if not recipe.command and not recipe.entrypoint:
            remarks.append(
                "no command: most engines start such an image only with one on their command line"
            )
        return Built(
            architecture=ARCHITECTURES[machine],
            layer=layer,
            config=document,
            manifest=blobs.of_json(self.directory, manifest),
            said=said,
            remarks=tuple(remarks),
        )

    def _said(self, recipe: Recipe, facts: Kernel, machine: str) -> dict[str, str]:
        """What urunc.json is to say, checked as `create` will check it, without the files."""
        place, path = recipe.place, recipe.kernel.path
        guest = recipe.guest or facts.guest
        if not guest:
            raise place.error(
                f"kernel '{path}': its framework cannot be told from the file",
                f"say which guest it is: {', '.join(guests.names(self.config))}",
            )
        if not guests.known(guest, self.config):
            raise recipe.at("guest").error(
                f"guest '{guest}': unknown", closest(guest, guests.names(self.config))
            )
        kind = guests.load(guest, self.config)
        default = "qemu" if "qemu" in kind.monitors or not kind.monitors else min(kind.monitors)
        monitor = recipe.monitor or facts.binary.solo5_target or default
        if not monitors.known(monitor):
            raise recipe.at("monitor").error(
                f"monitor '{monitor}': unknown", closest(monitor, monitors.names())
            )
        if kind.monitors and monitor not in kind.monitors:
            raise recipe.at("monitor").error(
                f"monitor '{monitor}': {guest} does not run on it",
                f"it runs on: {', '.join(sorted(kind.monitors))}",
            )
        try:
            check_kernel(facts.binary, path, monitors.load(monitor, self.config), machine)
        except Error as error:
            raise place.error(error.message, error.hint) from None
        for word, there in (
            ("initrd", recipe.initrd or next((item.source for item in recipe.initrd_files), None)),
            ("block", recipe.block),
        ):
            if there and word not in kind.storage:
                raise there.place.error(
                    f"'{word}': {guest} cannot use it",
                    f"it takes: {', '.join(sorted(kind.storage)) or 'none'}",
                )
        said = {"unikernelType": guest, "hypervisor": monitor, "binary": KERNEL}
        version = recipe.version.removeprefix("v") or (
            facts.version.partition("~")[0] if guest == "unikraft" else ""
        )
        if version:
            said["unikernelVersion"] = version
        if recipe.mount_point:
            said["blkMntPoint"] = recipe.mount_point
        words = (*recipe.entrypoint, *recipe.command)
        if words and not any(set(word) & set(" \t\n") for word in words):
            said["cmdline"] = " ".join(words)
        return said | _more(recipe)

    def _initrd(self, recipe: Recipe, machine: str) -> Entry | None:
        if recipe.initrd and recipe.initrd_files:
            raise recipe.initrd.place.error(
                "'initrd' beside 'initrd_files'", "the initrd is a file or folder, or made of files"
            )
        tree = Tree()
        if recipe.initrd:
            source = recipe.initrd
            if not source.image and not os.path.isdir(self._path(source)):
                return self._file(source, machine)
            found = self._image_of(source, machine).find(source.path) if source.image else None
            if found and found.open:
                return found
            self._put(tree, source, "/", machine)
        elif recipe.initrd_files:
            self._include(tree, recipe.initrd_files, machine)
        else:
            return None
        blob = blobs.Blob(self.directory)
        tree.write_cpio(blob.file.fileno(), self.epoch)
        size = os.fstat(blob.file.fileno()).st_size
        path = f"/proc/self/fd/{blob.file.fileno()}"
        self.stack.callback(blob.file.close)
        return Entry(mode=0o100644, size_bytes=size, open=lambda: open(path, "rb"))

    def _include(self, tree: Tree, includes: tuple[Include, ...], machine: str) -> None:
        for item in includes:
            self._put(tree, item.source, item.destination, machine)

    def _put(self, tree: Tree, source: Source, destination: str, machine: str) -> None:
        if not source.image:
            tree.folder(self._path(source), destination, source.place)
            return
        image = self._image_of(source, machine)
        name = image.resolve(source.path)
        below = f"{name}/" if name else ""
        found = [path for path in image.entries if path == name or path.startswith(below)]
        if name is None or not found:
            raise self._missing(source)
        for path in found:
            rest = path.removeprefix(name).lstrip("/")
            tree.put(f"{destination}/{rest}", image.entries[path], source.place)

    def _file(self, source: Source, machine: str) -> Entry:
        if source.image:
            found = self._image_of(source, machine).find(source.path)
            if found is None or found.open is None:
                raise self._missing(source)
            return found
        path = self._path(source)
        try:
            found = of_file(os.path.realpath(path))
            if found.open is None:
                raise source.place.error(f"'{source.path}': a directory", "name a file in it")
            with found.open():
                return found
        except OSError as error:
            raise source.place.error(
                f"'{source.path}': {reason(error)}", f"looked for it at '{path}'"
            ) from None

    def _missing(self, source: Source) -> ImageError:
        return source.place.error(
            f"'{source.path}': no such file in image '{source.image}'",
            f"urunc image inspect {source.image} shows what is in it",
        )

    def _image_of(self, source: Source, machine: str) -> Image:
        key = source.image, machine
        if key not in self._images:
            name = source.image
            beside = os.path.join(os.path.dirname(source.place.file), name)
            try:
                self._images[key] = images.load(
                    beside if os.path.exists(beside) else name, ARCHITECTURES[machine], self.stack
                )
            except ImageError as error:
                raise source.place.error(error.message, error.hint) from None
        return self._images[key]

    def _path(self, source: Source) -> str:
        """Relative to the build file."""
        return os.path.join(os.path.dirname(source.place.file), source.path)

    def _look(self, kernel: Entry, source: Source) -> Kernel:
        if kernel.open is None:
            raise self._missing(source)
        try:
            return look(kernel, source.path, self.directory)
        except ImageError as error:
            raise source.place.error(error.message, error.hint) from None


def look(entry: Entry, path: str, directory: str) -> Kernel:
    """The facts of a kernel in an image; raises ImageError."""
    if entry.open is None:
        raise ImageError(f"'{path}': not a file")
    copy = blobs.Blob(directory)
    with entry.open() as content, copy.file:
        while part := content.read(blobs.CHUNK_BYTES):
            copy.file.write(part)
        copy.file.flush()
        return kernels.look(copy.file.fileno(), path)


def descriptor(blob: Blob, media_type: str) -> dict[str, Any]:
    """The image specification's descriptor of a blob."""
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes}


def _is_foreign(key: str) -> bool:
    return "." in key and not key.startswith(PREFIX)


def _more(recipe: Recipe) -> dict[str, str]:
    """The annotations of ours that a build file adds; raises ImageError."""
    found = {}
    for key, value in recipe.annotations.items():
        short, place = key.removeprefix(PREFIX), recipe.at(key)
        if _is_foreign(key):
            continue
        if short in OVERRIDES and short not in OWN_KEYS:
            raise place.error(
                f"annotation '{key}': an image cannot say it",
                f"it is a container's: set {PREFIX}{short} where the container is made",
            )
        if short not in OWN_KEYS:
            raise place.error(f"annotation '{key}': unknown", closest(short, OWN_KEYS))
        found[short] = value
    return found
