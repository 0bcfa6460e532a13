# SPDX-License-Identifier: Apache-2.0
"""The filesystems' own programs that build images: what they are asked for, see and report."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from lib.keys import MIB
from lib.patience import until
from lib.places.layers import Place, contents, image_place, native
from urunc.errors import HostError
from urunc.storage import images, mkfs

place = pytest.fixture(image_place)


def test_huge_and_sparse(place: Place) -> None:
    """A hole takes nothing where the form keeps it; where not, it counts."""
    layer = place.directory("layer")
    with (layer / "disk").open("wb") as file:
        file.seek(100 << 30)
        file.write(b"end")
    root = place.overlay("c", layer)
    image = place.obtain(root, "ext4")
    assert os.stat(image.path).st_blocks * 512 < 40 * MIB
    with (place.look(image) / "disk").open("rb") as file:
        file.seek(100 << 30)
        assert file.read() == b"end"
    for form in ("erofs", "squashfs", "cpio"):
        with pytest.raises(HostError, match="with their holes, and the limit is 16384 MiB"):
            place.obtain(root, form)
    place.config.values["storage.image_limit_mib"] = 1
    (layer / "large").write_bytes(os.urandom(2 * MIB))
    with pytest.raises(HostError, match="2 MiB of files, and the limit is 1 MiB"):
        place.obtain(place.overlay("c2", layer), "ext4")
    assert [name for name in place.files() if image.key not in name] == []


def test_many_small_files(place: Place) -> None:
    """An ext image has inodes and directories' blocks enough, without any free room asked for."""
    place.config.values["storage.slack_mib"] = 0
    layer = place.directory("layer")
    for number in range(200):
        directory = layer / f"directory-{number}"
        directory.mkdir()
        for file in range(60):
            (directory / f"a-file-of-some-{'x' * (file * 3)}").write_text(str(file))
    expected = contents(layer)
    for form in ("ext2", "ext4"):
        image = place.obtain(place.overlay(form, layer), form)
        assert contents(place.look(image)) == expected


LOOKING = """#!/bin/sh
cat /proc/self/mountinfo >{out}/mounts
grep -c : /proc/self/net/dev >{out}/devices
grep Cap /proc/self/status >{out}/capabilities
echo "it is all wrong" >&2
exit 3
"""


def program(place: Place, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> pathlib.Path:
    """A program in place of a filesystem's own."""
    directory = place.directory("bin")
    (directory / name).write_text(text.format(out=directory))
    (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def test_what_a_builder_sees(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree read-only and as data, no network; what it complains about is told."""
    out = program(place, monkeypatch, "mkfs.erofs", LOOKING)
    root = place.overlay("c", place.directory("layer", file="x"))
    for source in (root, native(place, "directory")):
        with pytest.raises(HostError, match=r"mkfs\.erofs ended with 3: it is all wrong"):
            place.obtain(source, "erofs")
        mounts = (out / "mounts").read_text().splitlines()
        (line,) = [line for line in mounts if line.split()[4] == f"{place.cache}/mnt/root"]
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
        assert (out / "devices").read_text() == "1\n"  # lo
        words = (out / "capabilities").read_text().split()
        sets = dict(zip(words[::2], (int(word, 16) for word in words[1::2]), strict=True))
        dac_override, dac_read_search = 1 << 1, 1 << 2
        assert sets["CapPrm:"] == sets["CapEff:"] == dac_override | dac_read_search
    assert place.files() == []
    assert str(place.cache) not in pathlib.Path("/proc/self/mountinfo").read_text()


def test_a_builder_that_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    out = program(place, monkeypatch, "mke2fs", "#!/bin/sh\necho $$ >{out}/pid\nexec sleep 60\n")
    place.config.values["storage.build_timeout_s"] = 1
    with pytest.raises(HostError, match="not done within 1 s"):
        place.obtain(place.overlay("c", place.directory("layer")))
    assert place.files() == []
    pid = int((out / "pid").read_text())
    until(lambda: not pathlib.Path(f"/proc/{pid}").exists())


def test_a_missing_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    root = place.overlay("c", place.directory("layer"))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setattr(mkfs, "DEFAULT_PATH", str(place.path))
        with pytest.raises(HostError, match=r"'mkfs\.erofs' is not installed .*erofs-utils"):
            place.obtain(root, "erofs")


def test_a_hit_imports_nothing_that_builds(place: Place) -> None:
    root = place.overlay("c", place.directory("layer"))
    place.obtain(root)
    code = (
        "import sys\n"
        "from urunc.config import Config\n"
        "from urunc.storage import images\n"
        "from urunc.storage.layers import identify\n"
        "config = Config()\n"
        "config.values['storage.cache'] = sys.argv[1]\n"
        "image = images.obtain(identify(sys.argv[2]), 'ext4', config)\n"
        "assert not image.built\n"
        "slow = {'hashlib', 'os', 're', 'urunc.storage.build_image', 'urunc.storage.trees'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    source = pathlib.Path(images.__file__).parent.parent.parent
    words = [sys.executable, "-S", "-c", code, str(place.cache), str(root)]
    environment = {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print('os' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == ("['os']\n" if bare == "True\n" else "[]\n")
