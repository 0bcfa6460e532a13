# SPDX-License-Identifier: Apache-2.0
"""What control groups' files say, as containerd's metrics messages: v1, v2 and hybrid."""

from __future__ import annotations

import pathlib

import pytest

from urunc.cgroup.groups import Groups
from urunc.linux import cgroups
from urunc.shim import metrics

V1_FILES = {
    "memory/memory.stat": "cache 1\nrss 2\nrss_huge 3\npgpgin 4\npgmajfault 5\n"
    "hierarchical_memory_limit 6\nhierarchical_memsw_limit 7\ntotal_inactive_file 8\n"
    "total_pgpgout 9\nswap 10\n",
    "memory/memory.usage_in_bytes": "100\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.max_usage_in_bytes": "101\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.memsw.limit_in_bytes": "200\n",
    "memory/memory.kmem.usage_in_bytes": "11\n",
    "memory/memory.kmem.tcp.usage_in_bytes": "12\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n",
    "cpuacct/cpuacct.usage": "5000000000\n",
    "cpuacct/cpuacct.usage_percpu": "3000000000 2000000000 \n",
    "cpuacct/cpuacct.stat": "user 300\nsystem 200\n",
    "cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 77\n",
    "pids/pids.current": "3\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.bfq.io_serviced_recursive": "Total 0\n",
    "blkio/blkio.throttle.io_serviced_recursive": "9999:7 Read 2\n9999:7 Total 2\nTotal 2\n",
    "blkio/blkio.throttle.io_service_bytes": "9999:7 Read 8192\nTotal 8192\n",
    "blkio/blkio.sectors_recursive": "9999:7 16\n",
    "hugetlb/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "hugetlb/hugetlb.2MB.failcnt": "1\n",
    "hugetlb/hugetlb.2MB.rsvd.usage_in_bytes": "0\n",
    "rdma/rdma.current": "mlx4_0 hca_handle=2 hca_object=20\n",
    "rdma/rdma.max": "mlx4_0 hca_handle=max hca_object=2000\n",
}
PRESSURE = (
    "some avg10=0.25 avg60=0.50 avg300=1.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3"
)
V2_FILES = {
    "memory.stat": "anon 1\nfile 2\nkernel 3\nfile_thp 4\nworkingset_refault_anon 5\npgfault 6\n",
    "memory.current": "100\n",
    "memory.max": "max\n",
    "memory.peak": "101\n",
    "memory.swap.current": "4\n",
    "memory.swap.max": "8\n",
    "memory.events": "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"
    "sock_throttled 0\n",
    "memory.pressure": PRESSURE,
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\n"
    "core_sched.force_idle_usec 0\nnr_periods 5\nnr_throttled 2\nthrottled_usec 9\nnr_bursts 1\n"
    "burst_usec 3\n",
    "pids.current": "3\n",
    "pids.max": "20\n",
    "io.stat": "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n",
    "io.pressure": PRESSURE,
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 4\n",
    "hugetlb.2MB.rsvd.current": "0\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=20\n",
}
RDMA = {"device": "mlx4_0", "hca_handles": 2, "hca_objects": 20}


def written(directory: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    return directory


@pytest.fixture
def v1(tmp_path: pathlib.Path) -> Groups:
    directory = written(tmp_path / "v1", V1_FILES)
    return Groups({path.name: str(path) for path in directory.iterdir()})


@pytest.fixture
def v2(tmp_path: pathlib.Path) -> Groups:
    return Groups({"": str(written(tmp_path / "v2", V2_FILES))})


def test_v1(v1: Groups) -> None:
    name, found = metrics.metrics(v1)
    assert name == "io.containerd.cgroups.v1.Metrics"
    assert found["cpu"] == {
        "usage": {
            "total": 5_000_000_000,
            "user": 3_000_000_000,
            "kernel": 2_000_000_000,
            "per_cpu": [3_000_000_000, 2_000_000_000],
        },
        "throttling": {"periods": 10, "throttled_periods": 4, "throttled_time": 77},
    }
    nothing = dict.fromkeys(("limit", "usage", "max", "failcnt"), 0)
    assert found["memory"] == {
        "cache": 1,
        "rss": 2,
        "rss_huge": 3,
        "pg_pg_in": 4,
        "pg_maj_fault": 5,
        "hierarchical_memory_limit": 6,
        "hierarchical_swap_limit": 7,
        "total_inactive_file": 8,
        "total_pg_pg_out": 9,
        "usage": {"limit": 9223372036854771712, "usage": 100, "max": 101, "failcnt": 3},
        "swap": {**nothing, "limit": 200},
        "kernel": {**nothing, "usage": 11},
        "kernel_tcp": {**nothing, "usage": 12},
    }
    assert found["memory_oom_control"] == {"oom_kill_disable": 0, "under_oom": 1, "oom_kill": 2}
    assert found["pids"] == {"current": 3, "limit": 0}
    disk = {"device": "", "major": 9999, "minor": 7}
    assert found["blkio"] == {
        "io_service_bytes_recursive": [{**disk, "op": "Read", "value": 8192}],
        "io_serviced_recursive": [
            {**disk, "op": "Read", "value": 2},
            {**disk, "op": "Total", "value": 2},
        ],
        "sectors_recursive": [{**disk, "op": "", "value": 16}],
    }
    assert found["hugetlb"] == [{"pagesize": "2MB", "usage": 2097152, "max": 4194304, "failcnt": 1}]
    limit = {"device": "mlx4_0", "hca_handles": (1 << 32) - 1, "hca_objects": 2000}
    assert found["rdma"] == {"current": [RDMA], "limit": [limit]}


def test_v2(v2: Groups) -> None:
    name, found = metrics.metrics(v2)
    assert name == "io.containerd.cgroups.v2.Metrics"
    pressure = {
        "some": {"avg10": 0.25, "avg60": 0.5, "avg300": 1.0, "total": 7},
        "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3},
    }
    unlimited = (1 << 64) - 1
    assert found == {
        "pids": {"current": 3, "limit": 20},
        "cpu": {
            "usage_usec": 30, "user_usec": 20, "system_usec": 10, "nr_periods": 5,
            "nr_throttled": 2, "throttled_usec": 9, "nr_bursts": 1, "burst_usec": 3, "psi": None,
        },
        "memory": {
            "anon": 1, "file": 2, "pgfault": 6, "workingset_refault_anon": 5, "usage": 100,
            "usage_limit": unlimited, "max_usage": 101, "swap_usage": 4, "swap_limit": 8,
            "swap_max_usage": 0, "psi": pressure,
        },
        "memory_events": {
            "low": 0, "high": 1, "max": 2, "oom": 3, "oom_kill": 4, "oom_group_kill": 5,
        },
        "io": {
            "usage": [
                {"major": 8, "minor": 16, "rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4},
                {"major": 7, "minor": 0},
            ],
            "psi": pressure,
        },
        "hugetlb": [{"pagesize": "2MB", "current": 2097152, "max": unlimited, "failcnt": 4}],
        "rdma": {"current": [RDMA], "limit": []},
    }  # fmt: skip


def test_hybrid_is_v1(v1: Groups, v2: Groups) -> None:
    """What v1 lacks there comes from v2's files."""
    paths = {name: v1.paths[name] for name in ("memory", "cpu")}
    name, found = metrics.metrics(Groups({**paths, **v2.paths}))
    assert name == metrics.V1
    assert found["cpu"]["usage"] == {"total": 30_000, "user": 20_000, "kernel": 10_000}
    assert found["memory"]["usage"]["usage"] == 100
    assert found["pids"] == {"current": 3, "limit": 20}


def test_groups_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, in the message that this machine's containers have."""
    name, found = metrics.metrics(Groups({"memory": "/nowhere"}))
    assert (name, found["memory"]["usage"]["usage"]) == (metrics.V1, 0)
    for known, expected in (({"": ("/x", "/")}, metrics.V2), ({"pids": ("/x", "/")}, metrics.V1)):
        monkeypatch.setattr(cgroups, "hierarchies", known.copy)
        assert metrics.metrics(Groups({}))[0] == expected


def test_processes_of_groups_below(tmp_path: pathlib.Path) -> None:
    files = {"cgroup.procs": "4\n", "a/cgroup.procs": "5\n6\n", "a/b/cgroup.procs": ""}
    directory = written(tmp_path / "g", files)
    assert sorted(metrics.pids(Groups({"": str(directory)}))) == [4, 5, 6]
    assert metrics.pids(Groups({})) == []
