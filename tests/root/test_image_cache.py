# SPDX-License-Identifier: Apache-2.0
"""The cache of images: what is left after a crash, on a full disk, by two at once, and after
`urunc cache prune`."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lib.patience import patient
from lib.places.layers import Place, contents
from lib.support import Urunc, need
from urunc.errors import HostError
from urunc.storage import cache, images
from urunc.storage.layers import identify

MIB = 1 << 20
PROGRAMS = os.environ["PATH"]
SOURCE = pathlib.Path(images.__file__).parent.parent.parent

# a create's part: the root filesystem, the cache, and a function to call instead of another
CREATE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from urunc.config import Config
from urunc.storage import build_image, cache, images
from urunc.storage.layers import identify
config = Config()
config.values["storage.cache"] = sys.argv[3]
def die(*args, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)
def then_die(function):
    def call(*args, **keywords):
        function(*args, **keywords)
        die()
    return call
{change}
images.obtain(identify(sys.argv[2]), "ext4", config)
"""
KILLS_CREATE = "kill -9 $(sed 's/.*) //' /proc/$PPID/stat | cut -d' ' -f2)\n"
REAL = 'exec {real} "$@"\n'
# where the builder is killed: (what of `create` is replaced, the program in place of mke2fs)
POINTS = {
    "before anything is made": ("cache.lock = die", ""),
    "with an empty file": ("build_image._construct = die", ""),
    "once there is a child": ("build_image.poll = die", ""),
    "as the program starts": ("", f"{KILLS_CREATE} sleep 0.3\n{REAL}"),
    "in the middle of the image": (
        "",
        'for t; do case $t in *.tmp) head -c 100000 /dev/urandom >"$t";; esac; done\n'
        f"{KILLS_CREATE} exec sleep 5\n",
    ),
    "after the program": ("", f'{{real}} "$@"\n{KILLS_CREATE} exec sleep 5\n'),
    "with a whole image": ("cache.commit = die", ""),
    "before it is on the disk": ("cache.posix.fsync = die", ""),
    "before its facts are written": ("cache.write_all = die", ""),
    "before it is renamed": ("cache.posix.rename = die", ""),
    "after it was renamed": ("cache.posix.rename = then_die(cache.posix.rename)", ""),
}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    need("root", "images")
    made = Place(tmp_path)
    yield made
    made.clean()


def program(place: Place, text: str, name: str = "mke2fs") -> dict[str, str]:
    """An environment with a program in place of a filesystem's own."""
    directory = place.directory("bin")
    (directory / name).write_text(
        "#!/bin/sh\n" + text.replace("{real}", str(shutil.which(name, path=PROGRAMS)))
    )
    (directory / name).chmod(0o755)
    (directory / "debugfs").unlink(missing_ok=True)
    (directory / "debugfs").symlink_to(str(shutil.which("debugfs", path=PROGRAMS)))
    return os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}


def create(
    place: Place, root: pathlib.Path, change: str = "", environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CREATE.format(change=change), SOURCE, root, place.cache]
    return subprocess.Popen(
        list(map(str, words)), env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("point", POINTS)
def test_a_builder_is_killed(place: Place, point: str) -> None:
    """The next create has the image, whole, and nothing else is left."""
    change, text = POINTS[point]
    layer = place.directory("layer", file="x" * 300_000)
    root = place.overlay("c", layer)
    environment = program(place, text) if text else None
    with create(place, root, change, environment) as process:
        process.wait(patient(30))
        assert process.stderr and process.stderr.read() == ""
    assert process.returncode == -9
    image = place.obtain(root)
    name = pathlib.Path(image.path).name
    assert place.files() == [name, f"{name}.json"]
    assert image.built == (point != "after it was renamed")
    assert contents(place.look(image)) == contents(layer)
    subprocess.run(["e2fsck", "-fn", image.path], check=True, capture_output=True)
    assert [entry.name for entry in cache.entries(str(place.cache))] == [name]


@pytest.mark.parametrize("whom", ("$PPID", "$$"))
def test_a_builders_child_is_killed(
    place: Place, monkeypatch: pytest.MonkeyPatch, whom: str
) -> None:
    """That is an error, and nothing is left."""
    root = place.overlay("c", place.directory("layer", file="x"))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", program(place, f"kill -9 {whom}; exec sleep 5\n")["PATH"])
        with pytest.raises(HostError, match=r"the builder died|mke2fs ended with -9"):
            place.obtain(root)
    assert place.files() == []
    assert place.obtain(root).built


def test_another_images_leftovers_go(place: Place) -> None:
    """Of a builder that is dead, but not of one that is alive."""
    one, two, three = (
        place.overlay(f"c{name}", place.directory(name, file=name)) for name in ("a", "b", "c")
    )
    with create(place, one, "cache.commit = die"):
        pass
    assert any(name.endswith(".tmp") for name in place.files())
    environment = program(place, f": >{place.path}/started; sleep 2\n{REAL}")
    with create(place, two, "", environment) as alive:
        while not (place.path / "started").exists() and alive.poll() is None:
            time.sleep(0.01)
        (living,) = (
            name
            for name in place.files()
            if name.endswith(".tmp") and (place.cache / name).stat().st_size == 0
        )
        place.obtain(three)
        assert [name for name in place.files() if name.endswith(".tmp")] == [living]
    assert alive.returncode == 0
    assert not place.obtain(two).built


def test_two_at_once_build_one(place: Place) -> None:
    root = place.overlay("c", place.directory("layer", file="x"))
    environment = program(place, f"echo >>{place.path}/runs; sleep 0.5\n{REAL}")
    both = [create(place, root, "", environment) for _ in range(3)]
    assert [process.wait(patient(30)) for process in both] == [0, 0, 0]
    for process in both:
        assert process.stderr
        process.stderr.close()
    assert (place.path / "runs").read_text() == "\n"
    assert not place.obtain(root).built
    assert len(place.files()) == 2


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: pathlib.Path) -> None:
    facts = path.stat()
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(bytes(1024))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a disk's fault would


def write(path: pathlib.Path) -> None:
    with path.open("r+b") as file:
        file.seek(100_000)
        file.write(b"x")


def lose_facts(path: pathlib.Path) -> None:
    pathlib.Path(f"{path}.json").unlink()


def garble_facts(path: pathlib.Path) -> None:
    pathlib.Path(f"{path}.json").write_text('{"check": ')


def link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("damage", (truncate, overwrite, write, lose_facts, garble_facts, link))
def test_a_damaged_entry_is_built_anew(place: Place, damage: object) -> None:
    assert callable(damage)
    layer = place.directory("layer", file="x")
    root = place.overlay("c", layer)
    path = pathlib.Path(place.obtain(root).path)
    assert not place.obtain(root).built
    damage(path)
    assert cache.entries(str(place.cache)) == []
    again = place.obtain(root)
    assert (again.built, again.path) == (True, str(path))
    assert not path.is_symlink()
    assert contents(place.look(again)) == contents(layer)


def test_a_full_disk(place: Place) -> None:
    """A clear error, and nothing of the attempt stays: found before, or while a program writes."""
    layer = place.directory("layer")
    (layer / "noise").write_bytes(os.urandom(16 * MIB))
    root = place.overlay("c", layer)
    place.mount("-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", place.directory("cache"))
    for form in ("ext4", "erofs", "squashfs", "cpio"):
        with pytest.raises(HostError, match=rf"no space left in '{place.cache}' .*cache prune"):
            place.obtain(root, form)
        assert place.files() == []
    free = os.statvfs(place.cache)
    assert free.f_bfree >= free.f_blocks - 8
    small = place.overlay("d", place.directory("small", file="x"))
    assert place.obtain(small, "squashfs").built


def test_a_disk_that_fills_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write to it, too: the space was there when the tree was measured."""
    layer = place.directory("layer")
    (layer / "noise").write_bytes(os.urandom(6 * MIB))
    root = place.overlay("c", layer)
    place.mount("-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", place.directory("cache"))
    for name, form in (("mke2fs", "ext4"), ("mkfs.erofs", "erofs"), ("mksquashfs", "squashfs")):
        fill = f"head -c 4M /dev/zero >{place.cache}/mnt-other 2>&1\n"
        monkeypatch.setenv("PATH", program(place, fill + REAL, name)["PATH"])
        with pytest.raises(HostError, match="no space left"):
            place.obtain(root, form)
        (place.cache / "mnt-other").unlink()
        assert place.files() == []


def aged(place: Place, *names: str) -> list[cache.FilesystemImage]:
    """An image for each, the first unused for longest: an hour and more."""
    made = []
    for number, name in enumerate(names):
        layer = place.directory(f"layer-{name}")
        (layer / "noise").write_bytes(os.urandom(2 * MIB))
        made.append(place.obtain(place.overlay(f"c-{name}", layer), "erofs"))
        unused_since(made[-1], (len(names) - number) * 3600)
    return made


def unused_since(image: cache.FilesystemImage, ago_s: int) -> None:
    """Put back the time of an image's last use."""
    used_s = int(time.time()) - ago_s
    os.utime(f"{image.path}.json", (used_s, used_s))


def kept(place: Place) -> list[str]:
    return [entry.path for entry in cache.entries(str(place.cache))]


def test_a_bound(place: Place) -> None:
    """What was unused for longest goes; a hit counts as use."""
    place.config.values["storage.cache_mib"] = 7
    a, b, c = aged(place, "a", "b", "c")
    assert kept(place) == [a.path, b.path, c.path]
    assert not place.obtain(place.path / "c-a/rootfs", "erofs").built
    (d,) = aged(place, "d")
    assert set(kept(place)) == {a.path, c.path, d.path}
    # what is on its way into a container stays, be it too much
    place.config.values["storage.cache_mib"] = 1
    layer = place.directory("layer-e")
    (layer / "noise").write_bytes(os.urandom(2 * MIB))
    e = place.obtain(place.overlay("c-e", layer), "erofs")
    assert set(kept(place)) == {a.path, e.path}


def cli(place: Place, urunc: Urunc, *words: str) -> str:
    urunc.config.write_text(f'[storage]\ncache = "{place.cache}"\n')
    return urunc("cache", *words).stdout


def test_list(place: Place, urunc: Urunc) -> None:
    assert cli(place, urunc, "list").splitlines()[-1] == "0 images, 0.0 MiB on the disk"
    assert not place.cache.exists()
    a, b = aged(place, "a", "b")
    head, first, second, total = cli(place, urunc, "list").splitlines()
    assert head.split() == ["KEY", "FORM", "MIB", "ON", "DISK", "MADE", "USED", "MADE", "FOR"]
    assert first.split()[:3] == [a.key[:12], "erofs", f"{a.size_bytes / MIB:.1f}"]
    assert "2h ago" in first and "1h ago" in second
    assert first.endswith(f"{place.path}/c-a/rootfs")
    assert total.startswith("2 images, 4.")
    entries = json.loads(cli(place, urunc, "list", "--format", "json"))
    assert [entry["path"] for entry in entries] == [a.path, b.path]
    assert entries[0]["bytes"] == a.size_bytes
    assert entries[0]["key"] == a.key
    assert entries[0]["diskBytes"] == os.stat(a.path).st_blocks * 512


def test_prune(place: Place, urunc: Urunc) -> None:
    a, b, c, d = aged(place, "a", "b", "c", "d")
    unused_since(a, 8 * 86400)
    (place.cache / f"{'0' * 40}.ext4.tmp").write_text("left")
    (place.cache / f"{'1' * 40}.ext4").write_text("damaged")
    (place.cache / f"{'2' * 40}.ext4.json").write_text("{}")
    shown = cli(place, urunc, "prune")
    assert shown.splitlines()[0] == f"removed {pathlib.Path(a.path).name}"
    assert shown.splitlines()[1].startswith("1 images removed, 2.")
    assert kept(place) == [b.path, c.path, d.path]
    assert len(place.files()) == 6
    cli(place, urunc, "prune", "--unused-for", "150m")
    assert kept(place) == [c.path, d.path]
    removed = json.loads(cli(place, urunc, "prune", "--keep-mib", "3", "--format", "json"))
    assert [entry["path"] for entry in removed] == [c.path]
    assert kept(place) == [d.path]
    seen = place.look(d)
    cli(place, urunc, "prune", "--all")
    assert place.files() == []
    assert len((seen / "noise").read_bytes()) == 2 * MIB  # whoever has it keeps it


@pytest.mark.parametrize(
    ("words", "complaint"),
    (
        ((), "list or prune missing"),
        (("empty",), "'empty' is neither list nor prune"),
        (("list", "--all"), "'--all': not with list"),
        (("prune", "--all", "--keep-mib", "1"), "'--keep-mib': not with --all"),
        (("prune", "--keep-mib", "much"), "'much' is not a whole number"),
        (("prune", "--unused-for", "7"), "'7' is not a time"),
        (("list", "--format", "xml"), "'xml' is neither table nor json"),
    ),
)
def test_wrong_words(urunc: Urunc, words: tuple[str, ...], complaint: str) -> None:
    answer = urunc("cache", *words, check=False)
    assert answer.returncode == 1
    assert complaint in answer.stderr


def test_a_directory_that_others_may_write_to(place: Place) -> None:
    root = place.overlay("c", place.directory("layer"))
    place.directory("cache").chmod(0o777)
    with pytest.raises(HostError, match="others may write to it"):
        place.obtain(root)
    place.cache.chmod(0o700)
    os.chown(place.cache, 1000, 0)
    with pytest.raises(HostError, match="others may write to it"):
        place.obtain(root)
    os.chown(place.cache, 0, 0)
    image = place.obtain(root)
    assert os.stat(image.path).st_mode & 0o777 == 0o444


def test_the_cache_of_a_user_namespace(place: Place) -> None:
    """Root there may not write to the machine's; images are built all the same."""
    layer = place.directory("layer", file="x")
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        "from urunc.config import Config\n"
        "from urunc.storage import images\n"
        "from urunc.storage.layers import identify\n"
        "for root in sys.argv[1:]:\n"
        "    print(images.obtain(identify(root), 'erofs', Config()).path)\n"
    )
    point, upper, work = (place.directory(f"own/{name}") for name in ("rootfs", "fs", "work"))
    script = (
        f"mount -t overlay o -o userxattr,lowerdir={layer},upperdir={upper},workdir={work} {point}"
        f' && exec {sys.executable} -c "$CODE" {point} {layer}'
    )
    home = place.directory("home")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "CODE": code}
    answer = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    for path in answer.stdout.split():
        assert path.startswith(f"{home}/.cache/urunc/")
        assert os.listdir(place.look(pathlib.Path(path))) == ["file"]
    assert identify(str(layer)).kind == "tree"


def test_fifty_containers_share_one_image(place: Place) -> None:
    layer = place.directory("layer", file="x")
    (layer / "noise").write_bytes(os.urandom(MIB))
    built = [place.obtain(place.overlay(f"c{n}", layer)) for n in range(50)]
    assert len({image.path for image in built}) == 1
    assert [image.built for image in built] == [True] + [False] * 49
