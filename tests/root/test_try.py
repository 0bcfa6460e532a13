# SPDX-License-Identifier: Apache-2.0
"""`urunc try` as a program: each kind of subject, its network and ports, each way to its end, and
what stands in its way."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from lib import busybox
from lib.patience import patient, until
from lib.support import PARTS, URUNC, Urunc, need

PVH = str(PARTS / "probe.pvh")
SPT = str(PARTS / "probe-bare.spt")


class Tried:
    """A running `urunc try`."""

    def __init__(self, urunc: Urunc, directory: pathlib.Path, *words: str) -> None:
        self.said = directory / "said"
        self.shown = directory / "shown"
        with self.said.open("wb") as err, self.shown.open("wb") as out:
            self.process = subprocess.Popen(
                urunc.command("try", *words), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=os.environ | {"TMPDIR": str(directory)}, start_new_session=True,
            )  # fmt: skip

    def until_said(self, text: str) -> str:
        """Wait for a text on either stream; both of them."""

        def look() -> str:
            found: str = self.said.read_text() + self.shown.read_text(errors="replace")
            ended = self.process.poll() is not None
            assert text in found or not ended, found
            return found if text in found else ""

        return until(look, f"no {text!r}", 60)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(patient(60))


def left(directory: pathlib.Path) -> list[str]:
    """What a `try` with this TMPDIR may have left, in the network namespace, too."""
    found = [str(path) for path in directory.iterdir() if path.name.startswith("urunc-try-")]
    found += [name for name in os.listdir("/sys/class/net") if name.startswith("utry")]
    if shutil.which("nft"):
        rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True)
        found += [line for line in rules.stdout.splitlines() if "utry" in line]
    return found


@pytest.fixture
def place(tmp_path: pathlib.Path, urunc: Urunc) -> Iterator[pathlib.Path]:
    """A directory for files, which nothing may stay in."""
    forwarding = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
    directory = tmp_path / "place"
    directory.mkdir()
    before = forwarding.read_text()
    yield directory
    until(lambda: not left(directory), "something is left", 10)
    assert not urunc.root.exists() or not list(urunc.root.iterdir())
    until(lambda: forwarding.read_text() == before, "forwarding is another")


def page(address: str, port: int, path: str = "/") -> str:
    """A page of the probe's."""
    connection = http.client.HTTPConnection(address, port, timeout=patient(30))
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def test_ports(urunc: Urunc, place: pathlib.Path) -> None:
    """TCP and UDP, by IPv4 and IPv6, at a free port; a client may come before the guest does."""
    need("root", "tun", "qemu", "probe")
    tried = Tried(
        urunc, place, "-p", "80", "-p", "7/udp", "--guest", "unikraft", PVH,
        "--", "app", "probe.serve", "probe.http", "probe.page=here",
    )  # fmt: skip
    said = tried.until_said("/udp -> port 7")
    port = int(said.partition("http://127.0.0.1:")[2].partition(" ")[0])
    assert page("127.0.0.1", port) == "here\n"
    assert page("::1", port) == "here\n"
    tried.until_said(f"the guest answers at http://127.0.0.1:{port}")
    udp = int(said.partition("/udp ->")[0].rpartition(":")[2])
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(patient(10))
            client.sendto(b"echo", (address, udp))
            assert client.recv(100) == b"echo"
    assert left(place)  # the test can fail
    assert page("127.0.0.1", port, "/quit/7") == "here\n"
    assert tried.wait() == 0  # QEMU's: a guest has no word in it
    assert '"event":"exit","code":7' in tried.shown.read_text()


def test_two_at_once(urunc: Urunc, place: pathlib.Path) -> None:
    """Forwarding is on until the second has ended, whichever has switched it on."""
    need("root", "tun", "nft", "solo5", "probe")
    running = []
    for name in ("first", "second"):
        (place / name).mkdir()
        words = ("--guest", "rumprun", SPT, "--", "app", "probe.hang")
        running.append(Tried(urunc, place / name, *words))
        running[-1].until_said("app probe.hang")
    for tried in running:
        assert pathlib.Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        tried.process.terminate()
        assert tried.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ends(urunc: Urunc, place: pathlib.Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM, and even SIGKILL leave nothing."""
    need("root", "tun", "solo5", "probe")
    tried = Tried(urunc, place, "--guest", "rumprun", SPT, "--", "app", "probe.hang")
    tried.until_said("app probe.hang")
    assert left(place)
    os.kill(tried.process.pid, number)
    assert tried.wait()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The probe as an image of each kind."""
    need("solo5", "probe")
    directory = tmp_path_factory.mktemp("images")
    for output in (f"oci:{directory}/layout", f"archive:{directory}/archive.tar"):
        words = ("--name", "hello", "--kernel", SPT, "--guest", "rumprun", "--", "app", "kind")
        subprocess.run([URUNC, "image", "build", "--output", output, *words], check=True)
    folder = directory / "folder"
    folder.mkdir()
    shutil.copy(SPT, folder / "unikernel")
    return directory


def test_a_disk(urunc: Urunc, place: pathlib.Path) -> None:
    """A kernel that declares one gets it, and a copy at that; its network is there, too."""
    need("root", "tun", "solo5", "probe")
    disk = place / "disk"
    disk.write_bytes(bytes(1 << 20))
    done = urunc("try", "--block", str(disk), str(PARTS / "probe.spt"), TMPDIR=str(place))
    assert "kernel: rumprun on spt" in done.stderr
    lacking = urunc("try", str(PARTS / "probe.spt"), check=False, TMPDIR=str(place))
    assert "declares the block devices 'rootfs', but 0 given" in lacking.stderr


def test_a_registry(urunc: Urunc, place: pathlib.Path, registry: str) -> None:
    """By its reference, as an engine would take it."""
    need("root", "solo5", "probe")
    reference = f"{registry}/hello:1"
    words = ("--kernel", SPT, "--guest", "rumprun", "--name", "hello", "--", "app", "pulled")
    built = ("image", "build", "--output", f"docker://{reference}", *words)
    subprocess.run([URUNC, *built], check=True)
    done = urunc("try", "--net", "none", reference, TMPDIR=str(place))
    assert "app pulled" in done.stdout
    nobody = urunc("try", f"{registry}/nobody:1", check=False, TMPDIR=str(place))
    assert nobody.returncode == 1
    assert "manifest unknown" in nobody.stderr


@pytest.mark.parametrize("kind", ["layout", "archive.tar", "folder", "kernel", "skopeo"])
def test_kinds(urunc: Urunc, place: pathlib.Path, images: pathlib.Path, kind: str) -> None:
    """What is tried comes as any of these; its own command, or ours."""
    need("root")
    words = ["--guest", "rumprun"] if kind in ("folder", "kernel") else []
    subject = SPT if kind == "kernel" else str(images / kind)
    if kind == "skopeo":
        need("skopeo")
        subject = f"oci-archive:{images}/archive.tar:hello"
    command = [] if kind == "layout" else ["--", "app", "kind"]
    done = urunc("try", "--net", "none", *words, subject, *command, TMPDIR=str(place))
    assert "app kind" in done.stdout
    assert "rumprun on spt" in done.stderr


def test_an_ordinary_image(urunc: Urunc, place: pathlib.Path) -> None:
    """A static program alone is run by Linux, emulated where KVM cannot, with a volume, variables,
    memory, CPUs, and its exit code."""
    need("root", "tun", "qemu", "linux", "busybox")
    linux = PARTS / "linux"
    with urunc.config.open("a") as file:
        file.write(f'[guests.linux]\nkernel = "{linux}/vmlinuz"\nmodules = "{linux}/lib-modules"\n')
    volume = place / "volume"
    volume.mkdir()
    (volume / "note").write_text("from the host")
    script = "cat /v/note; echo >/v/x; echo $A; nproc; grep MemTotal /proc/meminfo; exit 5"
    done = urunc(
        "try", "-v", f"{volume}:/v:ro", "-e", "A=given", "-m", "160m", "--cpus", "2",
        str(busybox.BUSYBOX), "--", "sh", "-c", script,
        check=False, TMPDIR=str(place),
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("from the hostgiven\n2\nMemTotal:")
    assert int(done.stdout.split()[-2]) < 160 << 10
    assert list(volume.iterdir()) == [volume / "note"]


CASES = {
    "no such file": (["./nothing"], "read './nothing': no such file or directory"),
    "a text": (["TEXT"], "TEXT': not an archive"),
    "another machine's": (["FOREIGN"], "built for aarch64"),
    "an unknown framework": ([PVH], "its framework cannot be told from the file (say --guest"),
    "an unknown guest": (["--guest", "x", PVH], "guest 'x': unknown (known: linux"),
    "an unknown monitor": (["--monitor", "x", PVH], "monitor 'x': unknown (known: "),
    "another monitor's kernel": (
        ["--monitor", "qemu", "--guest", "rumprun", SPT],
        "rumprun does not run on it",
    ),
    "a bundle": (["BUNDLE"], "a bundle, which has its own config.json (urunc run --bundle"),
    "an empty folder": (["EMPTY"], "EMPTY': holds no files"),
    "a dynamic program": (["/bin/sh"], "needs libraries"),
    "no command": (["FOLDER"], "names no command (say which: urunc try"),
    "nothing at all": ([], "an image, a folder or a kernel missing"),
    "no port": (["-p", "80:x", PVH], "'80:x': 'x' is no port"),
    "no address": (["-p", "localhost:80:80", PVH], "'localhost' is no address"),
    "a port of nobody's": (["-p", "192.0.2.1:80:80", PVH], "cannot assign requested address"),
    "a port in use": (["-p", "USED:80", PVH], "address already in use (choose another"),
    "ports without a network": (["--net", "none", "-p", "80", PVH], "not together with"),
    "no volume": (["-v", "/nothing:/x", "--guest", "unikraft", PVH], "'/nothing': no such file"),
    "no variable": (["-e", "A", "--guest", "unikraft", PVH], "'A' is not NAME=VALUE"),
    "no memory": (["-m", "64", "--guest", "unikraft", PVH], "'64' is no size (for example 64m"),
    "no CPU": (["--cpus", "0", "--guest", "unikraft", PVH], "'0' is no number above zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong(urunc: Urunc, place: pathlib.Path, case: str) -> None:
    """Says what and what to do, and leaves nothing."""
    need("root", "qemu", "probe")
    (place / "TEXT").write_text("no image\n" * 100)
    kernel = bytearray(pathlib.Path(PVH).read_bytes())
    kernel[18:20] = (183).to_bytes(2, "little")  # e_machine: EM_AARCH64
    (place / "FOREIGN").write_bytes(kernel)
    (place / "BUNDLE").mkdir()
    (place / "BUNDLE/config.json").write_text("{}")
    (place / "EMPTY").mkdir()
    (place / "FOLDER").mkdir()
    (place / "FOLDER/a").write_text("a")
    (place / "FOLDER/b").write_text("b")
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        number = str(used.getsockname()[1])
        words = [
            str(place / word) if (place / word).exists() else word.replace("USED", number)
            for word in CASES[case][0]
        ]
        done = urunc("try", *words, check=False, TMPDIR=str(place))
    assert done.returncode
    assert CASES[case][1] in done.stderr


def test_no_skopeo(urunc: Urunc, place: pathlib.Path) -> None:
    """A reference takes it."""
    done = urunc("try", "registry.invalid/x", check=False, PATH=str(place), TMPDIR=str(place))
    assert "skopeo is not installed" in done.stderr
    assert "apt-get install skopeo" in done.stderr


def test_no_monitor(urunc: Urunc, place: pathlib.Path) -> None:
    """Says which one is missing."""
    need("probe")
    done = urunc("try", "--guest", "unikraft", PVH, check=False, PATH=str(place), TMPDIR=str(place))
    assert "'qemu-system-x86_64' is not installed (apt-get install qemu-system-x86" in done.stderr
