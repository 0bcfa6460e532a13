# SPDX-License-Identifier: Apache-2.0
"""The text of `--help`, at 80 columns, in the layout of runc's, which scripts search."""

from __future__ import annotations

from urunc import OCI_VERSION, __version__
from urunc.cli import VERBS
from urunc.cli.manual import DESCRIPTIONS, EXAMPLES
from urunc.cli.options import FLAG, GLOBAL, did_you_mean
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
            raise unknown(verb)
        return of_verb(verb, module_of(verb))
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
    lines += [f"   {name:{width}}  {summary(name)}" for name in VERBS]
    lines += [f"   {'help':{width}}  Show this help or a command's.", "", "GLOBAL OPTIONS:"]
    return "\n".join(lines) + "\n" + describe(GLOBAL)


def of_verb(verb: str, module: Any) -> str:
    """A verb's help, from its module."""
    text = (
        f"NAME:\n   urunc {verb} - {summary(verb)}\n\n"
        f"USAGE:\n   {f'urunc {verb} {usage(verb, module)}'.rstrip()}\n"
    )
    text += "\nDESCRIPTION:"
    for paragraph in DESCRIPTIONS[verb]:
        text += f"\n{_filled(paragraph)}"
    if module.OPTIONS:
        text += f"\nOPTIONS:\n{describe(module.OPTIONS)}"
    if verb in EXAMPLES:
        text += "\nEXAMPLES:\n"
        text += "".join(f"   {what}:\n      {line}\n" for what, line in EXAMPLES[verb])
    return text


def _filled(paragraph: str) -> str:
    from textwrap import fill

    return f"{fill(paragraph, COLUMNS - 3, initial_indent='   ', subsequent_indent='   ')}\n"


def describe(table: dict[str, tuple[str, str]]) -> str:
    """The lines for a table of options (option → (kind, help))."""
    from textwrap import wrap

    shown = {name: name if kind == FLAG else f"{name} {kind}" for name, (kind, _) in table.items()}
    width = max((len(text) for text in shown.values()), default=0)
    lines = []
    for name, (_, text) in table.items():
        first, *rest = wrap(text, COLUMNS - width - 4, break_on_hyphens=False)
        lines.append(f"  {shown[name]:{width}}  {first}\n")
        lines += [f"  {'':{width}}  {line}\n" for line in rest]
    return "".join(lines)


def unknown(verb: str) -> UsageError:
    """The error for a word that is no verb."""
    return UsageError(
        f"unknown verb '{verb}'", did_you_mean(verb, VERBS) + f"known: {', '.join(VERBS)}"
    )


def module_of(verb: str) -> Any:
    """The module of a verb."""
    return __import__(f"urunc.cli.{VERBS[verb]}", fromlist=("main",))


def summary(verb: str) -> str:
    """A verb in one line."""
    text = module_of(verb).SUMMARY
    return str(text[verb] if isinstance(text, dict) else text)


def usage(verb: str, module: Any) -> str:
    """What follows a verb on the command line."""
    return str(module.USAGE[verb] if isinstance(module.USAGE, dict) else module.USAGE)
