# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' service links keep no guest from starting: what there is no room for is left out, and
said; what the user set himself is not."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lib.made import config, document, found, host, image, interface, net, solo5
from lib.services import links, service
from urunc import guests, monitors
from urunc.bundle import spec
from urunc.errors import ImageError
from urunc.guests.service_links import reduced
from urunc.monitors import Launch
from urunc.plan.decide import decide
from urunc.plan.realize import omissions, realize
from urunc.record import replace
from urunc.storage.disks import expected

OWN = ("PATH=/bin", "HOSTNAME=pod", "REDIS_SERVICE_HOST=db.example", "REDIS_SERVICE_PORT=6379")
"""What the user set, two of it much like a link."""
MANY = (*OWN, *links(40))


def realized(
    guest: str, monitor: str, env: tuple[str, ...], **changes: Any
) -> tuple[Launch, list[str]]:
    """What the monitor is started with, and what the guest is not told."""
    given = config(**{"guests.mine.cmdline": "{env} -- {args}"})
    if monitor in ("hvt", "spt"):
        changes["binary"] = solo5(monitor, ("net", "net"))
    configuration = document(process={"args": ["app"], "cwd": "/", "env": list(env)})
    there = found() if changes.get("mount_rootfs") else None
    kind, machine = guests.load(guest, given), monitors.load(monitor, given)
    parsed, made = spec.parse(configuration, "/bundle"), image(guest, monitor, **changes)
    plan = decide("box", parsed, made, kind, machine, host(), given, there)
    facts = net(interface())
    storage = expected(plan)
    return realize(plan, facts, kind, machine, storage), omissions(
        plan, facts, kind, machine, storage
    )


def text(launch: Launch) -> str:
    return " ".join((*launch.argv, *launch.files.values()))


@pytest.mark.parametrize(
    ("guest", "monitor", "least"),
    [
        ("linux", "qemu", "but KUBERNETES_SERVICE_HOST and …_SERVICE_PORT are left out"),
        ("linux", "firecracker", "but KUBERNETES_SERVICE_HOST and …_SERVICE_PORT are left out"),
        ("rumprun", "hvt", "in the form NAME_PORT_80_TCP are left out"),
        ("rumprun", "spt", "in the form NAME_PORT_80_TCP are left out"),
        ("mine", "firecracker", "but KUBERNETES_SERVICE_HOST and …_SERVICE_PORT are left out"),
        ("unikraft", "qemu", "but KUBERNETES_SERVICE_HOST and …_SERVICE_PORT are left out"),
        ("unikraft", "firecracker", "but KUBERNETES_SERVICE_HOST and …_SERVICE_PORT are left out"),
    ],
)
def test_a_namespace_with_many_services(guest: str, monitor: str, least: str) -> None:
    launch, told = realized(guest, monitor, MANY)
    line = text(launch)
    for variable in (*OWN, "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"):
        assert variable in line
    assert "BACKEND_7_PORT_8080_TCP" not in line
    assert ("BACKEND_7_SERVICE_HOST=10.96.7.7" in line) == (guest == "rumprun")
    assert len(told) == 1
    assert told[0].startswith("process.env: no room for ")
    assert f"of {len(MANY)} variables: the service links of 40 services (BACKEND_1, " in told[0]
    assert told[0].endswith(least)


def test_what_a_guest_drops_is_not_a_user_s_as_long_as_there_are_links() -> None:
    own = tuple(f"OWN_{index}=1" for index in range(9))
    launch, told = realized("unikraft", "qemu", (*links(40), *own))
    assert "SERVICE" not in text(launch)
    assert [line.split(":")[0] for line in told] == ["process.env"] * 2
    assert "unless it is built for more: OWN_8" in told[0]
    assert "the service links of 40 services" in told[1]


def test_a_few_services_are_all_there() -> None:
    for guest, monitor in (("linux", "qemu"), ("rumprun", "spt")):
        launch, told = realized(guest, monitor, (*OWN, *links(3)))
        assert all(variable in text(launch) for variable in (*OWN, *links(3)))
        assert told == []


def test_urunc_s_init_is_told_all() -> None:
    launch, told = realized("linux", "qemu", MANY, mount_rootfs=True)
    assert all(f"env={variable}\0" in text(launch) for variable in MANY)
    assert told == []


@pytest.mark.parametrize(
    ("guest", "monitor", "message"),
    [
        ("linux", "qemu", "process.env: 34 variables are more than the kernel takes (30)"),
        ("linux", "firecracker", "process.env: 34 variables are more than the kernel takes (30)"),
        ("rumprun", "spt", "bytes are more than spt takes (8191)"),
    ],
)
def test_what_the_user_set_is_an_error(guest: str, monitor: str, message: str) -> None:
    """Counted without the links: it is what he can change."""
    many = [f"OWN_{index}={'x' * 300}" for index in range(30)]
    with pytest.raises(ImageError) as caught:
        realized(guest, monitor, (*OWN, *many, *links(40)))
    assert message in caught.value.message


def test_links_go_before_lines_of_the_hosts_file() -> None:
    """Linux leaves those out for want of room: not as long as there are links."""
    guest, monitor = guests.load("linux", config()), monitors.load("qemu", config())
    configuration = document(process={"args": ["app"], "cwd": "/", "env": list(links(4))})
    plan = decide("box", spec.parse(configuration, "/b"), image("linux", "qemu"), guest, monitor,
                  host(), config())  # fmt: skip
    hosts = tuple(f"10.9.0.{index} name-{index}.example" for index in range(20))
    facts = replace(net(interface()), hosts=hosts)
    (told,) = omissions(plan, facts, guest, monitor)
    assert "service links of 4 services" in told
    assert "urunc.hosts=" in text(realize(plan, facts, guest, monitor))


def test_what_a_service_s_links_are() -> None:
    wide = service("db.main", "fd00::7", ("pg", 5432, "TCP"), ("dns-udp", 53, "UDP"))
    odd = (
        "FOO_SERVICE_HOST=10.0.0.1", "FOO_SERVICE_PORT=80", "FOO_PORT=tcp://10.0.0.1:80",
        "BAR_SERVICE_HOST=10.0.0.2", "BAR_SERVICE_PORT=80", "BAR_PORT_80_TCP=tcp://10.0.0.2:80",
        "BAR_PORT_80_TCP_PROTO=tcp", "BAR_PORT_80_TCP_PORT=80", "BAR_PORT_80_TCP_ADDR=10.9.9.9",
        "DB_MAIN_OTHER=1", "EMPTY_SERVICE_HOST=", "_SERVICE_HOST=x",
    )  # fmt: skip
    kept, last = list(reduced((*odd, *wide)))[-1]
    assert kept == odd
    assert f"no room for {len(wide)} of {len(odd) + len(wide)} variables" in last
    # a variable of the user's own in a link's place stays
    own = [variable for variable in wide if not variable.startswith("DB_MAIN_PORT=")]
    kept, _ = list(reduced(("DB_MAIN_PORT=7000", *own)))[-1]
    assert kept == ("DB_MAIN_PORT=7000",)
    assert list(reduced(OWN)) == []


def test_names_within_names() -> None:
    """A service may be called as the variables are; each has its own."""
    of = [service(name, "10.0.0.1", ("web", 80, "TCP"), ("dns", 53, "UDP"))
          for name in ("a", "a-port", "a-service-port", "a-port-80")]  # fmt: skip
    *_, (kept, last) = reduced(tuple(variable for one in of for variable in one))
    assert kept == ()
    assert "the service links of 4 services" in last


def test_thousands_of_services_take_no_time() -> None:
    """Once through the environment: it took 90 s."""
    many = links(3000)
    began = time.process_time()
    *_, (kept, _) = reduced((*OWN, *many))
    assert kept == tuple(OWN)
    assert time.process_time() - began < 5


def test_what_the_monitor_has_room_for() -> None:
    """A line that a tender or Firecracker would refuse is refused at create."""
    for guest, monitor, most in (("rumprun", "hvt", 8191), ("mine", "firecracker", 2004)):
        with pytest.raises(ImageError, match=f"are more than {monitor} takes \\({most}\\)"):
            realized(guest, monitor, (f"A={'x' * 9000}",))
