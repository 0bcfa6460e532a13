# SPDX-License-Identifier: Apache-2.0
"""`urunc completion`: a script for a shell that completes urunc's command line, from the tables of
options and the USAGE of each verb."""

from __future__ import annotations

import sys

from urunc.cli import VERBS
from urunc.cli.help import module_of, summary
from urunc.cli.options import ALIASES, DIRECTORY, FILE, FLAG, GLOBAL, Arguments, one_of
from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Table = dict[str, tuple[str, str]]

OPTIONS: Table = {}
USAGE = "bash|zsh|fish"
SUMMARY = "Print a script that completes command lines in a shell."
SHELLS = tuple(USAGE.split("|"))
NEW = ("create", "run", "restore")
"""Verbs whose ID is a new container's: there is nothing to complete."""
SIGNALS = "TERM KILL INT HUP QUIT USR1 USR2 STOP CONT"


@record
class Verb:
    """What is completed after a verb."""

    name: str
    summary: str
    options: Table
    short: dict[str, str]
    """Short form → option."""
    words: tuple[str, ...]
    """What each of its words is: "ids", "none", or the choices with blanks between."""


def main(arguments: Arguments) -> int:
    (shell,) = arguments.only("shell (bash, zsh or fish)")
    one_of("shell: ", shell, SHELLS)
    sys.stdout.write(script(shell))
    return 0


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](_verbs())


def _verbs() -> list[Verb]:
    found = []
    for name in VERBS:
        module = module_of(name)
        usage = module.USAGE[name] if isinstance(module.USAGE, dict) else module.USAGE
        words = []
        for word in usage.replace("[SIGNAL]", SIGNALS.replace(" ", "|")).split():
            word = word.strip("[]")
            if word == "ID":
                words.append("none" if name in NEW else "ids")
            elif "|" in word and (words or word == usage.split()[0]):
                words.append(word.replace("|", " "))
        short = {**ALIASES, **getattr(module, "ALIASES", {})}
        options = {**GLOBAL, **module.OPTIONS}
        short = {key: option for key, option in short.items() if option in options}
        found.append(
            Verb(name=name, summary=summary(name), options=options, short=short, words=tuple(words))
        )
    found.append(
        Verb(
            name="help",
            summary="Show the help of a command.",
            options=GLOBAL,
            short={},
            words=(" ".join(VERBS),),
        )
    )
    return found


EVERYWHERE = Verb(name="", summary="", options=GLOBAL, short=ALIASES, words=())
"""What is completed before the verb."""


def _with_short(verb: Verb, option: str) -> list[str]:
    return [option, *(key for key, name in verb.short.items() if name == option)]


# --- bash ----------------------------------------------------------------------------------------

BASH = """\
# bash completion for urunc, made by `urunc completion bash`
_urunc() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev= verb= root=() words=0 kind= index word
    COMPREPLY=()
    # bash splits --name=value into three words
    [[ $cur == = ]] && cur=
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        if [[ $word == = ]]; then continue; fi
        if [[ -n $prev ]]; then
            [[ $prev == --root ]] && root=(--root "$word")
            prev=
            continue
        fi
        case "$verb $word" in
{valued}            *" "-*) ;;
            " "*) verb=$word ;;
            *) words=$((words + 1)) ;;
        esac
    done
    if [[ -n $prev ]]; then
        case "$verb $prev" in
{kinds}            *) kind=value ;;
        esac
    elif [[ $cur == -* ]]; then
        case $verb in
{options}        esac
    elif [[ -z $verb ]]; then
        kind='{verbs}'
    else
        case "$verb $words" in
{words}        esac
    fi
    case $kind in
        file | directory)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -A "$kind" -- "$cur")
            ;;
        ids)
            kind=$(urunc "${{root[@]}}" list --quiet 2>/dev/null)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur")
            ;;
        value | none | '') ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$cur") ;;
    esac
}}
complete -F _urunc urunc
"""


def _bash(verbs: list[Verb]) -> str:
    valued, kinds, options, words = [], [], [], []
    for verb in (EVERYWHERE, *verbs):
        for option, (kind, _) in verb.options.items():
            if kind == FLAG or (verb.name and option in GLOBAL):
                continue
            names = " | ".join(f'"{verb.name} "{key}' for key in _with_short(verb, option))
            if not verb.name:
                names = names.replace('" "', '*" "')
            valued.append(f"            {names}) prev=$word ;;\n")
            if kind in (FILE, DIRECTORY) or "|" in kind:
                word = kind.replace("|", " ") if "|" in kind else kind.lower()
                kinds.append(f"            {names}) kind='{word}' ;;\n")
        options.append(f"            '{verb.name}') kind='{' '.join(verb.options)}' ;;\n")
        words += [
            f"            '{verb.name} {place}') kind='{kind}' ;;\n"
            for place, kind in enumerate(verb.words)
        ]
    return BASH.format(
        valued="".join(valued),
        kinds="".join(kinds),
        options="".join(options),
        words="".join(words),
        verbs=" ".join(verb.name for verb in verbs),
    )


# --- zsh -----------------------------------------------------------------------------------------

ZSH = """\
#compdef urunc
# zsh completion for urunc, made by `urunc completion zsh`
_urunc_ids() {{
    local -a ids
    ids=(${{(f)"$(urunc $root list --quiet 2>/dev/null)"}})
    compadd -a ids
}}
_urunc() {{
    local context state line curcontext=$curcontext
    local -A opt_args
    local -a root
    local -a verbs=(
{verbs}    )
    _arguments -C \\
{options}        '1: :->verb' \\
        '*:: :->rest'
    case $state in
        verb) _describe -t verbs verb verbs ;;
        rest)
            [[ -n ${{opt_args[--root]}} ]] && root=(--root ${{opt_args[--root]}})
            case $line[1] in
{cases}            esac
            ;;
    esac
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _urunc "$@"; else compdef _urunc urunc; fi
"""


def _zsh(verbs: list[Verb]) -> str:
    cases = []
    for verb in verbs:
        lines = _zsh_options(verb)
        lines += [f"'{place}: :{_zsh_action(kind)}'" for place, kind in enumerate(verb.words, 1)]
        body = " \\\n".join(f"                    {line}" for line in lines)
        cases.append(
            f"                {verb.name})\n                _arguments \\\n{body}\n"
            "                ;;\n"
        )
    return ZSH.format(
        verbs="".join(f"        '{verb.name}:{_zsh_text(verb.summary)}'\n" for verb in verbs),
        options="".join(f"        {line} \\\n" for line in _zsh_options(EVERYWHERE)),
        cases="".join(cases),
    )


def _zsh_options(verb: Verb) -> list[str]:
    found = []
    for option, (kind, text) in verb.options.items():
        action = "" if kind == FLAG else f":{kind.lower()}:{_zsh_action(kind)}"
        action = action.replace(f":{kind.lower()}:(", ":value:(")
        for name in _with_short(verb, option):
            equals = "=" if action and name.startswith("--") else ""
            found.append(f"'{name}{equals}[{_zsh_text(text)}]{action}'")
    return found


def _zsh_action(kind: str) -> str:
    if "|" in kind or " " in kind:
        return f"({kind.replace('|', ' ')})"
    return {FILE: "_files", DIRECTORY: "_files -/", "ids": "_urunc_ids"}.get(kind, " ")


def _zsh_text(text: str) -> str:
    for letter in "[]:":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("'", "'\\''")


# --- fish ----------------------------------------------------------------------------------------

FISH = """\
# fish completion for urunc, made by `urunc completion fish`
function __urunc_ids
    set -l words (commandline -opc)
    set -l root
    for index in (seq (count $words))
        if test "$words[$index]" = --root; and test $index -lt (count $words)
            set root --root $words[(math $index + 1)]
        end
    end
    urunc $root list --quiet 2>/dev/null
end
function __urunc_at
    # whether the command line has the verb $argv[1], and $argv[2] of its words
    set -l skip no
    set -l words
    for word in (commandline -opc)[2..]
        if test $skip = yes
            set skip no
        else if contains -- $word {valued}
            set skip yes
        else if not string match -q -- '-*' $word
            set -a words $word
        end
    end
    test "$words[1]" = "$argv[1]"; or return
    not set -q argv[2]; or test (count $words) -eq (math $argv[2] + 1)
end
complete -c urunc -f
"""


def _fish(verbs: list[Verb]) -> str:
    valued = {
        option
        for verb in (*verbs, EVERYWHERE)
        for option, (kind, _) in verb.options.items()
        if kind != FLAG
    }
    lines = [FISH.format(valued=" ".join(sorted(valued)))]
    for verb in verbs:
        what = _fish_text(verb.summary)
        lines.append(f"complete -c urunc -n \"__urunc_at ''\" -a {verb.name} -d {what}\n")
    lines += _fish_options(EVERYWHERE, GLOBAL, "")
    for verb in verbs:
        condition = f"-n '__urunc_at {verb.name}"
        own = [option for option in verb.options if option not in GLOBAL]
        lines += _fish_options(verb, own, f" {condition}'")
        for place, kind in enumerate(verb.words):
            if kind != "none":
                values = "(__urunc_ids)" if kind == "ids" else kind
                lines.append(f"complete -c urunc {condition} {place}' -a '{values}'\n")
    return "".join(lines)


def _fish_options(verb: Verb, options: Iterable[str], condition: str) -> list[str]:
    lines = []
    for option in options:
        kind, text = verb.options[option]
        names = [f" -l {option[2:]}"]
        names += [f" -s {key[1:]}" for key, name in verb.short.items() if name == option]
        if kind == FLAG:
            takes = ""
        elif kind == FILE:
            takes = " -r -F"
        elif kind == DIRECTORY:
            takes = " -x -a '(__fish_complete_directories)'"
        else:
            takes = f" -x -a '{kind.replace('|', ' ')}'" if "|" in kind else " -x"
        what = _fish_text(text)
        lines.append(f"complete -c urunc{condition}{''.join(names)}{takes} -d {what}\n")
    return lines


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
