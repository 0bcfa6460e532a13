# SPDX-License-Identifier: Apache-2.0
"""urunc's own build file, in TOML: a table [image], and [platform.ARCHITECTURE] for what differs
(docs/images.md)."""

from __future__ import annotations

from urunc.image.recipe import Include, Place, Recipe, Source, architecture, closest, variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TEXTS = ("architecture", "guest", "monitor", "version", "mount_point")
SOURCES = ("kernel", "initrd", "block")
LISTS = ("command", "entrypoint")
TABLES = ("environment", "annotations", "files", "initrd_files")
KEYS = (*TEXTS, *SOURCES, *LISTS, *TABLES, "mount_rootfs")


def recipes(text: str, file: str) -> list[Recipe]:
    """A recipe for each platform, or one alone; raises ImageError with the file and the line."""
    import re
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"line (\d+)", str(error))
        line = int(match[1]) if match else text.count("\n") + 1
        raise Place(file=file, line=line).error(
            f"not TOML: {error}", 'strings stand in quotes: kernel = "build/kernel"'
        ) from None
    reader = _Reader(text, file)
    reader.known(document, ("image", "platform"), "")
    if not isinstance(document.get("image"), dict):
        raise Place(file=file, line=1).error(
            "no table [image]", 'begin with a line [image], and kernel = "PATH" below it'
        )
    image = document["image"]
    reader.known(image, KEYS, "image")
    platforms = document.get("platform", {})
    if not isinstance(platforms, dict):
        raise reader.place("", "platform").error("expected tables", "write [platform.x86_64]")
    if not platforms:
        return [reader.recipe(image, "image", {}, "")]
    found = []
    for name, table in platforms.items():
        where = f"platform.{name}"
        machine = architecture(name, reader.place(where, ""))
        if not isinstance(table, dict):
            raise reader.place("platform", name).error("expected a table", f"write [{where}]")
        reader.known(table, KEYS, where)
        found.append(reader.recipe(image, "image", table, where, machine))
    return found


class _Reader:
    """Finds values, and the lines that they stand on, which tomllib does not tell."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._lines: dict[tuple[str, str], int] = {}
        table = ""
        for number, whole in enumerate(text.splitlines(), 1):
            line = whole.strip()
            if line.startswith("["):
                table = line.strip("[] \t").partition("]")[0].replace('"', "")
                self._lines.setdefault((table, ""), number)
                above, _, last = table.rpartition(".")
                self._lines.setdefault((above, last), number)
            elif "=" in line and not line.startswith("#"):
                key = line.partition("=")[0].strip().strip("\"'")
                self._lines.setdefault((table, key), number)

    def place(self, table: str, key: str) -> Place:
        while (table, key) not in self._lines and table:
            table, _, key = table.rpartition(".")
        return Place(file=self.file, line=self._lines.get((table, key), 1))

    def known(self, table: dict[str, Any], keys: tuple[str, ...], name: str) -> None:
        for key in table:
            if key not in keys:
                raise self.place(name, key).error(f"unknown key '{key}'", closest(key, keys))

    def recipe(
        self, base: dict[str, Any], base_name: str, more: dict[str, Any], more_name: str,
        machine: str = "",
    ) -> Recipe:  # fmt: skip
        names = {key: more_name if key in more else base_name for key in {**base, **more}}
        values = {**base, **more}
        for key in TABLES:
            if isinstance(base.get(key), dict) and isinstance(more.get(key), dict):
                values[key] = {**base[key], **more[key]}
        if "kernel" not in values:
            raise self.place(more_name or base_name, "").error(
                "no kernel", 'add kernel = "PATH" below [image]'
            )

        def place(key: str) -> Place:
            return self.place(names[key], key)

        _check(values, place)
        sources = {
            key: self._source(values[key], place(key), key) for key in SOURCES if key in values
        }
        told = values.get("architecture", "")
        return Recipe(
            place=place("kernel"),
            kernel=sources["kernel"],
            initrd=sources.get("initrd"),
            block=sources.get("block"),
            architecture=machine or (architecture(told, place("architecture")) if told else ""),
            guest=values.get("guest", ""),
            monitor=values.get("monitor", ""),
            version=values.get("version", ""),
            mount_point=values.get("mount_point", ""),
            mount_rootfs=values.get("mount_rootfs", False),
            command=tuple(values.get("command", ())),
            entrypoint=tuple(values.get("entrypoint", ())),
            environment=tuple(
                variable(
                    f"{key}={self._text(value, key, place('environment'))}", place("environment")
                )
                for key, value in values.get("environment", {}).items()
            ),
            places={
                **{
                    key: place(key) for key in ("guest", "monitor", "mount_rootfs") if key in values
                },
                **{
                    key: self.place(f"{names['annotations']}.annotations", key)
                    for key in values.get("annotations", {})
                },
            },
            annotations={
                key: self._text(value, key, self.place(f"{names['annotations']}.annotations", key))
                for key, value in values.get("annotations", {}).items()
            },
            files=self._includes(values.get("files", {}), f"{names.get('files')}.files"),
            initrd_files=self._includes(
                values.get("initrd_files", {}), f"{names.get('initrd_files')}.initrd_files"
            ),
        )

    def _includes(self, table: dict[str, Any], name: str) -> tuple[Include, ...]:
        return tuple(
            Include(source=self._source(value, self.place(name, key), key), destination=key)
            for key, value in table.items()
        )

    def _text(self, value: Any, key: str, place: Place) -> str:
        if not isinstance(value, str):
            raise place.error(f"'{key}': expected a string", f'write {key} = "{value}"')
        return value

    def _source(self, value: Any, place: Place, key: str) -> Source:
        if isinstance(value, str) and value:
            return Source(path=value, place=place)
        if (
            isinstance(value, dict)
            and set(value) == {"image", "path"}
            and all(isinstance(text, str) and text for text in value.values())
        ):
            return Source(path=value["path"], image=value["image"], place=place)
        raise place.error(
            f"'{key}': expected a path",
            f'write {key} = "PATH", or {key} = {{ image = "REFERENCE", path = "/PATH" }}',
        )


def _check(values: dict[str, Any], place: Callable[[str], Place]) -> None:
    """The kinds of values; raises ImageError."""
    for key in TEXTS:
        if key in values and not isinstance(values[key], str):
            raise place(key).error(f"'{key}': expected a string", f'write {key} = "TEXT"')
    for key in LISTS:
        value = values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise place(key).error(
                f"'{key}': expected a list of strings", f'write {key} = ["/app", "--flag"]'
            )
    for key in TABLES:
        if not isinstance(values.get(key, {}), dict):
            raise place(key).error(f"'{key}': expected a table", f"write [image.{key}]")
    if not isinstance(values.get("mount_rootfs", False), bool):
        raise place("mount_rootfs").error("'mount_rootfs': neither true nor false")
