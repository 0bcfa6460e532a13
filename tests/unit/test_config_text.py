# SPDX-License-Identifier: Apache-2.0
"""Configuration as text: what is added comes out again, whatever the file."""

from __future__ import annotations

import json
import pathlib
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urunc.installer import config_text
from urunc.installer.host import Failure, Host

NAMES = st.text("abcdef*./-_ ]\"'#", min_size=1, max_size=12)
BLANKS = st.sampled_from(["", " ", "\n", "  # a ] comment\n", "\t"])


@st.composite
def files(draw: st.DrawFn) -> str:
    """A configuration with or without imports, in many shapes."""
    lines = draw(st.sampled_from(["", "# first\n", "version = 2\n", 'root = "/a"\n\n']))
    if draw(st.booleans()):
        items = [draw(BLANKS) + json.dumps(name) for name in draw(st.lists(NAMES, max_size=3))]
        lines += f"imports = [{','.join(items)}{draw(BLANKS)}]\n"
    lines += draw(st.sampled_from(["", "oom_score = 0\n"]))
    lines += draw(st.sampled_from(["", "[debug]\n", '[plugins."a.b"]\nimports = ["no"]\n']))
    return lines if draw(st.booleans()) else lines.rstrip("\n")


@given(files())
def test_a_block_comes_out_again(content: str) -> None:
    added = config_text.with_block(content, "[x]\na = 1")
    assert tomllib.loads(added) == {**tomllib.loads(content), "x": {"a": 1}}
    assert config_text.without_block(added) == content


@given(files())
def test_an_import_comes_out_again(content: str) -> None:
    added = config_text.with_import(content, "config.toml", "/etc/urunc.toml")
    before = tomllib.loads(content)
    imports = ["/etc/urunc.toml", *before.get("imports", [])]
    assert tomllib.loads(added) == {**before, "imports": imports}
    assert config_text.without_import(added, "/etc/urunc.toml") == content


@given(files(), st.lists(NAMES, max_size=3))
def test_imports_are_replaced_for_the_judge(content: str, imports: list[str]) -> None:
    changed = tomllib.loads(config_text.set_imports(content, "config.toml", imports))
    assert changed == {**tomllib.loads(content), "imports": imports}


def test_what_is_not_toml_is_refused() -> None:
    with pytest.raises(Failure, match="not TOML"):
        config_text.with_import("[a\n", "config.toml", "/b")


@pytest.mark.parametrize(
    ("link", "wanted"),
    [("/etc/real", "etc/real"), ("../../../../etc/real", "etc/real"), ("real", "etc/real")],
)
def test_links_stay_in_the_root(tmp_path: pathlib.Path, link: str, wanted: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/link").symlink_to(link)
    assert Host(str(tmp_path)).path("/etc/link") == tmp_path / wanted


def test_a_loop_of_links(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Failure, match="symbolic links"):
        Host(str(tmp_path)).path("/a")
