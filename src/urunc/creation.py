# SPDX-License-Identifier: Apache-2.0
"""`create`: everything about a container that can fail, up to an init that waits to become the
monitor.

Runs in the caller's process, in the host's namespaces, with its privilege; forks init. A failure at
any point takes back all that was made. container.py has the rest of a container's life: it is apart
from this so that the other verbs do not load what only create needs.
"""

from __future__ import annotations

import posix

from urunc import OCI_VERSION, __version__, guests, hooks, limits, logs, monitors, timing
from urunc.container import look, run_poststop
from urunc.errors import Error, HostError, InitError, SpecError, reason
from urunc.host import RUNTIME_DIRECTORY, probe
from urunc.init import Channel, Setup
from urunc.init import main as init_main
from urunc.journal import FileOwner, Journal, ReservedUser
from urunc.jsontext import dumps
from urunc.linux import _linux, cgroups, namespaces, process
from urunc.linux.files import remove_tree, write_whole
from urunc.net.facts import NO_NETWORK, NetFacts
from urunc.plan import Plan, decide, nic_count, realize
from urunc.record import plain, record, replace
from urunc.spec import Spec
from urunc.state import CREATING, SCHEMA, START, STARTED, Folder, State, check_id
from urunc.steps import build, may_access, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urunc.config import Config
    from urunc.guests import Guest
    from urunc.image import UnikernelImage
    from urunc.monitors import Launch, Monitor

SIGKILL = 9
RESOLVER = "/etc/resolv.conf"


@record
class Options:
    """What `create` and `run` are told beside the bundle."""

    pid_file: str = ""
    preserve_fds: int = 0
    pivot: bool = True
    keyring: bool = True


class Prepared:
    """A container's plan with the two who can say it."""

    def __init__(self, plan: Plan, guest: Guest, monitor: Monitor) -> None:
        self.plan = plan
        self.guest = guest
        self.monitor = monitor

    def realize(self, net: NetFacts) -> Launch:
        return realize(self.plan, net, self.guest, self.monitor)


def prepare(identifier: str, spec: Spec, unikernel: UnikernelImage, config: Config) -> Prepared:
    """Decide what the container shall be; makes nothing and needs no root."""
    guest = guests.load(unikernel.guest, config)
    monitor = monitors.load(unikernel.monitor, config)
    host = probe(monitor, config)
    return Prepared(
        decide(identifier, spec, unikernel, guest, monitor, host, config), guest, monitor
    )


def create(
    root: str,
    identifier: str,
    spec: Spec,
    unikernel: UnikernelImage,
    config: Config,
    options: Options,
) -> State:
    """Bring a container up to the point where only `start` is missing. Raises Error, leaving
    nothing."""
    check_id(identifier)
    if spec.terminal:
        raise SpecError(
            "config.json: process.terminal: terminals are not supported by this version of urunc",
            "set it to false: the guest's console is standard output",
        )
    prepared = prepare(identifier, spec, unikernel, config)
    for warning in prepared.plan.warnings:
        logs.warn(warning)
    timing.open_file(config.get("timestamps.file"), identifier)
    folder = Folder(root, identifier)
    folder.make()
    creation = _Creation(folder, spec, prepared, config, options)
    try:
        state = creation.run()
    except BaseException as error:
        creation.roll_back()
        if isinstance(error, OSError):
            raise HostError(f"create '{identifier}': {_os_error(error)}") from None
        raise
    finally:
        folder.unlock()
    timing.stamp(10)
    return state


class _Creation:
    """The steps of `create`, with what they made so far."""

    def __init__(
        self,
        folder: Folder,
        spec: Spec,
        prepared: Prepared,
        config: Config,
        options: Options,
    ) -> None:
        self.folder = folder
        self.spec = spec
        self.prepared = prepared
        self.config = config
        self.options = options
        self.journal = Journal(folder.path)
        self.timeout_s: int = config.get("timeouts.create_s")
        self.channel: Channel | None = None
        self.pid = 0
        self.hooked = False
        self.joiner = cgroups.Joiner([], 0)
        creator = process.stat(posix.getpid())
        self.state = State(
            folder.path,
            {
                "schema": SCHEMA,
                "urunc": __version__,
                "ociVersion": OCI_VERSION,
                "id": folder.identifier,
                "pid": 0,
                "bundle": spec.bundle,
                "annotations": dict(spec.annotations),
                "bootId": process.boot_id(),
                "creatorProcess": (posix.getpid(), creator[2] if creator else 0),
                "hooks": {
                    kind: plain(spec.hooks[kind])
                    for kind in ("poststart", "poststop")
                    if kind in spec.hooks
                },
            },
        )

    def run(self) -> State:
        """Everything up to a waiting init."""
        self.state.save()
        timing.stamp(2)
        self._choose_user()
        groups = limits.make(self.folder.identifier, self.spec, self.journal)
        self._give_disks()
        self._fork()
        self.joiner = cgroups.Joiner(groups, self.pid)
        self._run_hooks()
        net = self._connect()
        launch = self.prepared.realize(net)
        self._finish(launch)
        self._record(net, launch)
        return self.state

    def roll_back(self) -> None:
        """Take back everything; a failure here is a warning, for the error that led here matters
        more."""
        if self.pid:
            try:
                posix.kill(self.pid, SIGKILL)  # our own child, not yet waited for: the pid is its
                posix.waitpid(self.pid, 0)
            except OSError:
                pass
        try:
            self.joiner.finish()
        except OSError:
            pass  # it found nobody to join any more
        try:
            self.journal.remove_all()
            if self.hooked:
                run_poststop(self.state)
            remove_tree(self.folder.path)
        except (Error, OSError) as error:
            logs.warn(f"clean up '{self.folder.identifier}': {error}")

    def _choose_user(self) -> None:
        plan = self.prepared.plan
        if plan.uid is not None:
            return
        first, count = self.config.get("users.first"), self.config.get("users.count")
        # start from the id's own place in the range: two containers seldom meet
        offset = sum(ord(letter) * 31**index for index, letter in enumerate(plan.id[:64])) % count
        for number in range(count):
            uid = first + (offset + number) % count
            path = f"{RUNTIME_DIRECTORY}/users/{uid}"
            try:
                self.journal.make(ReservedUser(path=path, folder=self.folder.path))
            except FileExistsError:
                continue
            self.prepared.plan = replace(plan, uid=uid, gid=uid)
            return
        raise HostError(
            f"choose a user: all {count} from {first} on are taken",
            "enlarge users.count in the configuration",
        )

    def _give_disks(self) -> None:
        plan = self.prepared.plan
        uid, gid = plan.uid or 0, plan.gid or 0
        for disk in plan.disks:
            source = disk.source
            if not source.inside or may_access(disk, uid, gid, plan.groups):
                continue
            owner = FileOwner(
                root=plan.root,
                path=source.path,
                inode=source.inode,
                uid=uid,
                gid=gid,
                before=[source.uid, source.gid, source.mode],
            )
            try:
                self.journal.make(owner)
            except OSError as error:
                raise HostError(
                    f"give disk '{source.path}' to user {uid}: {reason(error)}"
                ) from None

    def _fork(self) -> None:
        spec, path = self.spec, self.folder.path
        posix.mkfifo(f"{path}/{START}", 0o600)
        posix.mkfifo(f"{path}/{STARTED}", 0o600)
        setup = Setup(
            folder=path,
            image_root=spec.root,
            join={kind: where for kind, where in spec.namespaces.items() if where},
            keep_descriptors=self.options.preserve_fds,
            start_hooks=spec.hooks.get("startContainer", ()),
        )
        self._to_init, self._from_init = posix.pipe(), posix.pipe()
        flags = namespaces.CLONE_NEWNS
        for kind, where in spec.namespaces.items():
            if (
                not where and kind != "cgroup"
            ):  # init unshares that one itself, once it is in its groups
                flags |= namespaces.KINDS[kind][0]
        timing.stamp(3)
        self.pid = self._clone(flags, setup)
        timing.stamp(6)
        posix.close(self._to_init[0])
        posix.close(self._from_init[1])
        self.channel = Channel(self._from_init[0], self._to_init[1])
        facts = process.stat(self.pid)
        self.state.data["pid"] = self.pid
        self.state.data["initProcess"] = (self.pid, facts[2] if facts else 0)
        self._hear()

    def _clone(self, flags: int, setup: Setup) -> int:
        where = setup.join.get("pid")
        home = -1
        if where:
            # a pid namespace is entered by the children to come; ours comes back after the fork
            home = namespaces.open_namespace("/proc/self/ns/pid")
            try:
                namespaces.join(where, namespaces.CLONE_NEWPID)
            except OSError as error:
                raise HostError(f"pid namespace '{where}': {reason(error)}") from None
        pid = _linux.clone3(flags)
        if pid == 0:
            init_main(setup, Channel(self._to_init[0], self._from_init[1]))
        if where:
            _linux.setns(home, namespaces.CLONE_NEWPID)
            posix.close(home)
        return pid

    def _run_hooks(self) -> None:
        spec = self.spec
        state = dumps(self.state.oci(CREATING))
        for kind in ("prestart", "createRuntime"):
            if kind in spec.hooks:
                self.hooked = True
                hooks.run_all(kind, spec.hooks[kind], state)
        timing.stamp(7)
        if "createContainer" in spec.hooks:
            self.hooked = True
            self._say({"hooks": plain(spec.hooks["createContainer"]), "state": state})
            # each hook has its own time limit, so init's answer has none
            self._hear(limited=False)

    def _connect(self) -> NetFacts:
        plan = self.prepared.plan
        if not plan.net_names and (plan.network == "none" or self._has_empty_network()):
            timing.stamp(15)  # nothing to join it for
            return NO_NETWORK
        from urunc.net.connect import connect

        namespace = self.spec.namespaces.get("network") or f"/proc/{self.pid}/ns/net"
        net = look(plan.network, nic_count(plan), namespace, resolver(self.spec))
        timing.stamp(15)
        if plan.network == "dynamic" and not net.interfaces:
            logs.detail("no interface in the network namespace: the guest has no network so far")
        return connect(net, namespace, plan, self.journal)

    def _has_empty_network(self) -> bool:
        """Whether the guest can have no interface, or its namespace is so new that none can be
        there; `start` looks again in any case."""
        fresh = self.spec.namespaces.get("network") == "" and not self.hooked
        return fresh or not nic_count(self.prepared.plan)

    def _finish(self, launch: Launch) -> None:
        timing.stamp(16)
        plan, options = self.prepared.plan, self.options
        root = f"{self.folder.path}/root"
        steps = build(plan, launch, self.spec, root, keyring=options.keyring, pivot=options.pivot)
        timing.stamp(8)
        cgroup_first = self.spec.namespaces.get("cgroup") == ""
        if cgroup_first:
            self._join()
        self._say(
            {
                "unshare": namespaces.KINDS["cgroup"][0] if cgroup_first else 0,
                "steps": pack(steps),
                "launch": {"argv": launch.argv, "files": launch.files},
                "filter": system_call_filter(launch),
            }
        )
        if not cgroup_first:
            self._join()
        self._hear()
        timing.stamp(17)

    def _join(self) -> None:
        """Wait until init is in its groups."""
        try:
            self.joiner.finish()
        except OSError as error:
            raise HostError(f"join control groups: {reason(error)}") from None

    def _record(self, net: NetFacts, launch: Launch) -> None:
        self.state.data.update(
            ready=True,
            created=_now(),
            plan=plain(self.prepared.plan),
            net=plain(net),
            launch=plain(launch),
            nicCount=nic_count(self.prepared.plan),
            resolver=resolver(self.spec),
            network=self.spec.namespaces.get("network", ""),
        )
        if self.options.pid_file:
            try:
                write_whole(self.options.pid_file, str(self.pid).encode(), 0o644)
            except OSError as error:
                raise HostError(
                    f"write pid file '{self.options.pid_file}': {reason(error)}"
                ) from None
        self.state.save()

    def _say(self, message: object) -> None:
        assert self.channel
        try:
            self.channel.send(message)
        except BrokenPipeError:
            self._hear()

    def _hear(self, *, limited: bool = True) -> None:
        """Init's answer; raises what it reports."""
        assert self.channel
        try:
            answer = self.channel.receive(self.timeout_s if limited else None)
        except TimeoutError:
            raise InitError(f"init did not answer within {self.timeout_s} s") from None
        if answer is None:
            raise InitError("init died while it was set up")
        if "error" in answer:
            raise InitError(answer["error"], answer.get("hint", ""))


def resolver(spec: Spec) -> str:
    """The host's path of the container's resolv.conf, "" where it has none."""
    for mount in spec.mounts:
        if mount.destination == RESOLVER and mount.source.startswith("/"):
            return mount.source
    return ""


def system_call_filter(launch: Launch) -> str:
    """Our seccomp filter for a monitor that has none of its own, in hexadecimal; "" otherwise."""
    if launch.seccomp in ("", "own"):
        return ""
    from urunc.linux.seccomp import compile_allow_list

    try:
        return compile_allow_list(tuple(launch.seccomp.split())).hex()
    except ImportError as error:
        raise HostError(f"seccomp filter: {error}", "install libseccomp (libseccomp2)") from None


def _now() -> str:
    from time import gmtime, strftime

    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())


def _os_error(error: OSError) -> str:
    where = f" '{error.filename}'" if error.filename else ""
    return f"{reason(error)}{where}"
