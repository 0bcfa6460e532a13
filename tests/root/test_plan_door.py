# SPDX-License-Identifier: Apache-2.0
"""`plan` says which verbs the door carries out, before `create` and of a container that there is;
`timeline`, which phases it has."""

from __future__ import annotations

import json
import pathlib

import pytest

from lib.doors import handed_over, make_door
from lib.support import PARTS, Bundle, Network, Urunc, need
from urunc.cli.by_door import UNLESS_GONE

pytestmark = pytest.mark.usefixtures("with_door")

DONE = {"start": "", "state": "", "kill": "", "delete": ""}


@pytest.fixture
def alone(urunc: Urunc, tmp_path: pathlib.Path) -> Urunc:
    """The same root and configuration, by the door alone."""
    need("installed")
    path = tmp_path / "door"
    make_door(path, "/nowhere/launch")
    made = Urunc.__new__(Urunc)
    made.__dict__.update(urunc.__dict__, program=str(path))
    return made


def made(tmp_path: pathlib.Path, case: str, network: Network) -> Bundle:
    """The probe, which needs the door's help or more than that."""
    need("probe", "solo5")
    annotations = {"network": "shared"} if case == "shared" else {}
    bundle = Bundle(tmp_path / "b", "mirage", "spt", block="disk", **annotations)
    bundle.add("unikernel", PARTS / "probe-mirage.spt")
    (bundle.root / "disk").write_bytes(bytes(1 << 20))
    bundle.args("probe.hang")
    if case == "shared":
        network.connect()
        bundle.network(network.path)
    elif case:
        bundle.config["hooks"] = {case: [{"path": "/bin/true"}]}
    return bundle


def planned(urunc: Urunc, bundle: Bundle, *words: str, door: str = "") -> dict[str, str]:
    command = ("plan", "--bundle", str(bundle.write()), "--format", "json", *words)
    return dict(json.loads(urunc(*command, URUNC_DOOR=door).stdout)["door"])


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("", {}),
        ("poststart", {"start": "poststart hooks"}),
        ("poststop", {"delete": "poststop hooks"}),
        ("shared", {"start": "the guest shares its network", "delete": UNLESS_GONE}),
    ],
)
def test_as_it_comes(
    urunc: Urunc,
    alone: Urunc,
    tmp_path: pathlib.Path,
    network: Network,
    case: str,
    why: dict[str, str],
) -> None:
    bundle = made(tmp_path, case, network)
    before = planned(urunc, bundle)
    assert before == DONE | why
    assert all(planned(urunc, bundle, door="off").values())
    container = urunc.create(bundle, URUNC_TIMESTAMPS="1")
    assert planned(urunc, bundle, "--id", container.id) == before
    if handed_over(alone("start", container.id, check=False)):
        assert before["start"]
        container.start()
    shown = urunc("timeline", "--file", str(urunc.stamps), container.id).stdout
    assert ("start sent to init, by the door" in shown) == (not before["start"])
    assert "create ends  " in shown
    alone("kill", container.id, "KILL")
    container.wait_stopped()
    assert handed_over(alone("delete", container.id, check=False)) == bool(before["delete"])
    urunc("delete", "--force", container.id)


def test_of_a_container_whose_configuration_has_changed(
    urunc: Urunc, tmp_path: pathlib.Path, network: Network
) -> None:
    bundle = made(tmp_path, "", network)
    container = urunc.create(bundle)
    urunc.config.write_text(urunc.config.read_text() + "\n")
    why = f"'{urunc.config}' is not as it was at create"
    assert planned(urunc, bundle, "--id", container.id) == dict.fromkeys(DONE, why)
    text = urunc("plan", "--bundle", str(bundle.path), "--id", container.id).stdout
    assert f"door: start, state, kill KILL, delete take Python ({why})" in " ".join(text.split())
    container.delete("--force")
