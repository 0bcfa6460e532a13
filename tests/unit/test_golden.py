# SPDX-License-Identifier: Apache-2.0
"""Each guest on each monitor: from a config.json and made-up facts to the monitor's command line.

A directory of tests/golden holds `config.json` (a bundle's), `facts.json` (the machine, the
kernel's file, the image's files, the network and, where the guest has the container's files, what
is found of those) and `launch.json` (what must come out: argv, files, devices, the seccomp filter
and the steps in words). For a new pair copy a directory, change the first two and run this test
with URUNC_UPDATE_GOLDEN=1; then read what it wrote.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from lib.made import config, image_file
from urunc import guests, monitors
from urunc.bundle import image, spec
from urunc.bundle.elf import Binary
from urunc.bundle.image import ImageFile, UnikernelImage
from urunc.init import attributes
from urunc.init.setup import Ready, build
from urunc.net.facts import NetFacts
from urunc.plan.decide import decide
from urunc.plan.model import HostFacts, MonitorUser, as_planned
from urunc.plan.realize import realize
from urunc.record import rebuild, replace
from urunc.storage.disks import expected
from urunc.storage.facts import StorageFound

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
UPDATE = os.environ.get("URUNC_UPDATE_GOLDEN") == "1"
NAMES = sorted(directory.name for directory in GOLDEN.iterdir() if directory.is_dir())
FIRST_USER = 2_000_000_000


def read_image(parsed: spec.Spec, facts: dict[str, Any]) -> UnikernelImage:
    """The image as its annotations say, over empty files; what they would say is in `facts`."""
    root = pathlib.Path(parsed.root)
    for path in facts["files"]:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = image.read(parsed, config())
    assert found

    def with_facts(file: ImageFile) -> ImageFile:
        return image_file(file.path, **facts["files"][file.path])

    return replace(
        found,
        binary=rebuild(Binary, facts["binary"]),
        kernel=with_facts(found.kernel),
        initrd=with_facts(found.initrd) if found.initrd else None,
        blocks=tuple(map(with_facts, found.blocks)),
    )


def launched(name: str, bundle: pathlib.Path) -> dict[str, Any]:
    """What launch.json holds, as the code has it."""
    facts = json.loads((GOLDEN / name / "facts.json").read_text())
    document = json.loads((GOLDEN / name / "config.json").read_text())
    parsed = spec.parse(document, str(bundle))
    unikernel = read_image(parsed, facts)
    guest = guests.load(unikernel.guest, config())
    monitor = monitors.load(unikernel.monitor, config())
    host = rebuild(HostFacts, facts["host"])
    there = rebuild(StorageFound, facts["found"]) if "found" in facts else None
    plan = decide(name, parsed, unikernel, guest, monitor, host, config(), there)
    user = as_planned(plan).user
    if plan.user.uid is None:  # create reserves one
        user = MonitorUser(uid=FIRST_USER, gid=FIRST_USER, groups=user.groups)
    storage = expected(plan)
    launch = realize(plan, rebuild(NetFacts, facts["net"]), guest, monitor, storage)
    steps = build(plan, user, launch, parsed, "/run/urunc/box/root", Ready(), storage)
    return {
        "argv": list(launch.argv),
        "files": {
            path: text.replace("\0", "\n").rstrip("\n").splitlines()
            for path, text in launch.files.items()
        },
        "devices": list(launch.devices),
        "seccomp": launch.seccomp,
        "steps": [step.describe().replace(str(bundle), "/bundle") for step in steps],
        "attributes": attributes.describe(parsed),
        "warnings": list(plan.warnings),
    }


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, tmp_path: pathlib.Path) -> None:
    found = launched(name, tmp_path)
    file = GOLDEN / name / "launch.json"
    if UPDATE:
        file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    assert found == json.loads(file.read_text())


def test_every_pair_that_a_guest_names_is_here() -> None:
    here = {tuple(name.split("-")[:2]) for name in NAMES}
    named = {
        (guest, monitor)
        for guest in guests.BUILT_IN
        for monitor in guests.load(guest, config()).monitors
    }
    assert here == named
