# SPDX-License-Identifier: Apache-2.0
"""config.json → Spec: a table of broken configurations with the words that must be in the message,
and a whole good one."""

from __future__ import annotations

import copy
import json
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.full_config import FULL, FULL_SPEC
from lib.made import document
from urunc.bundle import spec
from urunc.bundle.document import CONFIG_LIMIT_BYTES, read_document
from urunc.bundle.spec import SpecDevice
from urunc.errors import SpecError


def process(**changes: Any) -> dict[str, Any]:
    return document(process={"args": ["app"], "cwd": "/", **changes})


def linux(**members: Any) -> dict[str, Any]:
    return document(linux=members)


def hooks(hook: Any) -> dict[str, Any]:
    return document(hooks={"createRuntime": [{"path": "/bin/true"}, hook]})


def limit(**changes: Any) -> dict[str, Any]:
    return process(rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 2, **changes}])


BROKEN: list[tuple[Any, str]] = [
    # missing, empty
    ([], "the document: expected an object, found an array"),
    (None, "the document: expected an object, found null"),
    (document(root=None), "root: missing"),
    (document(root={}), "root.path: missing"),
    (document(root={"path": ""}), "root.path: empty"),
    (document(process=None), "process: missing"),
    (document(ociVersion=None), "ociVersion: missing"),
    (document(ociVersion=""), "ociVersion: empty"),
    # wrong types
    (document(root=[]), "root: expected an object, found an array"),
    (document(root={"path": 1}), "root.path: expected a string, found a whole number"),
    (document(ociVersion=1.2), "ociVersion: expected a string, found a number"),
    (document(hostname=True), "hostname: expected a string, found true or false"),
    (document(annotations={"a": 1}), "annotations['a']: expected a string, found a whole number"),
    (document(mounts={}), "mounts: expected an array, found an object"),
    (document(mounts=["x"]), "mounts[0]: expected an object, found a string"),
    (document(mounts=[{"source": "a"}]), "mounts[0].destination: missing"),
    (process(args="app"), "process.args: expected an array, found a string"),
    (process(args=["a", None]), "process.args[1]: expected a string, found null"),
    (process(terminal="no"), "process.terminal: expected true or false, found a string"),
    (process(user={"uid": "0"}), "process.user.uid: expected a whole number, found a string"),
    (process(user={"uid": True}), "process.user.uid: expected a whole number, found true or false"),
    (process(user={"uid": 1.0}), "process.user.uid: expected a whole number, found a number"),
    # values
    (document(ociVersion="2.0.0"), "ociVersion: '2.0.0' is not a version 1"),
    (document(ociVersion="latest"), "ociVersion: 'latest' is not a version 1"),
    (process(cwd="home"), "process.cwd: 'home' is not an absolute path"),
    (process(env=["A=1", "B"]), "process.env[1]: 'B' is not NAME=VALUE"),
    (
        document(mounts=[{"destination": "/v", "type": "bind"}]),
        "mounts[0].source: a bind mount has to name a file or directory",
    ),
    (process(env=["=x"]), "process.env[0]: '=x' is not NAME=VALUE"),
    (process(user={"uid": -1}), "process.user.uid: -1 is not between 0 and 4294967294"),
    (process(user={"gid": 1 << 32}), "process.user.gid: 4294967296 is not between"),
    (process(oomScoreAdj=1001), "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
    # NUL characters
    (document(root={"path": "a\0b"}), "root.path: holds a NUL character"),
    (document(hostname="a\0"), "hostname: holds a NUL character"),
    (process(args=["a", "b\0"]), "process.args[1]: holds a NUL character"),
    (process(env=["A=\0"]), "process.env[0]: holds a NUL character"),
    (hooks({"path": "/bin/x", "args": ["x", "\0"]}), "hooks.createRuntime[1].args[1]: holds a NUL"),
    (process(args=["a", "\ud800"]), "process.args[1]: holds half of a surrogate pair"),
    (document(hostname="\udc80"), "hostname: holds half of a surrogate pair"),
    (document(annotations={"a": "\ud800"}), "annotations['a']: holds half of a surrogate pair"),
    # resource limits
    (limit(soft=3), "process.rlimits[0].soft: 3 is above the hard limit 2"),
    (limit(hard=1 << 64), "process.rlimits[0].hard: 18446744073709551616 is not between"),
    (limit(type=None), "process.rlimits[0].type: missing"),
    (limit(type="RLIMIT_BEER"), "process.rlimits[0].type: unknown limit 'RLIMIT_BEER'"),
    (limit(type="NOFILE"), "process.rlimits[0].type: unknown limit 'NOFILE'"),
    (
        process(rlimits=[{"type": "RLIMIT_AS"}, {"type": "RLIMIT_AS"}]),
        "process.rlimits[1].type: a second 'RLIMIT_AS'",
    ),
    # namespaces
    (linux(namespaces=[{"type": "net"}]), "linux.namespaces[0].type: unknown namespace 'net'"),
    (linux(namespaces=[{}]), "linux.namespaces[0].type: missing"),
    (
        linux(namespaces=[{"type": "pid"}, {"type": "pid"}]),
        "linux.namespaces[1].type: a second 'pid' namespace",
    ),
    (
        linux(namespaces=[{"type": "user"}]),
        "linux.uidMappings: the new user namespace has no mapping for its id 0",
    ),
    (
        linux(uidMappings=[{"containerID": 0, "hostID": 5, "size": 1}]),
        "linux.uidMappings: id mappings without a user namespace",
    ),
    (
        linux(
            namespaces=[{"type": "user"}],
            uidMappings=[{"containerID": 0, "hostID": 0xFFFFFFFE, "size": 2}],
        ),
        "linux.uidMappings[0].hostID: 2 ids from 4294967294 on go beyond 4294967294",
    ),
    (
        linux(timeOffsets={"boottime": {"secs": 5}}),
        "linux.timeOffsets: there is no new time namespace",
    ),
    (
        linux(namespaces=[{"type": "time"}], timeOffsets={"realtime": {"secs": 5}}),
        "linux.timeOffsets.realtime: no such clock",
    ),
    (linux(intelRdt={"closID": "a"}), "linux.intelRdt: cache and bandwidth"),
    (linux(memoryPolicy={}), "linux.memoryPolicy.mode: missing"),
    (linux(memoryPolicy={"mode": "MPOL_NEAR"}), "linux.memoryPolicy.mode: unknown 'MPOL_NEAR'"),
    (linux(memoryPolicy={"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: MPOL_BIND takes one"),
    (
        linux(memoryPolicy={"mode": "MPOL_LOCAL", "nodes": "0"}),
        "linux.memoryPolicy.nodes: MPOL_LOCAL takes none",
    ),
    (
        linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "3-1"}),
        "linux.memoryPolicy.nodes: '3-1' is no range of nodes below 1024",
    ),
    (
        linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "all"}),
        "linux.memoryPolicy.nodes: 'all' is not a list of nodes",
    ),
    (
        linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_FAST"]}),
        "linux.memoryPolicy.flags[0]: unknown 'MPOL_F_FAST'",
    ),
    (linux(netDevices={"a": {}}), "linux.netDevices: there is no network namespace"),
    (
        linux(namespaces=[{"type": "network"}], netDevices={"a": {"name": "b/c"}}),
        "linux.netDevices.a.name: 'b/c' is not a name for a network device",
    ),
    (
        linux(namespaces=[{"type": "network"}], netDevices={"sixteen-letters-": {}}),
        "linux.netDevices.sixteen-letters-: 'sixteen-letters-' is not a name",
    ),
    (
        linux(
            namespaces=[{"type": "network"}], netDevices={"a": {"name": "c"}, "b": {"name": "c"}}
        ),
        "linux.netDevices.b.name: a second 'c'",
    ),
    (linux(personality={"domain": "BSD"}), "linux.personality.domain: unknown 'BSD'"),
    (linux(personality={}), "linux.personality.domain: missing"),
    (
        linux(personality={"domain": "LINUX", "flags": ["READ_IMPLIES_EXEC"]}),
        "linux.personality.flags: the specification has none",
    ),
    (document(vm={"hypervisor": {"path": "/bin/vmm"}}), "vm.hypervisor.path: the monitor is the"),
    (document(vm={"image": {"format": "qcow2"}}), "vm.image.format: a guest's disks are"),
    (document(vm={"hwConfig": {"irqs": [1]}}), "vm.hwConfig.irqs: no part of the host's hardware"),
    (document(vm={"hwConfig": {"memory": 4096}}), "vm.hwConfig.memory: 4096 bytes are less than"),
    (document(vm={"kernel": {"path": "boot/a"}}), "vm.kernel.path: 'boot/a' is not an absolute"),
    (linux(sysctl={"user.max_net_namespaces": "5"}), "linux.sysctl: 'user.max_net_namespaces' is"),
    (linux(sysctl={"kernel.panic": "1"}), "linux.sysctl: 'kernel.panic' is not in a namespace"),
    (linux(sysctl={"net.ipv4.ip_forward": "1"}), "linux.sysctl: 'net.ipv4.ip_forward' is not in"),
    (
        linux(namespaces=[{"type": "network"}], sysctl={"net/../kernel/panic": "1"}),
        "linux.sysctl: 'net/../kernel/panic' is no kernel parameter",
    ),
    (
        linux(namespaces=[{"type": "network"}], sysctl={"net.ipv4.a\0b": "1"}),
        "linux.sysctl: 'net.ipv4.a\\x00b' is no kernel parameter",
    ),
    (
        linux(namespaces=[{"type": "network"}], sysctl={"net.ipv4.ip_forward": "1\0"}),
        "linux.sysctl['net.ipv4.ip_forward']: holds a NUL character",
    ),
    (linux(sysctl={"net.\ud800": "1"}), "linux.sysctl['net.\\ud800']: holds half of a surrogate"),
    (document(annotations={"\ud800": "1"}), "annotations['\\ud800']: holds half of a surrogate"),
    (linux(rootfsPropagation="rshared"), "linux.rootfsPropagation: unknown 'rshared'"),
    (linux(devices=[{"path": "dev/a", "type": "c"}]), "linux.devices[0].path: 'dev/a' is not an"),
    (linux(devices=[{"path": "/dev/a", "type": "x"}]), "linux.devices[0].type: 'x' is none of"),
    (process(scheduler={"policy": "SCHED_FAST"}), "process.scheduler.policy: unknown 'SCHED_FAST'"),
    (
        process(scheduler={"policy": "SCHED_OTHER", "priority": 3}),
        "process.scheduler.priority: SCHED_OTHER has none",
    ),
    (
        process(ioPriority={"class": "IOPRIO_CLASS_RT", "priority": 8}),
        "process.ioPriority.priority: 8 is not between 0 and 7",
    ),
    (
        linux(resources={"hugepageLimits": [{"pageSize": "big", "limit": 1}]}),
        "linux.resources.hugepageLimits[0].pageSize: 'big' is not a size",
    ),
    (
        linux(resources={"unified": {"../x": "1"}}),
        "linux.resources.unified: '../x' is not a file of a control group",
    ),
    (
        linux(namespaces=[{"type": "network", "path": "ns"}]),
        "linux.namespaces[0].path: 'ns' is not an absolute path",
    ),
    # resources
    (
        linux(resources={"memory": {"limit": -2}}),
        "linux.resources.memory.limit: -2 is not between -1 and",
    ),
    (
        linux(resources={"cpu": {"period": 1_000_001}}),
        "linux.resources.cpu.period: 1000001 is not between 0 and 1000000",
    ),
    (
        linux(resources={"cpu": {"cpus": 3}}),
        "linux.resources.cpu.cpus: expected a string, found a whole number",
    ),
    # hooks
    (hooks({}), "hooks.createRuntime[1].path: missing"),
    (hooks({"path": "bin/x"}), "hooks.createRuntime[1].path: 'bin/x' is not an absolute path"),
    (hooks({"path": "/x", "timeout": 0}), "hooks.createRuntime[1].timeout: 0 is not above zero"),
    (hooks({"path": "/x", "timeout": -1}), "hooks.createRuntime[1].timeout: -1 is not between"),
    (hooks({"path": "/x", "env": ["A"]}), "hooks.createRuntime[1].env[0]: 'A' is not NAME=VALUE"),
]


@pytest.mark.parametrize(("value", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_broken(value: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse(value, "/bundle")
    assert caught.value.message.startswith(f"config.json: {words}")


FILES = [
    (b'{"ociVersion": "1.2.0", "proc', "not JSON: "),
    (b"", "not JSON: "),
    (b'{"a": NaN}', "not JSON: NaN is not JSON"),
    (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
    (b"[" * 300_000, "not JSON: nested too deeply"),
    (b" " * (CONFIG_LIMIT_BYTES + 1), f"larger than {CONFIG_LIMIT_BYTES} bytes"),
]


@pytest.mark.parametrize(("content", "words"), FILES, ids=[words for _, words in FILES])
def test_unreadable(content: bytes, words: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_document(str(tmp_path))
    assert f"'{tmp_path}/config.json': {words}" in caught.value.message


def test_a_truncated_file_says_where(tmp_path: pathlib.Path) -> None:
    text = json.dumps(document(), indent=2)
    (tmp_path / "config.json").write_text(text[:-10])
    with pytest.raises(SpecError, match=r"not JSON: .*line \d+ column \d+"):
        read_document(str(tmp_path))


def test_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match="no such file or directory") as caught:
        read_document(str(tmp_path))
    assert "urunc spec" in caught.value.hint


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.data())
def test_whatever_stands_there_no_other_error(value: Any, data: st.DataObject) -> None:
    whole = copy.deepcopy(FULL)
    place: Any = whole
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()) or not isinstance(place[key], dict):
            place[key] = value
            break
        place = place[key]
    try:
        spec.parse(whole, "/bundle")
    except SpecError:
        pass


def test_a_full_configuration() -> None:
    assert spec.parse(copy.deepcopy(FULL), "/bundle") == FULL_SPEC


def test_a_small_configuration() -> None:
    found = spec.parse(
        {"ociVersion": "1.2.0", "root": {"path": "/srv/root"}, "process": {"env": None}}, "/bundle"
    )
    assert (found.root, found.cwd, found.args, found.env) == ("/srv/root", "/", (), ())
    assert (found.uid, found.oom_score_adj, found.resources.memory_limit_bytes) == (0, None, None)
    assert (found.mounts, found.hooks, found.namespaces) == ((), {}, {})


@pytest.mark.parametrize("value", [-1, 0, None])
def test_no_limit_is_said_in_three_ways(value: int | None) -> None:
    found = spec.parse(
        linux(resources={"memory": {"limit": value}, "pids": {"limit": value}}), "/bundle"
    )
    assert found.resources.memory_limit_bytes == (-1 if value == -1 else None)
    assert found.resources.pids_limit == found.resources.memory_limit_bytes


def test_a_device_with_a_rule_of_its_own() -> None:
    """What `--device` gives, and what a privileged container has."""
    item = {"path": "/dev/xvda", "type": "b", "major": 7, "minor": 1}

    def device(*rules: dict[str, Any]) -> SpecDevice:
        linux = {"devices": [item], "resources": {"devices": list(rules)}}
        return spec.parse(document(linux=linux), "/bundle").devices[0]

    none: dict[str, Any] = {"allow": False, "access": "rwm"}
    own = {"allow": True, "type": "b", "major": 7, "minor": 1}
    assert (device().named, device().read_only) == (True, False)
    found = device(none, own | {"access": "rwm"})
    assert (found.named, found.read_only) == (True, False)
    found = device(none, own | {"access": "r"})
    assert (found.named, found.read_only) == (True, True)
    found = device({"allow": True, "type": "a", "access": "rwm"})
    assert (found.named, found.read_only) == (False, False)
