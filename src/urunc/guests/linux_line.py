# SPDX-License-Identifier: Apache-2.0
"""The command line of a Linux kernel that runs one application as its init (guests/linux.py says
how the kernel reads it)."""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Nic, Request, host_name
from urunc.net.ipv4 import dotted_mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.net.facts import Route

LINE_LIMIT_BYTES = 2047
ENVIRONMENT_LIMIT = 32 - 2  # MAX_INIT_ENVS, less HOME and TERM that the kernel sets itself
NAME_SERVERS = 2  # in `ip=`
VIRTIO_MTU = 1500
DEFAULT = "0.0.0.0/0"
ARGUMENT_LIMIT = 32 - 1  # MAX_INIT_ARGS, less init's own name
LEFT_OUT: tuple[tuple[str, ...], ...] = ((), ("hosts",), ("hosts", "search", "options"))
"""Of a request, where the line is too long: the first that lets it fit."""
NOUNS = {"hosts": "lines of the hosts file", "search": "search domains", "options": "DNS options"}
# An environment variable of one of these names would be taken by the kernel
# (Documentation/admin-guide/kernel-parameters.txt); so is any name with a dot, which is a module's
# parameter.
KERNEL_PARAMETERS = frozenset(
    "acpi console debug hugepages init initrd ip isolcpus lockdown loglevel maxcpus mem "  # noqa: SIM905 (a long list of words)
    "mitigations nfsroot noapic nokaslr nosmp nosmt nr_cpus panic pci quiet rdinit reboot resume "
    "ro root rootdelay rootflags rootfstype rootwait rw security selinux single smp swiotlb tsc "
    "vga".split()
)


def line_of(request: Request) -> tuple[str, list[str]]:
    """The line, and which names it has no room for; it can be too long still."""
    words = ["panic=-1", f"console={request.console}", "reboot=k", *parameters(request)]
    if request.disks:
        words.append("root=/dev/vda " + ("ro" if request.disks[0].read_only else "rw"))
    elif request.initrd:
        words.append("root=/dev/ram0 rw")
    words += network_words(request)
    names, program = _names(request), [*map(_environment, request.env), *_program(request)]
    for left_out in LEFT_OUT:
        told = [word for name, word in names.items() if name not in left_out]
        line = " ".join((*words, *told, *program))
        if len(line.encode()) <= LINE_LIMIT_BYTES:
            break
    return line, [
        f"{len(getattr(request, name))} {NOUNS[name]}" for name in left_out if name in names
    ]


def _program(request: Request) -> list[str]:
    """The application and its arguments; raises ImageError for more than the kernel takes, of
    variables too."""
    if len(request.env) > ENVIRONMENT_LIMIT:
        raise ImageError(
            f"process.env: {len(request.env)} variables are more than the kernel takes "
            f"({ENVIRONMENT_LIMIT})",
            "it panics past them; set fewer",
        )
    if not request.args:
        return []
    if len(request.args) - 1 > ARGUMENT_LIMIT:
        raise ImageError(
            f"process.args: {len(request.args) - 1} arguments are more than the kernel "
            f"takes ({ARGUMENT_LIMIT})",
            "it panics past them; pass fewer",
        )
    # with an initrd alone its own program is init; with a disk the kernel (or the initrd)
    # mounts the disk first
    verb = "rdinit" if request.initrd and not request.disks else "init"
    words = [f"{verb}={_quoted(request.args[0], 'process.args[0]')}"]
    if request.args[1:]:
        words.append("--")
        words += [
            _quoted(word, f"process.args[{index}]")
            for index, word in enumerate(request.args[1:], 1)
        ]
    return words


def parameters(request: Request) -> list[str]:
    """The kernel's parameters of config.json and of the configuration, quoted for the line; raises
    ImageError."""
    for word in request.parameters:
        if word == "--":
            raise ImageError(
                "kernel parameter '--': it ends the kernel's parameters",
                "put the application's arguments into process.args",
            )
    return [_quoted(word, f"kernel parameter {word!r}") for word in request.parameters]


def network_words(request: Request) -> list[str]:
    words = []
    servers = [server for server in request.dns if ":" not in server][:NAME_SERVERS]
    # of several gateways the kernel would take the last one
    best = min((_metric(nic) for nic in request.nics if nic.ipv4_gateway), default=0)
    for index, nic in enumerate(request.nics):
        gateway = nic.ipv4_gateway if nic.ipv4_gateway and _metric(nic) == best else ""
        if nic.ipv4:
            mask, host = dotted_mask(nic.ipv4_prefix), host_name(request.hostname) or "urunc"
            dns = "".join(f":{server}" for server in servers)
            words.append(f"ip={nic.ipv4}::{gateway}:{mask}:{host}:eth{index}:off{dns}")
            servers = []
        rest = items(nic, gateway)
        if rest:
            words.append(f"urunc.eth{index}={','.join(rest)}")
    if len(request.dns) > NAME_SERVERS or any(":" in server for server in request.dns):
        words.append(f"urunc.dns={','.join(request.dns)}")
    return words


def _names(request: Request) -> dict[str, str]:
    """The words that a guest can do without, by their fields' names in Request."""
    words = {}
    if request.search:
        words["search"] = f"urunc.search={','.join(request.search)}"
    if request.options and request.dns:
        words["options"] = f"urunc.options={','.join(request.options)}"
    if request.hosts and request.nics:
        hosts = (line.replace(" ", "@") for line in request.hosts)
        words["hosts"] = f"urunc.hosts={','.join(hosts)}"
    return words


def _metric(nic: Nic) -> int:
    return min(route.metric for route in nic.routes if route.destination == DEFAULT)


def items(nic: Nic, gateway: str) -> list[str]:
    """The settings of an interface that its `ip=` does not hold, in the order to apply them
    (`mtu=…`, `addr=…`, `route=…`); `gateway` is the one in its `ip=`, "" for none."""
    found = []
    if nic.mtu != VIRTIO_MTU:
        found.append(f"mtu={nic.mtu}")
    if nic.ipv6:
        found.append(f"addr={nic.ipv6}/{nic.ipv6_prefix}")
    found += [f"addr={address}" for address in nic.more]
    on_link = {route.destination for route in nic.routes if not route.gateway}
    for route in nic.routes:
        # `ip=` holds this route already, unless the gateway is not on the link: the kernel refuses
        # such a one
        held = gateway and (route.destination, route.gateway) == (DEFAULT, gateway)
        if held and f"{gateway}/32" not in on_link:
            continue
        found.append(_route(route))
    return found


def _route(route: Route) -> str:
    # 1024 is the kernel's own metric for IPv6; a metric matters only among several routes
    text = f"route={route.destination}"
    if route.gateway:
        text += f"@{route.gateway}"
    return text + (f"%{route.metric}" if route.metric not in (0, 1024) else "")


def _environment(variable: str) -> str:
    name = variable.partition("=")[0]
    if name in KERNEL_PARAMETERS or "." in name or "-" in name:
        raise ImageError(
            f"process.env: '{name}' would be taken as a kernel parameter", "choose another name"
        )
    return _quoted(variable, f"process.env '{name}'")


def _quoted(word: str, where: str) -> str:
    if '"' in word or "\n" in word:
        raise ImageError(
            f"{where}: a double quote or a line feed cannot be passed on the kernel's command line",
            "pass it in a file of the image",
        )
    return f'"{word}"' if not word or word.split() != [word] else word
