# SPDX-License-Identifier: Apache-2.0
"""Builds images of root filesystems, in a child with mount and network namespaces of its own.

The child has the tree mounted read-only, nosuid, nodev and noexec: its content is data. It runs the
filesystems' own programs as root with no capabilities but those to read any file, with limits on
time and size. It dies with its parent, and its mounts die with it; it holds the lock of the file
that it writes, too.
"""

from __future__ import annotations

import posix
from _signal import SIGKILL, SIGXFSZ
from errno import EDQUOT, EFBIG, ENOSPC
from select import POLLIN, poll
from time import monotonic

from urunc.errors import Error, HostError, reason
from urunc.jsontext import dumps, loads
from urunc.linux import _linux, mounts
from urunc.linux.files import unlink
from urunc.linux.namespaces import CLONE_NEWNET, CLONE_NEWNS
from urunc.programs import DEFAULT_PATH, capture
from urunc.record import record
from urunc.storage import cache, mkfs, trees
from urunc.storage.cache import WRITABLE, FilesystemImage, of_entry
from urunc.storage.ext_inodes import settle_times
from urunc.storage.layers import Source
from urunc.storage.ownership import OPTIONS, rewrite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from urunc.config import Config
    from urunc.storage.ownership import Owners

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
RLIMIT_CORE, RLIMIT_FSIZE = 4, 1
READING = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, to read files of any owner and mode."""
MIB = 1 << 20
BLOCK_BYTES = 4096
ANSWER_LIMIT_BYTES = 1 << 16
OUTPUT_BYTES = 2048
"""How much of the end of a program's output is kept, for messages."""
FEATURES = {
    "ext2": "none,ext_attr,filetype,sparse_super,large_file",
    "ext4": "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize",
}
"""Features that every guest's driver knows. No journal: the shared image is never written to, and a
private copy lives no longer than its container."""
UUID = "3b9d0c5e-6d43-4f7a-9f35-75c9a0d1e8a6"
"""Of every image, and the seed of its directories' hashes: one tree is one image, so nothing in it
is drawn by lot. Guests are given disks by their devices."""
LATEST = 0xFFFFFFFF
"""A time after that of any file, in seconds since the Epoch."""
TIMES = {
    "mke2fs": ("E2FSPROGS_FAKE_TIME", 1),
    "debugfs": ("E2FSPROGS_FAKE_TIME", 1),
    "mkfs.erofs": ("SOURCE_DATE_EPOCH", LATEST),
}
"""Program → a variable with the time that it takes for now; 0 is none to e2fsprogs. The second
variable moves later files to that time, and is all that erofs-utils before 1.8 have: with `-T`
every file gets that time. mksquashfs has `-mkfs-time`."""
PREFIXES = {"cpio": "", "root-cpio": "root"}
"""Format of an archive → the directory in it that holds the root filesystem: below `root` it does
not collide with an initrd's own files."""
INODE_BYTES = {"ext2": 128, "ext4": 256}
EXT_MINIMUM_BLOCKS = 256
EROFS_INODES_OFFSET = 1024 + 16
"""The offset of `inos`, the number of inodes (struct erofs_super_block)."""
OVERLAY_FLAGS = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
SQUASHFS_OPTIONS = (
    *("-noappend", "-no-progress", "-no-recovery", "-mem", "256M", "-b", "131072"),
    *("-comp", "gzip", "-Xcompression-level", "1", "-mkfs-time", "0"),
)


class LayersChangedError(Exception):
    """The layers that were found are not (any more) those that the root filesystem shows."""


@record
class _Task:
    """What the child is to build."""

    source: Source
    format: str
    """One of storage.facts.DISKS, or of PREFIXES."""
    target: str
    scratch: str
    """An empty directory to mount on."""
    limit_mib: int
    slack_mib: int
    owners: Owners | None


def build(
    source: Source,
    image_format: str,
    key: str,
    directory: str,
    config: Config,
    owners: Owners | None = None,
) -> FilesystemImage:
    """Build the cache entry that `images.obtain` did not find, or wait for another process that is
    building it. Raises HostError and LayersChangedError."""
    name = f"{key}.{image_format}"
    try:
        cache.sweep(directory)
        fd = cache.lock(directory, name)
        try:
            entry = cache.find(directory, name)
            if entry:
                cache.touch(entry)
                cache.abandon(directory, name)
                return of_entry(entry, key)
            try:
                before = "" if source.kind == "layers" else _signature(source.root)
                target = f"{directory}/{name}{cache.TEMPORARY}"
                omitted = _construct(source, image_format, target, fd, config, owners)
                if before and before != _signature(source.root):
                    raise HostError(f"build image of '{source.root}': it was changed meanwhile")
                cache.commit(directory, name, fd, source.root, omitted)
            except BaseException:
                cache.abandon(directory, name)
                raise
        finally:
            posix.close(fd)
    except OSError as error:
        raise _failure(error, image_format, source.root, directory) from None
    limit_bytes = config.get("storage.cache_mib") * MIB
    if limit_bytes:
        cache.shrink(directory, limit_bytes)
    path = f"{directory}/{name}"
    return FilesystemImage(
        path=path, size_bytes=posix.stat(path).st_size, key=key, built=True, omitted=omitted
    )


def build_at(
    source: Source, image_format: str, target: str, config: Config, owners: Owners | None = None
) -> FilesystemImage:
    """Build an image at a new path, outside the cache; raises HostError and LayersChangedError."""
    directory = target.rpartition("/")[0]
    cache.directory(config)
    try:
        flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        fd = posix.open(target, flags, 0o600)
        try:
            omitted = _construct(source, image_format, target, fd, config, owners)
        except BaseException:
            unlink(target)
            raise
        finally:
            posix.close(fd)
    except OSError as error:
        raise _failure(error, image_format, source.root, directory) from None
    size = posix.stat(target).st_size
    return FilesystemImage(path=target, size_bytes=size, key="", built=True, omitted=omitted)


def _failure(error: OSError, image_format: str, root: str, directory: str) -> HostError:
    if error.errno in (ENOSPC, EDQUOT):
        return HostError(
            f"build {image_format} image of '{root}': no space left in '{directory}'",
            "`urunc cache prune --all` makes room; storage.cache names another directory",
        )
    where = f" '{error.filename}'" if error.filename else ""
    return HostError(f"build {image_format} image of '{root}'{where}: {reason(error)}")


def _construct(
    source: Source, image_format: str, target: str, fd: int, config: Config, owners: Owners | None
) -> tuple[str, ...]:
    """Have a child write the image to the empty file `target`, of which `fd` is a descriptor, and
    check that it did. Returns what the image lacks, in words. Raises OSError, HostError and
    LayersChangedError."""
    scratch = f"{cache.directory(config)}/{cache.SCRATCH}"
    try:
        posix.mkdir(scratch, 0o700)
    except FileExistsError:
        pass
    task = _Task(
        source=source,
        format=image_format,
        target=target,
        scratch=scratch,
        limit_mib=config.get("storage.image_limit_mib"),
        slack_mib=config.get("storage.slack_mib"),
        owners=owners,
    )
    answer = _run_child(task, fd, config.get("storage.build_timeout_s"))
    if "changed" in answer:
        raise LayersChangedError
    if "error" in answer:
        if answer.get("errno"):
            raise OSError(answer["errno"], answer["error"])
        raise HostError(
            f"build {image_format} image of '{source.root}': {answer['error']}", answer["hint"]
        )
    there, here = posix.stat(target), posix.fstat(fd)
    if there.st_ino != here.st_ino or not here.st_size:
        raise HostError(f"build {image_format} image of '{source.root}': nothing was written")
    return tuple(answer["omitted"])


def _signature(root: str) -> str:
    tree = trees.open_tree(root)
    try:
        return trees.signature(tree)
    finally:
        posix.close(tree)


def _run_child(task: _Task, fd: int, timeout_s: int) -> dict[str, Any]:
    """Fork the builder and wait for its answer; raises HostError after the time limit."""
    parent = posix.getpid()
    hear, tell = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        _child(task, fd, tell, parent)
    posix.close(tell)
    parts: list[bytes] = []
    try:
        poller = poll()
        poller.register(hear, POLLIN)
        end = monotonic() + timeout_s
        while True:
            if not poller.poll(max(end - monotonic(), 0) * 1000):
                raise HostError(
                    f"build {task.format} image of '{task.source.root}': not done within "
                    f"{timeout_s} s",
                    "storage.build_timeout_s in the configuration is the limit",
                )
            part = posix.read(hear, ANSWER_LIMIT_BYTES)
            if not part:
                break
            parts.append(part)
    finally:
        posix.close(hear)
        try:
            posix.kill(pid, SIGKILL)  # it has answered, or is out of time
        finally:
            posix.waitpid(pid, 0)
    try:
        answer: dict[str, Any] = loads(b"".join(parts).decode())
    except ValueError:
        return {"error": "the builder died", "hint": ""}
    return answer


def _child(task: _Task, fd: int, tell: int, parent: int) -> NoReturn:
    """The builder: writes one answer, a JSON object, to the pipe `tell`."""
    answer: dict[str, Any]
    try:
        _linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
        if posix.getppid() != parent:
            posix._exit(1)
        posix.umask(0o022)  # not the caller's: mke2fs's result would depend on it
        _linux.setrlimit(0, RLIMIT_CORE, 0, 0)
        _linux.prctl(PR_SET_NO_NEW_PRIVS, 1)
        answer = {"omitted": list(_make(task, fd))}
    except LayersChangedError:
        answer = {"changed": True}
    except Error as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        full = error.errno if error.errno in (ENOSPC, EDQUOT) else 0
        answer = {"error": where + reason(error), "hint": "", "errno": full}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "hint": "please report it"}
    try:
        posix.write(tell, dumps(answer).encode()[:ANSWER_LIMIT_BYTES])
    finally:
        posix._exit(0)


def _make(task: _Task, fd: int) -> tuple[str, ...]:
    if task.format in mkfs.PROGRAMS and not (program := mkfs.find(task.format)):
        name, package = mkfs.PROGRAMS[task.format]
        raise HostError(f"'{name}' is not installed", f"it is in the package {package}")
    _linux.unshare(CLONE_NEWNS | CLONE_NEWNET)
    source = task.source
    tree = -1 if source.kind == "layers" else trees.open_tree(source.root)
    mounts.make_private()
    mounts.mount_tmpfs(task.scratch, mounts.MS_NOSUID | mounts.MS_NODEV, "size=1m,mode=0700")
    root = f"{task.scratch}/root"
    posix.mkdir(root)
    if tree >= 0:
        trees.restrict(tree)
        _linux.move_mount(tree, root)
        posix.close(tree)
    else:
        _mount_layers(source, task.scratch)
    _linux.capset(READING)  # and for the programs: no_new_privs keeps execve from more
    top = posix.open(root, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    size = trees.measure(top)
    _check_size(task, size)
    if task.format in PREFIXES:
        return _write_archive(task, top, fd)
    # how much these programs write is up to them, so the kernel enforces the limit
    room = _ext_blocks(task, size) * BLOCK_BYTES * 2 if task.format in WRITABLE else 0
    limit = max(task.limit_mib * MIB * 2, room)
    _linux.setrlimit(0, RLIMIT_FSIZE, limit, limit)
    posix.set_inheritable(fd, True)  # so that the lock is held as long as the program runs
    more = OPTIONS.get(task.format, ()) if task.owners else ()
    omitted: tuple[str, ...] = ()
    if task.format in WRITABLE:
        _make_ext(task, program, root, size, posix.fstat(top))
        settle_times(fd)
    elif task.format == "erofs":
        more = (*more, *_erofs_block(program))
        run_program([program, "-U", UUID, *more, task.target, root])
        omitted = _omitted_by_erofs(fd, top, size)
    else:
        run_program([program, root, task.target, *SQUASHFS_OPTIONS, *more])
    if task.owners:
        rewrite(fd, task.format, task.owners)
    return omitted


def _mount_layers(source: Source, scratch: str) -> None:
    """Mount the lower directories as one, read-only. They get short names, because mount(2) takes
    one page of options."""
    names = []
    for number, lower in enumerate(source.lowers):
        posix.symlink(lower, f"{scratch}/{number}")
        names.append(str(number))
    if len(names) == 1:  # an overlay without an upper directory has two at least
        posix.mkdir(f"{scratch}/empty")
        names.append("empty")
    posix.chdir(scratch)
    options = ",".join((f"lowerdir={':'.join(names)}", *source.options))
    _linux.mount("overlay", "root", "overlay", OVERLAY_FLAGS, options)
    # an engine may have mounted something over one of these directories: all names that the upper
    # directory does not have must be the same in both
    upper = set(posix.listdir(source.upper)) if source.upper else set()
    if set(posix.listdir("root")) - upper != set(posix.listdir(source.root)) - upper:
        raise LayersChangedError


def _check_size(task: _Task, size: trees.Size) -> None:
    """Raise HostError for a tree beyond the limit, OSError if the disk has no room for it."""
    # only ext2 and ext4 keep holes
    sparse = task.format in WRITABLE
    needed = size.data_bytes if sparse else size.apparent_bytes
    if needed > task.limit_mib * MIB:
        raise HostError(
            f"{needed // MIB} MiB of files{'' if sparse else ' with their holes'}, "
            f"and the limit is {task.limit_mib} MiB",
            "storage.image_limit_mib in the configuration sets it",
        )
    facts = posix.statvfs(task.target)
    if task.format != "squashfs" and needed > facts.f_bavail * facts.f_frsize:
        raise OSError(ENOSPC, "no space left")


def _ext_blocks(task: _Task, size: trees.Size) -> int:
    """The blocks of an ext filesystem for a tree and the configured slack; rather too many, since
    unused ones are holes."""
    inodes = _ext_inodes(task, size)
    blocks = size.blocks + task.slack_mib * MIB // BLOCK_BYTES
    blocks += -(-inodes * INODE_BYTES[task.format] // BLOCK_BYTES)
    groups = blocks // 32768 + 1
    return max(blocks * 103 // 100 + groups * 8 + 64, EXT_MINIMUM_BLOCKS)


def _ext_inodes(task: _Task, size: trees.Size) -> int:
    """Inodes for the tree, and one for each 16 KiB of slack, mke2fs's ratio."""
    return size.entries + task.slack_mib * 64 + 64


def _make_ext(
    task: _Task, program: str, root: str, size: trees.Size, top: posix.stat_result
) -> None:
    words = [program, "-q", "-F", "-t", task.format, "-O", FEATURES[task.format], "-m", "0"]
    words += ["-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES[task.format])]
    words += ["-U", UUID, "-E", f"hash_seed={UUID}"]
    words += ["-N", str(_ext_inodes(task, size)), "-d", root]
    words += [task.target, str(_ext_blocks(task, size))]
    run_program(words)
    # mke2fs makes a lost+found, and does not copy the root's mode and owner (until 1.47.2)
    orders = [] if "lost+found" in posix.listdir(root) else ["rmdir lost+found"]
    values = {
        "mode": f"0{top.st_mode:o}",
        "uid": top.st_uid,
        "gid": top.st_gid,
        "mtime": f"@{int(top.st_mtime)}",
    }
    orders += [f"set_inode_field / {field} {value}" for field, value in values.items()]
    debugfs = f"{program.rpartition('/')[0]}/debugfs"
    said = run_program([debugfs, "-w", "-f", "-", task.target], "\n".join(orders) + "\n")
    # it exits with 0 in any case, and prints its name and each command
    if wrong := [line for line in said.split("\n") if line and not line.startswith("debugfs")]:
        raise HostError(f"debugfs: {wrong[0]}")


def _erofs_block(program: str) -> tuple[str, ...]:
    """The size of a block, where the host's pages would be it: no guest with smaller ones mounts
    that. The option came in 1.7; before, a block had 4096 bytes."""
    if posix.sysconf("SC_PAGESIZE") == BLOCK_BYTES or " -b#" not in capture([program, "--help"])[1]:
        return ()
    return (f"-b{BLOCK_BYTES}",)


def _omitted_by_erofs(fd: int, top: int, size: trees.Size) -> tuple[str, ...]:
    """What mkfs.erofs left out, in words: until 1.6 it skips every name that begins with
    lost+found, at any depth."""
    inodes = int.from_bytes(posix.pread(fd, 8, EROFS_INODES_OFFSET), "little")
    if inodes >= size.entries:
        return ()
    names = [entry.path for entry in trees.walk(top) if entry.name.startswith("lost+found")]
    if not names:
        return ()
    return (
        f"mkfs.erofs left out '{names[0]}'"
        + (f" and {len(names) - 1} more with such a name" if len(names) > 1 else "")
        + ": until erofs-utils 1.6 it skips all that begin with lost+found",
    )


def _write_archive(task: _Task, top: int, fd: int) -> tuple[str, ...]:
    from urunc.storage.cpio import write_tree

    limit_bytes = task.limit_mib * MIB
    facts = write_tree(fd, top, PREFIXES[task.format], limit_bytes=limit_bytes, owners=task.owners)
    left_out = tuple(
        f"attribute {item.name} of {item.files} files, as of '{item.example}'"
        for item in facts.left_out
    )
    if facts.linked and not PREFIXES[task.format]:
        left_out += (without_links(facts.linked, facts.linked_example),)
    return left_out


def without_links(count: int, example: str) -> str:
    """What a guest lacks that unpacks its initrd itself, and no hard links (Unikraft)."""
    return (
        f"{count} hard links, as '{example}', are empty files where a guest unpacks no such links"
    )


def run_program(argv: list[str], text: str = "") -> str:
    """Run a program with `text` on its standard input; its output, both streams. Raises HostError
    with its last lines if it fails, OSError (ENOSPC) if the disk is full."""
    parent = posix.getpid()
    hear, tell = posix.pipe()
    read, write = posix.pipe()
    pid = posix.fork()
    if pid == 0:
        try:
            _linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
            if posix.getppid() != parent:
                posix._exit(127)
            for number, descriptor in enumerate((read, tell, tell)):
                posix.dup2(descriptor, number)
            _linux.default_signals()
            environment = {"PATH": DEFAULT_PATH, "LC_ALL": "C", "MKE2FS_CONFIG": "/dev/null"}
            if now := TIMES.get(argv[0].rpartition("/")[2]):
                environment[now[0]] = str(now[1])
            posix.execve(argv[0], argv, environment)
        finally:
            posix._exit(127)
    posix.close(read)
    posix.close(tell)
    posix.write(write, text.encode())
    posix.close(write)
    said = b""
    while part := posix.read(hear, 65536):
        said = (said + part)[-OUTPUT_BYTES:]
    posix.close(hear)
    code = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    output = said.decode("utf-8", "replace")
    if code == 0:
        return output
    if posix.strerror(ENOSPC) in output or posix.strerror(EDQUOT) in output:
        raise OSError(ENOSPC, "no space left")
    if code == -SIGXFSZ or posix.strerror(EFBIG) in output:
        raise HostError("it becomes too large", "storage.image_limit_mib is the limit")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    name = argv[0].rpartition("/")[2]
    raise HostError(f"{name} ended with {code}: {'; '.join(lines[-3:])}")
