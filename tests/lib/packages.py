# SPDX-License-Identifier: Apache-2.0
"""The packages of tools/package, of this tree and of a fixed date."""

from __future__ import annotations

import os
import pathlib
import subprocess

from lib.support import PROJECT

DIST = PROJECT / "build/dist"


def package(kind: str) -> pathlib.Path:
    """Build one; its file."""
    command = [str(PROJECT / "tools/package"), kind]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip())
