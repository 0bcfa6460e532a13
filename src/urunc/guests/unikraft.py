# SPDX-License-Identifier: Apache-2.0
"""Unikraft: library parameters, `--`, then the application's arguments, on one line.

The parameters for files and network have changed with its versions: DIALECTS is the table. The line
is split as a shell would (lib/ukargparse): blanks separate, quotes of both kinds group, an empty
word is dropped. A parameter (lib/uklibparam) is `LIBRARY.NAME=VALUE`. A list is `NAME=[ a b ]`,
which ends at the first word with a bracket at its end, quoted or not; or it is the same parameter
several times.
"""

from __future__ import annotations

from urunc.errors import ImageError
from urunc.guests import Guest, Nic, Request, Setting, Words, host_name, joined, share_tag
from urunc.net.ipv4 import dotted_mask
from urunc.record import record
from urunc.storage.facts import SHARES


@record
class Dialect:
    """The parameters that Unikraft takes from one version on."""

    since: tuple[int, ...]
    initrd: tuple[str, ...]
    """Entries of `vfs.fstab` that make an initrd's files the root; if empty, `vfs.rootfs` does."""
    network: str
    """"parameters": address, gateway and mask of one interface; "and-dns": these and a name server;
    "list": `netdev.ip` for each interface."""
    environment: bool = True
    """Whether it knows `env.vars`."""
    quoting: bool = True
    """Whether quotes group words that hold blanks."""
    shares: bool = True
    """Whether `vfs.fstab` can make mount points."""


MOUNTED = ('"none:/:ramfs"', '"initrd0:/:extract"')
DIALECTS = (
    Dialect(
        since=(0,),
        initrd=(),
        network="parameters",
        environment=False,
        quoting=False,
        shares=False,
    ),
    Dialect(since=(0, 12), initrd=(), network="parameters", environment=False, shares=False),
    Dialect(since=(0, 13), initrd=(), network="parameters", shares=False),
    Dialect(since=(0, 14), initrd=('"initrd0:/:initrd"',), network="parameters", shares=False),
    Dialect(since=(0, 16), initrd=('"initrd0:/:initrd"',), network="and-dns"),
    # `extract` mounts no file system to extract to, and fails without a root
    Dialect(since=(0, 16, 1), initrd=MOUNTED, network="list"),
    # `ramfs=2`: mount a ramfs unless the kernel has mounted something itself
    Dialect(since=(0, 16, 2), initrd=('"initrd0:/:extract::ramfs=2:"',), network="list"),
    # posix-vfs-fstab has no `ramfs` option
    Dialect(since=(0, 20), initrd=MOUNTED, network="list"),
)
"""By version, the oldest first. The last one serves for kernels of unknown version, too: most of
them understand its line."""

WORD_LIMIT = 60  # LIBUKBOOT_MAXNBARGS of a default build
LINE_LIMIT_BYTES = 4096  # LIBUKBOOT_CMDLINE_MAX_LEN of one
ENVIRONMENT_LIMIT = 8  # LIBPOSIX_ENVIRON_LIBPARAM_MAXCOUNT of one
MS_RDONLY = 1
SPLITTING = " \t\r\n\v"
QUOTING = "'\"\\"
GIB = 1 << 30
LOW_MEMORY = {"qemu": (0xB000_0000, 2 * GIB), "firecracker": (0xD000_0001, 0xD000_0000)}
"""monitor → (the memory from which a part of it is above 4 GiB, the memory that is below then), in
bytes, on x86_64 (hw/i386/pc_q35.c; src/vmm/src/arch/x86_64/layout.rs)."""
SEEDING_QEMU = (8, 1, 3)
"""The first version that emulates RDSEED."""
UNUSABLE_FIRECRACKER = (1, 8)
"""The first version on whose memory map Unikraft 0.16 and 0.17.0 fail."""
COMMIT_OF_0_17_0 = "484ff209"


class Unikraft(Guest):
    """A Unikraft unikernel."""

    name = "unikraft"
    monitors = frozenset(("qemu", "firecracker"))
    takes_hostname = True
    storage = frozenset(("initrd",))
    root_forms = ("cpio", "9p")
    volume_ways = ("initrd", "9p")
    # no isa-debug-exit: it writes 41 there when it has ended well
    max_addressed = 4  # LIBUKNETDEV_EINFO_LIBPARAM_MAXCOUNT of a default build

    def words(self, request: Request) -> Words:
        dialect = dialect_of(request.version)
        arguments = [
            _argument(word, index, dialect) for index, word in enumerate(request.args[1:], 1)
        ]
        words = []
        if request.env and dialect.environment:
            words += _environment(request.env)
        words += _network(request, dialect)
        mounts = _mounts(request, dialect)
        if mounts:
            words.append(f"vfs.fstab=[ {' '.join(mounts)} ]")
        elif request.initrd:
            words.append("vfs.rootfs=initrd")
        if not words and "--" in request.args[1:]:
            # otherwise the guest would take the words before that `--` for parameters; a word
            # without a dot is no parameter, and is ignored
            words.append("urunc")
        if words:  # with nothing before it, the `--` itself would be an argument
            words.append("--")
        words += [" ".join(arguments)] if arguments else []
        program = _argument(request.args[0], 0, dialect) if request.args else "unikernel"
        return Words(program=program, words=tuple(words))

    def omissions(self, request: Request) -> list[str]:
        dialect, left_out = dialect_of(request.version), []
        unnamed = f"unikraft {request.version}".rstrip()
        if request.env and not dialect.environment:
            left_out.append(f"process.env: {unnamed} takes none (`env.vars` came with 0.13)")
        elif len(request.env) > ENVIRONMENT_LIMIT:
            lost = [variable.partition("=")[0] for variable in request.env[ENVIRONMENT_LIMIT:]]
            left_out.append(
                f"process.env: unikraft drops all variables but {ENVIRONMENT_LIMIT}, unless it is "
                f"built for more: {', '.join(lost[:8])}{', …' if len(lost) > 8 else ''}"
            )
        if dialect.network != "list" and len(request.nics) > 1:
            left_out.append(f"interfaces: {unnamed} takes an address for the first one only")
        line = self.words(request)
        count = 1 + _count(" ".join(line.words))
        if count > WORD_LIMIT:
            left_out.append(
                f"command line: unikraft drops all words but {WORD_LIMIT} of these {count}, unless "
                "it is built for more"
            )
        size = len(" ".join((line.program, *line.words)).encode())
        if size > LINE_LIMIT_BYTES:
            left_out.append(
                f"command line: {size} bytes are more than the {LINE_LIMIT_BYTES} that a default "
                "build of unikraft takes; such a build will not start"
            )
        return left_out

    def cautions(self, setting: Setting) -> list[str]:
        found = []
        start, used = LOW_MEMORY.get(setting.monitor, (0, 0))
        if setting.architecture == "x86_64" and 0 < start <= setting.memory_bytes:
            found.append(
                f"memory: unikraft uses {used >> 20} MiB of {setting.memory_bytes >> 20} on "
                f"{setting.monitor}: it maps only what is below 4 GiB"
            )
        if setting.release and dialect_of(setting.release) != dialect_of(setting.version):
            found.append(
                f"annotation 'unikernelVersion': {setting.version}, but the kernel's file says "
                f"{setting.release}: the command line is for {setting.version}"
            )
        if setting.accelerator == "tcg" and _lacks_seeds(setting):
            found.append(
                f"unikraft {setting.release or setting.version} wants the processor's RDSEED, "
                f"which QEMU emulates from 8.1.3 on (this is {setting.monitor_version}): a "
                "default build ends with 'Could not initialize the HWRNG'; build it without "
                "LIBUKRANDOM, or use KVM"
            )
        if setting.monitor == "firecracker" and _stops_on(setting):
            found.append(
                f"unikraft {setting.release or setting.version} does not start on Firecracker 1.8 "
                f"and newer (this is {setting.monitor_version}): it stops in an assertion "
                "(ml->flags == mr->flags); build the image with Unikraft 0.18 or newer, or use qemu"
            )
        return found


def _lacks_seeds(setting: Setting) -> bool:
    """Whether a default build finds no source of random numbers under emulation: 0.17 has
    LIBUKRANDOM by default."""
    built = setting.release or setting.version
    return (
        setting.architecture == "x86_64"
        and bool(built and setting.monitor_version)
        and (0, 17) <= version_of(built) < (0, 18)
        and version_of(setting.monitor_version) < SEEDING_QEMU
    )


def _stops_on(setting: Setting) -> bool:
    """Whether it fails on this Firecracker's memory map; a commit after 0.17.0's own may work."""
    built = setting.release or setting.version
    if not built or not setting.monitor_version:
        return False
    _, mark, commit = built.partition("~")
    mended = version_of(built) >= (0, 17) and mark and commit != COMMIT_OF_0_17_0
    return (
        (0, 16) <= version_of(built) < (0, 18)
        and not mended
        and version_of(setting.monitor_version) >= UNUSABLE_FIRECRACKER
    )


def dialect_of(version: str) -> Dialect:
    """The dialect of a version, the newest one for ""; raises ImageError."""
    if not version:
        return DIALECTS[-1]
    numbers = version_of(version)
    return [dialect for dialect in DIALECTS if dialect.since <= numbers][-1]


def version_of(text: str) -> tuple[int, ...]:
    """A version's numbers, without what follows them (`0.17.0~484ff209`, `v0.16.1-rc1`); raises
    ImageError."""
    numbers = text.removeprefix("v")
    for mark in "~-+ ":
        numbers = numbers.partition(mark)[0]
    try:
        return tuple(int(number) for number in numbers.split("."))
    except ValueError:
        raise ImageError(
            f"annotation 'unikernelVersion': '{text}' is not a version", "for example 0.16.1"
        ) from None


def _mounts(request: Request, dialect: Dialect) -> list[str]:
    """Entries of `vfs.fstab`: `DEVICE:PATH:DRIVER:FLAGS:OPTIONS:UKOPTIONS`, the root first. A
    device is an initrd, or a share's tag (lib/posix-vfs-fstab; vfscore's automount before 0.20)."""
    mounts = list(dialect.initrd) if request.initrd else []
    shares = []
    if request.root and request.root.form in SHARES:
        shares.append(_share("root", "/", read_only=True))
    for index, volume in enumerate(request.volumes):
        if volume.way in SHARES:
            if ":" in volume.destination or volume.destination.split() != [volume.destination]:
                raise ImageError(
                    f"mount '{volume.destination}': unikraft's list of mounts cannot hold it",
                    "choose a path without colons and blanks",
                )
            tag = share_tag(index)
            shares.append(_share(tag, volume.destination, read_only=volume.read_only))
    if shares and not dialect.shares:
        raise ImageError(
            f"unikraft {request.version}: has no shared directories",
            "before 0.16 its initrd is all that it can take files from",
        )
    return mounts + shares


def _share(tag: str, path: str, *, read_only: bool) -> str:
    """An entry of `vfs.fstab` for 9pfs. The flags are mount(2)'s in hexadecimal; `mkmp` makes the
    mount point."""
    flags = f"{MS_RDONLY:#x}" if read_only else ""
    return f'"{tag}:{path}:9pfs:{flags}::{"" if path == "/" else "mkmp"}"'


def _environment(variables: tuple[str, ...]) -> list[str]:
    """`env.vars` as a list, and as a word of its own for each variable that would end the list."""
    ending = [variable for variable in variables if variable.endswith("]")]
    listed = [_quoted(variable) for variable in variables if not variable.endswith("]")]
    words = [f"env.vars=[ {' '.join(listed)} ]"] if listed else []
    return words + [_quoted(f"env.vars={variable}") for variable in ending]


def _argument(word: str, index: int, dialect: Dialect) -> str:
    if not word:
        raise ImageError(
            f"process.args[{index}]: unikraft drops an empty argument",
            "leave it out",
        )
    return _quoted(word) if dialect.quoting else joined((word,), "unikraft")


def _quoted(word: str) -> str:
    """A word quoted for the guest's parser, which reads quotes as a shell does. The result never
    holds ` -- `, at which Firecracker splits the line."""
    if not any(letter in SPLITTING or letter in QUOTING for letter in word):
        return word
    if "'" not in word and " -- " not in word:
        return f"'{word}'"
    return "'" + word.replace("'", "'\"'\"'").replace(" -- ", " ''-- ") + "'"


def _count(line: str) -> int:
    """How many words the guest's parser finds in a line."""
    words, quote, inside = 0, "", False
    for letter in line:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in SPLITTING:
            inside = False
            continue
        elif letter in "'\"":
            quote = letter
        words += not inside
        inside = True
    return words


def _network(request: Request, dialect: Dialect) -> list[str]:
    """`netdev.ip=IP/PLEN:GW:DNS:DNS:HOST:DOMAIN` for each interface in turn. Unknown fields are
    empty, and trailing colons are cut off. Only the first has name servers and names."""
    servers = [server for server in request.dns if ":" not in server][:2]
    if dialect.network != "list":
        used = servers[:1] if dialect.network == "and-dns" else []
        return [word for nic in request.nics[:1] if nic.ipv4 for word in _parameters(nic, used)]
    nics = list(request.nics[: Unikraft.max_addressed])
    while nics and not nics[-1].ipv4:
        nics.pop()
    shared = [
        *servers,
        *[""] * (2 - len(servers)),
        host_name(request.hostname),
        *request.search[:1],
    ]
    words = []
    for nic in nics:
        address = f"{nic.ipv4}/{nic.ipv4_prefix}" if nic.ipv4 else ""
        words.append("netdev.ip=" + ":".join((address, nic.ipv4_gateway, *shared)).rstrip(":"))
        shared = []
    return words


def _parameters(nic: Nic, servers: list[str]) -> list[str]:
    words = [f"netdev.ipv4_addr={nic.ipv4}"]
    if nic.ipv4_gateway:
        words.append(f"netdev.ipv4_gw_addr={nic.ipv4_gateway}")
    words.append(f"netdev.ipv4_subnet_mask={dotted_mask(nic.ipv4_prefix)}")
    return words + [f"netdev.ipv4_dns0_addr={server}" for server in servers]


GUEST = Unikraft
