# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that boot Linux with urunc's init (linux_guest)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from linux_guest import Guest, image, initrd, root_tree
from support import need


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The initrd, a root filesystem, and images of it."""
    need("root", "qemu", "linux")
    folder = tmp_path_factory.mktemp("guest")
    initrd(folder / "initrd")
    tree = root_tree(folder / "root")
    for form in ("ext4", "erofs", "squashfs"):
        image(tree, form, folder / form)
    return folder


@pytest.fixture
def guest(files: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Guest]:
    """A machine that is not started."""
    made = Guest(tmp_path, files / "initrd")
    yield made
    made.remove()
