# SPDX-License-Identifier: Apache-2.0
"""A kubelet's side of the Container Runtime Interface, over gRPC: calls by name, with the fields of
their requests, and port-forward by WebSocket.

The proto text is as much of Kubernetes' runtime.v1 as the tests call; others of its fields are
passed over.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.parse
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lib.patience import patient
from lib.places import socket_at

PROTO = """
syntax = "proto3"; package runtime.v1;
message PodSandboxMetadata { string name = 1; string uid = 2; string namespace = 3;
  uint32 attempt = 4; }
message DNSConfig { repeated string servers = 1; repeated string searches = 2;
  repeated string options = 3; }
message LinuxContainerResources { int64 cpu_period = 1; int64 cpu_quota = 2; int64 cpu_shares = 3;
  int64 memory_limit_in_bytes = 4; int64 oom_score_adj = 5; }
enum NamespaceMode { POD = 0; CONTAINER = 1; NODE = 2; }
message IDMapping { uint32 host_id = 1; uint32 container_id = 2; uint32 length = 3; }
message UserNamespace { NamespaceMode mode = 1; repeated IDMapping uids = 2;
  repeated IDMapping gids = 3; }
message NamespaceOption { NamespaceMode network = 1; NamespaceMode pid = 2; NamespaceMode ipc = 3;
  UserNamespace userns_options = 5; }
message LinuxSandboxSecurityContext { NamespaceOption namespace_options = 1; }
message LinuxPodSandboxConfig { string cgroup_parent = 1;
  LinuxSandboxSecurityContext security_context = 2; LinuxContainerResources resources = 5; }
message PodSandboxConfig { PodSandboxMetadata metadata = 1; string hostname = 2;
  string log_directory = 3; DNSConfig dns_config = 4; map<string, string> annotations = 7;
  LinuxPodSandboxConfig linux = 8; }
message RunPodSandboxRequest { PodSandboxConfig config = 1; string runtime_handler = 2; }
message RunPodSandboxResponse { string pod_sandbox_id = 1; }
message StopPodSandboxRequest { string pod_sandbox_id = 1; }
message StopPodSandboxResponse {}
message RemovePodSandboxRequest { string pod_sandbox_id = 1; }
message RemovePodSandboxResponse {}
message PodSandboxStatusRequest { string pod_sandbox_id = 1; }
message PodSandboxNetworkStatus { string ip = 1; }
message PodSandboxStatus { string id = 1; int32 state = 3; PodSandboxNetworkStatus network = 5; }
message PodSandboxStatusResponse { PodSandboxStatus status = 1; }
message ListPodSandboxRequest {}
message ListPodSandboxResponse { repeated PodSandboxStatus items = 1; }

message ContainerMetadata { string name = 1; uint32 attempt = 2; }
message ImageSpec { string image = 1; string user_specified_image = 18; }
message KeyValue { string key = 1; string value = 2; }
message LinuxContainerSecurityContext { NamespaceOption namespace_options = 3; }
message LinuxContainerConfig { LinuxContainerResources resources = 1;
  LinuxContainerSecurityContext security_context = 2; }
message Mount { string container_path = 1; string host_path = 2; bool readonly = 3; }
message Device { string container_path = 1; string host_path = 2; string permissions = 3; }
message ContainerConfig { ContainerMetadata metadata = 1; ImageSpec image = 2;
  repeated string command = 3; repeated string args = 4; repeated KeyValue envs = 6;
  repeated Mount mounts = 7; repeated Device devices = 8;
  map<string, string> annotations = 10; string log_path = 11; LinuxContainerConfig linux = 15; }
message CreateContainerRequest { string pod_sandbox_id = 1; ContainerConfig config = 2;
  PodSandboxConfig sandbox_config = 3; }
message CreateContainerResponse { string container_id = 1; }
message StartContainerRequest { string container_id = 1; }
message StartContainerResponse {}
message StopContainerRequest { string container_id = 1; int64 timeout = 2; }
message StopContainerResponse {}
message RemoveContainerRequest { string container_id = 1; }
message RemoveContainerResponse {}
enum ContainerState { CREATED = 0; RUNNING = 1; EXITED = 2; UNKNOWN = 3; }
message ContainerStatusRequest { string container_id = 1; bool verbose = 2; }
message ContainerStatus { string id = 1; ContainerMetadata metadata = 2; ContainerState state = 3;
  int64 started_at = 5; int64 finished_at = 6; int32 exit_code = 7; string reason = 10;
  string message = 11; string log_path = 15; }
message ContainerStatusResponse { ContainerStatus status = 1; map<string, string> info = 2; }
message ExecSyncRequest { string container_id = 1; repeated string cmd = 2; int64 timeout = 3; }
message ExecSyncResponse { bytes stdout = 1; bytes stderr = 2; int32 exit_code = 3; }
message PortForwardRequest { string pod_sandbox_id = 1; repeated int32 port = 2; }
message PortForwardResponse { string url = 1; }
message UpdateContainerResourcesRequest { string container_id = 1;
  LinuxContainerResources linux = 2; }
message UpdateContainerResourcesResponse {}

message UInt64Value { uint64 value = 1; }
message CpuUsage { UInt64Value usage_core_nano_seconds = 2; }
message MemoryUsage { UInt64Value working_set_bytes = 2; }
message ContainerAttributes { string id = 1; ContainerMetadata metadata = 2; }
message ContainerStats { ContainerAttributes attributes = 1; CpuUsage cpu = 2;
  MemoryUsage memory = 3; }
message ContainerStatsRequest { string container_id = 1; }
message ContainerStatsResponse { ContainerStats stats = 1; }

message StatusRequest {}
message RuntimeHandlerFeatures { bool recursive_read_only_mounts = 1; bool user_namespaces = 2; }
message RuntimeHandler { string name = 1; RuntimeHandlerFeatures features = 2; }
message StatusResponse { repeated RuntimeHandler runtime_handlers = 3; }

message PullImageRequest { ImageSpec image = 1; }
message PullImageResponse { string image_ref = 1; }
"""
NEVER_S = 60
"""A call's limit: what takes so long will not end."""


@functools.cache
def _messages() -> dict[str, Any]:
    """The messages' classes by name, made by the official compiler."""
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "cri.proto").write_text(PROTO)
        words = [f"-I{directory}", f"--descriptor_set_out={directory}/out", "cri.proto"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True)
        made = descriptor_pb2.FileDescriptorSet.FromString(
            pathlib.Path(directory, "out").read_bytes()
        )
    found = message_factory.GetMessages(made.file, pool=descriptor_pool.DescriptorPool())
    return {name.rpartition(".")[2]: made for name, made in found.items()}


class Cri:
    """A connection: `cri("StopContainer", container_id=…, timeout=10)`; a failure is a
    grpc.RpcError."""

    def __init__(self, path: str) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def __call__(self, method: str, **fields: Any) -> Any:
        """One call's answer."""
        service = "ImageService" if "Image" in method else "RuntimeService"
        messages = _messages()
        call = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages[f"{method}Response"].FromString,
        )
        return call(
            messages[f"{method}Request"](**fields), timeout=patient(NEVER_S), wait_for_ready=True
        )


def forwarded(namespace: str, url: str, port: int, data: bytes) -> bytes:
    """What a port of a pod answers through the URL of a PortForward, to its end; the server listens
    in a network namespace, given by its path. Raises AssertionError with what is said of an
    error."""
    where = urllib.parse.urlsplit(url)
    with contextlib.closing(socket_at(namespace, socket.AF_INET)) as sock:
        sock.settimeout(patient(10))
        sock.connect((where.hostname, where.port))
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {where.path}?port={port} HTTP/1.1", f"Host: {where.netloc}",
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Protocol: v4.channel.k8s.io", "", "",
        )  # fmt: skip
        sock.sendall("\r\n".join(head).encode())
        stream = sock.makefile("rb")
        answer = stream.readline()
        while stream.readline().strip():
            pass
        assert b" 101 " in answer, answer
        sock.sendall(_frame(b"\0" + data))
        # a port has two channels, for data and errors; on each its number comes first
        said = {0: b"", 1: b""}
        while frame := _read_frame(stream):
            said[frame[0]] += frame[1:]
        assert said[1][2:] == b"", said[1]
        return said[0][2:]


def _frame(payload: bytes) -> bytes:
    """A client's frame of binary data (RFC 6455, 5.2), masked by zeros."""
    size = struct.pack("!BH", 0x80 | 126, len(payload))
    return b"\x82" + size + bytes(4) + payload


def _read_frame(stream: Any) -> bytes:
    """A server's next frame of data; b"" at the end."""
    head = stream.read(2)
    if len(head) < 2 or head[0] & 0xF == 8:
        return b""
    size = head[1] & 0x7F
    if size > 125:
        size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
    return bytes(stream.read(size))
