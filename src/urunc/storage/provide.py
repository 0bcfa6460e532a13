# SPDX-License-Identifier: Apache-2.0
"""Makes the files that the plan asks for: shared images in the cache, private copies, an initrd,
the archive of copied volumes. Runs in `create`, in the caller's process, before init is forked.

The container's own files are in one directory, which the journal has; shared ones are in the cache.
"""

from __future__ import annotations

import posix

from urunc import logs, programs
from urunc.errors import HostError, ImageError, reason
from urunc.journaled import PrivateDirectory
from urunc.linux.files import O_PATH, S_IFMT, S_IFREG, open_in_root, remove_tree
from urunc.linux.process import boot_id
from urunc.plan.sizing import INITRD_BYTES, least_of, limit_in_words
from urunc.record import replace
from urunc.storage import cache
from urunc.storage.disks import archive_index, returned_index, stored_disks, upper_index
from urunc.storage.facts import (
    ARCHIVE,
    DEVICE,
    DISKS,
    IN_INITRD,
    INITRD,
    SHARES,
    StorageFacts,
    filesystems_of,
)
from urunc.storage.layers import identify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.ids import Ids
    from urunc.journal import Journal
    from urunc.plan.model import MonitorUser, Plan
    from urunc.storage.archive import Archive
    from urunc.storage.cache import FilesystemImage
    from urunc.storage.facts import Root, Volume
    from urunc.storage.layers import Source
    from urunc.storage.ownership import Owners

DEFAULT_PRIVATE = "/var/lib/urunc/containers"
MIB = 1 << 20
INIT = "guest-init"
"""urunc's init for Linux guests, among the program's own files."""
NAMED = 64
"""How many characters of the container's id its directory's name begins with, for people."""


def provide(
    plan: Plan,
    user: MonitorUser,
    guest: Guest,
    config: Config,
    journal: Journal,
    ids: Ids,
    opened: Mapping[int, int],
) -> tuple[Root | None, StorageFacts]:
    """Make the container's files, owned by `user`; (the root filesystem's transport, what was
    made).

    `opened`: index of a volume → descriptor of its detached mount (detached_mounts.py). The root
    filesystem has another format than in the plan if that could not hold all of it. Raises Error;
    what was made until then is in the journal."""
    provision = _Provision(plan, user, guest, config, journal, ids, opened)
    made = provision.run()
    return provision.root_way, made


class _Provision:
    """`provide` for one container."""

    def __init__(
        self,
        plan: Plan,
        user: MonitorUser,
        guest: Guest,
        config: Config,
        journal: Journal,
        ids: Ids,
        opened: Mapping[int, int],
    ) -> None:
        self.plan = plan
        self.user = user
        self.root_way = plan.storage.root_way
        self.volumes = [
            replace(volume, source=f"/proc/self/fd/{opened[index]}") if index in opened else volume
            for index, volume in enumerate(plan.storage.volumes)
        ]
        self.owners: Owners | None = None
        """The owners of files as the container sees them, if they differ from the host's."""
        if ids.own:
            from urunc.storage.ownership import Owners

            self.owners = Owners(ids.users, ids.groups)
        self.guest = guest
        self.config = config
        self.journal = journal
        self.parts: list[str] = []
        """The initrd's parts in their order: paths of cpio archives."""
        self._source: Source | None = None
        self._directory = ""

    def run(self) -> StorageFacts:
        upper = self._upper()
        archive = bool(upper) or any(volume.way == ARCHIVE for volume in self.volumes)
        sources = self._root()
        plan = self.plan
        disks = stored_disks(plan.storage, self.root_way, archive=archive)
        if plan.application.process:
            self.parts.insert(0, self._kernel_part())
        opaque: tuple[str, ...] = ()
        if archive:
            path, opaque = self._archive(upper)
            sources.append(path)
        self._into_initrd()
        for volume in self.volumes:
            if volume.way in DISKS:
                sources.append(self._image_of(volume, len(sources)))
            elif volume.way == DEVICE:
                sources.append(volume.source)
        returned = returned_index(plan.storage, self.root_way, disks)
        if returned >= 0:
            sources.append(self._returned())
        if self.root_way and self.root_way.layer_on_disk:
            sources.append(self._layer(self.root_way.size_mib))
        return StorageFacts(
            initrd=self._initrd(),
            disks=tuple(
                replace(disk, source=source) for disk, source in zip(disks, sources, strict=True)
            ),
            archive=archive_index(self.root_way) if archive else -1,
            layer=bool(upper),
            opaque=opaque,
            upper=upper_index(self.root_way, disks),
            returned=returned,
        )

    @property
    def source(self) -> Source:
        """The layers or the device of the root filesystem."""
        if not self._source:
            self._source = identify(self.plan.storage.root)
        return self._source

    def _upper(self) -> str:
        """The directory of the container's writable layer, if it has entries and the guest gets it
        separately from the image of the lower layers; else ""."""
        root = self.root_way
        if not root or not self.guest.init or root.form in SHARES or root.device:
            return ""
        return self.source.upper if _has_entries(self.source.upper) else ""

    def _root(self) -> list[str]:
        """The file or device that holds the root filesystem, as a list of one; empty if it is no
        disk. An initrd goes to `parts`."""
        root = self.root_way
        if not root or root.form in SHARES:
            return []
        if root.device:
            return [root.device]
        from urunc.storage.images import build_private, obtain, private_copy

        # urunc's init and its files are beside the root in the archive, not in it
        image_format = f"root-{root.form}" if root.form == INITRD and self.guest.init else root.form
        own = f"root.{root.form}"
        if not self.guest.init and _has_entries(self.source.upper):
            # a guest without urunc's init cannot stack layers: it gets a private image of them all
            path = f"{self.directory}/{own}"
            tree = self.plan.storage.root
            image = build_private(tree, image_format, path, self.config, self.owners)
            self._give(path, 0o600)
        else:
            image = obtain(self.source, image_format, self.config, self.owners)
            if image.omitted:
                image = self._in_another_format(image)
            path = image.path
            if root.copied:
                path = f"{self.directory}/{own}"
                private_copy(image.path, path)
                self._give(path, 0o600)
        if root.copied and root.size_mib:
            from urunc.storage.writable_layer import resize

            resize(path, root.size_mib)
        for omission in image.omitted:
            logs.warn(f"root filesystem: {omission}")
        if root.form == INITRD:
            self.parts.append(path)
            return []
        return [path]

    def _in_another_format(self, image: FilesystemImage) -> FilesystemImage:
        """An image in a format that holds all of the root filesystem, which `image` does not, if
        the plan allows for another format and one of them does; else `image`."""
        from urunc.storage.images import obtain

        root = self.root_way
        assert root
        for image_format in root.others:
            other = obtain(self.source, image_format, self.config, self.owners)
            if not other.omitted:
                why = f"not {root.form}: {image.omitted[0]}"
                self.root_way = replace(root, form=image_format, reason=why)
                return other
        return image

    def _layer(self, size_mib: int) -> str:
        """Make an empty disk for the guest's writable layer; its path."""
        from urunc.storage.writable_layer import make_layer

        path = f"{self.directory}/layer"
        make_layer(path, size_mib)
        self._give(path, 0o600)
        free_mib = free_bytes(self.directory) // MIB
        if free_mib < size_mib:
            logs.warn(
                f"rootfsSize: the guest may write {size_mib} MiB to '{path}', whose filesystem has "
                f"room for {free_mib} MiB more"
            )
        return path

    def _returned(self) -> str:
        """Make the disk for the termination message; its path."""
        from urunc.storage.termination_message import make

        path = f"{self.directory}/returned"
        try:
            make(path)
        except OSError as error:
            raise HostError(f"make '{path}': {reason(error)}") from None
        self._give(path, 0o600)
        return path

    def _archive(self, upper: str) -> tuple[str, tuple[str, ...]]:
        """Make the archive of copied volumes and the writable layer's files; (its path, the layer's
        opaque directories)."""
        path = f"{self.directory}/archive"
        copied = {
            f"volumes/{index}": volume
            for index, volume in enumerate(self.volumes)
            if volume.way == ARCHIVE
        }
        return path, self._copy(path, copied, upper).opaque

    def _into_initrd(self) -> None:
        """Add an initrd part that holds the volumes at their destinations."""
        copied = {
            volume.destination.strip("/"): volume
            for volume in self.volumes
            if volume.way == IN_INITRD
        }
        if copied:
            path = f"{self.directory}/volumes.cpio"
            archive = self._copy(path, copied)
            if archive.linked:
                from urunc.storage.build_image import without_links

                logs.warn(f"volumes: {without_links(archive.linked, archive.linked_example)}")
            self.parts.append(path)

    def _copy(self, path: str, volumes: dict[str, Volume], upper: str = "") -> Archive:
        from urunc.storage.archive import Copied, write_archive

        archive = write_archive(
            path,
            [
                Copied(
                    name=name,
                    source=volume.source,
                    destination=volume.destination,
                    recursive=volume.recursive,
                )
                for name, volume in volumes.items()
            ],
            upper,
            self.config.get("storage.copy_limit_mib") * MIB,
            "storage.copy_limit_mib of the configuration is the limit",
            self.owners,
        )
        for item in archive.left_out:
            logs.warn(f"attribute {item.name} of {item.files} files, as of '{item.example}': lost")
        self._give(path, 0o400)
        return archive

    def _image_of(self, volume: Volume, number: int) -> str:
        """Make a disk image of a volume for this container alone; its path."""
        from urunc.storage.images import build_private

        path = f"{self.directory}/volume{number}.{volume.way}"
        build_private(volume.source, volume.way, path, self.config, self.owners)
        self._give(path, 0o600)
        return path

    def _kernel_part(self) -> str:
        """The path of the initrd part with urunc's init and the kernel's modules; made once per
        kernel."""
        from urunc.storage.initrd import kernel_part
        from urunc.storage.kernel_devices import modules_of

        volumes = self.plan.storage.volumes
        filesystems = filesystems_of(self.root_way, volumes)
        wanted = (*self.guest.modules(filesystems), *modules_of(volumes))
        return kernel_part(self.plan.kernel.modules, wanted, programs.path(INIT), self.config)

    def _initrd(self) -> str:
        """The path of one file that holds all parts, "" if there are none."""
        if not self.parts:
            return ""
        if not self.plan.kernel.initrd:
            return self._joined()
        fd = _open_inside(self.plan.storage.root, self.plan.kernel.initrd.source.path)
        try:
            self.parts.insert(0, f"/proc/self/fd/{fd}")
            return self._joined()
        finally:
            posix.close(fd)

    def _joined(self) -> str:
        size = sum(posix.stat(part).st_size for part in self.parts)
        plan = self.plan
        own_init = plan.application.process is not None
        assumed = INITRD_BYTES if own_init else 0  # the plan has allowed for this much already
        least = least_of(
            self.guest, plan.kernel.memory_bytes, max(size, assumed), own_init=own_init
        )
        if least > plan.machine.memory_bytes:
            limit = limit_in_words(plan.machine.need.limit_for(least))
            raise ImageError(
                f"initrd: {size // MIB} MiB, and as much again once it is unpacked, are too much "
                f"for a guest of {plan.machine.memory_bytes // MIB} MiB",
                f"give it {least // MIB} MiB at least, which takes a memory limit of {limit}, or "
                "choose another format (annotation 'rootfs')",
            )
        if len(self.parts) == 1:
            return self.parts[0]
        from urunc.storage.initrd import assemble, joined

        shared = cache.directory(self.config)
        if all(part.startswith(f"{shared}/") for part in self.parts):
            return joined(self.parts, self.config)  # all parts are shared, so the whole can be
        path = f"{self.directory}/initrd"
        assemble(self.parts, path, one_archive=not self.plan.application.process)
        self._give(path, 0o400)
        return path

    @property
    def directory(self) -> str:
        """The container's own directory, made when it is first needed."""
        if not self._directory:
            facts = posix.stat(self.journal.directory)
            location = private_location(self.config)
            cache.own_directory(location, "containers' files", "storage.private")
            boot = boot_id()
            _sweep(location, boot)
            name = f"{boot}.{facts.st_dev:x}-{facts.st_ino:x}.{self.plan.id[:NAMED]}"
            path = f"{location}/{name}"
            try:
                self.journal.make(PrivateDirectory(path=path))
            except OSError as error:
                raise HostError(
                    f"make directory '{path}': {reason(error)}",
                    "storage.private in the configuration names another place",
                ) from None
            self._directory = path
        return self._directory

    def _give(self, path: str, mode: int) -> None:
        """Give a file of the container's to the monitor's user."""
        posix.chmod(path, mode)
        posix.chown(path, self.user.uid, self.user.gid)


def free_bytes(directory: str) -> int:
    """The free bytes of a directory's filesystem, root's reserve included."""
    facts = posix.statvfs(directory)
    return facts.f_bfree * facts.f_frsize


def _sweep(location: str, boot: str) -> None:
    """Remove the directories of containers of earlier boots, whose state was in memory and is
    lost."""
    for name in posix.listdir(location):
        other, dot, _ = name.partition(".")
        if dot and len(other) == len(boot) and other != boot:
            try:
                remove_tree(f"{location}/{name}")
            except OSError as error:
                logs.warn(f"remove '{location}/{name}' of another boot: {reason(error)}")


def private_location(config: Config) -> str:
    """The directory of containers' own files; an ordinary user's is beside that user's cache."""
    path: str = config.get("storage.private")
    near = cache.location(config)
    if path == DEFAULT_PRIVATE and near != cache.DEFAULT:
        return f"{near}-containers"
    return path


def _open_inside(root: str, path: str) -> int:
    """An O_PATH descriptor of a regular file of the image; links resolve below `root`. Raises
    ImageError."""
    fd = open_in_root(root, path, O_PATH)
    if posix.fstat(fd).st_mode & S_IFMT != S_IFREG:
        posix.close(fd)
        raise ImageError(f"'{path}' of the image is no regular file any more")
    return fd


def _has_entries(directory: str) -> bool:
    try:
        return bool(posix.listdir(directory))
    except OSError:
        return False
