# SPDX-License-Identifier: Apache-2.0
"""Write the manual pages (man(7) macros) and the shells' completions below a directory, as `make
install` puts them below PREFIX/share: `manual.py SOURCE SHARE`."""

from __future__ import annotations

import pathlib
import sys

SECTION = "8"


def main(source: str, share: str) -> None:
    """`source` is the directory that holds the package urunc."""
    sys.path.insert(0, source)
    from urunc.cli import VERBS, completion

    root = pathlib.Path(share)
    pages = {"urunc": overview(), **{f"urunc-{verb}": page(verb) for verb in VERBS}}
    for name, text in pages.items():
        write(root / f"man/man{SECTION}/{name}.{SECTION}", text)
    for shell, place in PLACES.items():
        write(root / place, completion.script(shell))


PLACES = {
    "bash": "bash-completion/completions/urunc",
    "zsh": "zsh/site-functions/_urunc",
    "fish": "fish/vendor_completions.d/urunc.fish",
}
"""Where each shell looks for completions of its own accord, below share/."""


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def page(verb: str) -> str:
    """The page of a verb."""
    from urunc.cli import help as helping
    from urunc.cli.manual import DESCRIPTIONS, EXAMPLES

    module = helping.module_of(verb)
    usage = helping.usage(verb, module)
    parts = [
        head(f"urunc-{verb}", helping.summary(verb)),
        section(
            "SYNOPSIS", f".B urunc {verb}\n{escaped(usage)}\n" if usage else f".B urunc {verb}\n"
        ),
        section("DESCRIPTION", paragraphs(DESCRIPTIONS[verb])),
    ]
    if module.OPTIONS:
        own = {**getattr(module, "ALIASES", {})}
        parts.append(section("OPTIONS", options(module.OPTIONS, own)))
        parts.append(".PP\nThe options of urunc(8) can be given here, too.\n")
    if verb in EXAMPLES:
        parts.append(section("EXAMPLES", "\n.PP\n".join(map(example, EXAMPLES[verb])) + "\n"))
    parts.append(section("SEE ALSO", f".BR urunc ({SECTION})\n"))
    return "".join(parts)


def overview() -> str:
    """The page of the whole program."""
    from urunc.cli import VERBS, manual
    from urunc.cli import help as helping
    from urunc.cli.options import GLOBAL

    verbs = "".join(
        f".TP\n.BR urunc-{verb} ({SECTION})\n{escaped(helping.summary(verb))}\n" for verb in VERBS
    )
    return "".join(
        (
            head("urunc", "run unikernels as containers"),
            section("SYNOPSIS", ".B urunc\n[OPTION...] COMMAND [ARGUMENT...]\n"),
            section("DESCRIPTION", paragraphs(manual.OVERVIEW)),
            section("COMMANDS", verbs),
            section("OPTIONS", options(GLOBAL, {})),
            section("EXIT STATUS", terms(manual.EXIT_CODES)),
            section("ENVIRONMENT", terms(manual.ENVIRONMENT)),
            section("FILES", terms(manual.FILES)),
            section("SEE ALSO", ".BR runc (8),\n.BR ctr (8),\n.BR qemu (1)\n"),
        )
    )


def head(name: str, summary: str) -> str:
    from urunc import __version__

    text = escaped(summary[0].lower() + summary[1:].rstrip("."))
    return (
        '.\\" made by launcher/manual.py from the tables of options\n'
        f'.TH {name.upper()} {SECTION} "" "urunc {__version__}" "System Administration"\n'
        + section("NAME", f"{escaped(name)} \\- {text}\n")
    )


def section(name: str, text: str) -> str:
    return f".SH {name}\n{text}"


def options(table: dict[str, tuple[str, str]], aliases: dict[str, str]) -> str:
    from urunc.cli.options import ALIASES, FLAG

    short = {**ALIASES, **aliases}
    found = []
    for name, (kind, text) in table.items():
        forms = [*(key for key, option in short.items() if option == name), name]
        shown = ", ".join(f"\\fB{escaped(form)}\\fR" for form in forms)
        value = "" if kind == FLAG else f" \\fI{escaped(kind)}\\fR"
        found.append(f".TP\n{shown}{value}\n{filled(text)}\n")
    return "".join(found)


def terms(rows: tuple[tuple[str, str], ...]) -> str:
    return "".join(f".TP\n.B {escaped(name)}\n{filled(text)}\n" for name, text in rows)


def example(row: tuple[str, str]) -> str:
    what, line = row
    text = filled(what[0].upper() + what[1:])
    return f"{text}:\n.PP\n.in +4n\n.nf\n{escaped(line)}\n.fi\n.in"


def paragraphs(texts: tuple[str, ...]) -> str:
    return "\n.PP\n".join(map(filled, texts)) + "\n"


def filled(text: str) -> str:
    """A paragraph, in lines of no more than 78 letters, none of which is a request."""
    from textwrap import wrap

    lines = wrap(text, 78, break_on_hyphens=False)
    return "\n".join(escaped(line) for line in lines)


def escaped(text: str) -> str:
    """A text that roff prints as it stands (groff(7), groff_char(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    main(*sys.argv[1:])
