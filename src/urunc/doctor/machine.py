# SPDX-License-Identifier: Apache-2.0
"""What a guest needs of the machine: its kernel, KVM, control groups, TAP devices, rules."""

from __future__ import annotations

import os
import platform

from urunc.doctor import kvm
from urunc.doctor.finding import Finding, fine, note, problem
from urunc.errors import reason
from urunc.linux import _linux, cgroups, namespaces, tun
from urunc.linux.files import exists, read_text
from urunc.linux.nftables import Nftables
from urunc.linux.rtnetlink import Rtnetlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = (5, 12)
"""The first one with all that is needed of every container (mount_setattr(2))."""
CONTROLLERS = ("memory", "cpu", "pids")
MODULES = "modprobe {}; a name in /etc/modules-load.d/urunc.conf loads it at each boot"
MODULES_FAMILY = 2
"""NFPROTO_IPV4."""


def findings() -> list[Finding]:
    """Everything of this machine."""
    return [_kernel(), _kvm(), _control_groups(), _tun(), *_network(), _user_namespaces()]


def _kernel() -> Finding:
    release = platform.release()
    version = tuple(int(part) for part in release.replace("-", ".").split(".")[:2])
    if version < KERNEL:
        least = ".".join(map(str, KERNEL))
        return problem("kernel", f"Linux {release}: {least} is the oldest that will do")
    return fine("kernel", f"Linux {release} on {platform.machine()}")


def _kvm() -> Finding:
    without = "guests on QEMU are emulated, which is slow; Firecracker and hvt do not run"
    try:
        runs, why = kvm.runs()
    except FileNotFoundError:
        return note(
            "KVM",
            f"there is no /dev/kvm: {without}",
            "modprobe kvm_intel or kvm_amd; if that fails, switch virtualization on in the "
            "firmware, or nested virtualization if this is a virtual machine",
        )
    except PermissionError:
        return note(
            "KVM",
            f"/dev/kvm may not be opened by this user: {without}",
            "as root, or as a member of the group kvm",
        )
    except OSError as error:
        return problem("KVM", f"/dev/kvm: {reason(error)}: {without}")
    if not runs:
        return problem(
            "KVM",
            f"/dev/kvm opens, but a guest of five bytes does not run: {why}",
            'urunc takes KVM where it opens; set accelerator = "tcg" in [monitors.qemu]',
        )
    if why:
        return note(
            "KVM",
            "runs guests of integer instructions alone. One with SSE instructions, as Linux and "
            f"most others have them, ends at once: {why}",
            'set accelerator = "tcg" in [monitors.qemu] of /etc/urunc/config.toml, or give the '
            "virtual machine that this is a processor with nested virtualization",
        )
    return fine("KVM", "runs a guest")


def _control_groups() -> Finding:
    found = cgroups.hierarchies()
    v1 = sorted(name for name in found if name not in (cgroups.UNIFIED, "systemd"))
    have = set(v1)
    if cgroups.UNIFIED in found:
        try:
            have |= set(read_text(f"{found[cgroups.UNIFIED][0]}/cgroup.controllers").split())
        except OSError as error:
            return problem("control groups", f"cgroup.controllers: {reason(error)}")
    if not found:
        return problem(
            "control groups", "none are mounted: no container has limits",
            f"mount -t cgroup2 none {cgroups.ROOT}",
        )  # fmt: skip
    kind = "v2" if not v1 else "v1" if cgroups.UNIFIED not in found else "v1 beside v2 (hybrid)"
    if missing := [name for name in CONTROLLERS if name not in have]:
        return note(
            "control groups",
            f"{kind}, without {', '.join(missing)}: containers with such limits are refused",
            "a kernel with these controllers, and none of cgroup_disable= on its command line",
        )
    return fine("control groups", f"{kind}, with {', '.join(CONTROLLERS)}")


def _tun() -> Finding:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return problem(
            "TAP devices",
            f"/dev/net/tun: {reason(error)}: guests have no network",
            MODULES.format("tun"),
        )
    return fine("TAP devices", "/dev/net/tun opens")


def _network() -> list[Finding]:
    """What is made of a container's network, tried in a namespace that ends with the trial."""
    if os.geteuid() != 0 and not _may_make_user_namespaces():
        return [note("network", "not tried: an ordinary user may not make a network namespace")]
    tries: list[tuple[str, Callable[[], None], str, str]] = [
        (
            "redirects", _redirect,
            "guests have no network (mode dynamic)",
            MODULES.format("-a sch_ingress cls_u32 act_mirred"),
        ),
        (
            "nftables", _table,
            "no guest shares its namespace's network (modes pod and shared)",
            MODULES.format("nf_tables"),
        ),
    ]  # fmt: skip
    found = []
    for subject, attempt, without, advice in tries:
        why = _in_network_namespace(attempt)
        found.append(
            problem(subject, f"{why}: {without}", advice) if why else fine(subject, "can be made")
        )
    return found


def _redirect() -> None:
    for name in ("one", "two"):
        tun.create_tap(name, 0, 0)
    netlink = Rtnetlink()
    one, two = netlink.index("one"), netlink.index("two")
    netlink.add_ingress(one)
    netlink.redirect(one, two, 1)


def _table() -> None:
    Nftables().add_table(MODULES_FAMILY, "doctor", ())


def _in_network_namespace(attempt: Callable[[], None]) -> str:
    """Why it failed there, "" if it did not."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        why = "it ended"
        try:
            flags = namespaces.CLONE_NEWNET
            if os.geteuid() != 0:
                uid = os.geteuid()
                _linux.unshare(namespaces.CLONE_NEWUSER)
                with open("/proc/self/uid_map", "w", encoding="ascii") as file:
                    file.write(f"0 {uid} 1")
            _linux.unshare(flags)
            attempt()
            why = ""
        except OSError as error:
            why = reason(error)
        finally:
            os.write(into, why.encode())
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        why = file.read().decode()
    os.waitpid(pid, 0)
    return why


def _may_make_user_namespaces() -> bool:
    try:
        return int(read_text("/proc/sys/user/max_user_namespaces")) > 0
    except (OSError, ValueError):
        return False


def _user_namespaces() -> Finding:
    if not exists("/proc/self/ns/user") or not _may_make_user_namespaces():
        return note(
            "user namespaces",
            "none can be made: no rootless containers, and no pods with hostUsers: false",
            "sysctl user.max_user_namespaces=65536",
        )
    return fine("user namespaces", "can be made")
