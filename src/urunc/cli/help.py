# SPDX-License-Identifier: Apache-2.0
"""What `--help` prints, in the layout of runc's, which scripts and people look through."""

from __future__ import annotations

from urunc import OCI_VERSION, __version__
from urunc.cli import VERBS
from urunc.cli.options import GLOBAL, describe
from urunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def overview(verb: str = "") -> str:
    """The whole program's help, or (`urunc help VERB`) a verb's."""
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
    lines += [f"   {'help':{width}}  Show this, or a command's help.", "", "GLOBAL OPTIONS:"]
    return "\n".join(lines) + "\n" + describe(GLOBAL)


def of_verb(verb: str, module: Any) -> str:
    """A verb's help."""
    text = (
        f"NAME:\n   urunc {verb} - {_summary(verb)}\n\n"
        f"USAGE:\n   urunc {verb} {_usage(verb, module)}\n"
    )
    if module.OPTIONS:
        text += f"\nOPTIONS:\n{describe(module.OPTIONS)}"
    return text


def _module(verb: str) -> Any:
    return __import__(f"urunc.cli.{VERBS[verb]}", fromlist=("main",))


def _summary(verb: str) -> str:
    summary = _module(verb).SUMMARY
    return str(summary[verb] if isinstance(summary, dict) else summary)


def _usage(verb: str, module: Any) -> str:
    return str(module.USAGE[verb] if isinstance(module.USAGE, dict) else module.USAGE)
