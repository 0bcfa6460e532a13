# SPDX-License-Identifier: Apache-2.0
"""`urunc plan --shell`: a script that runs the monitor by hand, with the argv and the files that a
container's would get, and no container around it."""

from __future__ import annotations

import re

from urunc.cli.plan_text import option_lines
from urunc.init.root_steps import Bind, Copy
from urunc.monitors import RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.init.root_steps import Step
    from urunc.monitors import Launch
    from urunc.plan.model import Plan

VARIABLES = {
    "(its TAP device)": ("TAP", "a TAP device: ip tuntap add tap0 mode tap; ip link set tap0 up"),
    "(its MAC)": ("MAC", "a MAC address for the guest, such as 02:00:00:00:00:01"),
    "(an unconnected TAP device)": ("SPARE", "another TAP device"),
}
"""What `urunc plan` has in place of what only `create` knows → (variable, what it has to be)."""
PLAIN = r"[\w./:=,@%+-]+"
HEAD = """\
#!/bin/sh
# {monitor} {version} with a {guest} guest, as `urunc plan` shows it. No container is around it: no
# limits, no namespaces, no user of its own, nobody at its control sockets.
set -eu
"""
RUN_DIRECTORY = """\
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
"""


def script(plan: Plan, launch: Launch, steps: list[Step], root: str) -> str:
    """The script; `root` is the monitor's root in `steps`. What only `create` knows is a variable
    of the caller's environment, without which it ends with a message."""
    names, places = dict(VARIABLES), dict[str, str]()
    links: list[str] = []
    for step in steps:
        if not isinstance(step, (Bind, Copy)) or not step.target.startswith(f"{root}/"):
            continue
        target = step.target.removeprefix(root)
        if step.source.startswith("("):  # not a path: create makes it
            name = f"FILE{len(names) - len(VARIABLES)}"
            names[target] = (name, f"{step.source.strip('()')}, a file")
            continue
        path = f"{step.inside}{step.source}"
        if re.fullmatch(PLAIN, path):
            places[target] = path
        else:  # no option of a monitor's and no JSON is to be broken by a name
            places[target] = f"${{run}}/file{len(links)}"
            links.append(f'ln -s "{_in_quotes(path)}" "{places[target]}"\n')
    translator = _Translator(names, places)
    files = [_file(path, text, translator) for path, text in launch.files.items()]
    words = " \\\n    ".join(option_lines(launch.argv, translator.word))
    lines = f"{''.join(links + files)}{words}\n"
    text = HEAD.format(monitor=plan.monitor, version=plan.host.program.version, guest=plan.guest)
    text += "".join(
        f': "${{{name}:?{what}}}"\n' for name, what in names.values() if f"${{{name}}}" in lines
    )
    return text + (RUN_DIRECTORY if "${run}" in lines else "") + lines


class _Translator:
    """Makes a text of the monitor's one for a script, with what is in the monitor's root where the
    host has it."""

    def __init__(self, names: dict[str, tuple[str, str]], places: dict[str, str]) -> None:
        self._found = {key: f"${{{name}}}" for key, (name, _) in names.items()} | places
        known = sorted(self._found, key=len, reverse=True)
        own = rf"(?<![^=:,\"]){RUN}/(?=[\w.-]+)"
        self._pattern = re.compile("|".join((*map(re.escape, known), own)))

    def _translated(self, text: str, escaped: Callable[[str], str]) -> str:
        parts, end = [], 0
        for match in self._pattern.finditer(text):
            parts.append(escaped(text[end : match.start()]))
            parts.append(self._found.get(match[0], "${run}/"))
            end = match.end()
        return "".join(parts) + escaped(text[end:])

    def word(self, text: str) -> str:
        """A word of the shell's."""
        found = self._translated(text, _in_quotes)
        return found if re.fullmatch(PLAIN, found) else f'"{found}"'

    def document(self, text: str) -> str:
        """The body of a here-document, in which a quotation mark stands for itself."""
        return self._translated(text, lambda part: re.sub(r"([\\$`])", r"\\\1", part))


def _in_quotes(text: str) -> str:
    return re.sub(r'([\\$`"])', r"\\\1", text)


def _file(path: str, text: str, translator: _Translator) -> str:
    """The commands that write a file of the monitor's."""
    place = f'"${{run}}{path.removeprefix(RUN)}"'
    if "\0" in text:
        octal = "".join(
            chr(byte) if 32 < byte < 127 and chr(byte) not in "\\%'" else f"\\{byte:03o}"
            for byte in text.encode("utf-8", "surrogateescape")
        )
        return f"printf '{octal}' >{place}\n"
    return f"cat >{place} <<END\n{translator.document(text).rstrip()}\nEND\n"
