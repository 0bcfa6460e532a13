# SPDX-License-Identifier: Apache-2.0
"""Other machines: root filesystems of other distributions by debootstrap(8), fresh as an installer
leaves them, with a copy of this project in /srv/urunc. world.py's --root runs commands in one.

Packages come from the archive that this machine's apt uses, by the same proxies, and are kept
beside the trees, so each is downloaded once. What debootstrap itself has made is kept too; a
machine is a copy of it. Needs root and the package debootstrap. Standard library only: it runs
before anything is built.

`python3 debian.py NAME COMMAND…` runs a command in a machine that `make machines` has made.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent
WORLD = pathlib.Path(__file__).resolve().parent / "world.py"
HERE = pathlib.Path(os.environ.get("URUNC_TEST_MACHINES", PROJECT / "build/machines"))
"""The cache: FAMILY-debs/ (packages), NAME-base/ (what debootstrap makes), NAME/ (a machine)."""
INSIDE = "/srv/urunc"
TOOLS = pathlib.Path(os.environ.get("URUNC_TEST_TOOLS", PROJECT / "build/tools"))
"""What `make tools` has built, for which a machine would need Go: it is shown in each."""
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
THEIRS = "/usr/local/share/machines-certificates"
"""Where a machine sees them: those who sign for PyPI here may be none of its own."""
SCRIPTS = pathlib.Path("/usr/share/debootstrap/scripts")


class Family(NamedTuple):
    """A distribution's archive."""

    keyring: str
    package: str
    """That has the keyring, in a newer Debian than this machine may be."""
    script: str
    """debootstrap's for suites newer than it."""
    components: str
    others: tuple[str, ...]
    """Suites beside the release's own: of the same archive, or `NAME@ANOTHER`."""


FAMILIES = {
    "debian": Family(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "sid",
        "main",
        ("{}-updates", "{}-security@debian-security"),
    ),
    "ubuntu": Family(
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "ubuntu-keyring",
        "gutsy",
        "main,universe",
        ("{}-updates", "{}-security"),
    ),
}
SUITES = {
    "debian-12": ("debian", "bookworm"),
    "debian-13": ("debian", "trixie"),
    "debian-sid": ("debian", "sid"),
    "ubuntu-24.04": ("ubuntu", "noble"),
    "ubuntu-26.04": ("ubuntu", "resolute"),
}
"""The machines: their family and the name of their suite."""


class Unavailable(Exception):
    """A machine that cannot be made here, and why."""


def _said(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout


def _archive(name: str) -> str:
    """The archive of that name that this machine's apt has, "" for none: debootstrap knows one of
    each family."""
    for line in _said("apt-get", "indextargets", "--format", "$(REPO_URI)").splitlines():
        if line.rstrip("/").endswith(f"/{name}"):
            return line.rstrip("/")
    return ""


def _apt_settings() -> str:
    """What this machine's apt is told of proxies, certificates and old lists."""
    wanted = ("proxy", "check-", "https::", "cert")
    lines = _said("apt-config", "dump", "Acquire").splitlines()
    kept = [line for line in lines if any(word in line.lower() for word in wanted)]
    return "\n".join([*kept, 'APT::Install-Recommends "false";', 'Acquire::Languages "none";', ""])


def _keyring(about: Family) -> str:
    """The keyring of a package that a tree of Debian's newest is asked for, whose apt has checked
    it. Raises Unavailable."""
    kept = HERE / os.path.basename(about.keyring)
    if kept.exists():
        return str(kept)
    name = "debian-sid"
    debs = HERE / "debian-debs"
    if not (HERE / f"{name}-base").exists():
        debs.mkdir(parents=True, exist_ok=True)
        _bootstrap(name, HERE / f"{name}-base", debs)
    script = f"""cd /tmp && apt-get update -qq && apt-get download -qq {about.package} &&
        dpkg-deb -x {about.package}_*.deb keys && cat keys{about.keyring}"""
    world = [sys.executable, str(WORLD), "--root", str(HERE / f"{name}-base"), "--"]
    found = subprocess.run([*world, "sh", "-c", script], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, check=False)  # fmt: skip
    if found.returncode or not found.stdout:
        raise Unavailable(f"no {about.keyring}, and no package {about.package} in {name}")
    kept.write_bytes(found.stdout)
    return str(kept)


def _bootstrap(name: str, base: pathlib.Path, debs: pathlib.Path) -> None:
    """Make a minimal system. Raises Unavailable."""
    family, suite = SUITES[name]
    about = FAMILIES[family]
    if not shutil.which("debootstrap"):
        raise Unavailable("there is no debootstrap")
    keyring = about.keyring if os.path.exists(about.keyring) else _keyring(about)
    new = base.with_name(base.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    known = pathlib.Path("/usr/share/debootstrap/scripts", suite).exists()
    script = (
        []
        if known
        else [f"/usr/share/debootstrap/scripts/{'sid' if family == 'debian' else 'gutsy'}"]
    )
    words = ["debootstrap", "--variant=minbase", f"--keyring={keyring}",
             f"--components={about.components}", f"--cache-dir={debs}", suite, str(new),
             _archive(family), *script]  # fmt: skip
    log = HERE / f"{name}.debootstrap.log"
    with log.open("wb") as out:
        failed = subprocess.run(words, stdout=out, stderr=out, check=False).returncode
    if failed:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        raise Unavailable(f"debootstrap: {last} (all of it: {log})")
    _settle(new, family, suite)
    new.rename(base)


def _settle(tree: pathlib.Path, family: str, suite: str) -> None:
    """What an installer writes: where packages come from, no services started in a chroot."""
    about = FAMILIES[family]
    sources = tree / "etc/apt/sources.list"
    lines = [sources.read_text().splitlines()[0]]
    _, archive, _, *components = lines[0].split()
    for other in () if suite == "sid" else about.others:
        named, _, elsewhere = other.format(suite).partition("@")
        where = _archive(elsewhere) if elsewhere else archive
        lines += [" ".join(("deb", where, named, *components))] if where else []
    sources.write_text("\n".join(lines) + "\n")
    (tree / "etc/apt/apt.conf.d/90machines").write_text(_apt_settings())
    lean = "path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\nforce-unsafe-io\n"
    (tree / "etc/dpkg/dpkg.cfg.d/machines").write_text(lean)
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def _copy_project(target: pathlib.Path) -> None:
    """A clone's files as they are here: those that git knows, and new ones; without git, all that
    is not built."""
    git = ["git", "-c", f"safe.directory={PROJECT}", "-C", str(PROJECT)]
    listed = b""
    if shutil.which("git"):
        words = [*git, "ls-files", "-coz", "--exclude-standard"]
        listed = subprocess.run(words, stdout=subprocess.PIPE, check=False).stdout
    there = [name for name in listed.split(b"\0") if name]
    kept = [name for name in there if os.path.lexists(PROJECT / os.fsdecode(name))]
    pack = ["tar", "-C", str(PROJECT), "-c"]
    if kept:
        pack += ["--null", "--no-recursion", "-T", "-"]
    else:
        pack += [f"--exclude=./{name}" for name in ("build", ".venv", ".git")] + ["."]
    target.mkdir(parents=True)
    packed = subprocess.run(pack, input=b"\0".join(kept), capture_output=True, check=True)
    subprocess.run(["tar", "-C", str(target), "-x"], input=packed.stdout, check=True)


def fresh(name: str) -> pathlib.Path:
    """Make a machine anew, as its distribution is when it has just been installed: the path of its
    tree. Raises Unavailable."""
    family, _ = SUITES[name]
    base, tree = HERE / f"{name}-base", HERE / name
    debs = HERE / f"{family}-debs"
    debs.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        _bootstrap(name, base, debs)
    if tree.exists():
        shutil.rmtree(tree)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(tree)], check=True)
    shutil.copyfile("/etc/resolv.conf", tree / "etc/resolv.conf")
    _copy_project(pathlib.Path(f"{tree}{INSIDE}"))
    return tree


def command(name: str, *words: str) -> list[str]:
    """A command line that runs another in a machine, in the project's directory there."""
    family, _ = SUITES[name]
    binds = [f"{HERE}/{family}-debs:/var/cache/apt/archives"]
    if os.path.exists(CERTIFICATES):
        binds.append(f"{CERTIFICATES}:{THEIRS}")
    if TOOLS.is_dir():
        binds.append(f"{TOOLS}:{INSIDE}/build/tools")
    world = [sys.executable, str(WORLD), "--with-parent", "--root", str(HERE / name)]
    for bind in binds:
        world += ["--bind", bind]
    inside = ["env", f"--chdir={INSIDE}", "-i", *_environment(), *words]
    return [*world, "--", *inside]


def _environment() -> list[str]:
    """What a login has, and what this machine says of proxies, of PyPI and of the tests."""
    settings = ["HOME=/root", "USER=root", "LANG=C.UTF-8"]
    settings += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") or name.startswith(("PIP_INDEX", "PIP_TRUSTED")):
            settings.append(f"{name}={value}")
        if name in ("CI", "URUNC_TEST_REQUIRE", "URUNC_TEST_WORKERS", "URUNC_TEST_PATIENCE"):
            settings.append(f"{name}={value}")
    if os.path.exists(CERTIFICATES):
        settings.append(f"PIP_CERT={THEIRS}")
    return settings


if __name__ == "__main__":
    sys.exit(subprocess.run(command(sys.argv[1], *sys.argv[2:])).returncode)
