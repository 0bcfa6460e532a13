# SPDX-License-Identifier: Apache-2.0
"""The shim's protobuf as the official compiler and library have it."""

from __future__ import annotations

import pathlib
import site
import subprocess
import sys
import tempfile
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from lib.protos import KINDS, PROTOS
from urunc.shim import tables

F = FieldDescriptor

KIND_NAMES = {
    F.TYPE_BOOL: "bool",
    F.TYPE_INT32: "int32",
    F.TYPE_INT64: "int64",
    F.TYPE_ENUM: "int32",
    F.TYPE_UINT32: "uint32",
    F.TYPE_UINT64: "uint64",
    F.TYPE_FLOAT: "float",
    F.TYPE_DOUBLE: "double",
    F.TYPE_STRING: "string",
    F.TYPE_BYTES: "bytes",
}

NAMES = [f"{package}.{name}" for package, table in tables.TABLES.items() for name in table]

TASK_CREATE = "containerd.events.TaskCreate"

KIND = "test.kinds.Kinds"

KINDS_NAMES = [f"test.kinds.{name}" for name in KINDS]

BOOTSTRAP = "containerd.runtime.bootstrap.v1.BootstrapParams"

tables.TABLES["test.kinds"] = KINDS


def compiled() -> descriptor_pool.DescriptorPool:
    """What the official compiler makes of the proto text."""
    pool = descriptor_pool.DescriptorPool()
    with tempfile.TemporaryDirectory() as directory:
        for package, text in PROTOS.items():
            pathlib.Path(directory, f"{package}.proto").write_text(text)
        words = [f"-I{include}" for include in [directory, *site.getsitepackages()]]
        words += ["--include_imports", f"--descriptor_set_out={directory}/out"]
        words += [f"{package}.proto" for package in PROTOS]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *words], check=True)
        compiled = descriptor_pb2.FileDescriptorSet.FromString(
            pathlib.Path(directory, "out").read_bytes()
        )
        for file in compiled.file:
            pool.Add(file)
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(empty_pb2.DESCRIPTOR.serialized_pb))
    return pool


POOL = compiled()

CLASSES = {
    name: GetMessageClass(POOL.FindMessageTypeByName(name)) for name in [*NAMES, *KINDS_NAMES]
}


def is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def row(field: Any) -> tuple[str, int, str, str]:
    """(name, number, kind, shape) of a published field."""
    if is_map(field):
        return field.name, field.number, "map", ""
    kind = field.message_type.full_name if field.message_type else KIND_NAMES[field.type]
    optional = field.has_presence and not field.message_type
    return field.name, field.number, kind, "*" * field.is_repeated or "?" * optional
