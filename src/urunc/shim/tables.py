# SPDX-License-Identifier: Apache-2.0
"""The messages, services and numbers of containerd's shim protocol, as tables; nothing else.

A message's line is `kind: names; kind: names`. Numbers run on from 1; `name=10` goes on from there.
A kind is a scalar's name, `map` (of text to text), or a message of the same package, of
google.protobuf, or by its full name; enumerations are int32. `*` repeats, `?` is `optional`. Fields
stand in the order of their numbers.

The shapes are the union of those of containerd 1.6 to 2.4, ttrpc 1.0 to 1.2 and cgroups 1.0 to 3.1:
among these no number ever changed its meaning.
"""

from __future__ import annotations

_TASK = {
    "CreateTaskRequest": (
        "string: id bundle; *containerd.types.Mount: rootfs; bool: terminal; "
        "string: stdin stdout stderr checkpoint parent_checkpoint; Any: options"
    ),
    "CreateTaskResponse": "uint32: pid",
    "DeleteRequest": "string: id exec_id",
    "DeleteResponse": "uint32: pid exit_status; Timestamp: exited_at",
    "ExecProcessRequest": (
        "string: id exec_id; bool: terminal; string: stdin stdout stderr; Any: spec"
    ),
    "ExecProcessResponse": "",
    "ResizePtyRequest": "string: id exec_id; uint32: width height",
    "StateRequest": "string: id exec_id",
    "StateResponse": (
        "string: id bundle; uint32: pid; int32: status; string: stdin stdout stderr; "
        "bool: terminal; uint32: exit_status; Timestamp: exited_at; string: exec_id"
    ),
    "KillRequest": "string: id exec_id; uint32: signal; bool: all",
    "CloseIORequest": "string: id exec_id; bool: stdin",
    "PidsRequest": "string: id",
    "PidsResponse": "*containerd.v1.types.ProcessInfo: processes",
    "CheckpointTaskRequest": "string: id path; Any: options",
    "UpdateTaskRequest": "string: id; Any: resources; map: annotations",
    "StartRequest": "string: id exec_id",
    "StartResponse": "uint32: pid",
    "WaitRequest": "string: id exec_id",
    "WaitResponse": "uint32: exit_status; Timestamp: exited_at",
    "StatsRequest": "string: id",
    "StatsResponse": "Any: stats",
    "ConnectRequest": "string: id",
    "ConnectResponse": "uint32: shim_pid task_pid; string: version",
    "ShutdownRequest": "string: id; bool: now",
    "PauseRequest": "string: id",
    "ResumeRequest": "string: id",
}

_NETWORK = (
    "string: name; uint64: rx_bytes rx_packets rx_errors rx_dropped "
    "tx_bytes tx_packets tx_errors tx_dropped"
)
_RDMA = {
    "RdmaStat": "*RdmaEntry: current limit",
    "RdmaEntry": "string: device; uint32: hca_handles hca_objects",
}

TABLES: dict[str, dict[str, str]] = {
    "google.protobuf": {
        "Any": "string: type_url; bytes: value",
        "Empty": "",
        "Timestamp": "int64: seconds; int32: nanos",
    },
    "google.rpc": {"Status": "int32: code; string: message; *Any: details"},
    "ttrpc": {
        "Request": "string: service method; bytes: payload; int64: timeout_nano; "
        "*KeyValue: metadata",
        "Response": "google.rpc.Status: status; bytes: payload",
        "KeyValue": "string: key value",
    },
    # v3 differs from v2 by its name alone
    "containerd.task.v2": _TASK,
    "containerd.task.v3": _TASK,
    "containerd.types": {
        "Mount": "string: type source target; *string: options",
        "MountCapabilities": "*string: types transforms",
        "Envelope": "Timestamp: timestamp; string: namespace topic; Any: event",
        "RuntimeRequest": "string: runtime_path; Any: options",
        "RuntimeVersion": "string: version revision",
        "RuntimeInfo": (
            "string: name; RuntimeVersion: version; Any: options features; map: annotations"
        ),
    },
    "containerd.v1.types": {"ProcessInfo": "uint32: pid; Any: info"},
    "containerd.runc.v1": {
        # criu_path: 1.x alone; task_api_address, task_api_version: 2.x alone
        "Options": (
            "bool: no_pivot_root no_new_keyring; string: shim_cgroup; uint32: io_uid io_gid; "
            "string: binary_name root criu_path; bool: systemd_cgroup; "
            "string: criu_image_path criu_work_path task_api_address; uint32: task_api_version"
        ),
        "CheckpointOptions": (
            "bool: exit open_tcp external_unix_sockets terminal file_locks; "
            "*string: empty_namespaces; string: cgroups_mode image_path work_path parent_path"
        ),
        "ProcessDetails": "string: exec_id",
    },
    "runtimeoptions.v1": {"Options": "string: type_url config_path; bytes: config_body"},
    # from containerd 2.3 on; the answer's extensions from 2.4
    "containerd.runtime.bootstrap.v1": {
        "BootstrapParams": (
            "string: instance_id namespace; int32: log_level; "
            "string: containerd_version containerd_ttrpc_address containerd_grpc_address "
            "containerd_binary; *Extension: extensions; ?string: socket_dir"
        ),
        "Extension": "Any: value",
        "BootstrapResult": (
            "int32: version; string: address protocol; *int32: capabilities; map: metadata; "
            "*Extension: extensions"
        ),
    },
    "containerd.services.events.ttrpc.v1": {
        "ForwardRequest": "containerd.types.Envelope: envelope"
    },
    "containerd.events": {
        "TaskCreate": (
            "string: container_id bundle; *containerd.types.Mount: rootfs; TaskIO: io; "
            "string: checkpoint; uint32: pid"
        ),
        "TaskStart": "string: container_id; uint32: pid",
        "TaskDelete": (
            "string: container_id; uint32: pid exit_status; Timestamp: exited_at; string: id"
        ),
        "TaskIO": "string: stdin stdout stderr; bool: terminal",
        "TaskExit": "string: container_id id; uint32: pid exit_status; Timestamp: exited_at",
        "TaskOOM": "string: container_id",
        "TaskExecAdded": "string: container_id exec_id",
        "TaskExecStarted": "string: container_id exec_id; uint32: pid",
        "TaskPaused": "string: container_id",
        "TaskResumed": "string: container_id",
        "TaskCheckpointed": "string: container_id checkpoint",
    },
    "io.containerd.cgroups.v1": {
        "Metrics": (
            "*HugetlbStat: hugetlb; PidsStat: pids; CPUStat: cpu; MemoryStat: memory; "
            "BlkIOStat: blkio; RdmaStat: rdma; *NetworkStat: network; CgroupStats: cgroup_stats; "
            "MemoryOomControl: memory_oom_control"
        ),
        "HugetlbStat": "uint64: usage max failcnt; string: pagesize",
        "PidsStat": "uint64: current limit",
        "CPUStat": "CPUUsage: usage; Throttle: throttling",
        "CPUUsage": "uint64: total kernel user; *uint64: per_cpu",
        "Throttle": "uint64: periods throttled_periods throttled_time",
        "MemoryStat": (
            "uint64: cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault "
            "pg_maj_fault inactive_anon active_anon inactive_file active_file unevictable "
            "hierarchical_memory_limit hierarchical_swap_limit total_cache total_rss "
            "total_rss_huge total_mapped_file total_dirty total_writeback total_pg_pg_in "
            "total_pg_pg_out total_pg_fault total_pg_maj_fault total_inactive_anon "
            "total_active_anon total_inactive_file total_active_file total_unevictable; "
            "MemoryEntry: usage swap kernel kernel_tcp"
        ),
        "MemoryEntry": "uint64: limit usage max failcnt",
        "MemoryOomControl": "uint64: oom_kill_disable under_oom oom_kill",
        "BlkIOStat": (
            "*BlkIOEntry: io_service_bytes_recursive io_serviced_recursive io_queued_recursive "
            "io_service_time_recursive io_wait_time_recursive io_merged_recursive "
            "io_time_recursive sectors_recursive"
        ),
        "BlkIOEntry": "string: op device; uint64: major minor value",
        **_RDMA,
        "NetworkStat": _NETWORK,
        "CgroupStats": "uint64: nr_sleeping nr_running nr_stopped nr_uninterruptible nr_io_wait",
    },
    "io.containerd.cgroups.v2": {
        "Metrics": (
            "PidsStat: pids; CPUStat: cpu; MemoryStat: memory=4; RdmaStat: rdma; IOStat: io; "
            "*HugeTlbStat: hugetlb; MemoryEvents: memory_events; *NetworkStat: network"
        ),
        "PSIData": "double: avg10 avg60 avg300; uint64: total",
        "PSIStats": "PSIData: some full",
        "PidsStat": "uint64: current limit",
        "CPUStat": (
            "uint64: usage_usec user_usec system_usec nr_periods nr_throttled throttled_usec; "
            "PSIStats: psi; uint64: nr_bursts burst_usec"
        ),
        "MemoryStat": (
            "uint64: anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback "
            "anon_thp inactive_anon active_anon inactive_file active_file unevictable "
            "slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault "
            "workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate "
            "pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc usage "
            "usage_limit swap_usage swap_limit max_usage swap_max_usage; PSIStats: psi; "
            "uint64: workingset_refault_anon workingset_refault_file workingset_activate_anon "
            "workingset_activate_file"
        ),
        "MemoryEvents": "uint64: low high max oom oom_kill oom_group_kill",
        **_RDMA,
        "IOStat": "*IOEntry: usage; PSIStats: psi",
        "IOEntry": "uint64: major minor rbytes wbytes rios wios",
        "HugeTlbStat": "uint64: current max; string: pagesize; uint64: failcnt",
        "NetworkStat": _NETWORK,
    },
}

_EMPTY = "google.protobuf.Empty"
# the task service's methods: request (of the service's package) and response
METHODS = {
    "State": ("StateRequest", "StateResponse"),
    "Create": ("CreateTaskRequest", "CreateTaskResponse"),
    "Start": ("StartRequest", "StartResponse"),
    "Delete": ("DeleteRequest", "DeleteResponse"),
    "Pids": ("PidsRequest", "PidsResponse"),
    "Pause": ("PauseRequest", _EMPTY),
    "Resume": ("ResumeRequest", _EMPTY),
    "Checkpoint": ("CheckpointTaskRequest", _EMPTY),
    "Kill": ("KillRequest", _EMPTY),
    "Exec": ("ExecProcessRequest", _EMPTY),
    "ResizePty": ("ResizePtyRequest", _EMPTY),
    "CloseIO": ("CloseIORequest", _EMPTY),
    "Update": ("UpdateTaskRequest", _EMPTY),
    "Wait": ("WaitRequest", "WaitResponse"),
    "Stats": ("StatsRequest", "StatsResponse"),
    "Connect": ("ConnectRequest", "ConnectResponse"),
    "Shutdown": ("ShutdownRequest", _EMPTY),
}

# containerd.v1.types.Status
CREATED, RUNNING, STOPPED, PAUSED = range(1, 5)
