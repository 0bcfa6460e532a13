# SPDX-License-Identifier: Apache-2.0
"""A config.json that has every key that urunc reads, and what it is parsed to."""

from __future__ import annotations

from typing import Any

from urunc.bundle.namespaces import IdMapping
from urunc.bundle.rare_keys import MemoryPolicy, TimeOffset, VirtualMachine
from urunc.bundle.resources import Resources
from urunc.bundle.scheduling import Scheduler
from urunc.bundle.spec import Hook, Mount, Rlimit, Spec, SpecDevice

FULL: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example",
    "process": {
        "terminal": False,
        "user": {"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o27},
        "args": ["app", "two words", ""],
        "env": ["A=", "B=x=y"],
        "cwd": "/home",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": (1 << 64) - 1}],
        "consoleSize": {"height": 25, "width": 80},
        "oomScoreAdj": -5,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {
            "policy": "SCHED_BATCH",
            "nice": 3,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        },
        "apparmorProfile": "box",
        "selinuxLabel": "a:b:c:d",
        "capabilities": {"bounding": ["CAP_KILL"]},
        "noNewPrivileges": True,
    },
    "annotations": {"a": "b"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "source": "/srv", "options": ["rbind", "ro"]},
    ],
    "hooks": {
        "prestart": [{"path": "/bin/a"}],
        "poststop": [{"path": "/bin/b", "args": ["b", "c"], "env": ["K=V"], "timeout": 9}],
        "startContainer": [],
    },
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/a"},
            {"type": "user"},
            {"type": "time"},
        ],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
        "timeOffsets": {"boottime": {"secs": -7, "nanosecs": 5}},
        "memoryPolicy": {
            "mode": "MPOL_BIND",
            "nodes": "0-1, 3",
            "flags": ["MPOL_F_STATIC_NODES"],
        },
        "netDevices": {"uplink": {"name": "net%d"}, "other": {}},
        "personality": {"domain": "LINUX32"},
        "sysctl": {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "0"},
        "rootfsPropagation": "slave",
        "mountLabel": "a:b:e:d",
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
            {"path": "/dev/xvda", "type": "b", "major": 7, "minor": 1},
        ],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/bus"],
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "cgroupsPath": "/a/b",
        "resources": {
            "memory": {"limit": 1 << 28, "swap": -1},
            "cpu": {"shares": 512, "quota": 150000, "period": 100000, "cpus": "0-1"},
            "pids": {"limit": 32},
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "b", "major": 7, "access": "rwm"},
            ],
        },
    },
    "vm": {
        "hwConfig": {"vcpus": 2, "memory": 1 << 28},
        "kernel": {"path": "/boot/a", "parameters": ["quiet", "a b"], "initrd": "/boot/b"},
    },
    "windows": {"layerFolders": ["unused"]},
}

FULL_SPEC = Spec(
    oci_version="1.0.2-dev",
    bundle="/bundle",
    root="/bundle/rootfs",
    root_read_only=True,
    hostname="box",
    domainname="example",
    args=("app", "two words", ""),
    env=("A=", "B=x=y"),
    cwd="/home",
    terminal=False,
    console_size=(25, 80),
    uid=1000,
    gid=100,
    additional_gids=(5, 6),
    umask=0o27,
    capabilities={
        "bounding": ("CAP_KILL",),
        "effective": (),
        "inheritable": (),
        "permitted": (),
        "ambient": (),
    },
    no_new_privileges=True,
    rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=(1 << 64) - 1),),
    oom_score_adj=-5,
    io_priority=(2, 4),
    scheduler=Scheduler(
        policy="SCHED_BATCH",
        nice=3,
        priority=0,
        flags=("SCHED_FLAG_RESET_ON_FORK",),
        runtime_ns=0,
        deadline_ns=0,
        period_ns=0,
    ),
    apparmor_profile="box",
    selinux_label="a:b:c:d",
    mount_label="a:b:e:d",
    annotations={"a": "b"},
    mounts=(
        Mount(destination="/proc", source="proc", type="proc", options=()),
        Mount(destination="/data", source="/srv", type="", options=("rbind", "ro")),
    ),
    hooks={
        "prestart": (Hook(path="/bin/a", args=("/bin/a",), env=(), timeout_s=0),),
        "poststop": (Hook(path="/bin/b", args=("b", "c"), env=("K=V",), timeout_s=9),),
    },
    namespaces={"pid": "", "network": "/run/netns/a", "user": "", "time": ""},
    uid_mappings=(IdMapping(container=0, host=100000, size=65536),),
    gid_mappings=(IdMapping(container=0, host=200000, size=65536),),
    time_offsets=(TimeOffset(clock="boottime", seconds=-7, nanoseconds=5),),
    memory_policy=MemoryPolicy(mode="MPOL_BIND", flags=("MPOL_F_STATIC_NODES",), nodes=(0, 1, 3)),
    net_devices={"uplink": "net%d", "other": "other"},
    personality="LINUX32",
    machine=VirtualMachine(
        vcpus=2,
        memory_bytes=1 << 28,
        kernel="/boot/a",
        parameters=("quiet", "a b"),
        initrd="/boot/b",
    ),
    remarks=("windows: for another platform, and without effect on Linux",),
    sysctls={"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "0"},
    rootfs_propagation="slave",
    masked_paths=("/proc/kcore",),
    read_only_paths=("/proc/bus",),
    devices=(
        SpecDevice(path="/dev/fuse", type="c", major=10, minor=229, read_only=True, named=False),
        SpecDevice(path="/dev/xvda", type="b", major=7, minor=1, read_only=False, named=False),
    ),
    seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
    cgroups_path="/a/b",
    resources=Resources(
        memory_limit_bytes=1 << 28,
        memory_swap_bytes=-1,
        cpu_shares=512,
        cpu_quota_us=150000,
        cpu_period_us=100000,
        cpuset_cpus="0-1",
        cpuset_mems="",
        pids_limit=32,
    ),
)
"""Of a bundle in /bundle."""
