# SPDX-License-Identifier: Apache-2.0
"""The shim follows a runtime's options: whose program, which directory and control group,
CRIU's."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from lib.patience import until
from lib.shims import NAMESPACE, Shim, box, runc_options
from lib.support import RUN, URUNC, Bundle, need, nothing_left
from urunc.linux import cgroups
from urunc.shim.messages import any_of, decode, encode
from urunc.shim.ttrpc import UNKNOWN, StatusError

RECORDER = """#!/usr/bin/python3 -I
# Stands in for runc: it records its calls, and is runc but for what takes CRIU: a checkpoint is a
# directory with a mark, and what is restored from it is made anew.
import json, os, subprocess, sys, time
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
root = words.index("--root") if "--root" in words else len(words)
state = ["runc", *words[root:root + 2]]
if "--criu" in words:
    at = words.index("--criu")
    del words[at:at + 2]
if "checkpoint" in words:
    directory = words[words.index("--image-path") + 1]
    os.makedirs(directory, exist_ok=True)
    open(directory + "/saved", "w").close()
    if "--leave-running" not in words:
        subprocess.run([*state, "kill", words[-1], "KILL"], check=True)
        while subprocess.run([*state, "delete", words[-1]], stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.01)
    sys.exit()
if "restore" in words:
    at = words.index("--image-path")
    os.stat(words[at + 1] + "/saved")
    del words[at:at + 4]
    words[words.index("restore")] = "run"
os.execvp("runc", ["runc", *words])
"""


class Recorder:
    """The stand-in and what it was called with."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "recorder"
        self._log = directory / "calls"
        self.path.write_text(RECORDER.format(log=str(self._log)))
        self.path.chmod(0o755)

    def calls(self) -> list[list[str]]:
        """The words from the verb on."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        verbs = ("create", "start", "state", "kill", "delete", "checkpoint", "restore", "exec")
        return [
            words[next(at for at, word in enumerate(words) if word in verbs) :] for words in lines
        ]

    def all_words(self) -> list[str]:
        return self._log.read_text().splitlines()


Made = Callable[[Bundle], Shim]


@pytest.fixture
def shim(tmp_path: pathlib.Path) -> Iterator[Made]:
    """Makes a shim for a bundle."""
    need("root", "installed", "runc")
    with contextlib.ExitStack() as undo:
        undo.enter_context(nothing_left())

        def made(bundle: Bundle) -> Shim:
            shim = Shim(tmp_path, bundle)
            undo.callback(shim.close)
            return shim

        yield made


@pytest.fixture
def ordinary(shim: Made, tmp_path: pathlib.Path) -> Shim:
    """A shim for a container that sleeps."""
    return shim(box(tmp_path / f"t{RUN}box", "/bin/sleep", "100"))


@pytest.fixture
def recorder(tmp_path: pathlib.Path) -> Recorder:
    return Recorder(tmp_path)


def test_ordinary_runtime(ordinary: Shim, recorder: Recorder) -> None:
    """BinaryName is the runtime of ordinary containers, also for who cleans up after the shim."""
    ordinary.start()
    ordinary.create(runc_options(binary_name=str(recorder.path), root=ordinary.root))
    assert os.path.isdir(f"{ordinary.root}/{NAMESPACE}/{ordinary.id}")
    ordinary("Start")
    os.kill(ordinary.pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{ordinary.pid}"))
    ordinary.pid = 0
    done = ordinary.command("delete", "-bundle", str(ordinary.bundle.path))
    assert decode("containerd.task.v2.DeleteResponse", done.stdout)["exit_status"] == 137
    assert [words[0] for words in recorder.calls()] == ["create", "start", "delete"]


def test_urunc_as_ordinary_runtime(ordinary: Shim) -> None:
    """Where urunc itself is named, as for runc's shim, ordinary containers are runc's all the
    same."""
    ordinary.start()
    ordinary.create(runc_options(binary_name=str(URUNC), root=ordinary.root))
    ordinary("Start")
    ordinary.end(137)


def test_no_such_runtime(ordinary: Shim) -> None:
    ordinary.start()
    with pytest.raises(StatusError, match="ordinary runtime 'no-such-runc': no such program"):
        ordinary.create(runc_options(binary_name="no-such-runc", root=ordinary.root))
    ordinary.leave()


def test_a_guest_needs_no_ordinary_runtime(
    shim: Made, bundle: Bundle, tmp_path: pathlib.Path
) -> None:
    guest = shim(bundle)
    guest.id = f"t{RUN}guest"
    guest.start()
    guest.create(runc_options(binary_name="no-such-runc", root=guest.root))
    guest("Start")
    guest.end(137)


def test_options_of_cri(ordinary: Shim, recorder: Recorder) -> None:
    """A runtime's `options` table in CRI's configuration comes as TOML."""
    body = f'BinaryName = "{recorder.path}"\nRoot = "{ordinary.root}"\nNoPivotRoot = true\n'
    ordinary.start()
    ordinary.create(any_of("runtimeoptions.v1.Options", {"config_body": body.encode()}))
    ordinary.end(137)
    create = recorder.calls()[0]
    assert create[0] == "create" and "--no-pivot" in create
    assert "--no-new-keyring" not in create


@pytest.mark.parametrize(
    "body", [b"BinaryName = 1", b"IoUid = -1", b"IoGid = true", b"NoPivotRoot = 'yes'", b"= ="]
)
def test_wrong_options(ordinary: Shim, body: bytes) -> None:
    ordinary.start()
    with pytest.raises(StatusError, match="the runtime's options"):
        ordinary.create(any_of("runtimeoptions.v1.Options", {"config_body": body}))
    ordinary.leave()


@pytest.fixture
def group() -> Iterator[str]:
    """A control group, in each hierarchy."""
    name = f"urunc-test-{RUN}-shims"
    mounts = {mount for mount, _ in cgroups.hierarchies().values()}
    for mount in mounts:
        cgroups.make(f"{mount}/{name}")
    yield name
    for mount in mounts:
        until(functools.partial(lambda group: not cgroups.pids(group), f"{mount}/{name}"))
        os.rmdir(f"{mount}/{name}")


def test_control_group(group: str, ordinary: Shim) -> None:
    """The shim is in the group of ShimCgroup; its containers are in their own."""
    ordinary.start(runc_options(shim_cgroup=f"/{group}"))
    ordinary.create()
    lines = pathlib.Path(f"/proc/{ordinary.pid}/cgroup").read_text().splitlines()
    assert {line.split(":")[2] for line in lines} == {f"/{group}"}
    ordinary.end()


def test_no_such_control_group(ordinary: Shim) -> None:
    """Nothing of a shim is left."""
    said = ordinary.start(runc_options(shim_cgroup="/no-such-group"), check=False)
    assert "ShimCgroup '/no-such-group': no such control group" in said
    assert os.listdir(ordinary.sockets) == []


def test_checkpoint_and_restore(ordinary: Shim, recorder: Recorder, tmp_path: pathlib.Path) -> None:
    """The ordinary runtime does it, with the options of either side. Its stand-in records them:
    CRIU itself needs a kernel that it knows."""
    image, work = str(tmp_path / "image"), str(tmp_path / "work")
    options = runc_options(
        binary_name=str(recorder.path), root=ordinary.root, no_pivot_root=True, criu_path="/criu",
        criu_work_path=work,
    )  # fmt: skip
    ordinary.start()
    ordinary.create(options)
    ordinary("Start")
    ordinary("Checkpoint", path=image)
    asked = {
        "open_tcp": True, "file_locks": True, "terminal": True, "external_unix_sockets": True,
        "empty_namespaces": ["network"], "cgroups_mode": "soft", "work_path": "/elsewhere",
        "parent_path": "../parent", "exit": True,
    }  # fmt: skip
    ordinary(
        "Checkpoint", path=image, options=any_of("containerd.runc.v1.CheckpointOptions", asked)
    )
    assert ordinary("Wait")["exit_status"] == 137
    ordinary("Delete")

    stdout = str(tmp_path / "stdout")
    os.mkfifo(stdout, 0o700)
    assert ordinary.create(options, checkpoint=image, stdout=stdout) == 0
    assert ordinary("State")["pid"] == 0
    pid = ordinary("Start")["pid"]
    words = pathlib.Path(f"/proc/{pid}/cmdline")
    until(lambda: words.read_text().split("\0")[1] == "100")  # runc's init has yet to become it
    assert os.readlink(f"/proc/{pid}/fd/1") == stdout
    assert (ordinary("State")["pid"], ordinary("State")["status"]) == (pid, 2)
    assert pid in [found["pid"] for found in ordinary("Pids")["processes"]]
    ordinary.end(137)

    (first, second), (restore,) = (
        [words for words in recorder.calls() if words[0] == verb]
        for verb in ("checkpoint", "restore")
    )
    where = ["--image-path", image, "--work-path"]
    assert first == ["checkpoint", *where, work, "--leave-running", ordinary.id]
    assert second == [
        "checkpoint", *where, "/elsewhere", "--tcp-established", "--ext-unix-sk", "--shell-job",
        "--file-locks", "--parent-path", "../parent", "--manage-cgroups-mode", "soft",
        "--empty-ns", "network", ordinary.id,
    ]  # fmt: skip
    bundle = str(ordinary.bundle.path)
    assert restore == [
        "restore", "--detach", "--bundle", bundle, "--pid-file", f"{bundle}/init.pid", "--no-pivot",
        *where, work, ordinary.id,
    ]  # fmt: skip
    with_criu = [line for line in recorder.all_words() if '"--criu", "/criu"' in line]
    assert len(with_criu) == 3
    until(lambda: len(ordinary.events.topics()) == 10)
    assert ordinary.events.topics() == [
        "create", "start", "checkpointed", "exit", "checkpointed", "delete",
        "create", "start", "exit", "delete",
    ]  # fmt: skip


def test_restore_fails(ordinary: Shim, recorder: Recorder, tmp_path: pathlib.Path) -> None:
    """The error is the client's, and the container can be deleted."""
    options = runc_options(
        binary_name=str(recorder.path), root=ordinary.root, criu_image_path=str(tmp_path / "none")
    )
    ordinary.start()
    assert ordinary.create(options) == 0
    with pytest.raises(StatusError, match="ended with 1") as failed:
        ordinary("Start")
    assert failed.value.code == UNKNOWN
    ordinary("Delete")
    ordinary.leave()


def test_a_guest_that_cannot_be_saved(shim: Made, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """A reason in both directions; it goes on."""
    guest = shim(bundle)
    guest.id = f"t{RUN}guest"
    guest.start()
    (tmp_path / "image").mkdir()
    with pytest.raises(StatusError, match="no checkpoint of a unikernel") as refused:
        guest.create(checkpoint=str(tmp_path / "image"))
    assert refused.value.code == UNKNOWN
    guest.create()
    guest("Start")
    with pytest.raises(StatusError, match="spt cannot save its guest") as refused:
        guest("Checkpoint", path=str(tmp_path / "image"))
    assert refused.value.code == UNKNOWN
    assert not list((tmp_path / "image").iterdir())
    assert guest("State")["status"] == 2
    guest.end(137)


def test_info(ordinary: Shim, recorder: Recorder) -> None:
    """Name, version, the options, and the features of the runtime that they name."""
    for given in (None, runc_options(binary_name=str(recorder.path))):
        data = encode("google.protobuf.Any", given) if given else b""
        done = subprocess.run([ordinary.program, "-info"], input=data, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        found = decode("containerd.types.RuntimeInfo", done.stdout)
        assert found["name"] == "io.containerd.urunc.v2"
        assert (found["options"] or {}).get("value") == (given["value"] if given else None)
        kind = found["features"]["type_url"].removeprefix("types.containerd.io/")
        assert kind == "opencontainers/runtime-spec/1/features/Features"
        features = json.loads(found["features"]["value"])
        assert "rbind" in features["mountOptions"]
    assert "features" in recorder.all_words()[-1]
