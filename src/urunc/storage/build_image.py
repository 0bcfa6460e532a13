# SPDX-License-Identifier: Apache-2.0
"""Builds images of root filesystems, in a child with mount and network namespaces of its own.

The child sees the tree read-only, without set-user-ID, devices and programs: what is in it is data.
It runs the filesystems' own programs as root without other capabilities than to read, with a time
limit and a limit on size. It dies with its parent, and what it mounted dies with it; the file that
it writes is locked by it, too.
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
from urunc.programs import DEFAULT_PATH
from urunc.record import record
from urunc.storage import cache, mkfs, trees
from urunc.storage.cache import WRITABLE, FilesystemImage, of_entry
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
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: files of any owner and mode are read."""
MIB = 1 << 20
BLOCK_BYTES = 4096
ANSWER_LIMIT_BYTES = 1 << 16
OUTPUT_BYTES = 2048
"""So much of the end of what a program says is kept."""
FEATURES = {
    "ext2": "none,ext_attr,filetype,sparse_super,large_file",
    "ext4": "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize",
}
"""What each guest's driver knows. No journal: the shared image is never written to, and a private
copy lives no longer than its container."""
PREFIXES = {"cpio": "", "root-cpio": "root"}
"""Form of an archive → where in it the root filesystem is: below `root` an initrd's own files are
not in its way."""
INODE_BYTES = {"ext2": 128, "ext4": 256}
EXT_MINIMUM_BLOCKS = 256
EROFS_INODES_OFFSET = 1024 + 16
"""Of `inos` in the superblock (struct erofs_super_block), how many inodes there are."""
OVERLAY_FLAGS = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
TREE_ATTRIBUTES = (
    mounts.MOUNT_ATTR_RDONLY
    | mounts.MOUNT_ATTR_NOSUID
    | mounts.MOUNT_ATTR_NODEV
    | mounts.MOUNT_ATTR_NOEXEC
)


class LayersChangedError(Exception):
    """The layers that were found are not those of the root filesystem."""


@record
class _Task:
    """What the child is to do."""

    source: Source
    format: str
    """Of images.IMAGE_FORMATS."""
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
    """Build the entry of the cache that `images.obtain` did not find, or wait for whoever builds
    it."""
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
    """Build an image at a path, outside the cache."""
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
    """Have a child write the image to an empty file, and check that it did; what was left out.
    Raises OSError, HostError and LayersChangedError."""
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
    """Fork, and wait for the answer; within the time limit."""
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
            posix.kill(pid, SIGKILL)  # after its answer it has nothing more to do
        finally:
            posix.waitpid(pid, 0)
    try:
        answer: dict[str, Any] = loads(b"".join(parts).decode())
    except ValueError:
        return {"error": "the builder died", "hint": ""}
    return answer


def _child(task: _Task, fd: int, tell: int, parent: int) -> NoReturn:
    """The builder: one answer, a JSON object, into a pipe."""
    answer: dict[str, Any]
    try:
        _linux.prctl(PR_SET_PDEATHSIG, SIGKILL)
        if posix.getppid() != parent:
            posix._exit(1)
        # 0o755, and nothing of the caller's: what mke2fs makes of it is not to depend on that
        posix.umask(0o022)
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
        _linux.mount_setattr(tree, "", mounts.AT_EMPTY_PATH, TREE_ATTRIBUTES, 0, 0)
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
    # programs write a filesystem of their own accord: a limit that the kernel keeps
    room = _ext_blocks(task, size) * BLOCK_BYTES * 2 if task.format in WRITABLE else 0
    limit = max(task.limit_mib * MIB * 2, room)
    _linux.setrlimit(0, RLIMIT_FSIZE, limit, limit)
    posix.set_inheritable(fd, True)  # the lock is held as long as the program runs
    more = OPTIONS.get(task.format, ()) if task.owners else ()
    omitted: tuple[str, ...] = ()
    if task.format in WRITABLE:
        _make_ext(task, program, root, size, posix.fstat(top))
    elif task.format == "erofs":
        run_program([program, *more, task.target, root])
        omitted = _omitted_by_erofs(fd, top, size)
    else:
        options = "-noappend -no-progress -no-recovery -mem 256M -comp gzip -Xcompression-level 1"
        run_program([program, root, task.target, *options.split(), *more])
    if task.owners:
        rewrite(fd, task.format, task.owners)
    return omitted


def _mount_layers(source: Source, scratch: str) -> None:
    """The lower directories as one, read-only, by short names: all options have to fit in a
    page."""
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
    # a directory may not be the layer any more, where an engine mounted something there for a
    # moment: what the upper directory does not name must be the same in both
    upper = set(posix.listdir(source.upper)) if source.upper else set()
    if set(posix.listdir("root")) - upper != set(posix.listdir(source.root)) - upper:
        raise LayersChangedError


def _check_size(task: _Task, size: trees.Size) -> None:
    """The tree is within the limit, and the disk has room for it."""
    # only ext2 and ext4 keep holes
    sparse = task.format in WRITABLE
    needed = size.data_bytes if sparse else size.apparent_bytes
    if needed > task.limit_mib * MIB:
        raise HostError(
            f"{needed // MIB} MiB of files{'' if sparse else ' with their holes'}, "
            f"and {task.limit_mib} are the limit",
            "storage.image_limit_mib in the configuration sets it",
        )
    facts = posix.statvfs(task.target)
    if task.format != "squashfs" and needed > facts.f_bavail * facts.f_frsize:
        raise OSError(ENOSPC, "no space left")


def _ext_blocks(task: _Task, size: trees.Size) -> int:
    """Blocks of an ext filesystem with a tree and room in it; a little too many, for those are
    holes."""
    inodes = _ext_inodes(task, size)
    blocks = size.blocks + task.slack_mib * MIB // BLOCK_BYTES
    blocks += -(-inodes * INODE_BYTES[task.format] // BLOCK_BYTES)
    groups = blocks // 32768 + 1
    return max(blocks * 103 // 100 + groups * 8 + 64, EXT_MINIMUM_BLOCKS)


def _ext_inodes(task: _Task, size: trees.Size) -> int:
    """One for each 16 KiB of free room, as mke2fs reckons, and for the tree."""
    return size.entries + task.slack_mib * 64 + 64


def _make_ext(
    task: _Task, program: str, root: str, size: trees.Size, top: posix.stat_result
) -> None:
    words = [program, "-q", "-F", "-t", task.format, "-O", FEATURES[task.format], "-m", "0"]
    words += ["-b", str(BLOCK_BYTES), "-I", str(INODE_BYTES[task.format])]
    words += ["-N", str(_ext_inodes(task, size)), "-d", root]
    words += [task.target, str(_ext_blocks(task, size))]
    run_program(words)
    # mke2fs makes a directory of its own and leaves the root's facts out (until 1.47.2)
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
    # it ends with 0 in any case, and says its name and each order
    if wrong := [line for line in said.split("\n") if line and not line.startswith("debugfs")]:
        raise HostError(f"debugfs: {wrong[0]}")


def _omitted_by_erofs(fd: int, top: int, size: trees.Size) -> tuple[str, ...]:
    """What mkfs.erofs left out: until 1.6 each name that begins with lost+found, at any depth."""
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
    """Run a program to its end; what it says. Raises what it complains about."""
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
