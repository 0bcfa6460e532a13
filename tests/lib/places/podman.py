# SPDX-License-Identifier: Apache-2.0
"""Podman to run guests with: Debian's podman and conmon, netavark and aardvark-dns for its
networks, with runc (for ordinary containers) and urunc as runtimes.

There is no daemon: a place where its files are, and where conmon and aardvark-dns go on. Everything
that it keeps is in the place's tmpfs. Images come by `podman load`: it has no network but its own
bridges. Needs root, and the packages podman, conmon, netavark, aardvark-dns and iptables.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shutil
import subprocess

from lib.places.engine import Engine
from lib.places.rootless import SUBORDINATE, USER

PODMAN = "/usr/bin/podman"
HELPERS = "/usr/lib/podman"
MORE_HELPERS = "/usr/libexec/podman"
"""Where rootlessport is from Podman 5 on."""
PROGRAMS = (
    PODMAN,
    "/usr/bin/conmon",
    f"{HELPERS}/netavark",
    f"{HELPERS}/aardvark-dns",
    "/usr/sbin/iptables",
    "/usr/sbin/runc",
)
USER_DIRECTORY = f"/run/user/{USER}"
QUIET = "PODMAN_IGNORE_CGROUPSV1_WARNING=1"
"""Podman 5 says with each command that v1 is going."""


@functools.cache
def version() -> tuple[int, ...]:
    """Podman's: (5, 4, 2)."""
    said = subprocess.run([PODMAN, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", said)[:3]))


def available() -> bool:
    """Whether this machine has the programs and this process the rights."""
    return os.geteuid() == 0 and all(map(os.path.exists, PROGRAMS))


class Podman(Engine):
    """The place: `with Podman(urunc) as podman: podman("run", "--runtime", "urunc", IMAGE)`."""

    gateway_form = "{{(index .Subnets 0).Gateway}}"
    own_init = ("--init-path", "/usr/bin/docker-init")
    removal = ("rm", "--force", "--time", "0")
    states = ("/run/runc/*", "/run/urunc/*")
    driver = "overlay"
    """Of containers' root filesystems."""

    def command(self, *words: str) -> list[str]:
        verb, *others = words
        if verb in ("run", "create"):
            others = ["--cgroup-parent", f"/{self.group}", *others]
        # a runtime's name counts for the container's whole life, --runtime-flag for this command
        # alone: so urunc's configuration is where it looks for it
        # conmon writes files where it is started
        return ["env", f"--chdir={self.space}", QUIET, PODMAN, verb, *others]

    def is_up(self) -> bool:
        return True

    def settings(self, engine: str = "", more: str = "") -> str:
        """The content of containers.conf(5), with further lines of its table `engine` and further
        tables."""
        # default_ulimits: the defaults are above what may be set without CAP_SYS_RESOURCE
        return f"""
            [containers]
            default_ulimits = []
            [engine]
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            helper_binaries_dir = ["{HELPERS}", "{MORE_HELPERS}", "/usr/bin"]
            runtime = "runc"
            runtime_supports_json = ["runc", "urunc"]
            {engine}
            [engine.runtimes]
            runc = ["/usr/sbin/runc"]
            urunc = ["{self.runtime}"]
            {more}
        """

    def files(self) -> dict[str, str]:
        space = self.space
        containers = self.settings(
            engine=f"""
            static_dir = "{space}/storage/libpod"
            tmp_dir = "/run/libpod"
            volume_path = "{space}/volumes"
            """,
            more=f"""
            [network]
            network_backend = "netavark"
            network_config_dir = "{space}/networks"
            """,
        )
        storage = f"""
            [storage]
            driver = "{self.driver}"
            graphroot = "{space}/storage"
            runroot = "/run/containers/storage"
        """
        return {
            "containers/containers.conf": containers,
            "containers/storage.conf": storage,
        }


class RootlessPodman(Podman):
    """Podman as an ordinary user of the place runs it, with slirp4netns for networks. The user has
    subordinate ids, a /dev/net/tun that is open to all, and no control group."""

    states = (f"{USER_DIRECTORY}/urunc/*", f"{USER_DIRECTORY}/urunc.d/users/*")
    driver = "vfs"
    following = ()  # in its user namespace is a process more, which would stay
    home = "/run/home"
    daemons = f"""
        echo guest:x:{USER}:{USER}::/run/home:/bin/sh >>/etc/passwd
        echo guest:x:{USER}: >>/etc/group
        echo guest:{SUBORDINATE[0]}:{SUBORDINATE[1]} | tee /etc/subuid >/etc/subgid
        mkdir -p {USER_DIRECTORY} /run/home
        chown {USER}:{USER} {USER_DIRECTORY} /run/home
        mknod -m 666 /run/tun c 10 200
        mount --bind /run/tun /dev/net/tun
    """

    def command(self, *words: str) -> list[str]:
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        places = [f"HOME={self.home}", f"XDG_RUNTIME_DIR={USER_DIRECTORY}", "USER=guest"]
        return [*user, "env", f"--chdir={self.home}", *places, QUIET, PODMAN, *words]

    def load(self, archive: pathlib.Path) -> None:
        """Load an image's archive, which may be in a directory that is closed to the user."""
        shutil.copyfile(archive, f"{self._root}{self.home}/image.tar")
        self("load", "--input", f"{self.home}/image.tar")

    def files(self) -> dict[str, str]:
        # from 5.0 on pasta is the default, and has to be named to be tested
        default = 'default_rootless_network_cmd = "slirp4netns"'
        containers = self.settings(more=f"[network]\n{default}" if version() >= (5,) else "")
        return {
            "containers/containers.conf": containers,
            "containers/storage.conf": f'[storage]\ndriver = "{self.driver}"\n',
        }
