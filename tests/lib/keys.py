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
        "guest/storage guest/mounts guest/mounts_in_memory unit/mount_options",
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
        "guest/storage guest/mounts_in_memory root/process",
    ),
    Row(
        "linux.netDevices.*.name", "effect",
        "before hooks run, the device is moved from the runtime's network namespace, renamed and "
        "set up with its addresses; the guest then has it like any interface. A `create` that "
        "fails returns it with its addresses and routes, and `delete` does after one that was "
        "killed. Otherwise no verb moves it out of its namespace, as the specification demands: "
        "when that goes, the kernel returns hardware and removes other devices. A device that the "
        "kernel refuses to move stays where it is",
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
