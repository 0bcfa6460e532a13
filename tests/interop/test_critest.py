# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own tests of a CRI implementation, all of them, on containerd 2 with urunc's shim: no
name fails that passes with runc's. All containers are ordinary ones."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from lib import critest
from lib.engines import NEEDS_OF_PODS, containerd_for_pods
from lib.support import TOOLS, need


def test_critest(
    urunc_config: str, tmp_path: pathlib.Path, measured: Callable[[str], None]
) -> None:
    need(*NEEDS_OF_PODS, "containerd2", "critest")
    images = critest.images(tmp_path)
    program = TOOLS / "critest"
    with containerd_for_pods(urunc_config, tmp_path, *images, programs=str(TOOLS)) as place:
        ours = critest.run(place, program, "urunc")
        ends = list(ours.values())
        assert ends.count("passed") > 80, ends
        failed = {name for name, end in ours.items() if end not in ("passed", "skipped")}
        theirs = critest.run(place, program, "runc", failed) if failed else {}
        place.remove_group("k8s.io")
    assert {name for name in failed if theirs[name] != "failed"} == set()
    measured(
        f"critest with urunc's shim: {ends.count('passed')} pass, {ends.count('skipped')} are "
        f"skipped, {len(failed)} fail as with runc's"
    )
