# SPDX-License-Identifier: Apache-2.0
"""The published JSON schema of the runtime specification, from its Go module, and the keys that it
knows, each as a path: `linux.devices[].path`, `linux.netDevices.*.name`.

`python tests/lib/schema.py` writes the list that the tests keep (KEYS), so that they need no
network; where the module can be had, they see that the list is still the schema's.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

from lib.patience import patient

MODULE, VERSION = "github.com/opencontainers/runtime-spec", "v1.3.0"
KEYS = pathlib.Path(__file__).parent / f"runtime-spec-{VERSION}.keys"


def download() -> pathlib.Path | None:
    """The directory with the schema's files; None where Go's modules are not to be had."""
    if shutil.which("go") is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        answer = subprocess.run(
            ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=patient(60),
        )
    if answer.returncode:
        return None
    return pathlib.Path(json.loads(answer.stdout)["Dir"]) / "schema"


def keys(directory: pathlib.Path, name: str = "config-schema.json") -> list[str]:
    """The path of every key of one schema, sorted; those of objects, too."""
    documents = {path.name: json.loads(path.read_text()) for path in directory.glob("*.json")}
    found: set[str] = set()

    def follow(node: Any, here: str) -> tuple[Any, str]:
        while "$ref" in node:
            file, _, pointer = node["$ref"].partition("#")
            here = file or here
            node = documents[here]
            for part in pointer.strip("/").split("/"):
                node = node[part]
        return node, here

    def walk(node: Any, here: str, path: str) -> None:
        node, here = follow(node, here)
        for choice in (*node.get("allOf", ()), *node.get("anyOf", ()), *node.get("oneOf", ())):
            walk(choice, here, path)
        for key, value in node.get("properties", {}).items():
            found.add(below := f"{path}.{key}" if path else key)
            walk(value, here, below)
        named = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        for value in named:
            if isinstance(value, dict):
                walk(value, here, f"{path}.*")
        items = node.get("items", [])
        for item in items if isinstance(items, list) else [items]:
            walk(item, here, f"{path}[]")

    walk(documents[name], name, "")
    return sorted(found)


def kept() -> list[str]:
    """The list as the tests keep it."""
    return [line for line in KEYS.read_text().splitlines() if not line.startswith("#")]


def leaves(paths: list[str]) -> list[str]:
    """Those with no key below: where a value stands, and not an object."""
    return [
        path
        for path in paths
        if not any(other.startswith((f"{path}.", f"{path}[")) for other in paths)
    ]


if __name__ == "__main__":
    there = download()
    assert there, f"{MODULE} {VERSION} is not to be had"
    head = f"# The keys of config.json by {MODULE} {VERSION}, made by tests/lib/schema.py\n"
    KEYS.write_text(head + "".join(f"{path}\n" for path in keys(there)))
