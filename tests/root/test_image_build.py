# SPDX-License-Identifier: Apache-2.0
"""`urunc image build` as a program: a container of what it makes, engines and a registry that take
it, an ordinary user, a full disk, and a build that is killed."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from lib.patience import patient, until
from lib.support import PARTS, URUNC, Bundle, Urunc, need

HELLO = ("--kernel", str(PARTS / "probe-bare.spt"), "--guest", "rumprun", "--name", "hello")


def image(*words: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `urunc image`."""
    done = subprocess.run(
        [str(URUNC), "image", *words], capture_output=True, text=True, check=False,
        env=os.environ | more, timeout=patient(60),
    )  # fmt: skip
    assert not check or not done.returncode, done.stderr
    return done


def test_a_container_of_an_image(urunc: Urunc, tmp_path: pathlib.Path) -> None:
    """From a kernel alone to a guest that runs, by the files of the image and no annotation."""
    need("solo5", "probe")
    layout = tmp_path / "image"
    image("build", "--output", f"oci:{layout}", *HELLO, "--", "probe.hang")
    assert "spt" in image("inspect", str(layout)).stdout
    bundle = Bundle(tmp_path / "b")
    for blob in (layout / "blobs/sha256").iterdir():
        if not blob.read_bytes().startswith(b"{"):
            subprocess.run(["tar", "-xf", blob, "-C", bundle.root], check=True)
    bundle.args("probe.hang")
    container = urunc.create(bundle)
    container.start()
    assert container.plan()["guest"] == "rumprun"
    urunc("kill", container.id, "KILL")
    container.wait_stopped()
    container.delete()


def test_a_registry(registry: str) -> None:
    """It takes an image, and has it by the digest that was printed."""
    need("probe")
    reference = f"docker://{registry}/hello:1"
    said = image("build", "--output", reference, *HELLO, "--", "/hello").stdout
    raw = ["skopeo", "inspect", "--raw", "--tls-verify=false", reference]
    content = subprocess.run(raw, check=True, capture_output=True).stdout
    assert said.startswith(f"sha256:{hashlib.sha256(content).hexdigest()} ")
    found = json.loads(content)
    assert found["annotations"]["com.urunc.unikernel.hypervisor"] == "spt"
    wrong = image("build", "--output", "docker://127.0.0.1:1/hello", *HELLO, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1 and "connection refused" in wrong.stderr


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_what_others_read(transport: str, tmp_path: pathlib.Path) -> None:
    """One archive, which is docker save's and an OCI archive."""
    need("skopeo", "probe")
    image("build", "--output", f"archive:{tmp_path}/a.tar", *HELLO, "--", "/hello", "-v")
    words = ["skopeo", "inspect", "--config", f"{transport}:{tmp_path}/a.tar"]
    found = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    assert found["config"]["Cmd"] == ["/hello", "-v"]


def test_an_ordinary_user(tmp_path: pathlib.Path) -> None:
    """The same bytes as root's."""
    need("root", "probe")
    tmp_path.chmod(0o777)
    for above in tmp_path.parents:
        if above != pathlib.Path("/tmp") and above.owner() == "root" and len(above.parts) > 2:
            above.chmod(0o755)
    image("build", "--output", f"archive:{tmp_path}/root.tar", *HELLO)
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words += [str(URUNC), "image", "build"]
    subprocess.run([*words, "--output", f"archive:{tmp_path}/user.tar", *HELLO], check=True)
    assert (tmp_path / "root.tar").read_bytes() == (tmp_path / "user.tar").read_bytes()


@pytest.mark.parametrize("target", ["archive:out.tar", "oci:out"])
def test_a_full_disk(target: str, tmp_path: pathlib.Path) -> None:
    need("root", "probe")
    kind, _, name = target.partition(":")
    (tmp_path / "disk").mkdir()
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    script = (
        'mount -t tmpfs -o size=1m full "$1" && shift && cd "$1" && shift && "$@"; code=$?; '
        "ls -A; exit $code"
    )
    words = [str(URUNC), "image", "build", "--output", f"{kind}:{name}", *HELLO]
    words += ["--file", f"{tmp_path}/big:/big"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *[tmp_path / "disk"] * 2, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "no space left on device" in done.stderr and "df shows" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_build(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    """At any time: neither a part nor a temporary name is left."""
    need("probe")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(4 << 30)
    out = tmp_path / "out"
    out.mkdir()
    # a shell's background job ignores SIGINT, and so may whoever runs the tests
    words = ["env", "--default-signal=INT", str(URUNC), "image", "build"]
    words += ["--output", f"archive:{out}/a.tar", *HELLO]
    process = subprocess.Popen([*words, "--file", f"{tmp_path}/big:/big"], stderr=subprocess.PIPE)
    try:
        descriptors = pathlib.Path(f"/proc/{process.pid}/fd")
        until(lambda: any("#" in _link(fd) for fd in descriptors.iterdir()), "it writes")
        time.sleep(0.05)
    finally:
        process.send_signal(number)
        _, said = process.communicate(timeout=patient(20))
    assert process.returncode in (-number, 130), said
    assert list(out.iterdir()) == []


def _link(path: pathlib.Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
