# SPDX-License-Identifier: Apache-2.0
"""From a kernel alone to a running container: what `urunc image build` loads into engines."""

from __future__ import annotations

import pytest

from lib.engines import taken_down
from lib.places.docker import Docker
from lib.places.podman import Podman
from lib.support import PARTS, URUNC, need


@pytest.mark.parametrize(("name", "place_of"), [("podman", Podman), ("docker", Docker)])
def test_a_kernel_becomes_a_container(
    name: str, place_of: type[Podman | Docker], urunc_config: str
) -> None:
    """Its exit code is the guest's."""
    need("root", "tun", "installed", "runc", "solo5", "probe", name)
    with taken_down(place_of(str(URUNC), urunc_config)) as place:
        words = ["--kernel", str(PARTS / "probe-bare.spt"), "--guest", "rumprun", "--name", "five"]
        place.run(str(URUNC), "image", "build", "--output", name, *words, "--", "probe.exit=5",
                  DOCKER_HOST=f"unix://{place.space}/docker.sock")  # fmt: skip
        done = place("run", "--rm", "--runtime", "urunc", "--network", "none", "five", check=False)
        assert done.returncode == 5, done.stderr
