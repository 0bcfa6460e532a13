# SPDX-License-Identifier: Apache-2.0
"""`urunc install` for the engines of one machine: Docker and Podman know urunc afterwards, run it,
and have their files back in the end. Docker gets it from the tarball, Podman from the wheel."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

from lib import busybox
from lib.images import archive
from lib.packages import package
from lib.places.docker import Docker
from lib.places.engine import ENVIRONMENT, Engine
from lib.places.podman import Podman
from lib.support import URUNC, need

DROP_IN = "/etc/containers/containers.conf.d/urunc.conf"


class BareDocker(Docker):
    """A Docker that does not know urunc yet."""

    def files(self) -> dict[str, str]:
        files = super().files()
        daemon = json.loads(files["docker/daemon.json"])
        daemon["runtimes"] = {"other": {"path": "/usr/sbin/runc"}}
        return files | {"docker/daemon.json": json.dumps(daemon, indent=4) + "\n"}


class Packed:
    """What a package brings, on the place's machine, with a PREFIX of the place's own."""

    def __init__(self, place: Engine, *command: str, **environment: str) -> None:
        self.place = place
        pairs = [f"{name}={value}" for name, value in (ENVIRONMENT | environment).items()]
        self.command = ("env", *pairs, *command)

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run it with these words, and the PREFIX."""
        prefix = ("--prefix", f"{self.place.space}/prefix")
        return self.place.run(*self.command, *words, *prefix, check=check)

    def uninstall(self, *words: str) -> str:
        """Run the urunc that is installed: what it says."""
        return self.place.run(f"{self.place.space}/prefix/bin/urunc", "uninstall", *words).stdout


def read(place: Engine, path: str) -> str:
    return place.run("cat", path, check=False).stdout


def test_docker(tmp_path: pathlib.Path) -> None:
    need("root", "installed", "docker")
    subprocess.run(["tar", "-C", tmp_path, "-xzf", package("tarball")], check=True)
    (directory,) = tmp_path.iterdir()
    with BareDocker(str(URUNC)) as docker:
        install = Packed(docker, str(directory / "install"))
        words = ("--socket", f"{docker.space}/docker.sock", "docker")
        before = read(docker, "/etc/docker/daemon.json")
        assert install("--check", *words, check=False).returncode == 1
        said = install("--dry-run", *words).stdout
        assert '+        "urunc"' in said and "nothing was changed" in said
        assert read(docker, "/etc/docker/daemon.json") == before

        said = install(*words).stdout
        assert "it reads its configuration again" in said and "docker is well" in said
        assert said.endswith("to use it: docker run --rm --runtime urunc IMAGE\n")
        image = archive(tmp_path / "box.tar", "box", busybox.files("echo"), ["/bin/echo", "ran"])
        docker("load", "--input", str(image))
        asked = ("run", "--rm", "--network", "none", "--runtime", "urunc", "box")
        assert docker(*asked).stdout == "ran\n"
        assert "was installed already" in install(*words).stdout
        said = install("--check", *words).stdout
        assert f"ok   configuration: docker: {docker.space}/prefix/bin/urunc" in said

        assert "is uninstalled" in install.uninstall(*words)
        assert read(docker, "/etc/docker/daemon.json") == before
        assert "urunc" not in docker("info", "--format", "{{json .Runtimes}}").stdout
        assert docker.run("ls", f"{docker.space}/prefix", check=False).stdout == ""


class BarePodman(Podman):
    """A Podman that does not know urunc yet, and one runtime more."""

    def files(self) -> dict[str, str]:
        files = super().files()
        conf = files["containers/containers.conf"].replace("urunc", "somebody")
        return files | {"containers/containers.conf": conf}


def test_podman_and_another(tmp_path: pathlib.Path) -> None:
    """urunc's own files stay as long as one engine knows it."""
    need("root", "installed", "podman", "docker")
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*words, str(tmp_path), str(package("wheel"))], check=True)
    with BarePodman(str(URUNC)) as podman:
        command = (sys.executable, "-m", "urunc", "install")
        install = Packed(podman, *command, PYTHONPATH=str(tmp_path))
        assert podman("run", "--rm", "--runtime", "urunc", "x", check=False).returncode
        assert "/bin/urunc" in install("podman").stdout
        info = podman("--runtime", "urunc", "info", "--format", "{{.Host.OCIRuntime.Path}}").stdout
        assert info.strip() == f"{podman.space}/prefix/bin/urunc"
        assert '"somebody", "urunc"' in read(podman, DROP_IN)
        assert "takes this at its next start" in install("docker").stdout
        assert json.loads(read(podman, "/etc/docker/daemon.json"))["runtimes"].keys() == {"urunc"}
        said = install.uninstall("podman")
        assert "podman has no urunc any more; docker still has" in said
        assert read(podman, DROP_IN) == ""
        podman.run("test", "-x", f"{podman.space}/prefix/bin/urunc")
        assert "is uninstalled" in install.uninstall("docker")
        assert podman.run("ls", f"{podman.space}/prefix", check=False).stdout == ""
        assert "podman has no shims" in install("--shim", "podman", check=False).stderr
