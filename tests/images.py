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
    files: Mapping[str, pathlib.Path | bytes],
    command: Sequence[str],
    **unikernel: str,
) -> pathlib.Path:
    """Write an image's archive; `unikernel` is what its urunc.json says, none for an ordinary
    one."""
    contents = {
        target: source if isinstance(source, bytes) else source.read_bytes()
        for target, source in files.items()
    }
    if unikernel:
        annotations = {PREFIX + key: value for key, value in unikernel.items()}
        contents["urunc.json"] = json.dumps(annotations).encode()
    layer = _tar(contents)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [],
    }
    text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}]
    members = {
        config_name: text,
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(_tar(members))
    return path


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
