# SPDX-License-Identifier: Apache-2.0
"""Documents with the keys of lib.keys: one with all that have an effect, and
one for each that is refused or warned of."""

from __future__ import annotations

from typing import Any

from lib.keys import MIB

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
        "hwConfig": {"vcpus": 2, "memory": 128 * MIB},
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
