# SPDX-License-Identifier: Apache-2.0
"""The guest's disks for its root filesystem and volumes, in their order, and a description of the
root filesystem's for people. Pure."""

from __future__ import annotations

from urunc.storage.facts import (
    ARCHIVE,
    DEVICE,
    DISKS,
    IN_INITRD,
    INITRD,
    READ_ONLY,
    SHARES,
    Root,
    StorageFacts,
    StoredDisk,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.plan.model import Plan, StoragePlan


def stored_disks(plan: StoragePlan, root: Root | None, *, archive: bool) -> list[StoredDisk]:
    """The disks that follow the image's own, in the machine's order: root filesystem, archive (if
    `archive`), volumes, termination message, writable layer. `source` of a file that is yet to be
    made is a description in parentheses."""
    disks: list[StoredDisk] = []

    def add(
        source: str, *, filesystem: str = "", point: str = "", device: tuple[int, ...] = (),
        read_only: bool,
    ) -> None:  # fmt: skip
        number = len(plan.disks) + len(disks)
        disks.append(
            StoredDisk(
                source=source,
                target=f"/dev/disk{number}" if device else f"/disk{number}",
                device=device,
                read_only=read_only,
                filesystem=filesystem,
                name=plan.disk_names[number] if filesystem else "",
                mount_point=point,
            )
        )

    if root and root.form in DISKS:
        kind = "a copy" if root.copied else "a shared image"
        add(
            root.device or f"({kind} of the root filesystem, {root.form})",
            filesystem=root.form,
            point=plan.disk_mount_points[len(plan.disks)] or "/",
            device=root.numbers,
            read_only=root.form in READ_ONLY
            or (root.read_only if root.device else not root.copied),
        )
    if archive:
        add("(an archive of the copied volumes)", read_only=True)
    for volume in plan.volumes:
        if volume.way in DISKS:
            source, point = f"(a disk made of {volume.source})", volume.destination
            add(source, filesystem=volume.way, point=point, read_only=False)
        elif volume.way == DEVICE:
            device, point = volume.device, volume.destination
            add(volume.source, point=point, device=device, read_only=volume.read_only)
    if any(volume.returned for volume in plan.volumes):
        add("(a disk for a file that is given back)", read_only=False)
    if root and root.layer_on_disk:
        add(f"(an empty disk of {root.size_mib} MiB for what the guest writes)", read_only=False)
    return disks


def archive_index(root: Root | None) -> int:
    """The archive's index in `stored_disks`."""
    return int(root is not None and root.form in DISKS)


def upper_index(root: Root | None, disks: list[StoredDisk]) -> int:
    """The index in `stored_disks` of the writable layer's disk, -1 for none."""
    return len(disks) - 1 if root and root.layer_on_disk else -1


def returned_index(plan: StoragePlan, root: Root | None, disks: list[StoredDisk]) -> int:
    """The index in `stored_disks` of the termination message's disk, -1 for none."""
    if not any(volume.returned for volume in plan.volumes):
        return -1
    return len(disks) - 1 - bool(root and root.layer_on_disk)


def expected(plan: Plan) -> StorageFacts:
    """What `provide` will make, as far as that follows from the plan alone."""
    root, volumes = plan.storage.root_way, plan.storage.volumes
    archive = any(volume.way == ARCHIVE for volume in volumes)
    made = plan.application.process or any(volume.way == IN_INITRD for volume in volumes)
    in_initrd = root is not None and root.form == INITRD
    disks = stored_disks(plan.storage, root, archive=archive)
    return StorageFacts(
        initrd="(an initrd that is made)" if made or in_initrd else "",
        disks=tuple(disks),
        archive=archive_index(root) if archive else -1,
        layer=False,
        opaque=(),
        upper=upper_index(root, disks),
        returned=returned_index(plan.storage, root, disks),
    )


def in_words(root: Root) -> str:
    """How the root filesystem reaches the guest, in a line for people."""
    written = (
        f"what the guest writes is on a disk of {root.size_mib} MiB"
        if root.size_mib
        else "what the guest writes stays in its memory"
    )
    if root.form in SHARES:
        where = "a directory shared with the host" + (f": {written}" if root.size_mib else "")
    elif root.form == INITRD:
        where = f"in the initrd: {written}"
    elif root.device:
        where = f"the device {root.device}, which the guest has for itself"
    elif root.copied:
        where = "a copy of the shared image, the container's own"
        where += f", of {root.size_mib} MiB" if root.size_mib else ""
    elif root.read_only:
        where = "a shared image, read-only"
    else:
        where = f"a shared image: {written}"
    return f"{root.form}: {where} ({root.reason})"
