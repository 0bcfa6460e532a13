# SPDX-License-Identifier: Apache-2.0
"""Completions as the shells themselves make them, and the manual's pages."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from lib.support import PROJECT
from urunc.cli import VERBS, completion
from urunc.cli.manual import DESCRIPTIONS, EXAMPLES

URUNC = """\
#!/bin/sh
case $* in
    "list --quiet") echo web; echo worker ;;
    "--root /r list --quiet") echo other ;;
esac
"""
BASH = """\
source ./script
while IFS= read -r line; do
    read -ra COMP_WORDS <<<"$line"
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _urunc
    printf '%s\\n' "${COMPREPLY[@]}" ==
done <lines
"""
FISH = """\
source ./script
while read -l line
    complete -C $line | string replace -r '\\t.*' ''
    echo ==
end <lines
"""
ZSH = """\
zmodload zsh/zpty
zpty shell 'TERM=dumb PS1= zsh -f -i'
zpty -w shell 'PROMPT=; RPROMPT=; unsetopt prompt_cr prompt_sp; stty -echo'
zpty -w shell 'autoload -Uz compinit; compinit -D -u; source ./script'
zpty -w shell "bindkey '^I' complete-word '^X' kill-whole-line"
zpty -w shell 'compadd() {
    local -a hits
    (( ${@[(I)-[OAD]]} )) || builtin compadd -O hits "$@"
    for hit in $hits; do print -r -- "HI""T $hit"; done
    builtin compadd "$@"
}'
while IFS= read -r line; do
    zpty -n -w shell "$line"$'\\t\\x18'"print OV''ER"$'\\n'
    zpty -r shell seen '*OVER*'
    print -r -- $seen | tr -d '\\r' | sed -n 's/.*HIT //p'
    print '=='
done <lines
"""
SHELLS = {"bash": BASH, "fish": FISH, "zsh": ZSH}
CASES = {
    "cre": {"create"},
    "--log-format ": {"text", "json"},
    "--root /r kill ": {"other"},
    "kill ": {"web", "worker"},
    "kill web KI": {"KILL"},
    "delete wo": {"worker"},
    "delete --force wo": {"worker"},
    "create --bun": {"--bundle"},
    "create ": set(),
    "list --format ": {"table", "json"},
    "plan --format j": {"json"},
    "plan -b b": {"bundle"},
    "cache ": {"list", "prune"},
    "cache prune --unu": {"--unused-for"},
    "completion ": {"bash", "zsh", "fish"},
    "help sp": {"spec"},
}
"""What is typed after `urunc` → what may take its place."""


@pytest.mark.parametrize("shell", SHELLS)
def test_completions(shell: str, tmp_path: pathlib.Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "urunc").write_text(URUNC)
    (tmp_path / "urunc").chmod(0o755)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "script").write_text(completion.script(shell))
    (tmp_path / "ask").write_text(SHELLS[shell])
    (tmp_path / "lines").write_text("".join(f"urunc {line}\n" for line in CASES))
    done = subprocess.run(
        [shell, "ask"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}, check=True,
    )  # fmt: skip
    assert not done.stderr
    answers = done.stdout.split("==\n")[: len(CASES)]
    found = {line: set(text.split()) for line, text in zip(CASES, answers, strict=True)}
    assert {line: {word.rstrip("/") for word in words} for line, words in found.items()} == CASES


def test_every_verb_has_its_description() -> None:
    assert set(DESCRIPTIONS) == set(VERBS)
    assert set(EXAMPLES) <= set(VERBS)


def test_manual_pages(tmp_path: pathlib.Path) -> None:
    """They are where man(1) looks, without a word of groff's, in 80 columns."""
    program = [sys.executable, "launcher/manual.py", "src", str(tmp_path)]
    subprocess.run(program, cwd=PROJECT, check=True)
    pages = {path.name: path for path in (tmp_path / "man/man8").iterdir()}
    assert set(pages) == {"urunc.8", *(f"urunc-{verb}.8" for verb in VERBS)}
    assert (tmp_path / "bash-completion/completions/urunc").read_text() == completion.script("bash")
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    for path in pages.values():
        done = subprocess.run(
            ["groff", "-man", "-Tascii", "-P-cbou", "-ww", "-rLL=80n", str(path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
    for text in ("--bundle DIRECTORY", "EXAMPLES", "urunc create web"):
        assert text in subprocess.run(
            ["groff", "-man", "-Tascii", "-P-cbou", str(pages["urunc-create.8"])],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
