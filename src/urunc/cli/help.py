# SPDX-License-Identifier: Apache-2.0
"""The text of `--help`, at 80 columns, in the layout of runc's, which scripts search."""

from __future__ import annotations

from urunc import OCI_VERSION, __version__
from urunc.cli import VERBS
from urunc.cli.options import GLOBAL, VALUE
from urunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


COLUMNS = 80


def overview(verb: str = "") -> str:
    """The whole program's help, or (`urunc help VERB`) a verb's; raises UsageError for an unknown
    verb."""
    if verb:
        if verb not in VERBS:
            raise UsageError(f"unknown verb '{verb}'", f"known: {', '.join(VERBS)}")
        return of_verb(verb, _module(verb))
    lines = [
        "NAME:",
        "   urunc - Open Container Initiative runtime for unikernels",
        "",
        "USAGE:",
        "   urunc [global options] command [command options] [arguments...]",
        "",
        "VERSION:",
        f"   {__version__} (OCI runtime specification {OCI_VERSION})",
        "",
        "COMMANDS:",
    ]
    width = max(map(len, VERBS))
    lines += [f"   {name:{width}}  {_summary(name)}" for name in VERBS]
    lines += [f"   {'help':{width}}  Show this help or a command's.", "", "GLOBAL OPTIONS:"]
    return "\n".join(lines) + "\n" + describe(GLOBAL)


def of_verb(verb: str, module: Any) -> str:
    """A verb's help, from its module."""
    text = (
        f"NAME:\n   urunc {verb} - {_summary(verb)}\n\n"
        f"USAGE:\n   {f'urunc {verb} {_usage(verb, module)}'.rstrip()}\n"
    )
    if module.OPTIONS:
        text += f"\nOPTIONS:\n{describe(module.OPTIONS)}"
    return text


def describe(table: dict[str, tuple[str, str]]) -> str:
    """The lines for a table of options (option → (kind, help))."""
    from textwrap import wrap

    shown = {
        name: f"{name}{' VALUE' if kind == VALUE else ''}" for name, (kind, _) in table.items()
    }
    width = max((len(text) for text in shown.values()), default=0)
    lines = []
    for name, (_, text) in table.items():
        first, *rest = wrap(text, COLUMNS - width - 4, break_on_hyphens=False)
        lines.append(f"  {shown[name]:{width}}  {first}\n")
        lines += [f"  {'':{width}}  {line}\n" for line in rest]
    return "".join(lines)


def _module(verb: str) -> Any:
    return __import__(f"urunc.cli.{VERBS[verb]}", fromlist=("main",))


def _summary(verb: str) -> str:
    summary = _module(verb).SUMMARY
    return str(summary[verb] if isinstance(summary, dict) else summary)


def _usage(verb: str, module: Any) -> str:
    return str(module.USAGE[verb] if isinstance(module.USAGE, dict) else module.USAGE)
