# SPDX-License-Identifier: Apache-2.0
"""The shim protocol's messages once more, as proto text: what the official compiler makes of it is
what the tables are tested against. Shapes of containerd's api, containerd/ttrpc and
containerd/cgroups; `test.kinds` has a field of every kind."""

from __future__ import annotations

PROTOS = {
    "ttrpc": """
syntax = "proto3"; package ttrpc;
import "google/rpc/status.proto";
message Request {
  string service = 1; string method = 2; bytes payload = 3; int64 timeout_nano = 4;
  repeated KeyValue metadata = 5;
}
message Response { google.rpc.Status status = 1; bytes payload = 2; }
message KeyValue { string key = 1; string value = 2; }
""",
    "containerd.task.v2": """
syntax = "proto3"; package containerd.task.v2;
import "containerd.types.proto";
import "containerd.v1.types.proto";
import "google/protobuf/any.proto";
import "google/protobuf/timestamp.proto";
message CreateTaskRequest {
  string id = 1; string bundle = 2; repeated containerd.types.Mount rootfs = 3;
  bool terminal = 4; string stdin = 5; string stdout = 6; string stderr = 7;
  string checkpoint = 8; string parent_checkpoint = 9; google.protobuf.Any options = 10;
}
message CreateTaskResponse { uint32 pid = 1; }
message DeleteRequest { string id = 1; string exec_id = 2; }
message DeleteResponse {
  uint32 pid = 1; uint32 exit_status = 2; google.protobuf.Timestamp exited_at = 3;
}
message ExecProcessRequest {
  string id = 1; string exec_id = 2; bool terminal = 3; string stdin = 4; string stdout = 5;
  string stderr = 6; google.protobuf.Any spec = 7;
}
message ExecProcessResponse {}
message ResizePtyRequest {
  string id = 1; string exec_id = 2; uint32 width = 3; uint32 height = 4;
}
message StateRequest { string id = 1; string exec_id = 2; }
message StateResponse {
  string id = 1; string bundle = 2; uint32 pid = 3; containerd.v1.types.Status status = 4;
  string stdin = 5;
  string stdout = 6; string stderr = 7; bool terminal = 8; uint32 exit_status = 9;
  google.protobuf.Timestamp exited_at = 10; string exec_id = 11;
}
message KillRequest { string id = 1; string exec_id = 2; uint32 signal = 3; bool all = 4; }
message CloseIORequest { string id = 1; string exec_id = 2; bool stdin = 3; }
message PidsRequest { string id = 1; }
message PidsResponse { repeated containerd.v1.types.ProcessInfo processes = 1; }
message CheckpointTaskRequest {
  string id = 1; string path = 2; google.protobuf.Any options = 3;
}
message UpdateTaskRequest {
  string id = 1; google.protobuf.Any resources = 2; map<string, string> annotations = 3;
}
message StartRequest { string id = 1; string exec_id = 2; }
message StartResponse { uint32 pid = 1; }
message WaitRequest { string id = 1; string exec_id = 2; }
message WaitResponse { uint32 exit_status = 1; google.protobuf.Timestamp exited_at = 2; }
message StatsRequest { string id = 1; }
message StatsResponse { google.protobuf.Any stats = 1; }
message ConnectRequest { string id = 1; }
message ConnectResponse { uint32 shim_pid = 1; uint32 task_pid = 2; string version = 3; }
message ShutdownRequest { string id = 1; bool now = 2; }
message PauseRequest { string id = 1; }
message ResumeRequest { string id = 1; }
""",
    "containerd.types": """
syntax = "proto3"; package containerd.types;
import "google/protobuf/any.proto";
import "google/protobuf/timestamp.proto";
message Mount {
  string type = 1; string source = 2; string target = 3; repeated string options = 4;
}
message MountCapabilities { repeated string types = 1; repeated string transforms = 2; }
message Envelope {
  google.protobuf.Timestamp timestamp = 1; string namespace = 2; string topic = 3;
  google.protobuf.Any event = 4;
}
message RuntimeRequest { string runtime_path = 1; google.protobuf.Any options = 2; }
message RuntimeVersion { string version = 1; string revision = 2; }
message RuntimeInfo {
  string name = 1; RuntimeVersion version = 2; google.protobuf.Any options = 3;
  google.protobuf.Any features = 4; map<string, string> annotations = 5;
}
""",
    "containerd.v1.types": """
syntax = "proto3"; package containerd.v1.types;
import "google/protobuf/any.proto";
enum Status { UNKNOWN = 0; CREATED = 1; RUNNING = 2; STOPPED = 3; PAUSED = 4; PAUSING = 5; }
message ProcessInfo { uint32 pid = 1; google.protobuf.Any info = 2; }
""",
    "containerd.runc.v1": """
syntax = "proto3"; package containerd.runc.v1;
message Options {
  bool no_pivot_root = 1; bool no_new_keyring = 2; string shim_cgroup = 3; uint32 io_uid = 4;
  uint32 io_gid = 5; string binary_name = 6; string root = 7; string criu_path = 8;
  bool systemd_cgroup = 9; string criu_image_path = 10; string criu_work_path = 11;
  string task_api_address = 12; uint32 task_api_version = 13;
}
message CheckpointOptions {
  bool exit = 1; bool open_tcp = 2; bool external_unix_sockets = 3; bool terminal = 4;
  bool file_locks = 5; repeated string empty_namespaces = 6; string cgroups_mode = 7;
  string image_path = 8; string work_path = 9; string parent_path = 10;
}
message ProcessDetails { string exec_id = 1; }
""",
    "runtimeoptions.v1": """
syntax = "proto3"; package runtimeoptions.v1;
message Options { string type_url = 1; string config_path = 2; bytes config_body = 3; }
""",
    "containerd.runtime.bootstrap.v1": """
syntax = "proto3"; package containerd.runtime.bootstrap.v1;
import "google/protobuf/any.proto";
message BootstrapParams {
  string instance_id = 1; string namespace = 2; LogLevel log_level = 3;
  string containerd_version = 4; string containerd_ttrpc_address = 5;
  string containerd_grpc_address = 6; string containerd_binary = 7;
  repeated Extension extensions = 8; optional string socket_dir = 9;
}
message Extension { google.protobuf.Any value = 1; }
enum Capability { CAPABILITY_UNSPECIFIED = 0; }
enum LogLevel {
  LOG_LEVEL_INFO = 0; LOG_LEVEL_TRACE = -8; LOG_LEVEL_DEBUG = -4; LOG_LEVEL_WARN = 4;
  LOG_LEVEL_ERROR = 8; LOG_LEVEL_FATAL = 10; LOG_LEVEL_PANIC = 12;
}
message BootstrapResult {
  int32 version = 1; string address = 2; string protocol = 3; repeated Capability capabilities = 4;
  map<string, string> metadata = 5; repeated Extension extensions = 6;
}
""",
    "containerd.services.events.ttrpc.v1": """
syntax = "proto3"; package containerd.services.events.ttrpc.v1;
import "containerd.types.proto";
message ForwardRequest { containerd.types.Envelope envelope = 1; }
""",
    "containerd.events": """
syntax = "proto3"; package containerd.events;
import "containerd.types.proto";
import "google/protobuf/timestamp.proto";
message TaskCreate {
  string container_id = 1; string bundle = 2; repeated containerd.types.Mount rootfs = 3;
  TaskIO io = 4; string checkpoint = 5; uint32 pid = 6;
}
message TaskStart { string container_id = 1; uint32 pid = 2; }
message TaskDelete {
  string container_id = 1; uint32 pid = 2; uint32 exit_status = 3;
  google.protobuf.Timestamp exited_at = 4; string id = 5;
}
message TaskIO { string stdin = 1; string stdout = 2; string stderr = 3; bool terminal = 4; }
message TaskExit {
  string container_id = 1; string id = 2; uint32 pid = 3; uint32 exit_status = 4;
  google.protobuf.Timestamp exited_at = 5;
}
message TaskOOM { string container_id = 1; }
message TaskExecAdded { string container_id = 1; string exec_id = 2; }
message TaskExecStarted { string container_id = 1; string exec_id = 2; uint32 pid = 3; }
message TaskPaused { string container_id = 1; }
message TaskResumed { string container_id = 1; }
message TaskCheckpointed { string container_id = 1; string checkpoint = 2; }
""",
    "io.containerd.cgroups.v1": """
syntax = "proto3"; package io.containerd.cgroups.v1;
message Metrics {
  repeated HugetlbStat hugetlb = 1; PidsStat pids = 2; CPUStat cpu = 3; MemoryStat memory = 4;
  BlkIOStat blkio = 5; RdmaStat rdma = 6; repeated NetworkStat network = 7;
  CgroupStats cgroup_stats = 8; MemoryOomControl memory_oom_control = 9;
}
message HugetlbStat {
  uint64 usage = 1; uint64 max = 2; uint64 failcnt = 3; string pagesize = 4;
}
message PidsStat { uint64 current = 1; uint64 limit = 2; }
message CPUStat { CPUUsage usage = 1; Throttle throttling = 2; }
message CPUUsage {
  uint64 total = 1; uint64 kernel = 2; uint64 user = 3; repeated uint64 per_cpu = 4;
}
message Throttle {
  uint64 periods = 1; uint64 throttled_periods = 2; uint64 throttled_time = 3;
}
message MemoryStat {
  uint64 cache = 1; uint64 rss = 2; uint64 rss_huge = 3; uint64 mapped_file = 4;
  uint64 dirty = 5; uint64 writeback = 6; uint64 pg_pg_in = 7; uint64 pg_pg_out = 8;
  uint64 pg_fault = 9; uint64 pg_maj_fault = 10; uint64 inactive_anon = 11;
  uint64 active_anon = 12; uint64 inactive_file = 13; uint64 active_file = 14;
  uint64 unevictable = 15; uint64 hierarchical_memory_limit = 16;
  uint64 hierarchical_swap_limit = 17; uint64 total_cache = 18; uint64 total_rss = 19;
  uint64 total_rss_huge = 20; uint64 total_mapped_file = 21; uint64 total_dirty = 22;
  uint64 total_writeback = 23; uint64 total_pg_pg_in = 24; uint64 total_pg_pg_out = 25;
  uint64 total_pg_fault = 26; uint64 total_pg_maj_fault = 27; uint64 total_inactive_anon = 28;
  uint64 total_active_anon = 29; uint64 total_inactive_file = 30;
  uint64 total_active_file = 31; uint64 total_unevictable = 32; MemoryEntry usage = 33;
  MemoryEntry swap = 34; MemoryEntry kernel = 35; MemoryEntry kernel_tcp = 36;
}
message MemoryEntry { uint64 limit = 1; uint64 usage = 2; uint64 max = 3; uint64 failcnt = 4; }
message MemoryOomControl {
  uint64 oom_kill_disable = 1; uint64 under_oom = 2; uint64 oom_kill = 3;
}
message BlkIOStat {
  repeated BlkIOEntry io_service_bytes_recursive = 1;
  repeated BlkIOEntry io_serviced_recursive = 2; repeated BlkIOEntry io_queued_recursive = 3;
  repeated BlkIOEntry io_service_time_recursive = 4;
  repeated BlkIOEntry io_wait_time_recursive = 5; repeated BlkIOEntry io_merged_recursive = 6;
  repeated BlkIOEntry io_time_recursive = 7; repeated BlkIOEntry sectors_recursive = 8;
}
message BlkIOEntry {
  string op = 1; string device = 2; uint64 major = 3; uint64 minor = 4; uint64 value = 5;
}
message RdmaStat { repeated RdmaEntry current = 1; repeated RdmaEntry limit = 2; }
message RdmaEntry { string device = 1; uint32 hca_handles = 2; uint32 hca_objects = 3; }
message NetworkStat {
  string name = 1; uint64 rx_bytes = 2; uint64 rx_packets = 3; uint64 rx_errors = 4;
  uint64 rx_dropped = 5; uint64 tx_bytes = 6; uint64 tx_packets = 7; uint64 tx_errors = 8;
  uint64 tx_dropped = 9;
}
message CgroupStats {
  uint64 nr_sleeping = 1; uint64 nr_running = 2; uint64 nr_stopped = 3;
  uint64 nr_uninterruptible = 4; uint64 nr_io_wait = 5;
}
""",
    "io.containerd.cgroups.v2": """
syntax = "proto3"; package io.containerd.cgroups.v2;
message Metrics {
  PidsStat pids = 1; CPUStat cpu = 2; MemoryStat memory = 4; RdmaStat rdma = 5; IOStat io = 6;
  repeated HugeTlbStat hugetlb = 7; MemoryEvents memory_events = 8;
  repeated NetworkStat network = 9;
}
message PSIData { double avg10 = 1; double avg60 = 2; double avg300 = 3; uint64 total = 4; }
message PSIStats { PSIData some = 1; PSIData full = 2; }
message PidsStat { uint64 current = 1; uint64 limit = 2; }
message CPUStat {
  uint64 usage_usec = 1; uint64 user_usec = 2; uint64 system_usec = 3; uint64 nr_periods = 4;
  uint64 nr_throttled = 5; uint64 throttled_usec = 6; PSIStats psi = 7; uint64 nr_bursts = 8;
  uint64 burst_usec = 9;
}
message MemoryStat {
  uint64 anon = 1; uint64 file = 2; uint64 kernel_stack = 3; uint64 slab = 4; uint64 sock = 5;
  uint64 shmem = 6; uint64 file_mapped = 7; uint64 file_dirty = 8; uint64 file_writeback = 9;
  uint64 anon_thp = 10; uint64 inactive_anon = 11; uint64 active_anon = 12;
  uint64 inactive_file = 13; uint64 active_file = 14; uint64 unevictable = 15;
  uint64 slab_reclaimable = 16; uint64 slab_unreclaimable = 17; uint64 pgfault = 18;
  uint64 pgmajfault = 19; uint64 workingset_refault = 20; uint64 workingset_activate = 21;
  uint64 workingset_nodereclaim = 22; uint64 pgrefill = 23; uint64 pgscan = 24;
  uint64 pgsteal = 25; uint64 pgactivate = 26; uint64 pgdeactivate = 27;
  uint64 pglazyfree = 28; uint64 pglazyfreed = 29; uint64 thp_fault_alloc = 30;
  uint64 thp_collapse_alloc = 31; uint64 usage = 32; uint64 usage_limit = 33;
  uint64 swap_usage = 34; uint64 swap_limit = 35; uint64 max_usage = 36;
  uint64 swap_max_usage = 37; PSIStats psi = 38; uint64 workingset_refault_anon = 39;
  uint64 workingset_refault_file = 40; uint64 workingset_activate_anon = 41;
  uint64 workingset_activate_file = 42;
}
message MemoryEvents {
  uint64 low = 1; uint64 high = 2; uint64 max = 3; uint64 oom = 4; uint64 oom_kill = 5;
  uint64 oom_group_kill = 6;
}
message RdmaStat { repeated RdmaEntry current = 1; repeated RdmaEntry limit = 2; }
message RdmaEntry { string device = 1; uint32 hca_handles = 2; uint32 hca_objects = 3; }
message IOStat { repeated IOEntry usage = 1; PSIStats psi = 2; }
message IOEntry {
  uint64 major = 1; uint64 minor = 2; uint64 rbytes = 3; uint64 wbytes = 4; uint64 rios = 5;
  uint64 wios = 6;
}
message HugeTlbStat {
  uint64 current = 1; uint64 max = 2; string pagesize = 3; uint64 failcnt = 4;
}
message NetworkStat {
  string name = 1; uint64 rx_bytes = 2; uint64 rx_packets = 3; uint64 rx_errors = 4;
  uint64 rx_dropped = 5; uint64 tx_bytes = 6; uint64 tx_packets = 7; uint64 tx_errors = 8;
  uint64 tx_dropped = 9;
}
""",
    "test.kinds": """
syntax = "proto3"; package test.kinds;
message Kinds {
  bool bool = 1; int32 int32 = 2; int64 int64 = 3; uint32 uint32 = 4; uint64 uint64 = 5;
  float float = 6; double double = 7; string string = 8; bytes bytes = 9;
  map<string, string> map = 10; Kinds child = 11; repeated Kinds children = 12;
  optional string optional_string = 13; optional int32 optional_int32 = 14;
  Repeated repeated = 15; string far = 536870911;
}
message Repeated {
  repeated bool bool = 1; repeated int32 int32 = 2; repeated int64 int64 = 3;
  repeated uint32 uint32 = 4; repeated uint64 uint64 = 5; repeated float float = 6;
  repeated double double = 7; repeated string string = 8; repeated bytes bytes = 9;
}
message Unpacked {
  repeated bool bool = 1 [packed = false]; repeated int32 int32 = 2 [packed = false];
  repeated int64 int64 = 3 [packed = false]; repeated uint32 uint32 = 4 [packed = false];
  repeated uint64 uint64 = 5 [packed = false]; repeated float float = 6 [packed = false];
  repeated double double = 7 [packed = false]; repeated string string = 8;
  repeated bytes bytes = 9;
}
""",
}
PROTOS["containerd.task.v3"] = PROTOS["containerd.task.v2"].replace("task.v2", "task.v3")

_REPEATED = (
    "*bool: bool; *int32: int32; *int64: int64; *uint32: uint32; *uint64: uint64; "
    "*float: float; *double: double; *string: string; *bytes: bytes"
)
# the rows of `test.kinds` for our tables
KINDS = {
    "Kinds": (
        "bool: bool; int32: int32; int64: int64; uint32: uint32; uint64: uint64; float: float; "
        "double: double; string: string; bytes: bytes; map: map; Kinds: child; *Kinds: children; "
        "?string: optional_string; ?int32: optional_int32; Repeated: repeated; "
        "string: far=536870911"
    ),
    "Repeated": _REPEATED,
    "Unpacked": _REPEATED,
}
