# SPDX-License-Identifier: Apache-2.0
"""create, start and delete of the probe on Solo5's spt, with a network and a disk to write to, fail
or are killed at their calls, one after the other: `delete --force` takes away what is left, the
next container of that name lives, and nothing stays.

Each function's first call of a kind, each with the next kind of fault in turn; with
URUNC_TEST_FAULTS=all (`make trust`) every call with every kind.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest

from lib.faults import KINDS, Ended, Place, verb
from lib.network_state import network_unchanged
from lib.patience import until
from lib.support import PARTS, PREFIX, Bundle, Network, Urunc, ip, need, nothing_left

SYSTEM_CALLS = (
    *("openat", "openat2", "read", "write", "flock", "unlink", "unlinkat", "rmdir", "fchown"),
    *("fchmod", "getdents64", "setns", "socket", "sendto", "recvfrom", "kill", "pidfd_open"),
    *("pidfd_send_signal", "poll", "ppoll", "fork", "vfork", "clone"),
)
"""Those of the door that can be made to fail."""
ALL = os.environ.get("URUNC_TEST_FAULTS") == "all"


class Life:
    """A container's verbs in this process's own copy of urunc, and what is on the machine."""

    def __init__(
        self, urunc: Urunc, bundle: Bundle, network: Network, directory: pathlib.Path
    ) -> None:
        self.urunc = urunc
        self.network = network
        self.bundle = bundle
        self.output = directory / "output"
        self.id = urunc.new_id()
        self.disk = bundle.root / "disk.img"
        bundle.write()
        urunc.root.mkdir(exist_ok=True)
        self.before = self.look()

    def __call__(self, *words: str, fault: tuple[Place, str] | None = None) -> Ended:
        command = self.urunc.command(*words)[1:]
        return verb(command, self.output, fault)

    def create(self, fault: tuple[Place, str] | None = None) -> Ended:
        return self("create", "--bundle", str(self.bundle.path), self.id, fault=fault)

    def start(self, fault: tuple[Place, str] | None = None) -> Ended:
        return self("start", self.id, fault=fault)

    def delete(self, fault: tuple[Place, str] | None = None) -> Ended:
        return self("delete", "--force", self.id, fault=fault)

    def look(self) -> dict[str, object]:
        """What a container of this name would leave, of all that can be looked at in no time."""
        facts = self.disk.stat()
        groups = list(pathlib.Path("/sys/fs/cgroup").glob(f"*/urunc-{self.id}"))
        groups += list(pathlib.Path("/sys/fs/cgroup").glob(f"urunc-{self.id}"))
        users = []
        for path in pathlib.Path("/run/urunc.d/users").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another test's
                users += [path] if self.id in path.read_text() else []
        table = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        return {
            "files": sorted(map(str, self.urunc.root.rglob("*"))),
            "groups": groups,
            "users": users,
            "redirects": self.redirects(),
            "links": re.findall(r"^\d+: ([^@:]+)", ip("-n", self.network.inside, "link"), re.M),
            "mounts": [line for line in table if self.id in line],
            "disk": (facts.st_uid, facts.st_gid, facts.st_mode),
            "image": sorted(map(str, self.bundle.root.rglob("*"))),
        }

    def redirects(self) -> str:
        """What is on the container's interface."""
        command = ["tc", "-n", self.network.inside, "qdisc", "show", "dev", "eth0", "ingress"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def by_door(self, *words: str, options: list[str]) -> subprocess.CompletedProcess[str]:
        """A verb of the installed program, under strace."""
        command = ["strace", "-qq", *options, *self.urunc.command(*words)]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def calls(self, *words: str) -> list[tuple[str, int]]:
        """The system calls that a verb makes, with which time it is."""
        options = ["-o", str(self.output), "-e", f"trace={','.join(SYSTEM_CALLS)}"]
        done = self.by_door(*words, options=options)
        assert done.returncode == 0, done.stderr
        names = [line.partition("(")[0] for line in self.output.read_text().splitlines()]
        return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]

    def usual(self) -> dict[str, list[Place]]:
        """The places of each verb where nothing goes wrong."""
        self.lives()  # it is known from now on which version the monitor has
        found = {}
        for name, run in (("create", self.create), ("start", self.start), ("delete", self.delete)):
            ended = run()
            assert ended.code == 0, ended.said
            found[name] = ended.reached
        assert self.look() == self.before
        return found

    def suffer(self, name: str, fault: tuple[Place, str]) -> str:
        """One verb with a fault, and all that has to hold after it; what does not."""
        if name != "create":
            assert self.create().code == 0
        if name == "delete":
            assert self.start().code == 0
        ended = getattr(self, name)(fault)
        problems = []
        if not ended.met:
            problems.append("was not reached")
        if "internal error" in ended.said or "Traceback" in ended.said or ended.code == 70:
            problems.append(f"is no error that is told: {ended.said}")
        left = self.look()["files"]
        if name == "create" and ended.code > 0 and left and "clean up" not in ended.said:
            problems.append(f"create left {left}: {ended.said}")
        return "; ".join([*problems, *self.removed()])

    def removed(self) -> list[str]:
        """`delete --force`, and what it did not do."""
        done = self.urunc("delete", "--force", self.id, check=False)
        problems = [f"delete --force: {done.stderr}"] if done.returncode else []
        after = self.look()
        left = [f"left: {key}: {after[key]}" for key in after if after[key] != self.before[key]]
        self.before = after  # what is left is told of once
        return problems + left

    def lives(self) -> None:
        """The next container of that name."""
        for run in (self.create, self.start, self.delete):
            ended = run()
            assert ended.code == 0, ended.said
        assert self.look() == self.before


@pytest.fixture
def life(urunc: Urunc, network: Network, tmp_path: pathlib.Path) -> Iterator[Life]:
    need("solo5", "probe", "nft")
    bundle = Bundle(tmp_path / "b", "mirage", "spt", block="/disk.img")
    bundle.add("unikernel", PARTS / "probe-mirage.spt")
    bundle.add("disk.img", bytes(512))
    bundle.args("probe.hang")
    bundle.network(network.path)
    bundle.config["annotations"][f"{PREFIX}network"] = "dynamic"
    network.connect()
    yield Life(urunc, bundle, network, tmp_path)


def chosen(places: list[Place]) -> list[tuple[Place, str]]:
    """The faults to try."""
    if ALL:
        return list(itertools.product(places, KINDS))
    # a way into a namespace and back is several
    first = [place for place in places if place.time == 1 or place.call == "setns"]
    return list(zip(first, itertools.cycle(KINDS)))


@pytest.mark.timeout(0 if ALL else 300)
@pytest.mark.parametrize("name", ["create", "start", "delete"])
def test_a_fault_at_each_call(life: Life, network: Network, name: str) -> None:
    problems: list[str] = []
    with nothing_left(life.urunc.root), network_unchanged(network.path):
        faults = chosen(life.usual()[name])
        assert len(faults) > 5
        for fault in faults:
            if problem := life.suffer(name, fault):
                problems.append(f"{fault[0]} with {fault[1]}: {problem}")
        print(f"{name}: {len(faults)} faults")
        assert not problems, "\n".join([f"{len(problems)} of {len(faults)}", *problems])
        life.lives()


def some(calls: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Each third, and those by which the door goes into a namespace and back."""
    return [call for index, call in enumerate(calls) if index % 3 == 0 or call[0] == "setns"]


@pytest.mark.usefixtures("with_door")
@pytest.mark.timeout(0 if ALL else 300)
@pytest.mark.parametrize("name", ["start", "delete"])
def test_a_fault_of_the_door(life: Life, network: Network, name: str) -> None:
    """The compiled program, by strace: each third system call, with the next kind in turn (all,
    with each kind)."""
    need("strace")
    words = [name, life.id]
    problems: list[str] = []

    def prepare() -> None:
        created = life.create()
        assert created.code == 0, "\n".join([*problems, created.said])
        if name == "delete":
            life.urunc("start", life.id)
            life.urunc("kill", life.id, "KILL")
            until(lambda: life.urunc.state(life.id)["status"] == "stopped")

    with nothing_left(life.urunc.root), network_unchanged(network.path):
        life.lives()
        prepare()
        found = life.calls(*words)
        assert 10 < len(found) < 100  # else it has become Python
        life.urunc("delete", "--force", life.id)
        each = itertools.product(found, KINDS)
        faults = list(each) if ALL else list(zip(some(found), itertools.cycle(KINDS), strict=False))
        for (call, time), kind in faults:
            prepare()
            what = "signal=SIGKILL" if kind == "SIGKILL" else f"error={kind}"
            options = ["-o", str(life.output), "-e", f"inject={call}:{what}:when={time}"]
            done = life.by_door(*words, options=options)
            wrong = []
            if "internal error" in done.stderr or "Traceback" in done.stderr:
                wrong.append(f"is no error that is told: {done.stderr}")
            wrong += life.removed()
            problems += [f"{call} #{time} with {kind}: {text}" for text in wrong]
        print(f"{name} by the door: {len(faults)} faults")
        assert not problems, "\n".join([f"{len(problems)} of {len(faults)}", *problems])
        life.lives()
