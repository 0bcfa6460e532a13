# SPDX-License-Identifier: Apache-2.0
"""What CRI-O calls in a pod's life, itself and by conmon, in its words (CRI-O's runtime_oci.go,
conmon's conmon.c). CRI-O itself is not in the distribution that the tests run on."""

from __future__ import annotations

import json
import pathlib
import subprocess

from lib.patience import patient
from lib.support import URUNC, Bundle, Container, Urunc, need, nothing_left


def test_before_any_container() -> None:
    """The version's words, and the features, where both streams are read as one."""
    need("installed")
    version = subprocess.run([URUNC, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.split()[:2] == ["urunc", "version"]
    features = subprocess.run(
        [URUNC, "features"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    found = json.loads(features.stdout)
    assert found["ociVersionMin"] <= "1.0.2" <= found["ociVersionMax"]


def test_a_container(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    need("root", "tun", "installed")
    root, identifier = f"--root={urunc.root}", urunc.new_id()
    pid_file, console = tmp_path / "pidfile", tmp_path / "console"

    def call(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [URUNC, root, *words], input=stdin, capture_output=True, text=True, timeout=patient(60)
        )

    with nothing_left(urunc.root):
        words = ("create", "--bundle", str(bundle.write()), "--pid-file", str(pid_file), identifier)
        with console.open("w") as out:  # conmon's pipes, which the monitor keeps
            subprocess.run(
                [URUNC, root, *words], stdout=out, stderr=out, check=True, timeout=patient(60)
            )
        assert call("start", identifier).returncode == 0
        container = Container(urunc, identifier, console)
        state = json.loads(call("state", identifier).stdout)
        assert (state["status"], state["pid"]) == ("running", int(pid_file.read_text()))
        assert state["bundle"] == str(bundle.path)
        limits = json.dumps({"cpu": {"shares": 200}, "pids": {"limit": 40}})
        assert call("update", "--resources", "-", identifier, stdin=limits).returncode == 0
        for verb, status in (("pause", "paused"), ("resume", "running")):
            assert call(verb, identifier).returncode == 0
            assert json.loads(call("state", identifier).stdout)["status"] == status
        spec = tmp_path / "process.json"
        spec.write_text(json.dumps({"args": ["sh"], "cwd": "/"}))
        given = ("--pid-file", str(tmp_path / "exec"), "--process", str(spec), "--detach")
        refused = call("exec", *given, identifier)
        assert refused.returncode == 255
        assert "a unikernel has no processes" in refused.stderr
        assert call("kill", identifier, "15").returncode == 0
        container.wait_stopped()
        assert call("kill", identifier, "KILL").returncode != 0
        assert call("delete", "--force", identifier).returncode == 0
        gone = call("state", identifier)
        assert gone.returncode == 1
        assert "does not exist" in gone.stderr
