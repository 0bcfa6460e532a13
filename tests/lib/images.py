# SPDX-License-Identifier: Apache-2.0
"""Images for container engines, from files of this machine: archives as `docker save` writes them,
with one layer, which Docker and Podman load."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Mapping, Sequence

PREFIX = "com.urunc.unikernel."


def archive(
    path: pathlib.Path,
    name: str,
    files: Mapping[str, pathlib.Path | bytes | str],
    command: Sequence[str],
    volumes: Sequence[str] = (),
    user: str = "",
    settings: Mapping[str, object] | None = None,
    **unikernel: str,
) -> pathlib.Path:
    """Write an image's archive; a file that is a text is a symbolic link to it, `volumes` and
    `user` are what it says after VOLUME and USER, `settings` are more of its configuration, and
    `unikernel` is what its urunc.json says, none for an ordinary one."""
    contents = {
        target: source.read_bytes() if isinstance(source, pathlib.Path) else source
        for target, source in files.items()
    }
    if unikernel:
        annotations = {PREFIX + key: value for key, value in unikernel.items()}
        contents["urunc.json"] = json.dumps(annotations).encode()
    layer = _tar(contents)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Cmd": list(command),
            **({"User": user} if user else {}),
            **({"Volumes": {volume: {} for volume in volumes}} if volumes else {}),
            **(settings or {}),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [],
    }
    text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [
        {
            "Config": config_name,
            "RepoTags": [name if ":" in name else f"{name}:latest"],
            "Layers": ["layer.tar"],
        }
    ]
    members = {
        config_name: text,
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(_tar(members))
    return path


def solo5_images(directory: pathlib.Path, parts: pathlib.Path) -> list[pathlib.Path]:
    """Archives of the probe on Solo5 as GUEST-MONITOR, without devices, and as
    `GUEST-MONITOR-disk`, whose manifest declares one block device; each ends with 5."""
    return [
        archive(
            directory / f"{guest}-{monitor}{kind}.tar", f"{guest}-{monitor}{kind}",
            {"probe": parts / f"{file}.{monitor}"}, ["probe.exit=5"],
            unikernelType=guest, hypervisor=monitor, binary="/probe",
        )
        for guest, disk in (("rumprun", "probe"), ("mirage", "probe-mirage"))
        for monitor in ("hvt", "spt")
        for kind, file in (("", "probe-bare"), ("-disk", disk))
    ]  # fmt: skip


def _tar(files: Mapping[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
