# SPDX-License-Identifier: Apache-2.0
"""`create`: everything about a container that can fail, up to an init that waits to become the
monitor.

Runs in the caller's process, in the host's namespaces, with its privilege; forks init. A failure at
any point takes back all that was made. lifecycle/start.py has the rest of a container's life:
it is apart from this so that the other verbs do not load what only create needs."""

from __future__ import annotations

from urunc import guest_channel, logs, timing
from urunc.bundle.network_files import network_files
from urunc.bundle.resources import Resources, with_tasks
from urunc.bundle.spec import Spec
from urunc.cgroup import devices, making
from urunc.cgroup.groups import Groups
from urunc.directory import Directory
from urunc.errors import Error, HostError, SpecError, reason
from urunc.ids import ids_of
from urunc.init import hooks
from urunc.init.letters import Prepare, monitor_exec
from urunc.init.setup import HOST_IDS, Ready, build
from urunc.init.steps import pack
from urunc.journal import Journal
from urunc.journaled import FileOwner, resource_class
from urunc.jsontext import dumps
from urunc.lifecycle.guest_network import GuestNetwork
from urunc.lifecycle.init_process import InitProcess
from urunc.lifecycle.run_hooks import run_poststop
from urunc.linux import cgroups, namespaces
from urunc.linux.files import write_whole
from urunc.plan.device_nodes import may_access
from urunc.plan.model import MonitorUser, as_planned, flatten
from urunc.plan.prepare import Prepared, within_pod
from urunc.record import record, replace
from urunc.state import CREATING, State, check_id
from urunc.storage.facts import NO_STORAGE
from urunc.users import choose_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urunc.bundle.image import UnikernelImage
    from urunc.config import Config
    from urunc.lifecycle.recipe import Draft
    from urunc.lifecycle.relay import Relay
    from urunc.lifecycle.streams import Streams
    from urunc.monitors import Launch
    from urunc.net.facts import NetFacts

UMOUNT_NOFOLLOW = 8


@record
class CreateOptions:
    """What `create` and `run` are told beside the bundle."""

    pid_file: str = ""
    preserve_fds: int = 0
    pivot: bool = True
    keyring: bool = True
    console_socket: str = ""
    console_descriptor: int = -1
    """A socket that is connected already, in place of a path."""
    systemd: bool = False
    relay: Relay | None = None
    """Who passes on the streams of a `run` in the foreground."""
    pod: Resources | None = None
    """What the container's pod has left for it, where it has no limits of its own."""


def create(
    root: str,
    identifier: str,
    spec: Spec,
    unikernel: UnikernelImage,
    config: Config,
    options: CreateOptions,
    making: Callable[[Directory, Spec, Prepared, Config, CreateOptions], Creation] | None = None,
) -> State:
    """Bring a container up to the point where only `start` is missing, by another Creation where
    `making` makes one. Raises Error, leaving nothing."""
    check_id(identifier)
    if spec.terminal and not options.console_socket and options.console_descriptor < 0:
        raise SpecError(
            "config.json: process.terminal: cannot allocate tty without a console socket",
            "--console-socket names it; or set process.terminal to false",
        )
    if options.console_socket and not spec.terminal:
        raise SpecError(
            "option '--console-socket': config.json asks for no terminal",
            "set process.terminal to true, or leave the option out",
        )
    spec, prepared = within_pod(identifier, spec, unikernel, config, options.pod)
    for warning in prepared.plan.warnings:
        logs.warn(warning, aloud=warning in unikernel.remarks)
    timing.open_file(config.get("timestamps.file"), identifier)
    directory = Directory(root, identifier)
    directory.make()
    try:
        creation = (making or Creation)(directory, spec, prepared, config, options)
    except BaseException:
        directory.remove()
        directory.unlock()
        raise
    try:
        state = creation.run()
    except BaseException as error:
        creation.roll_back()
        if isinstance(error, OSError):
            raise HostError(f"create '{identifier}': {_os_error(error)}") from None
        raise
    finally:
        directory.unlock()
    timing.stamp(10)
    return state


class Creation:
    """The steps of `create`, with what they made so far."""

    def __init__(
        self,
        directory: Directory,
        spec: Spec,
        prepared: Prepared,
        config: Config,
        options: CreateOptions,
    ) -> None:
        self.directory = directory
        self.spec = spec
        self.prepared = prepared
        self.config = config
        self.options = options
        self.journal = Journal(directory.path, resource_class)
        self.init = InitProcess(config.get("timeouts.create_s"))
        self.network = GuestNetwork(spec)
        self.hooked = False
        self.joiner = cgroups.Joiner([], 0)
        self.ids = HOST_IDS
        self.ready = Ready()
        self.chosen = as_planned(prepared.plan)
        """What is settled so far of what the plan leaves open."""
        self.streams: Streams | None = None
        self.groups = Groups({})
        self.storage = NO_STORAGE
        self.opened: dict[int, int] = {}
        """Descriptors of volumes that are mounts of their own (storage/detached_mounts.py)."""
        self.recipe: Draft | None = None
        self.text = ""
        later = {k: spec.hooks[k] for k in ("poststart", "poststop") if k in spec.hooks}
        self.state = State.begin(
            directory.path, directory.identifier, spec.bundle, spec.annotations, later
        )

    def run(self) -> State:
        """Everything up to a waiting init."""
        if timing.enabled:
            self.state.timestamps = self.config.get("timestamps.file")
        self.state.save()
        timing.stamp(2)
        spec = self.spec
        self.ids = ids_of(spec.namespaces, spec.uid_mappings, spec.gid_mappings)
        plan = self.prepared.plan
        user = choose_user(plan, spec, self.ids, self.config, self.journal)
        self.chosen = as_planned(plan, user)
        if not self.options.systemd:
            where = making.locate(self.directory.identifier, spec.cgroups_path)
            self.groups = making.make(where, self._limits(), self.journal)
            self._limit_devices()
        self._give_disks()
        self._take_streams()
        self.provide()
        self._prepare()
        self._fork()
        self.network.move_devices(self.init.pid, self.directory.path, self.journal)
        self._run_hooks()
        try:
            net = self.network.connect(plan, user, self.init.pid, self.journal, hooked=self.hooked)
            net, launch = self.realize(net)
        except (Error, OSError):
            self.init.hear()  # if it has failed meanwhile, that was before
            raise
        self._tell(launch)
        self._complete(net, launch)
        self._await()
        self._record()
        self._let_go_of_device()  # the last that can fail, for it is not mounted again then
        self.network.let_go(self.journal)
        self._leave_recipe()
        return self.state

    def realize(self, net: NetFacts) -> tuple[NetFacts, Launch]:
        """The network as the guest has it, and the monitor's launch."""
        launch = self.prepared.realize(net, self.storage, self.chosen)
        for omission in self.prepared.omissions(net, self.storage, self.chosen):
            logs.warn(omission)
        return net, launch

    @property
    def user(self) -> MonitorUser:
        """Whose the monitor is."""
        return self.chosen.user

    def roll_back(self) -> None:
        """Take back everything; a failure here is a warning, for the error that led here matters
        more."""
        self.init.kill()
        try:
            self.joiner.finish()
        except OSError:
            pass  # it found nobody to join any more
        try:
            self.journal.remove_all()
            if self.hooked:
                run_poststop(self.state)
            self.directory.remove()
        except (Error, OSError) as error:
            logs.warn(f"clean up '{self.directory.identifier}': {error}")

    def _limits(self) -> Resources:
        """The specification's, which are the guest's, with room for what runs it."""
        return with_tasks(self.spec.resources, self.prepared.plan.machine.tasks)

    def _limit_devices(self) -> None:
        if self.groups.paths:
            self.groups.allow_devices(devices.of(self.prepared.plan, self.user))

    def _give_disks(self) -> None:
        storage, user = self.prepared.plan.storage, self.user
        for disk in storage.disks:
            source = disk.source
            if not source.inside or may_access(disk, user):
                continue
            owner = FileOwner(
                root=storage.root,
                path=source.path,
                inode=source.inode,
                uid=user.uid,
                gid=user.gid,
                before=[source.uid, source.gid, source.mode],
            )
            try:
                self.journal.make(owner)
            except OSError as error:
                raise HostError(
                    f"give disk '{source.path}' to user {user.uid}: {reason(error)}"
                ) from None

    def _take_streams(self) -> None:
        plan, relay = self.prepared.plan, self.options.relay
        if self.prepared.monitor.sets_modes and not plan.application.terminal:
            from urunc.lifecycle import streams

            self.streams = streams.take(relay.open() if relay else (0, 1, 2))
            self.chosen = streams.settled(plan, self.streams, self.chosen)

    def provide(self) -> None:
        """What of the container's files is the guest's."""
        plan, user = self.prepared.plan, self.user
        if plan.storage.root_way or plan.storage.volumes:
            from urunc.storage.provide import provide

            if any(volume.made.needed for volume in plan.storage.volumes):
                from urunc.storage.detached_mounts import open_volumes

                self.opened = open_volumes(plan.storage.volumes, self.directory.path)
            root_way, self.storage = provide(
                plan, user, self.prepared.guest, self.config, self.journal, self.ids, self.opened
            )
            self.chosen = replace(self.chosen, root_way=root_way)
        if plan.application.channel == "virtio":
            guest_channel.make(self.directory.path, user.uid, user.gid)

    def _prepare(self) -> None:
        """What init cannot do for itself: where it has a user namespace of its own, device nodes
        and the way to the image; its terminal's socket."""
        spec, options = self.spec, self.options
        ready = Ready()
        usual = not (spec.terminal or spec.apparmor_profile or spec.selinux_label or self.opened)
        if not usual or spec.mount_label or self.ids.own or cgroups.in_user_namespace():
            from urunc.init import prefork

            ready = prefork.prepare(
                self.prepared.plan,
                self.user,
                self.storage,
                spec,
                self.ids,
                self.config,
                self.opened,
            )
            if spec.terminal:
                console = options.console_descriptor
                if console < 0:
                    console = prefork.connect_console(options.console_socket)
                ready = replace(ready, console_socket=console)
        self.ready = replace(ready, keyring=options.keyring, pivot=options.pivot)

    def _fork(self) -> None:
        self.init.fork(
            self.spec,
            self.directory.path,
            self.ids,
            self.groups,
            self.ready,
            self.streams,
            self.options.preserve_fds,
        )
        self.state.set_init(self.init.pid)
        spec = self.spec
        outside = spec.hooks or spec.net_devices or spec.namespaces.get("network")
        if outside or not self.init.in_groups:
            self.network.load(self.prepared.plan, hooked=bool(spec.hooks))
            self.init.hear()  # who comes next has to find it in its place; else both go on
        if self.options.systemd:
            self.groups = making.make_by_systemd(
                self.directory.identifier,
                replace(self.spec, resources=self._limits()),
                self.init.pid,
                devices.of(self.prepared.plan, self.user),
                self.journal,
            )
            self._limit_devices()
        self.joiner = cgroups.Joiner(
            [] if self.init.in_groups else self.groups.directories, self.init.pid
        )

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
            self.init.run_hooks(state)

    def _tell(self, launch: Launch) -> None:
        """Tell init all that is left to do for it."""
        timing.stamp(16)
        # in a user namespace init may not reach its directory but as the one that it is in
        root = "root" if self.ids.own else f"{self.directory.path}/root"
        steps = build(
            self.prepared.plan, self.user, launch, self.spec, root, self.ready, self.storage
        )
        timing.stamp(8)
        own_root = self.spec.namespaces.get("cgroup") == ""
        # a daemon that init starts belongs into the groups, too
        joined_first = own_root or bool(self.prepared.plan.storage.virtiofsd)
        if joined_first:
            self._join()
        self.init.say(
            Prepare(
                unshare=namespaces.KINDS["cgroup"][0] if own_root else 0,
                steps=pack(steps),
                launch=monitor_exec(launch),
                filters=tuple(self._filters(launch)),
            )
        )
        if not joined_first:
            self._join()

    def _await(self) -> None:
        """Wait until init has done it."""
        self.init.hear()
        self._set_attributes()
        timing.stamp(17)

    def _let_go_of_device(self) -> None:
        """Unmount the root filesystem whose device will be the guest's: two kernels that have it
        mounted would destroy it."""
        root = self.prepared.plan.storage.root_way
        if not root or not root.device:
            return
        from urunc.linux import _linux

        try:
            _linux.umount2(self.spec.root, UMOUNT_NOFOLLOW)
        except OSError as error:
            raise HostError(
                f"unmount '{self.spec.root}', whose device '{root.device}' is for the guest: "
                f"{reason(error)}",
                "nobody may use it meanwhile; or choose another way (annotation 'rootfs')",
            ) from None

    def _set_attributes(self) -> None:
        spec = self.spec
        if spec.io_priority or spec.scheduler or spec.oom_score_adj is not None:
            from urunc.init import attributes

            attributes.apply(self.init.pid, spec)

    def _filters(self, launch: Launch) -> list[tuple[int, str]]:
        """Seccomp programs in hexadecimal with their flags, in the order to install them: ours, and
        where the administrator asks for it, the specification's."""
        asked = self.config.get(f"monitors.{self.prepared.plan.monitor}.spec_seccomp")
        spec = self.spec.seccomp if asked else None
        if spec is None and launch.seccomp in ("", "own"):
            return []
        from urunc import filters

        return filters.compile_all(launch.seccomp, spec)

    def _join(self) -> None:
        """Wait until init is in its groups."""
        try:
            self.joiner.finish()
        except OSError as error:
            raise HostError(f"join control groups: {reason(error)}") from None

    def _complete(self, net: NetFacts, launch: Launch) -> None:
        """Have all ready that is to be written, while init is at its steps."""
        plan = self.prepared.plan
        self.state.complete(
            plan=flatten(plan, self.chosen),
            net=net,
            launch=launch,
            storage=self.storage,
            nic_count=plan.network.nic_count,
            found=self.network.found,
            files=network_files(self.spec),
            group_paths=self.groups.paths,
            unit=self.groups.unit,
            resources=self.spec.resources,
            network=self.spec.namespaces.get("network", ""),
            network_identity=self.network.identity,
        )
        from urunc.lifecycle import recipe

        self.recipe = recipe.draft(
            self.state, plan, self.network, self.journal, self.config.get("start.snapshots")
        )
        self.text = dumps(self.state.document)

    def _record(self) -> None:
        if self.options.pid_file:
            try:
                write_whole(self.options.pid_file, str(self.init.pid).encode(), 0o644)
            except OSError as error:
                raise HostError(
                    f"write pid file '{self.options.pid_file}': {reason(error)}"
                ) from None
        self.state.save(self.text)

    def _leave_recipe(self) -> None:
        if self.recipe:
            from urunc.lifecycle import recipe

            recipe.write(self.recipe, self.state, self.network, self.config)


def _os_error(error: OSError) -> str:
    where = f" '{error.filename}'" if error.filename else ""
    return f"{reason(error)}{where}"
