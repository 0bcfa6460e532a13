# SPDX-License-Identifier: Apache-2.0
"""`containerd-shim-urunc-v2`: what containerd runs to have a shim (`start`), to clean up after one
that died (`delete`), and to ask what it is (`-info`, `-v`).

containerd reads standard output and standard error of `start` as one: the address is all that may
be on it (bootstrap.py). Options are Go's, with one dash, the action last. A compiled program
(door/shim.c) does the usual `start` and `delete` before this, by the same rules; this has all.
"""

from __future__ import annotations

import gc
import posix
import sys

from urunc import __version__, logs
from urunc.errors import Error, HostError, StateError, UsageError, reason
from urunc.linux import _linux
from urunc.linux.files import (
    exists,
    make_directories,
    read_descriptor,
    read_text,
    unlink,
    write_all,
)
from urunc.shim import DEFAULT_ROOT, ROOT_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NAME = "io.containerd.urunc.v2"
SOCKETS = "/run/containerd/s"
GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
"""Annotations by which containers share a shim, the first found one."""
VALUE_OPTIONS = ("namespace", "address", "publish-binary", "id", "bundle", "socket")
SERVED_OPTIONS = ("listener", "path", "events", "adjust")
"""What the compiled program (door/shim.c) says to `serve`."""
FLAG_OPTIONS = ("debug", "info", "v")
ADDRESS_LIMIT_BYTES = 106
PR_SET_CHILD_SUBREAPER = 36
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
"""The type of `features`' document, which is JSON."""
TAKEN = "containerd.io/runtime-allow-mounts"
"""Types of mounts, with commas; from 2.4 on the answer of `start` has them."""
KILLED = 137
"""The exit code of a container whose shim died: it is killed."""


def main() -> NoReturn:
    """Run the action and exit."""
    try:
        code = run(sys.argv[1:])
    except Error as error:
        posix.write(2, f"containerd-shim-urunc-v2: {error}\n".encode())
        code = error.exit_code
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        posix.write(2, f"containerd-shim-urunc-v2: {error.strerror or error}{where}\n".encode())
        code = 1
    posix._exit(code)


def run(argv: list[str]) -> int:
    """What these words ask for; its exit code."""
    options, actions = parse(argv)
    if "v" in options:
        posix.write(1, f"{NAME}:\n  Version:  {__version__}\n".encode())
        return 0
    if "info" in options:
        return info()
    for name in ("namespace", "id"):
        if not options.get(name):
            raise UsageError(f"option '-{name}': missing")
    action = actions[0] if actions else ""
    if action == "start":
        return start(options)
    if action == "delete":
        return delete(options)
    if action == "serve" and all(name in options for name in SERVED_OPTIONS):
        serve(options)
    raise UsageError(
        f"unknown action '{action}'", "containerd runs this program: start, delete, -info, -v"
    )


def parse(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """(options, other words), as Go's flag package reads them."""
    options: dict[str, str] = {}
    words = list(argv)
    while words and words[0].startswith("-") and words[0] not in ("-", "--"):
        name, equals, value = words.pop(0).lstrip("-").partition("=")
        if name in FLAG_OPTIONS:
            if value != "false":
                options[name] = value
        elif name in VALUE_OPTIONS or name in SERVED_OPTIONS:
            if not equals:
                if not words:
                    raise UsageError(f"option '-{name}': needs a value")
                value = words.pop(0)
            options[name] = value
        else:
            raise UsageError(f"option '-{name}': unknown")
    return options, words


def start(options: dict[str, str]) -> int:
    """Have a shim for a container: one of its group that is there already, or a new one."""
    gc.disable()  # until what is waited for is loaded: there is no garbage in code
    from urunc.shim import bootstrap
    from urunc.shim.messages import MessageError
    from urunc.shim.options import first

    namespace, identifier = options["namespace"], options["id"]
    data = read_descriptor(0, 1 << 22) if not posix.isatty(0) else b""
    try:
        parameters, values = bootstrap.read(data, identifier, namespace)
        group = first(values).get("shim_cgroup", "")
    except MessageError as error:
        raise UsageError(f"standard input: {error}") from None
    grpc = options.get("address", "")
    events = _environment("TTRPC_ADDRESS")
    directory = SOCKETS
    if parameters:
        grpc = parameters.get("containerd_grpc_address") or grpc
        events = parameters.get("containerd_ttrpc_address") or events
        directory = parameters.get("socket_dir") or directory
    path = socket_path(directory, grpc, namespace, _group(identifier))
    address = f"unix://{path}"
    listener = _listen(path)
    answer = bootstrap.answer(parameters, address)
    if listener is None:
        _say(address, answer)
        return 0
    adjust = _score()
    if group:
        try:
            _join(group)
        except HostError:
            unlink(path)
            raise
    if posix.fork():
        _say(address, answer)
        return 0
    _drop_streams()  # first of all: what is said into containerd's pipe is part of the answer
    posix.setpgid(0, 0)
    _stay(listener, path, namespace, events, adjust)
    return None


def serve(options: dict[str, str]) -> NoReturn:
    """Be the shim behind a socket that the compiled program (door/shim.c) has made. It has answered
    containerd, which may be connecting already, and let go of its streams."""
    gc.disable()  # as in `start`
    from _socket import socket

    listener = socket(fileno=int(options["listener"]))
    listener.setblocking(False)
    posix.set_inheritable(listener.fileno(), False)
    adjust = int(options["adjust"])
    _stay(listener, options["path"], options["namespace"], options["events"], adjust)


def _stay(listener: Any, path: str, namespace: str, events: str, adjust: int) -> NoReturn:
    """Be the shim, until nobody needs it."""
    try:
        _serve(listener, path, namespace, events, adjust)
    except BaseException as error:
        posix.write(2, f"shim: {type(error).__name__}: {error}\n".encode())
        unlink(path)
    finally:
        posix._exit(0)


def socket_path(directory: str, address: str, namespace: str, group: str) -> str:
    """Where the shim of a group of containers listens: the same for each of them, and another for
    another containerd."""
    path = f"{directory}/{_sha256(f'{address}/{namespace}/{group}'.encode())}"
    if len(path) > ADDRESS_LIMIT_BYTES:
        raise UsageError(f"socket '{path}': longer than {ADDRESS_LIMIT_BYTES} bytes")
    return path


def _group(identifier: str) -> str:
    """The id that stands for all containers of a shim: the pod's, where there is one."""
    from urunc.bundle.document import read_document

    annotations = read_document(".").get("annotations") or {}
    for key in GROUPS:
        if annotations.get(key):
            return str(annotations[key])
    return identifier


def _listen(path: str) -> Any:
    """A listening socket; None where a shim listens there already."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    directory = path.rpartition("/")[0]
    make_directories(directory, 0o700)
    lock = _lock(directory)
    before = posix.umask(0o177)
    try:
        if _answers(path):
            return None
        unlink(path)  # nobody listens there any more
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
        return listener
    finally:
        posix.umask(before)
        posix.close(lock)


def _lock(directory: str) -> int:
    """A descriptor which, until it is closed, keeps other shims from making and removing sockets in
    this directory: who has bound one listens, too."""
    from fcntl import LOCK_EX, flock

    fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    flock(fd, LOCK_EX)
    return fd


def _answers(path: str) -> bool:
    """Whether somebody listens."""
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _say(address: str, answer: bytes) -> None:
    """Answer containerd, and tell older ones the address where they look for it after a restart."""
    fd = posix.open("address", posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
    write_all(fd, address.encode())
    posix.close(fd)
    write_all(1, answer)


def _score() -> int:
    """The daemon's OOM score: a little above its parent's, so that containerd is not the one to be
    killed for a container."""
    try:
        return min(int(read_text(f"/proc/{posix.getppid()}/oom_score_adj")) + 1, 1000)
    except (OSError, ValueError):
        return 0


def _join(group: str) -> None:
    """Join the control group of the option ShimCgroup, in each hierarchy that has it, as runc's
    shim does; raises HostError."""
    from urunc.linux import cgroups

    mounts = {mount for mount, _ in cgroups.hierarchies().values()}
    directories = [path for mount in mounts if exists(path := f"{mount}/{group.strip('/')}")]
    if not directories:
        raise HostError(f"ShimCgroup '{group}': no such control group")
    for directory in directories:
        try:
            cgroups.join(directory, posix.getpid())
        except OSError as error:
            raise HostError(f"ShimCgroup '{group}': join '{directory}': {reason(error)}") from None


def _serve(listener: Any, path: str, namespace: str, events: str, adjust: int) -> None:
    _linux.set_name("containerd-shim")
    _linux.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        fd = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
        write_all(fd, str(adjust).encode())
        posix.close(fd)
    except OSError:
        pass  # it takes CAP_SYS_RESOURCE to go below what the parent has
    logs.greet()
    # containerd asks for its first container within a millisecond: every module is waited for
    from urunc.shim.standby import Standby

    standby = Standby()
    from urunc.shim.attendance import Attendance
    from urunc.shim.calls import SERVICES
    from urunc.shim.loop import Loop
    from urunc.shim.publisher import Publisher
    from urunc.shim.service import Service
    from urunc.shim.verbs import Verbs

    gc.freeze()  # what is loaded stays, in each of its copies
    gc.enable()
    loop, publisher = Loop(listener, SERVICES), Publisher(events, namespace)
    service = Service(loop, publisher, Verbs(loop, standby), namespace, path)
    attendance = Attendance(loop, service.tasks, path)
    loop.run(service.serve, (service.settling, publisher, service.lives, attendance))


def _drop_streams() -> None:
    """Let go of containerd's pipes, or it waits; what is said from here on goes to its log."""
    null = posix.open("/dev/null", posix.O_RDWR)
    try:
        # a FIFO that containerd reads; with a reader of our own nobody is killed when it restarts
        log = posix.open("log", posix.O_RDWR | posix.O_NONBLOCK)
    except OSError:
        log = null
    for number, fd in enumerate((null, null, log)):
        posix.dup2(fd, number)
    for fd in {null, log}:
        if fd > 2:
            posix.close(fd)
    posix.chdir("/")  # the bundle goes before the shim does


def delete(options: dict[str, str]) -> int:
    """Clean up a container whose shim is no more, and say how it ended.

    Most often there is nothing to do, which the launcher knows without this (ENDED_FILE).
    """
    from time import time_ns

    from urunc.shim.messages import encode, timestamp

    identifier = options["id"]
    bundle = options.get("bundle") or posix.getcwd()
    try:
        kept = read_text(f"{bundle}/{ROOT_FILE}").split("\0")
    except OSError:
        kept = []
    # an older shim, whose container this is, may have kept less
    root, config, runtime = (*kept, *("", "", "")[len(kept) :])
    root = root or f"{DEFAULT_ROOT}/{options['namespace']}"
    if exists(f"{root}/{identifier}"):
        words = ["--root", root, *(["--config", config] if config else [])]
        _force([*words, "delete", "--force", identifier], bundle, runtime)
    if _is_mounted(f"{bundle}/rootfs", bundle):
        from urunc.shim.unmount import unmount_all

        unmount_all(f"{bundle}/rootfs")
    _remove_socket(bundle)
    try:
        pid = int(read_text(f"{bundle}/init.pid"))
    except (OSError, ValueError):
        pid = 0
    answer = {"pid": pid, "exit_status": KILLED, "exited_at": timestamp(time_ns())}
    write_all(1, encode("containerd.task.v2.DeleteResponse", answer))
    return 0


def _remove_socket(bundle: str) -> None:
    """A shim that was killed leaves its socket; one that lives, and has other containers, needs
    it."""
    try:
        path = read_text(f"{bundle}/address", 4096).removeprefix("unix://")
    except OSError:
        return
    if not path.startswith("/") or not exists(path):
        return
    lock = _lock(path.rpartition("/")[0])
    try:
        if not _answers(path):
            unlink(path)
    finally:
        posix.close(lock)


def _force(words: list[str], bundle: str, runtime: str) -> None:
    from urunc.shim import worker

    log = worker.RuntimeLog(f"{bundle}/.urunc-delete.log")

    def done(answer: worker.Answer) -> None:
        if answer.code and answer.kind != "missing":
            raise StateError(f"delete '{words[-1]}': {answer.text}")

    work = worker.start(lambda: worker.verb(words, log, runtime), done, log=log)
    work.finish(posix.waitpid(work.pid, 0)[1])


def _is_mounted(path: str, parent: str) -> bool:
    try:
        return posix.stat(path).st_dev != posix.stat(parent).st_dev
    except OSError:
        return False


def info() -> int:
    """What this shim is: its name and version; with these options, the runtime's features (by which
    containerd decides on mounts with mapped ids, CRI on user namespaces); and the mounts that it
    takes, which containerd 2.2 and 2.3 read here."""
    from urunc.config import load
    from urunc.features import features
    from urunc.jsontext import dumps
    from urunc.shim import bootstrap
    from urunc.shim.messages import MessageError, decode, encode
    from urunc.shim.options import read

    data = read_descriptor(0, 1 << 22)
    try:
        given = decode("google.protobuf.Any", data) if data else None
        options = read(given)
    except MessageError as error:
        raise UsageError(f"standard input: {error}") from None
    config = load(options.get("config_path", ""))
    document = dumps(features(config, options.get("binary_name", ""))).encode()
    values = {
        "name": NAME,
        "version": {"version": __version__},
        "options": given,
        "features": {"type_url": FEATURES, "value": document},
        "annotations": {TAKEN: ",".join(bootstrap.MOUNTS)},
    }
    write_all(1, encode("containerd.types.RuntimeInfo", values))
    return 0


def _environment(name: str) -> str:
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def _sha256(data: bytes) -> str:
    try:  # hashlib would load OpenSSL
        from _sha256 import sha256
    except ImportError:
        from _sha2 import sha256
    digest: str = sha256(data).hexdigest()
    return digest
