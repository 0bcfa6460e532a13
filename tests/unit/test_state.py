# SPDX-License-Identifier: Apache-2.0
"""container.json is read as every urunc of its schema writes it, by the name that this one gave it,
and refused by the key that is wrong."""

from __future__ import annotations

import copy
import json
import pathlib
from typing import Any

import pytest

from urunc.bundle.resources import Resources
from urunc.bundle.spec import Hook
from urunc.errors import NotFoundError, StateError, WrongStatusError
from urunc.net.facts import NetFacts, NetworkFound
from urunc.plan.model import flatten, unflatten
from urunc.state import (
    DEFAULTS,
    SCHEMA,
    SHAPE,
    SHAPE_ONCE_CREATED,
    STOPPED,
    State,
    check_document,
    load,
)
from urunc.storage.facts import StorageFacts

# what urunc 0.1.0 wrote when this schema was four days old, but for some of a monitor's libraries
RECORDED: dict[str, Any] = json.loads(
    pathlib.Path(__file__).with_name("state-schema-4.json").read_text()
)
NEVER_THERE: list[Any] = [None, "text", 7, True, [], {}, 1.5]


def keys(shape: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys that a shape wants."""
    found = []
    for key, inner in shape.items() if isinstance(shape, dict) else ():
        if key is not ...:
            found += [(*path, key), *keys(inner, (*path, key))]
    return found


WANTED = keys(SHAPE) + keys(SHAPE_ONCE_CREATED)
OPTIONAL = [
    *((key,) for key in DEFAULTS if (key,) not in WANTED and key in RECORDED),
    *((key, inner) for key in ("plan", "storage") for inner in DEFAULTS[key] if inner != "process"),
]


def names(paths: list[tuple[Any, ...]]) -> list[str]:
    return [".".join(map(str, path)) for path in paths]


def parent(document: dict[str, Any], path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


def written(root: pathlib.Path, document: object) -> str:
    """A --root with a container `c1` that has this container.json."""
    (root / "c1").mkdir(exist_ok=True)
    (root / "c1/container.json").write_text(json.dumps(document))
    return str(root)


def refusal(root: pathlib.Path, document: object) -> str:
    with pytest.raises(StateError) as refused:
        load(written(root, document), "c1")
    assert str(root / "c1/container.json") in refused.value.message
    assert "urunc delete --force" in refused.value.hint
    return refused.value.message


def test_what_a_release_wrote(tmp_path: pathlib.Path) -> None:
    state = load(written(tmp_path, RECORDED), "c1")
    assert (state.id, state.pid) == ("c1", RECORDED["pid"])
    assert state.created == RECORDED["created"]
    assert state.ready
    assert state.status() == STOPPED  # of another boot
    assert state.pidfd() is None
    assert state.oci()["annotations"] == RECORDED["annotations"]
    assert vars(state.plan) == {
        "monitor": "qemu", "channel": "", "supervisor": "", "has_process": False,
        "stop_order": "", "stop_signal": 9, "tells_resets": False,
        "memory_bytes": 113246208, "overhead_bytes": 87916544, "tasks": 76,
    }  # fmt: skip
    assert (state.nic_count, state.network, state.network_identity) == (16, "", ())
    assert state.network_files == {"resolver": "", "hosts": ""}
    assert state.group_paths["pids"] == "/sys/fs/cgroup/pids/urunc-c1"
    assert (state.unit, state.returned, state.unfinished) == ("", None, None)
    assert not state.has_hooks("poststart")
    hook = Hook(path="/bin/true", args=("true", "--a"), env=("A=b",), timeout_s=5)
    assert state.hooks("poststop", Hook) == [hook]
    assert state.read_by("plan", unflatten)[0].monitor == "qemu"
    assert state.read("net", NetFacts).interfaces == ()
    assert state.read("found", NetworkFound).resolver is None
    assert state.read("storage", StorageFacts).archive == -1
    assert state.read("resources", Resources).memory_limit_bytes == 201326592


def test_written_again_it_is_the_same(tmp_path: pathlib.Path) -> None:
    """Also what only a newer urunc of this schema knows."""
    document = RECORDED | {"newer": {"a": [1]}}
    state = load(written(tmp_path, document), "c1")
    records = {
        key: state.read(key, cls)
        for key, cls in (
            ("net", NetFacts), ("found", NetworkFound), ("storage", StorageFacts),
            ("resources", Resources),
        )
    }  # fmt: skip
    state.write(**records, plan=flatten(*state.read_by("plan", unflatten)))
    state.unfinished = 3
    assert state.unfinished == 3
    state.unfinished = None
    state.save()
    assert json.loads((tmp_path / "c1/container.json").read_text()) == document


def test_the_old_name(tmp_path: pathlib.Path) -> None:
    """A container that an older urunc made keeps the file's name, by which that one's shim finds
    it."""
    written(tmp_path, RECORDED)
    (tmp_path / "c1/container.json").rename(tmp_path / "c1/state.json")
    state = load(str(tmp_path), "c1")
    state.unfinished = 3
    state.save()
    assert [path.name for path in (tmp_path / "c1").iterdir()] == ["state.json"]
    assert load(str(tmp_path), "c1").unfinished == 3
    (tmp_path / "c1/state.json").write_text("{")
    with pytest.raises(StateError, match=r"c1/state\.json"):
        load(str(tmp_path), "c1")


def test_keys_of_a_new_container(tmp_path: pathlib.Path) -> None:
    """All that a release has written, and what it has written before `create` was through."""
    (tmp_path / "c1").mkdir()
    hooks = {"poststop": (Hook(path="/x", args=(), env=(), timeout_s=0),)}
    state = State.begin(str(tmp_path / "c1"), "c1", "/b", {"a": "b"}, hooks)
    state.save()
    before = load(str(tmp_path), "c1")
    assert (before.pid, before.ready, before.created, before.group_paths) == (0, False, "", {})
    assert before.returned is None
    with pytest.raises(WrongStatusError, match="'c1' is not created yet"):
        _ = before.plan
    state.set_init(1)
    (tmp_path / "other").mkdir()
    recorded = load(written(tmp_path / "other", RECORDED), "c1")
    plan, chosen = recorded.read_by("plan", unflatten)
    net, storage = recorded.read("net", NetFacts), recorded.read("storage", StorageFacts)
    state.complete(
        plan=flatten(plan, chosen), net=net, launch=net, storage=storage,
        found=net, resources=recorded.read("resources", Resources), nic_count=1,
        files={"resolver": "", "hosts": ""},
        group_paths={}, unit="", network="", network_identity=(4, 5),
    )  # fmt: skip
    state.save()
    document = json.loads((tmp_path / "c1/container.json").read_text())
    assert document.keys() == RECORDED.keys()
    assert document["schema"] == SCHEMA == 4
    after = load(str(tmp_path), "c1")
    assert (after.pid, after.network_identity) == (1, (4, 5))


@pytest.mark.parametrize("path", WANTED, ids=names(WANTED))
def test_a_key_is_missing_or_wrong(tmp_path: pathlib.Path, path: tuple[Any, ...]) -> None:
    name = ".".join(path)
    document = copy.deepcopy(RECORDED)
    value = parent(document, path).pop(path[-1])
    assert f"key '{name}' is missing" in refusal(tmp_path, document)
    for wrong in NEVER_THERE:
        if type(wrong) is not type(value):
            parent(document, path)[path[-1]] = wrong
            assert f"key '{name}' is " in refusal(tmp_path, document)


@pytest.mark.parametrize("path", OPTIONAL, ids=names(OPTIONAL))
def test_an_optional_key(tmp_path: pathlib.Path, path: tuple[Any, ...]) -> None:
    """May be missing, and not be wrong."""
    document = copy.deepcopy(RECORDED)
    value = parent(document, path).pop(path[-1])
    if path != ("ready",):
        load(written(tmp_path, document), "c1")
    for wrong in NEVER_THERE:
        if type(wrong) is not type(value):
            parent(document, path)[path[-1]] = wrong
            assert f"key '{'.'.join(path)}' is " in refusal(tmp_path, document)


def test_oldest_of_the_schema(tmp_path: pathlib.Path) -> None:
    """Without any of the keys that came later."""
    document = copy.deepcopy(RECORDED)
    for path in OPTIONAL:
        if path not in (("ready",), ("storage", "returned")):
            del parent(document, path)[path[-1]]
    state = load(written(tmp_path, document), "c1")
    assert (state.created, state.network_identity) == ("", ())
    assert (state.plan.tasks, state.plan.tells_resets, state.plan.supervisor) == (0, False, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": {"a": 1}}, "key 'annotations.a' is an integer, not text"),
        ({"creatorProcess": [1]}, "key 'creatorProcess' has 1 elements, not 2"),
        ({"initProcess": [1, "2"]}, "key 'initProcess[1]' is text, not an integer"),
        ({"hooks": {"poststop": [{}]}}, "key 'hooks.poststop[0].path' is missing"),
        ({"hooks": {"poststop": {}}}, "key 'hooks.poststop' is an object, not a list"),
        ({"groups": {"paths": {"": 1}, "unit": ""}}, "key 'groups.paths.' is an integer, not text"),
        ({"files": {"resolver": ""}}, "key 'files.hosts' is missing"),
        ({"schema": 5}, "schema 5 is not 4"),
        ({"schema": None}, "schema None is not 4"),
    ],
)
def test_what_is_inside(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(tmp_path, RECORDED | changes)


def test_a_record_that_does_not_fit(tmp_path: pathlib.Path) -> None:
    """A whole plan is looked at only where it is needed."""
    state = load(written(tmp_path, RECORDED | {"net": {"other": 1}}), "c1")
    with pytest.raises(StateError, match=r"key 'net': NetFacts: unknown fields: other"):
        state.read("net", NetFacts)


def test_no_object(tmp_path: pathlib.Path) -> None:
    assert "the file is a list, not an object" in refusal(tmp_path, [])
    (tmp_path / "c1/container.json").write_text("{")
    with pytest.raises(StateError, match=r"container\.json"):
        load(str(tmp_path), "c1")
    (tmp_path / "c1/container.json").unlink()
    with pytest.raises(NotFoundError):
        load(str(tmp_path), "c1")


def test_a_file_that_is_given_back() -> None:
    volume = {"source": "/var/log", "destination": "/log", "returned": [8, 9]}
    document = copy.deepcopy(RECORDED)
    document["storage"] |= {"returned": 1, "disks": [{"source": "/a"}, {"source": "/b"}]}
    document["plan"]["volumes"] = [volume | {"returned": []}, volume]
    check_document(document)
    file = State("/x", document).returned
    assert file
    assert (file.disk, file.source, file.destination) == ("/b", "/var/log", "/log")
    assert file.identity == (8, 9)


@pytest.mark.parametrize(
    ("index", "identity", "message"),
    [
        (2, [8, 9], "key 'storage.returned' is 2: no such disk"),
        (0, [], "key 'storage.returned' is 0: no such disk, or no such volume"),
        (0, [8], "key 'plan.volumes.returned' has 1 elements, not 2"),
        (0, 8, "key 'plan.volumes.returned' is an integer, not a list"),
    ],
)
def test_a_file_that_cannot_be_given_back(
    tmp_path: pathlib.Path, index: int, identity: Any, message: str
) -> None:
    """It is found when the record is read, so that `delete --force` can do without."""
    document = copy.deepcopy(RECORDED)
    document["storage"] |= {"returned": index, "disks": [{"source": "/a"}, {"source": "/b"}]}
    document["plan"]["volumes"] = [{"source": "/s", "destination": "/d", "returned": identity}]
    assert message in refusal(tmp_path, document)
