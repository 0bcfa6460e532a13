# SPDX-License-Identifier: Apache-2.0
"""What becomes of each key of config.json where the container is a guest: the one table that the
tests walk through, and that docs/specification.md shows.

A row is for keys that share their fate; `{a,b}` in a key stands for each of them. What is proven:
an `effect` by FULL (without the key `urunc plan` says something else, or that it is missing) and by
the named tests; a `refused` or `warned` key by its sample, which `urunc plan` answers with an error
or a warning that names the key. `foreign`: for other platforms, with one warning for the whole.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MIB = 1 << 20


class Row(NamedTuple):
    """The fate of some keys; `tests` are files below tests/, without `test_`."""

    keys: str
    fate: str
    words: str
    tests: str = ""


ROWS = (
    Row("ociVersion", "effect", "1.x; any other version is refused", "unit/spec"),
    Row(
        "root.{path,readonly}", "effect",
        "the guest's files ([storage.md](storage.md)). With `readonly` the image's own disks are "
        "read-only too, except on Solo5, where a warning is printed",
        "guest/storage guest/table",
    ),
    Row(
        "process.{args,env}", "effect",
        "passed to the guest in its dialect: [guests.md](guests.md)", "guest/table",
    ),
    Row(
        "process.{terminal,consoleSize.{height,width}}", "effect",
        "a pseudoterminal of the container's own. The engine receives its other end through "
        "`--console-socket`; a `run` in the foreground connects it to the user's terminal. Ctrl-C "
        "is a key for the guest",
        "root/process",
    ),
    Row(
        "process.cwd", "effect",
        "the application's, in a Linux guest with urunc's init; otherwise a warning, except for "
        "`/`",
        "guest/guest_init guest/rare_in_linux",
    ),
    Row(
        "process.user.{uid,gid,additionalGids,umask}", "effect",
        "the monitor's, if uid is not 0; for uid 0 the monitor gets an id that no other container "
        "has. With urunc's init these are the application's, and the monitor always gets an id of "
        "its own",
        "root/process guest/guest_init",
    ),
    Row(
        "process.{capabilities.{bounding,effective,inheritable,permitted,ambient},"
        "noNewPrivileges}",
        "effect",
        "the application's, in a Linux guest with urunc's init. A monitor never has a capability "
        "and cannot gain one",
        "root/process guest/guest_init",
    ),
    Row(
        "process.rlimits[].{type,soft,hard}", "effect",
        "the monitor's; with urunc's init the application's too", "root/process guest/guest_init",
    ),
    Row(
        "process.{oomScoreAdj,ioPriority.{class,priority}}", "effect",
        "the monitor's. A warning, if the host forbids the oomScoreAdj",
        "root/process",
    ),
    Row(
        "process.scheduler.{policy,nice,priority,flags,runtime,deadline,period}", "effect",
        "the monitor's. An error, if the kernel refuses it", "root/process",
    ),
    Row(
        "process.{apparmorProfile,selinuxLabel}", "effect",
        "the monitor's, from its execve on; refused on a host without the security module. "
        "`security.selinux_type` replaces SELinux's type",
        "root/process",
    ),
    Row(
        "process.execCPUAffinity.{initial,final}", "warned",
        "it is for `exec`, which a guest does not have",
        "root/verbs",
    ),
    Row("process.{commandLine,user.username}", "warned", "it is for Windows"),
    Row(
        "hostname", "effect",
        "the UTS namespace's, and the guest's if it can be told; otherwise a warning",
        "guest/guest_init root/process",
    ),
    Row(
        "domainname", "effect",
        "the UTS namespace's, and the guest's with urunc's init; otherwise a warning",
        "guest/guest_init root/process guest/rare_in_linux",
    ),
    Row(
        "mounts[].{destination,source,type,options}", "effect",
        "resolv.conf and hosts are read ([network.md](network.md)). Guests that take volumes get "
        "the rest; for other guests it is an error. Each option takes effect or is refused. A "
        "relative `source` is relative to the bundle ([storage.md](storage.md))",
        "guest/storage guest/mounts unit/mount_options",
    ),
    Row(
        "mounts[].{uidMappings,gidMappings}[].{containerID,hostID,size}", "effect",
        "the ids that the files of a bind mount have; refused for other mounts and for file "
        "systems that cannot map ids ([storage.md](storage.md))",
        "guest/owners",
    ),
    Row(
        "hooks.{prestart,createRuntime,createContainer,startContainer,poststart,poststop}[]."
        "{path,args,env,timeout}",
        "effect", "all six kinds: see [Hooks](#hooks)", "root/hooks",
    ),
    Row(
        "annotations", "effect",
        "[annotations.md](annotations.md); for `org.systemd.property.NAME`, see "
        "[Control groups](#control-groups)",
        "unit/image root/systemd",
    ),
    Row(
        "linux.namespaces[].{type,path}", "effect",
        "all eight kinds, new or by path (mount: always new). A path to the host's namespace means "
        "the host's",
        "root/namespaces root/host_namespaces",
    ),
    Row(
        "linux.{uidMappings,gidMappings}[].{containerID,hostID,size}", "effect",
        "of the new user namespace; refused if they differ from those of a joined namespace or of "
        "the host's. In the guest, files have the owners that the container sees",
        "root/namespaces guest/owners",
    ),
    Row(
        "linux.timeOffsets.{monotonic,boottime}.{secs,nanosecs}", "effect",
        "of the monitor's new time namespace; with urunc's init the application's, otherwise a "
        "warning",
        "root/namespaces guest/rare_in_linux",
    ),
    Row(
        "linux.cgroupsPath", "effect",
        "the place of the control groups, which urunc makes, or systemd with `--systemd-cgroup`: "
        "see [Control groups](#control-groups)",
        "root/cgroups root/systemd",
    ),
    Row(
        "linux.resources.memory.{limit,reservation,swap}", "effect",
        "the control group's; the guest's memory follows from the limit: "
        "[annotations.md](annotations.md#memory-and-vcpus)",
        "root/cgroups root/cgroup_v2 unit/limits",
    ),
    Row(
        "linux.resources.memory.{swappiness,kernelTCP,disableOOMKiller}", "effect",
        "the control group's on v1; a warning on v2", "root/cgroups unit/limits",
    ),
    Row(
        "linux.resources.memory.checkBeforeUpdate", "effect",
        "accepted; `update` always refuses a limit that the guest has no room in", "root/cgroups",
    ),
    Row(
        "linux.resources.memory.{kernel,useHierarchy}", "warned",
        "no kernel limits its own memory separately any more, and control groups are always nested",
    ),
    Row(
        "linux.resources.cpu.{shares,quota,period,burst,idle,cpus,mems}", "effect",
        "the control group's", "root/cgroups unit/limits",
    ),
    Row(
        "linux.resources.cpu.{realtimeRuntime,realtimePeriod}", "effect",
        "the control group's on v1; refused on v2", "unit/limits",
    ),
    Row(
        "linux.resources.pids.limit", "effect",
        "the control group's, with room for the monitor ([monitors.md](monitors.md"
        "#process-limits)); with urunc's init the application's, in the guest",
        "root/cgroups",
    ),
    Row(
        "linux.resources.blockIO.{weight,{throttleReadBpsDevice,throttleWriteBpsDevice,"
        "throttleReadIOPSDevice,throttleWriteIOPSDevice}[].{major,minor,rate},"
        "weightDevice[].{major,minor,weight}}",
        "effect", "the control group's", "unit/limits",
    ),
    Row(
        "linux.resources.blockIO.{leafWeight,weightDevice[].leafWeight}", "effect",
        "the control group's on v1; a warning on v2", "unit/limits",
    ),
    Row(
        "linux.resources.{hugepageLimits[].{pageSize,limit},rdma.*.{hcaHandles,hcaObjects},unified}",
        "effect", "the control group's; `unified` on v2", "root/cgroup_v2 unit/limits",
    ),
    Row(
        "linux.resources.network.{classID,priorities[].{name,priority}}", "effect",
        "the control group's on v1; a warning on v2", "unit/limits",
    ),
    Row(
        "linux.resources.devices[].{allow,type,major,minor,access}", "effect",
        "whether a block device of linux.devices becomes a disk, and whether that disk is "
        "read-only. A monitor may open only its own devices, whatever the rules say "
        "([security.md](security.md#devices))",
        "root/cgroups unit/spec guest/storage",
    ),
    Row(
        "linux.devices[].{path,type,major,minor,fileMode,uid,gid}", "effect",
        "block devices become disks of a Linux guest, with mode and owner. Nodes of the kernel's "
        "own and FIFOs are made in the guest "
        "([storage.md](storage.md#devices-of-the-kernels-own)). A warning names the others",
        "guest/storage guest/mounts root/process",
    ),
    Row(
        "linux.netDevices.*.name", "effect",
        "before hooks run, the device is moved from the runtime's network namespace, renamed and "
        "set up with its addresses; the guest then has it like any interface. A failed `create` "
        "returns it with its addresses and routes. A device that the kernel refuses to move stays "
        "where it is",
        "root/rare",
    ),
    Row(
        "linux.sysctl", "effect",
        "written in the container's own namespaces (`user.*`: in its user namespace), and by "
        "urunc's init in the guest. Any other parameter is refused. A warning, if the guest's "
        "kernel is not told",
        "root/process root/rare guest/rare_in_linux",
    ),
    Row(
        "linux.rootfsPropagation", "effect",
        "of the monitor's root; nothing of it reaches the host",
        "root/process",
    ),
    Row(
        "linux.seccomp.{defaultAction,defaultErrnoRet,architectures,flags,"
        "syscalls[].{names,action,errnoRet,args[].{index,value,valueTwo,op}}}",
        "effect",
        "the application's, in a Linux guest with urunc's init. It is not the monitor's, unless "
        "`monitors.NAME.spec_seccomp` adds it to the monitor's own filter "
        "([security.md](security.md#seccomp)). Other unikernels make no system calls",
        "root/process guest/rare_in_linux",
    ),
    Row(
        "linux.seccomp.{listenerPath,listenerMetadata}", "refused",
        "no process on the host can be notified of a guest's system calls", "guest/rare_in_linux",
    ),
    Row(
        "linux.{maskedPaths,readonlyPaths}", "effect",
        "as with runc, under urunc's init. A monitor's root has no /proc and no /sys",
        "guest/guest_init guest/rare_in_linux",
    ),
    Row("linux.mountLabel", "effect", "SELinux's, of the monitor's root", "root/process"),
    Row(
        "linux.intelRdt.{closID,l3CacheSchema,memBwSchema,schemata,enableMonitoring}", "refused",
        "cache and bandwidth allocation is not supported", "unit/spec",
    ),
    Row(
        "linux.memoryPolicy.{mode,nodes,flags}", "effect",
        "the monitor's, and so its guest's memory (set_mempolicy(2))", "root/rare",
    ),
    Row(
        "linux.personality.domain", "effect",
        "the application's, with urunc's init; otherwise `LINUX32` is refused",
        "guest/rare_in_linux",
    ),
    Row("linux.personality.flags", "refused", "the specification defines none so far", "unit/spec"),
    Row(
        "vm.hwConfig.{vcpus,memory}", "effect",
        "the same as the annotations, memory in whole MiB; refused if an annotation differs",
        "root/rare",
    ),
    Row(
        "vm.hwConfig.{deviceTree,dtdevs,iomems[].{firstGFN,firstMFN,nrMFNs},irqs}", "refused",
        "guests get no part of the host's hardware", "unit/spec",
    ),
    Row(
        "vm.kernel.{path,initrd}", "effect", "files of the host, used instead of the image's",
        "root/rare",
    ),
    Row(
        "vm.kernel.parameters", "effect",
        "put on a Linux kernel's line, before urunc's own words; refused for other guests",
        "root/rare guest/rare_in_linux",
    ),
    Row(
        "vm.hypervisor.{path,parameters}", "refused",
        "the administrator chooses the monitor: `monitors.NAME.path`, `.arguments`",
        "unit/spec",
    ),
    Row(
        "vm.image.{path,format}", "refused", "the annotation `block` names disks", "unit/spec",
    ),
    Row("windows", "foreign", "one warning for the whole section", "unit/spec"),
    Row("solaris", "foreign", "one warning for the whole section"),
    Row("zos", "foreign", "one warning for the whole section"),
    Row("freebsd", "foreign", "one warning for the whole section"),
)  # fmt: skip

_DEVICE = {"major": 8, "minor": 16}
_HOOK = {"path": "/bin/true", "args": ["true", "it is"], "env": ["A=1"], "timeout": 5}
_MAPPING = {"containerID": 0, "hostID": 100_000, "size": 65_536}

FULL: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example.org",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 33, "width": 99},
        "args": ["/bin/sh", "two words"],
        "env": ["A=1"],
        "cwd": "/tmp",
        "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o27},
        "capabilities": {
            name: ["CAP_KILL"]
            for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
        },
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
        "oomScoreAdj": 7,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        "scheduler": {
            "policy": "SCHED_DEADLINE", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 1_000_000, "deadline": 2_000_000, "period": 3_000_000,
        },
        "apparmorProfile": "box",
        "selinuxLabel": "a:b:c:d",
    },
    "mounts": [
        {"destination": "/mem", "source": "tmpfs", "type": "tmpfs", "options": ["size=1m"]},
        {
            "destination": "/srv", "source": "/usr/share", "type": "bind",
            "options": ["rbind", "ro"],
            "uidMappings": [{"containerID": 5, "hostID": 200_005, "size": 10}],
            "gidMappings": [{"containerID": 6, "hostID": 200_006, "size": 11}],
        },
    ],
    "hooks": {
        kind: [_HOOK]
        for kind in (
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        )
    },
    "annotations": {},
    "linux": {
        "namespaces": [
            {"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts", "user", "time")
        ] + [{"type": "cgroup", "path": "/proc/self/ns/cgroup"}],
        "uidMappings": [_MAPPING],
        "gidMappings": [_MAPPING],
        "timeOffsets": {
            "monotonic": {"secs": 5, "nanosecs": 6}, "boottime": {"secs": 7, "nanosecs": 8},
        },
        "cgroupsPath": "/a/b",
        "resources": {
            "memory": {
                "limit": 512 * MIB, "reservation": 256 * MIB, "swap": 600 * MIB, "swappiness": 5,
                "kernelTCP": MIB, "disableOOMKiller": True,
            },
            "cpu": {
                "shares": 300, "quota": 50_000, "period": 100_000, "burst": 1000, "idle": 0,
                "cpus": "0", "mems": "0",
            },
            "pids": {"limit": 99},
            "blockIO": {
                "weight": 100, "leafWeight": 200,
                "weightDevice": [{**_DEVICE, "weight": 300, "leafWeight": 400}],
                **{
                    f"throttle{name}Device": [{**_DEVICE, "rate": 500}]
                    for name in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
                },
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}},
            "unified": {"cgroup.max.depth": "5"},
            "network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 3}]},
            "devices": [
                {"allow": True, "type": "b", **_DEVICE, "access": "rm"},
                {"allow": True, "type": "c", **_DEVICE, "access": "rwm"},
            ],
        },
        "devices": [
            {"path": "/dev/disk", "type": "b", **_DEVICE, "fileMode": 0o640, "uid": 3, "gid": 4},
        ],
        "netDevices": {"uplink": {"name": "net7"}},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 5,
            "architectures": ["SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["mkdir", "personality"], "action": "SCMP_ACT_TRACE", "errnoRet": 6,
                    "args": [{"index": 1, "value": 15, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}],
                }
            ],
        },
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/bus"],
        "mountLabel": "a:b:c:e",
        "memoryPolicy": {
            "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"],
        },
        "personality": {"domain": "LINUX32"},
    },
    "vm": {
        "hwConfig": {"vcpus": 2, "memory": 100 * MIB},
        "kernel": {"path": "/KERNEL", "parameters": ["quiet"]},
    },
}  # fmt: skip
"""A Linux guest's configuration with every key that has an effect, but for those of APART; a
bundle's annotations are added, and paths of files put in place of KERNEL and INITRD."""

APART: dict[str, dict[str, Any]] = {
    "process.scheduler.priority": {
        "process": {"scheduler": {"policy": "SCHED_FIFO", "priority": 5}}
    },
    "vm.kernel.initrd": {
        "vm": {"kernel": {"path": "/KERNEL", "initrd": "/INITRD"}},
        "annotations": {"com.urunc.unikernel.mountRootfs": "false"},
    },
}
"""Keys that do not go with others of FULL, each with what goes into a plain configuration."""

BY_TESTS_ALONE = {
    "linux.resources.memory.checkBeforeUpdate": "of `update`",
    "linux.namespaces[].path": "the same to the plan as a new one",
    "linux.resources.cpu.realtimeRuntime": "no configuration has it on both kinds of groups",
    "linux.resources.cpu.realtimePeriod": "the same",
    "linux.resources.network.priorities[].priority": "of v1 alone",
    **{
        f"linux.{which}Mappings[].{key}": "the plan has the ids of the inside"
        for which in ("uid", "gid")
        for key in ("containerID", "hostID")
    },
}
"""Keys with an effect that `plan` shows nothing of, and why."""

SAMPLES: dict[str, Any] = {
    "process.execCPUAffinity.initial": "0-1",
    "process.execCPUAffinity.final": "0",
    "process.commandLine": "app.exe",
    "process.user.username": "ContainerUser",
    "linux.resources.memory.kernel": 64 * MIB,
    "linux.resources.memory.useHierarchy": True,
    "linux.seccomp.listenerPath": "/run/listener",
    "linux.seccomp.listenerMetadata": "anything",
    "linux.intelRdt.closID": "a",
    "linux.intelRdt.l3CacheSchema": "L3:0=f",
    "linux.intelRdt.memBwSchema": "MB:0=20",
    "linux.intelRdt.schemata": ["L3:0=f"],
    "linux.intelRdt.enableMonitoring": True,
    "linux.personality.flags": ["ADDR_NO_RANDOMIZE"],
    "vm.hwConfig.deviceTree": "/boot/a.dtb",
    "vm.hwConfig.dtdevs": ["/dev0"],
    "vm.hwConfig.iomems[].firstGFN": 1,
    "vm.hwConfig.iomems[].firstMFN": 1,
    "vm.hwConfig.iomems[].nrMFNs": 1,
    "vm.hwConfig.irqs": [11],
    "vm.hypervisor.path": "/usr/bin/vmm",
    "vm.hypervisor.parameters": ["--fast"],
    "vm.image.path": "/srv/a.img",
    "vm.image.format": "qcow2",
    "windows": {"layerFolders": ["a"]},
    "solaris": {"milestone": "a"},
    "zos": {"namespaces": []},
    "freebsd": {"jail": {}},
}
"""Values for what is refused or warned of."""


def spread(text: str) -> list[str]:
    """The keys that a row's text stands for."""
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        return [text]
    found = [
        key
        for word in match[1].split(",")
        for key in spread(text[: match.start()] + word + text[match.end() :])
    ]
    return list(dict.fromkeys(found))  # of nested braces the outer ones' other words come twice


def table() -> list[str]:
    """The lines of the rows as docs/specification.md shows them."""
    lines = ["| keys of config.json | for a guest | tests |", "|-|-|-|"]
    for row in ROWS:
        prefix = {"refused": "refused: ", "warned": "a warning: "}.get(row.fate, "")
        tests = ", ".join(row.tests.split())
        keys = row.keys.replace(",", ", ")  # where a page may break the line
        lines.append(f"| `{keys}` | {prefix}{row.words} | {tests} |")
    return lines


def place(document: Any, key: str, value: Any) -> None:
    """Put a value where a key's path leads, in objects and lists that are made on the way."""
    first, _, rest = key.partition(".")
    if not rest:
        document[first] = value
    elif first.endswith("[]"):
        items = document.setdefault(first[:-2], [{}])
        place(items[0], rest, value)
    else:
        place(document.setdefault(first, {}), rest, value)


def remove(document: Any, key: str) -> bool:
    """Take what a key's path leads to away, from every item of a list; whether it was there."""
    first, _, rest = key.partition(".")
    name = first.removesuffix("[]")
    if name == "*":
        return sum(remove(item, rest) for item in document.values()) > 0
    if name not in document:
        return False
    if not rest:
        del document[name]
        return True
    if first.endswith("[]"):
        return sum(remove(item, rest) for item in document[name]) > 0
    return remove(document[name], rest)


def merge(document: Any, more: Any) -> None:
    """Put one object's members into another, at every depth."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            merge(document[key], value)
        else:
            document[key] = value
