# SPDX-License-Identifier: Apache-2.0
"""`urunc image`: builds OCI images of unikernels, and says what is in those that there are."""

from __future__ import annotations

import posix
import sys

from urunc import logs
from urunc.cli.options import DIRECTORY, FILE, FLAG, VALUE, Arguments, one_of
from urunc.errors import HostError, UsageError, reason
from urunc.jsontext import dumps
from urunc.record import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.image.build import Built
    from urunc.image.recipe import Include, Recipe, Source
    from urunc.image.report import Report

OPTIONS = {
    "--output": (
        VALUE,
        "build: where to: oci:FOLDER, archive:FILE, docker, podman, containerd[:NAMESPACE], "
        "docker://REGISTRY/NAME:TAG",
    ),
    "--name": (VALUE, "build: the image's name, with or without a tag"),
    "--kernel": (FILE, "build: the kernel, in place of a build file"),
    "--initrd": (FILE, "build: an initrd, or a folder to make one of"),
    "--block": (FILE, "build: a block image"),
    "--mount-point": (DIRECTORY, "build: where the guest mounts the block image"),
    "--file": ("SOURCE:PATH...", "build: a file or folder for the image; can be repeated"),
    "--mount-rootfs": (FLAG, "build: give the guest the image's files"),
    "--guest": (VALUE, "build: the framework (default: told by the kernel)"),
    "--guest-version": (VALUE, "build: its version (default: told by the kernel)"),
    "--monitor": (VALUE, "build: the monitor (default: told by the kernel, else qemu)"),
    "--architecture": ("x86_64|aarch64", "build: the machine (default: the kernel's)"),
    "--env": ("NAME=VALUE...", "build: an environment variable; can be repeated"),
    "--annotation": ("KEY=VALUE...", "build: a further annotation; can be repeated"),
    "--format": ("text|json", "form of the output (default: text)"),
}
USAGE = "build|inspect [OPTION...] [FILE|REFERENCE...] [-- COMMAND...]"
SUMMARY = "Build an image of a unikernel, or say what one is."
WORDS = ("build", "inspect")
WITH_KERNEL = (
    *("--initrd", "--block", "--mount-point", "--file", "--mount-rootfs", "--guest"),
    *("--guest-version", "--monitor", "--architecture", "--env", "--annotation"),
)
"""Options that describe an image, as a build file does."""


def main(arguments: Arguments) -> int:
    """Run the verb."""
    if not arguments.words:
        arguments.only("build or inspect")
    word, *rest = arguments.words
    one_of("", word, WORDS)
    try:
        return _build(rest, arguments) if word == "build" else _inspect(rest, arguments)
    except OSError as error:
        raise HostError(
            f"image {word}: {reason(error)}", "nothing was left; df shows which disk is full"
        ) from None


def _inspect(words: list[str], arguments: Arguments) -> int:
    from urunc.image.report import inspect

    if len(words) != 1:
        raise UsageError(
            "image inspect: one image, archive, folder or kernel", "urunc image --help shows how"
        )
    report = inspect(words[0], arguments.config(log=False))
    if arguments.get("--format", "text") == "json":
        sys.stdout.write(dumps(plain(report), indent=2) + "\n")
    else:
        sys.stdout.write(_text(report))
    return int(not any(runs for _, runs, _ in report.runs))


def _text(report: Report) -> str:
    """Lines of a word and what it is; a stranger's characters are made visible."""
    framework = f"{report.guest} {report.version}".strip() or "not recognized"
    kernel = f"{report.kernel or 'none found'}: {report.format or 'no kernel'}, {report.machine}"
    lines = [
        ("what", report.what),
        ("made by", report.made_by),
        ("framework", framework + (f" (by {report.why})" if report.why else "")),
        ("kernel", kernel.removesuffix(", ")),
        ("", ", ".join(report.facts)),
        *(("needs", text) for text in report.needs),
        ("asks for", report.monitor),
        ("command", " ".join(report.command)),
        *(
            ("runs on" if runs else "not on", f"{name}{': ' if why else ''}{why.lstrip(', ')}")
            for name, runs, why in sorted(report.runs, key=lambda item: not item[1])
        ),
        *(("odd", text) for text in report.odd),
    ]
    return "".join(f"{word:10} {logs.printable(text)}\n" for word, text in lines if text)


def _build(words: list[str], arguments: Arguments) -> int:
    from contextlib import ExitStack

    from urunc.image import deliver
    from urunc.image.build import Builder

    name = arguments.get("--name")
    kind, rest = deliver.check(arguments.get("--output"), name)
    found = _recipes(words, arguments)
    directory = deliver.directory_of(kind, rest)
    _stop_in_order()
    with ExitStack() as stack:
        builder = Builder(directory, _epoch(), arguments.config(log=False), stack)
        images = [builder.build(recipe) for recipe in found]
        where = deliver.deliver(images, kind, rest, name, directory)
    for image in images:
        for text in image.remarks:
            logs.warn(text, aloud=True)
    _say(images, where, arguments)
    return 0


def _say(images: list[Built], where: str, arguments: Arguments) -> None:
    if arguments.get("--format", "text") == "json":
        listed = [
            {
                "architecture": image.architecture,
                "digest": image.manifest.digest,
                "bytes": image.layer.size_bytes,
                "says": image.said,
            }
            for image in images
        ]
        sys.stdout.write(dumps({"output": where, "images": listed}, indent=2) + "\n")
        return
    for image in images:
        said = image.said
        size = image.layer.size_bytes / (1 << 20)
        sys.stdout.write(
            f"{image.manifest.digest}  {image.architecture}  {said['unikernelType']} on "
            f"{said['hypervisor']}  {size:.1f} MiB\n"
        )
    sys.stdout.write(f"{where}\n")


def _stop_in_order() -> None:
    """End on SIGTERM as on an interrupt, so that folders of pulled images go."""
    from signal import SIGTERM, signal

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal(SIGTERM, interrupt)


def _epoch() -> int:
    """Seconds since the Epoch for all times in the image (reproducible-builds.org)."""
    text = posix.environ.get(b"SOURCE_DATE_EPOCH", b"0").decode(errors="replace")
    if not text.isdecimal() or int(text) >= 1 << 33:
        raise UsageError(
            f"SOURCE_DATE_EPOCH: '{text}' is no time", "seconds since 1970, as of date +%s"
        )
    return int(text)


def _recipes(words: list[str], arguments: Arguments) -> list[Recipe]:
    if arguments.get("--kernel"):
        return [_from_options(words, arguments)]
    given = [option for option in WITH_KERNEL if option in arguments.options]
    if given:
        raise UsageError(f"option '{given[0]}': without --kernel", "a build file says it itself")
    if not words:
        raise UsageError("image build: no build file", "name one, or give --kernel FILE")
    return [recipe for file in words for recipe in _from_file(file)]


def _from_file(file: str) -> list[Recipe]:
    from urunc.errors import ImageError
    from urunc.image import bunnyfile, tomlfile

    try:
        with open(file, "rb") as content:
            text = content.read(1 << 20).decode()
    except UnicodeDecodeError:
        raise ImageError(
            f"{file}:1: not a text", "a build file is TOML or YAML, in UTF-8"
        ) from None
    except OSError as error:
        raise ImageError(f"build file '{file}': {reason(error)}") from None
    if file.endswith(".toml"):
        return tomlfile.recipes(text, file)
    return [bunnyfile.recipe(text, file)]


def _from_options(words: list[str], arguments: Arguments) -> Recipe:
    from urunc.image.recipe import Place, Recipe, variable

    def source(option: str) -> Source | None:
        path = arguments.get(option)
        return _source(path) if path else None

    annotations = {}
    for text in arguments.many.get("--annotation", ()):
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"option '--annotation': '{text}' is not KEY=VALUE")
        annotations[key] = value
    kernel = _source(arguments.get("--kernel"))
    return Recipe(
        place=Place(file=""),
        kernel=kernel,
        architecture=arguments.get("--architecture"),
        guest=arguments.get("--guest"),
        monitor=arguments.get("--monitor"),
        version=arguments.get("--guest-version"),
        initrd=source("--initrd"),
        block=source("--block"),
        mount_point=arguments.get("--mount-point"),
        mount_rootfs=arguments.has("--mount-rootfs"),
        files=tuple(map(_include, arguments.many.get("--file", ()))),
        command=tuple(words),
        environment=tuple(
            variable(text, Place(file="")) for text in arguments.many.get("--env", ())
        ),
        annotations=annotations,
        places={},
    )


def _source(path: str) -> Source:
    from urunc.image.recipe import Place, Source

    return Source(path=path, place=Place(file=""))


def _include(text: str) -> Include:
    from urunc.image.recipe import Include

    path, _, destination = text.partition(":")
    if not path:
        raise UsageError(f"option '--file': '{text}' is not SOURCE:PATH")
    return Include(source=_source(path), destination=destination or path)
