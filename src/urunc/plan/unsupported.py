# SPDX-License-Identifier: Apache-2.0
"""What config.json asks for that this guest cannot do: refused, or, where engines add it on their
own, a remark for the user. Pure.

What no guest can do is refused where it is read (bundle/rare_keys.py).
"""

from __future__ import annotations

from urunc.errors import SpecError
from urunc.guests import BUILT_IN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.bundle.image import UnikernelImage
    from urunc.bundle.spec import Spec
    from urunc.guests import Guest
    from urunc.plan.model import NetworkPlan

ENGINES_VARIABLES = frozenset(("PATH", "HOME", "HOSTNAME", "TERM", "container"))
"""What engines set on their own, in every container."""
ENGINES_SYSCTLS = frozenset(("net/ipv4/ip_unprivileged_port_start", "net/ipv4/ping_group_range"))
"""What Docker and Podman add on their own; in a guest without users everybody may do either."""


def check(spec: Spec, guest: Guest, network: NetworkPlan, *, managed: bool) -> list[str]:
    """Remarks on what has no effect; raises SpecError for what must not be passed over.
    `managed`: urunc's init runs the application."""
    check_seccomp(spec)
    machine = spec.machine
    if machine and machine.parameters and not guest.takes_parameters:
        raise SpecError(
            f"config.json: vm.kernel.parameters: {guest.name} has no words but the application's",
            "say them by process.args",
        )
    if spec.net_devices and not network.nic_count:
        raise SpecError(
            f"config.json: linux.netDevices: this {guest.name} guest can have no network device",
            "leave it out",
        )
    if managed:
        return list(spec.remarks)
    if spec.personality not in ("", "LINUX"):
        raise SpecError(
            f"config.json: linux.personality.domain: '{spec.personality}': a {guest.name} guest "
            "cannot be told so",
            "it can where urunc's init runs the application (annotation 'mountRootfs')",
        )
    return [*spec.remarks, *_without_effect(spec, guest)]


def without_effect(image: UnikernelImage, guest: Guest) -> list[str]:
    """Remarks on annotations that mean nothing to this guest."""
    # another package's guest may read the mount points without a default of its own
    if image.block_mount_points and guest.name in BUILT_IN and not guest.block_mount_point:
        return [f"annotation 'blkMntPoint': without effect: {guest.name} is not told of it"]
    return []


def check_seccomp(spec: Spec) -> None:
    """Raises SpecError for a filter that asks somebody on the host."""
    for key in ("listenerPath", "listenerMetadata"):
        if spec.seccomp and spec.seccomp.get(key):
            raise SpecError(
                f"config.json: linux.seccomp.{key}: nobody on the host can be notified of a "
                "guest's system calls",
                "leave it out",
            )


def _without_effect(spec: Spec, guest: Guest) -> list[str]:
    """What is a process's, where the guest has none that urunc runs."""
    found = []
    rights = _rights(spec) if guest.init else ""
    if rights:
        # a unikernel has no users, no system calls and no /proc; this guest has
        found.append(f"{guest.name}: the image's first program has every right in it: {rights}")
    if spec.hostname and not guest.takes_hostname:
        found.append(f"hostname: {guest.name} is not told '{spec.hostname}'")
    if not guest.takes_arguments and len(spec.args) > 1:
        found.append(f"process.args: {guest.name} is told none of its {len(spec.args) - 1} words")
    # a whole line in one argument is how images were made for these guests
    split = [word for word in spec.args if not word or word.split() != [word]]
    if guest.splits_arguments and len(spec.args) > 1 and split:
        found.append(f"process.args: '{split[0]}' reaches {guest.name} as other words: no quoting")
    names = [variable.partition("=")[0] for variable in spec.env]
    names = [name for name in names if name not in ENGINES_VARIABLES]
    if not guest.takes_environment and names:
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        found.append(f"process.env: {guest.name} is told no variables: {shown}")
    if spec.cwd != "/":
        found.append(f"process.cwd: {guest.name} is not told '{spec.cwd}'")
    if spec.domainname:
        found.append(f"domainname: {guest.name} is not told '{spec.domainname}'")
    for offset in spec.time_offsets:
        found.append(
            f"linux.timeOffsets.{offset.clock}: of the monitor's clock; that of a {guest.name} "
            "guest starts with it"
        )
    sysctls = [path.replace("/", ".") for path in spec.sysctls if path not in ENGINES_SYSCTLS]
    if sysctls:
        shown = ", ".join(sysctls[:4]) + (", …" if len(sysctls) > 4 else "")
        found.append(
            f"linux.sysctl: set in the container's namespaces, not in the guest's kernel: {shown}"
        )
    return found


def _rights(spec: Spec) -> str:
    """The keys that would take rights from a process."""
    keys = {
        "process.user": spec.uid or spec.gid,
        "process.capabilities": spec.capabilities,
        "process.noNewPrivileges": spec.no_new_privileges,
        "linux.seccomp": spec.seccomp,
        "linux.maskedPaths": spec.masked_paths,
        "linux.readonlyPaths": spec.read_only_paths,
    }
    found = [key for key, value in keys.items() if value]
    return f"{', '.join(found)} do not hold" if found else ""
