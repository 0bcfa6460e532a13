# SPDX-License-Identifier: Apache-2.0
"""The options that the verbs share, and the parser that reads them: argparse costs 13 ms per verb.

Options are accepted before and after the id, as `--name value` and `--name=value`; `--` ends them.
"""

from __future__ import annotations

from urunc import logs
from urunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any, NoReturn

    from urunc.config import Config

FLAG, VALUE, FILE, DIRECTORY = "flag", "VALUE", "FILE", "DIRECTORY"
"""Kinds of options; that of an option with few values is those values, as `text|json`. All but FLAG
take a value, and stand for it in the help; one that ends in `...` may be given several times."""

GLOBAL = {
    "--root": (DIRECTORY, "directory for the containers' state (default: /run/urunc)"),
    "--log": (FILE, "file for errors and warnings (default: standard error)"),
    "--log-format": ("text|json", "form of the messages (default: text)"),
    "--config": (FILE, "configuration file (default: /etc/urunc/config.toml)"),
    "--criu": (FILE, "path of CRIU, for the ordinary runtime"),
    "--debug": (FLAG, "log in detail"),
    "--systemd-cgroup": (FLAG, "let systemd make the control groups"),
    "--rootless": (VALUE, "true, false or auto; accepted, as by runc, and ignored"),
    "--version": (FLAG, "print the version"),
    "--help": (FLAG, "print this help"),
}
"""Options before the verb: option → (kind, help)."""
ALIASES = {
    "-a": "--all",
    "-v": "--version",
    "-h": "--help",
    "-b": "--bundle",
    "-q": "--quiet",
    "-f": "--force",
    "-d": "--detach",
}
"""Short form → option."""
BUNDLE = {"--bundle": (DIRECTORY, "the bundle's directory (default: the current one)")}
CREATE = BUNDLE | {
    "--pid-file": (FILE, "file to write the container's process id to"),
    "--console-socket": (FILE, "UNIX socket that receives the terminal's master end"),
    "--no-pivot": (FLAG, "do not use pivot_root (for a root on a ramdisk)"),
    "--no-new-keyring": (FLAG, "keep the caller's session keyring"),
    "--preserve-fds": (VALUE, "how many descriptors to pass on, from 3 up (default: 0)"),
    "--pod-resources": (
        FILE,
        "file with a linux.resources object: the part of the pod's limits that is left for a guest",
    ),
}


class Arguments:
    """A parsed command line: the options before and after the verb, and the verb's words. `argv` is
    the whole of it, for the ordinary runtime. The keywords are what a caller in the same process,
    the shim's worker, knows already."""

    def __init__(
        self,
        argv: list[str],
        *,
        document: Any = None,
        runtime: str = "",
        runtime_words: tuple[str, ...] = (),
    ) -> None:
        self.argv = argv
        self.document = document
        """The JSON value of the bundle's config.json, None if it is yet to be read."""
        self.runtime = runtime
        """The ordinary runtime that the container's own options name, a name or a path, or ""."""
        self.runtime_words = runtime_words
        """Global options that the ordinary runtime gets, and no verb of ours."""
        self.options: dict[str, str] = {}
        self.many: dict[str, list[str]] = {}
        """All values of the options that may be given several times."""
        self.words: list[str] = []
        self.root = ""
        """--root, once the command line is read."""
        self.config_path = ""

    def has(self, option: str) -> bool:
        """Whether a flag is set."""
        return self.options.get(option) == "true"

    def get(self, option: str, default: str = "") -> str:
        """The value of an option, `default` if it is not set."""
        return self.options.get(option, default)

    def only(self, *names: str) -> list[str]:
        """The words, one for each name; raises UsageError if one is missing or too many."""
        if len(self.words) < len(names):
            raise UsageError(
                f"{names[len(self.words)]} missing", "urunc VERB --help shows the usage"
            )
        if len(self.words) > len(names):
            raise UsageError(f"unexpected argument '{self.words[len(names)]}'")
        return self.words

    def config(self, *, log: bool = True) -> Config:
        """The administrator's configuration. With `log` messages go to its `log.file`, too, from
        here on."""
        from urunc.config import load

        config = load(self.config_path)
        if log:
            logs.file = config.get("log.file")
        return config

    def hand_over(self, config: Config | None = None) -> NoReturn:
        """Become the ordinary runtime with the very same arguments; raises HostError."""
        from urunc.ordinary import become, find, note

        config = config or self.config()
        path = find(config, self.runtime)
        if not self.runtime:
            note(config, path)
        become(path, [*self.runtime_words, *self.argv], self.root)


def parse(
    words: list[str],
    table: dict[str, tuple[str, str]],
    into: Arguments,
    *,
    stop: bool,
    aliases: dict[str, str] | None = None,
    free: bool = False,
) -> int:
    """Read options and words into `into`; returns how many of `words` were used. With `stop` it
    stops at the first word that is no option. `table` is option → (kind, help), `aliases` are the
    verb's own short forms; with `free` an unknown option is a word. Raises UsageError."""
    short = {**ALIASES, **(aliases or {})}
    index = 0
    only_words = False
    while index < len(words):
        word = words[index]
        index += 1
        if only_words or not word.startswith("-") or word == "-":
            if stop:
                return index - 1
            into.words.append(word)
            continue
        if word == "--":
            only_words = True
            continue
        name, equals, value = word.partition("=")
        name = short.get(name, name)
        if name not in table and free:
            into.words.append(word)
            continue
        if name not in table:
            raise UsageError(
                f"unknown option '{name}'",
                f"{did_you_mean(name, table)}urunc [VERB] --help lists the options",
            )
        kind = table[name][0]
        if kind == FLAG:
            value = value.lower() if equals else "true"
            if value not in ("true", "false"):
                raise UsageError(f"option '{name}': '{value}' is neither true nor false")
        elif not equals:
            if index == len(words):
                raise UsageError(f"option '{name}': value missing")
            value = words[index]
            index += 1
        if "|" in kind:
            one_of(f"option '{name}': ", value, kind.split("|"))
        if kind.endswith("..."):
            into.many.setdefault(name, []).append(value)
        into.options[name] = value
    return index


def one_of(what: str, value: str, choices: Collection[str]) -> None:
    """Raise UsageError, which begins with `what`, unless a value is one of the `choices`."""
    if value in choices:
        return
    first, *rest = choices
    if len(rest) == 1:
        raise UsageError(f"{what}'{value}' is neither {first} nor {rest[0]}")
    raise UsageError(f"{what}'{value}' is none of {', '.join(choices)}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The part of a hint that names the known word closest to `word`; "" if none is close."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'? " if close else ""
