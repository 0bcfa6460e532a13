# SPDX-License-Identifier: Apache-2.0
"""No verb depends on its environment: what `create` found by its own is found by all that follow,
which engines give none (Podman: no PATH, no HOME, no USER)."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from lib.busybox import BUSYBOX
from lib.patience import until
from lib.support import URUNC, Bundle, Urunc, need, nothing_left

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent / "src"
ORDINARY_USER = 65_534
Verb = Callable[..., str]


def bare(command: list[str]) -> Verb:
    """Runs a verb by this command with an empty environment; its output."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], env={}, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    return run


def live(verb: Verb, identifier: str, *, groups: bool) -> None:
    """A created container's life."""

    def status() -> str:
        return str(json.loads(verb("state", identifier))["status"])

    assert status() == "created"
    verb("start", identifier)
    assert status() == "running"
    assert json.loads(verb("ps", "--format", "json", identifier))
    if groups:
        verb("pause", identifier)
        assert status() == "paused"
        verb("resume", identifier)
        verb("update", "--pids-limit", "400", identifier)
        assert json.loads(verb("events", "--stats", identifier))["id"] == identifier
    verb("kill", identifier, "KILL")
    until(lambda: status() == "stopped", status)
    verb("delete", identifier)


def test_root(urunc: Urunc, bundle: Bundle) -> None:
    with nothing_left(urunc.root):
        container = urunc.create(bundle, URUNC_TIMESTAMPS="1")
        verb = bare(urunc.command())
        assert [item["id"] for item in json.loads(verb("list", "--format=json"))] == [container.id]
        live(verb, container.id, groups=True)
    entries = [json.loads(line) for line in urunc.stamps.read_text().splitlines()]
    assert {entry["containerID"] for entry in entries} == {container.id}
    assert {entry["timestampID"] for entry in entries} == {f"TS{n:02}" for n in range(19)}


def test_without_timestamps(urunc: Urunc, bundle: Bundle) -> None:
    container = urunc.create(bundle)
    bare(urunc.command())("start", container.id)
    assert not urunc.stamps.exists()
    container.delete("--force")


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """An ordinary user's directory; that user's runtime directory is there, too."""
    need("root")
    home = pathlib.Path("/var/tmp") / f"urunc-home-{os.getpid()}"
    runtime = pathlib.Path(f"/run/user/{ORDINARY_USER}")
    if runtime.exists():
        pytest.skip(f"{runtime} is there")
    above = runtime.parent.exists()
    for directory in (home, runtime):
        directory.mkdir(mode=0o755, parents=True)
        os.chown(directory, ORDINARY_USER, ORDINARY_USER)
    yield home
    shutil.rmtree(home)
    shutil.rmtree(runtime)
    if not above:
        runtime.parent.rmdir()


def test_ordinary_user(home: pathlib.Path, bundle: Bundle) -> None:
    """Without --root: it is in the runtime directory of that user, named or not."""
    own = [{"containerID": 0, "hostID": ORDINARY_USER, "size": 1}]
    bundle.config["linux"] |= {"uidMappings": own, "gidMappings": own, "resources": {}}
    bundle.config["linux"]["namespaces"] += [{"type": "user"}]
    bundle.write()
    shutil.copytree(bundle.path, home / "b")
    settings = home / "urunc.toml"
    settings.write_text(f'[timestamps]\nfile = "{home}/stamps"\n')
    program = [
        *(shutil.which("setpriv") or "setpriv", f"--reuid={ORDINARY_USER}"),
        *(f"--regid={ORDINARY_USER}", "--clear-groups", "--"),
        *(str(URUNC), "--config", str(settings)),
    ]
    environment = os.environ | {
        "XDG_RUNTIME_DIR": f"/run/user/{ORDINARY_USER}",
        "URUNC_TIMESTAMPS": "1",
        "HOME": str(home),
    }
    console = home / "console"
    with console.open("wb") as out:
        done = subprocess.run(
            [*program, "create", "--bundle", f"{home}/b", "c1"],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    assert done.returncode == 0, console.read_text()
    live(bare(program), "c1", groups=False)
    assert {"TS11", "TS12", "TS13", "TS18"} <= {
        json.loads(line)["timestampID"] for line in (home / "stamps").read_text().splitlines()
    }
    assert list(pathlib.Path(f"/run/user/{ORDINARY_USER}/urunc").iterdir()) == []


ROOTS = """
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mkdir -p /run/urunc/a /run/user/1000/urunc/b /run/x/urunc/c /tmp/urunc-1000/urunc/d
for directory in /run/x ""; do
    for name in a b c d none ..; do
        env -i ${directory:+XDG_RUNTIME_DIR=$directory} "$@" "$name"
    done
done
"""
FIND = (
    "import sys; sys.path.insert(0, sys.argv[1]); from urunc.places import root_of; "
    "print(root_of([sys.argv[2]]))"
)


def test_roots_of_a_user_namespace() -> None:
    """`create` had USER=root, by which /run is the default; later verbs have no USER. Whose the
    namespace is says its uid_map."""
    need("root")
    if SOURCE.is_relative_to("/tmp"):
        pytest.skip("the project is below /tmp, which is another one here")
    find = [os.path.realpath("/usr/bin/python3"), "-I", "-S", "-B", "-c", FIND]
    within = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-ec", ROOTS, "sh"]
    done = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *within, *find, str(SOURCE)],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    host, by_id, by_name = "/run/urunc", "/run/user/1000/urunc", "/run/x/urunc"
    temporary = "/tmp/urunc-1000/urunc"
    assert done.stdout.split() == [
        *(host, by_id, by_name, temporary, by_name, by_name),
        *(host, by_id, host, temporary, host, host),
    ]


def test_ordinary_runtime(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """It is the one that `create` found on its PATH."""
    need("runc", "busybox")
    bundle = Bundle(tmp_path / "b")
    bundle.add("bin/sh", BUSYBOX)
    bundle.args("/bin/sh", "-c", "sleep 30")
    (bundle.root / "proc").mkdir()
    bundle.config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    own, calls = tmp_path / "bin/runc", tmp_path / "calls"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexec {shutil.which("runc")} "$@"\n')
    own.chmod(0o755)
    identifier = urunc.new_id()
    subprocess.run(
        urunc.command("create", "--bundle", str(bundle.write()), identifier),
        env=os.environ | {"PATH": f"{own.parent}:{os.environ['PATH']}"},
        check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    verb = bare(urunc.command())
    try:
        for words in (("state", identifier), ("kill", identifier, "KILL")):
            verb(*words)
        verb("delete", "--force", identifier)
        for name in ("create", "state", "kill", "delete"):
            assert f" {name} " in calls.read_text()
    finally:
        urunc("features")  # with the ordinary PATH: what was noted is no more
    calls.unlink()
    verb("features")
    assert not calls.exists()


def test_urunc_is_no_ordinary_runtime(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """Neither its compiled program nor the script behind it: it would call itself without end."""
    bundle = Bundle(tmp_path / "b").write()
    (script,) = (URUNC.parent.parent / "lib/urunc").glob("*/launch")
    for program in (URUNC, script):
        config = tmp_path / "config.toml"
        config.write_text(f'[ordinary]\nruntime = "{program}"\n')
        words = ["--config", str(config), "create", "--bundle", str(bundle), urunc.new_id()]
        done = urunc(*words, check=False)
        assert done.returncode and f"ordinary runtime '{program}': is urunc itself" in done.stderr
