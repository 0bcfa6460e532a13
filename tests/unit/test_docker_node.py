# SPDX-License-Identifier: Apache-2.0
"""What `urunc install docker` makes of a daemon.json, and of it again; dockerd is a double that
says its version and takes every file."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urunc.installer import json_text
from urunc.installer.docker_node import CONFIG, DockerNode, find_docker
from urunc.installer.host import Failure, Host
from urunc.installer.node import BACKUP, Changes, Runtime

WHERE = ("runtimes", "urunc")
VALUE = {"path": "/usr/local/bin/urunc"}
RUNTIME = Runtime("/usr/local", shim=False)
NAMES = st.text('ab"\\é{}[],: ', max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.fixed_dictionaries(
    {}, optional={"runtimes": st.dictionaries(NAMES, VALUES, max_size=3), "a": VALUES, "z": VALUES}
)


class Machine(Host):
    """A root with a dockerd of some version."""

    version = "20.10.24"
    refuses = ""

    def run(self, *words: str, **_more: Any) -> subprocess.CompletedProcess[str]:
        said = f"Docker version {self.version}+dfsg1, build 1"
        if self.refuses and "--validate" in words:
            raise Failure(f"dockerd: {words[-1]}: {self.refuses}")
        return subprocess.CompletedProcess(words, 0, stdout=said, stderr="")


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    program = tmp_path / "usr/sbin/dockerd"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    (tmp_path / "etc/docker").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    return Machine(str(tmp_path), quiet=True)


def docker(machine: Machine) -> DockerNode:
    node = find_docker(machine)
    assert isinstance(node, DockerNode)
    return node


def put(machine: Machine, changes: Changes) -> None:
    for path, text in changes.items():
        machine.remove(path) if text is None else machine.write(path, text)


@given(DOCUMENTS, st.sampled_from([None, 2, "\t"]), st.sampled_from(["", "\n", " \n"]))
def test_a_member_comes_and_goes(document: dict[str, Any], indent: Any, end: str) -> None:
    """All else is as it was, and where the object has other members, to the byte."""
    document.get("runtimes", {}).pop("urunc", None)
    text = json.dumps(document, indent=indent) + end
    more = json_text.with_member(text, WHERE, VALUE)
    wanted = {**document, "runtimes": {**document.get("runtimes", {}), "urunc": VALUE}}
    assert json.loads(more) == wanted
    less = json_text.without_member(more, WHERE)
    if document.get("runtimes"):
        assert less == text
    elif document.get("runtimes") == {}:
        assert json.loads(less) == {k: v for k, v in document.items() if k != "runtimes"}
    else:
        assert json.loads(less) == document
        assert less == text or not document


@pytest.mark.parametrize("first", [True, False])
def test_wherever_somebody_has_moved_it(first: bool) -> None:
    runtimes = {"urunc": VALUE, "other": {}} if first else {"other": {}, "urunc": VALUE, "last": {}}
    text = json.dumps({"runtimes": runtimes}, indent=1)
    rest = json_text.without_member(text, WHERE)
    del runtimes["urunc"]
    assert json.loads(rest) == {"runtimes": runtimes}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}\n",
        '{"debug": true}',
        '{\n  "runtimes": {},\n  "debug": true\n}\n',
        '{\n\t"runtimes": {\n\t\t"other": {"path": "/o"}\n\t}\n}',
    ],
)
def test_there_and_back(machine: Machine, text: str | None) -> None:
    """To the byte, also where the object was empty: by the copy from before."""
    if text is not None:
        machine.write(CONFIG, text)
        machine.write(CONFIG + BACKUP, text)
    put(machine, docker(machine).changes(RUNTIME))
    found = docker(machine)
    assert found.runtimes(found.view({}))["urunc"] == VALUE
    assert found.changes(RUNTIME) == {}
    put(machine, found.removal())
    assert machine.read(CONFIG) == text


def test_a_copy_from_before_that_is_old(machine: Machine) -> None:
    """What somebody has written since stays."""
    machine.write(CONFIG, '{"debug": true}')
    machine.write(CONFIG + BACKUP, '{"debug": true}')
    put(machine, docker(machine).changes(RUNTIME))
    machine.write(CONFIG, (machine.read(CONFIG) or "").replace("true", "false"))
    put(machine, docker(machine).removal())
    assert json.loads(machine.read(CONFIG) or "") == {"debug": False}


def test_one_that_somebody_has_made(machine: Machine) -> None:
    """By the same path it is the same; with more to it, it is theirs."""
    machine.write(CONFIG, json.dumps({"runtimes": {"urunc": VALUE}}))
    assert docker(machine).changes(RUNTIME) == {}
    machine.write(
        CONFIG, json.dumps({"runtimes": {"urunc": {**VALUE, "runtimeArgs": ["--debug"]}}})
    )
    with pytest.raises(Failure, match="this installer did not make"):
        docker(machine).changes(RUNTIME)
    assert docker(machine).removal() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "a": 1,\n}', rf"{CONFIG}: line \d, column \d+: not JSON"),
        ("[]", "not a JSON object"),
        ('{"runtimes": []}', None),
        ('{"runtimes": [1]}', "'runtimes' is not an object"),
        ('{"runtimes": null}', None),
    ],
)
def test_a_file_that_is_not_what_it_should_be(
    machine: Machine, text: str, said: str | None
) -> None:
    machine.write(CONFIG, text)
    with pytest.raises(Failure, match=said):
        docker(machine).changes(RUNTIME)
    assert machine.read(CONFIG) == text


def test_its_own_program_judges(machine: Machine) -> None:
    """Where it can: from 23.0 on."""
    machine.write(CONFIG, '{"no-such": 1}')
    machine.refuses = "the following directives don't match any configuration option: no-such"
    assert CONFIG in docker(machine).changes(RUNTIME)
    machine.version = "28.5.2"
    with pytest.raises(Failure, match=rf"{CONFIG} is not .* dockerd takes: .*no-such"):
        docker(machine).changes(RUNTIME)


def test_runtimes_of_the_command_line(machine: Machine) -> None:
    """dockerd does not start with both."""
    machine.write_with_directories(
        "/etc/systemd/system/docker.service",
        "[Service]\nExecStart=/usr/sbin/dockerd --config-file=/etc/docker/other.json \\\n"
        " --add-runtime x=/x\n",
        0o644,
    )
    node = docker(machine)
    assert node.config == "/etc/docker/other.json"
    with pytest.raises(Failure, match=r"--add-runtime urunc=/usr/local/bin/urunc"):
        node.changes(RUNTIME)


def test_a_shim_of_its_own(machine: Machine) -> None:
    with pytest.raises(Failure, match=r"20\.10\.24 takes no shim"):
        docker(machine).changes(Runtime("/usr/local", shim=True))
    machine.version = "28.5.2"
    put(machine, docker(machine).changes(Runtime("/usr/local", shim=True)))
    assert "io.containerd.urunc.v2" in (machine.read(CONFIG) or "")
    put(machine, docker(machine).changes(RUNTIME))
    assert "io.containerd.urunc.v2" not in (machine.read(CONFIG) or "")
