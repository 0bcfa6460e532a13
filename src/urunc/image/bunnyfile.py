# SPDX-License-Identifier: Apache-2.0
"""The `bunnyfile` of the bunny project, in YAML: version v0.1, with all keys that it has had.

`cmdline`, one string, is its older form of `cmd`; an entry of `include` is `SOURCE:DESTINATION`, or
in the newer form a mapping with `from`, `source` and `destination`.
"""

from __future__ import annotations

from urunc.errors import HostError
from urunc.image.recipe import Include, Place, Recipe, Source, architecture, closest, variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSIONS = ("v0.1", "0.1")
KEYS = ("version", "platforms", "rootfs", "kernel", "cmdline", "cmd", "entrypoint", "envs")
PLATFORM = ("framework", "version", "monitor", "architecture")
ROOTFS = ("from", "path", "type", "include")
KERNEL = ("from", "path")
INCLUDE = ("from", "source", "destination")
TYPES = ("initrd", "raw", "block")


def recipe(text: str, file: str) -> Recipe:
    """The recipe; raises ImageError with the file and the line, HostError without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise HostError(
            f"read '{file}': a bunnyfile is YAML, and PyYAML is not installed",
            "apt-get install python3-yaml, or write the file as TOML (docs/images.md)",
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise Place(file=file, line=line).error(
            f"not YAML: {error.problem}", "indent with blanks, and quote values with ': ' in them"
        ) from None
    except yaml.YAMLError as error:
        raise Place(file=file, line=1).error(f"not YAML: {error}", "write it as UTF-8") from None
    if node is None:
        raise Place(file=file, line=1).error("empty", "begin with version: v0.1")
    return _Reader(file).recipe(node)


class _Reader:
    """Reads YAML's nodes, which know their lines."""

    def __init__(self, file: str) -> None:
        self.file = file

    def place(self, node: Any) -> Place:
        return Place(file=self.file, line=node.start_mark.line + 1)

    def mapping(self, node: Any, known: tuple[str, ...], what: str) -> dict[str, Any]:
        if node.id != "mapping":
            hint = f"write '{known[0]}: VALUE' and so on, indented, below it"
            raise self.place(node).error(f"{what}: expected keys and values", hint)
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.value not in known:
                raise self.place(key).error(
                    f"unknown key '{key.value}'", closest(str(key.value), known)
                )
            if key.value in found:
                raise self.place(key).error(f"'{key.value}' a second time", "remove one of them")
            found[key.value] = value
        return found

    def text(self, node: Any, what: str) -> str:
        if node.id != "scalar":
            raise self.place(node).error(f"{what}: expected one value", f"write {what}: VALUE")
        return str(node.value)

    def texts(self, node: Any, what: str) -> tuple[str, ...]:
        if node.id != "sequence":
            raise self.place(node).error(f"{what}: expected a list", f'write {what}: ["/app"]')
        return tuple(self.text(item, what) for item in node.value)

    def recipe(self, node: Any) -> Recipe:
        top = self.mapping(node, KEYS, "bunnyfile")
        for key in ("version", "platforms", "kernel"):
            if key not in top:
                raise self.place(node).error(f"'{key}' missing", f"add a line {key}: at the top")
        version = self.text(top["version"], "version")
        if version not in VERSIONS:
            raise self.place(top["version"]).error(
                f"version '{version}' is unknown", "this urunc reads v0.1"
            )
        platform = self.mapping(top["platforms"], PLATFORM, "platforms")
        said = {key: self.text(value, key) for key, value in platform.items()}
        for key in ("framework", "monitor"):
            if not said.get(key):
                raise self.place(top["platforms"]).error(
                    f"platforms: '{key}' missing", f"add {key}: below platforms"
                )
        if "cmd" in top and "cmdline" in top:
            raise self.place(top["cmdline"]).error("'cmdline' beside 'cmd'", "remove 'cmdline'")
        command: tuple[str, ...] = ()
        if "cmd" in top:
            command = self.texts(top["cmd"], "cmd")
        elif "cmdline" in top:
            command = tuple(self.text(top["cmdline"], "cmdline").split())
        machine = ""
        if "architecture" in platform:
            machine = architecture(said["architecture"], self.place(platform["architecture"]))
        return Recipe(
            place=self.place(top["kernel"]),
            kernel=self._kernel(top["kernel"]),
            architecture=machine,
            guest=said["framework"],
            monitor=said["monitor"],
            version=said.get("version", ""),
            command=command,
            entrypoint=self.texts(top["entrypoint"], "entrypoint") if "entrypoint" in top else (),
            environment=self._environment(top.get("envs")),
            annotations={},
            places={
                "guest": self.place(platform["framework"]),
                "monitor": self.place(platform["monitor"]),
            },
            **self._rootfs(top.get("rootfs"), said["framework"]),
        )

    def _kernel(self, node: Any) -> Source:
        keys = self.mapping(node, KERNEL, "kernel")
        for key in KERNEL:
            if key not in keys or not self.text(keys[key], key):
                raise self.place(node).error(
                    f"kernel: '{key}' missing", "write from: local and path: FILE below kernel"
                )
        return self._source(keys["from"], keys["path"])

    def _source(self, origin: Any, path: Any) -> Source:
        image = self.text(origin, "from")
        return Source(
            path=self.text(path, "path"),
            image="" if image == "local" else image,
            place=self.place(path),
        )

    def _environment(self, node: Any) -> tuple[str, ...]:
        if node is None:
            return ()
        return tuple(variable(self.text(item, "envs"), self.place(item)) for item in node.value)

    def _rootfs(self, node: Any, guest: str) -> dict[str, Any]:
        if node is None:
            return {}
        keys = self.mapping(node, ROOTFS, "rootfs")
        origin = self.text(keys["from"], "from") if "from" in keys else "scratch"
        kind = self.text(keys["type"], "type") if "type" in keys else ""
        if kind not in ("", *TYPES):
            raise self.place(keys["type"]).error(
                f"rootfs type '{kind}' is unknown", f"known: {', '.join(TYPES)}"
            )
        includes = self._includes(keys.get("include"))
        if "path" in keys:
            if origin in ("", "scratch"):
                raise self.place(keys["path"]).error(
                    "rootfs: 'path' without 'from'", "write from: local"
                )
            if includes or kind == "raw":
                raise self.place(keys["path"]).error(
                    "rootfs: 'path' beside 'include' or type: raw",
                    "the root filesystem is a file that there is, or made of files: one of them",
                )
            return {
                "block" if kind == "block" else "initrd": self._source(keys["from"], keys["path"]),
                "mount_point": ("/data" if guest == "rumprun" else "/") if kind == "block" else "",
            }
        if origin == "local":
            raise self.place(keys["from"]).error("rootfs: 'path' missing", "add path: FILE")
        if origin not in ("", "scratch"):
            place = self.place(keys["from"])
            whole = Source(path="/", image=origin, place=place)
            includes = (Include(source=whole, destination="/"), *includes)
        if kind == "block":
            raise self.place(keys["type"]).error(
                "rootfs type 'block' of files: not made here",
                "make it by mke2fs -d, and name it in path:",
            )
        raw = kind == "raw" or (not kind and guest not in ("unikraft", "linux"))
        if raw and includes:
            return {"files": includes, "mount_rootfs": True}
        return {"initrd_files": includes}

    def _includes(self, node: Any) -> tuple[Include, ...]:
        if node is None:
            return ()
        if node.id != "sequence":
            raise self.place(node).error("include: expected a list", "write - SOURCE:DESTINATION")
        found = []
        for item in node.value:
            if item.id == "scalar":
                path, _, destination = item.value.partition(":")
                image = ""
            else:
                keys = self.mapping(item, INCLUDE, "include")
                said = {key: self.text(value, key) for key, value in keys.items()}
                path, destination = said.get("source", ""), said.get("destination", "")
                image = "" if said.get("from", "local") in ("", "local") else said["from"]
            if not path:
                raise self.place(item).error(
                    "include: no source", "write - SOURCE:DESTINATION, or source: and destination:"
                )
            source = Source(path=path, image=image, place=self.place(item))
            found.append(Include(source=source, destination=destination or path))
        return tuple(found)
