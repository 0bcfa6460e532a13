# SPDX-License-Identifier: Apache-2.0
"""urunc.shim.tables against the proto text and against published descriptors."""

from __future__ import annotations

import ast
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from lib.compiled import CLASSES, KIND_NAMES, KINDS_NAMES, NAMES, POOL, F, row
from urunc.shim import messages, tables


def our_rows(name: str) -> list[tuple[str, int, str, str]]:
    fields = messages._shape(name).fields.values()
    return [
        (f.name, f.number, f.message or f.kind, "*" * f.repeated or "?" * f.optional)
        for f in fields
    ]


@pytest.mark.parametrize("name", [*NAMES, *KINDS_NAMES])
def test_tables_are_the_proto_text(name: str) -> None:
    descriptor = CLASSES[name].DESCRIPTOR
    assert our_rows(name) == [row(field) for field in descriptor.fields]
    numbers = [number for _, number, _, _ in our_rows(name)]
    assert numbers == sorted(numbers)


def published() -> Iterator[tuple[str, Any]]:
    """The messages in PyPI's containerd 1.5.3, whose modules are too old to be imported."""
    for file in importlib.metadata.files("containerd") or ():
        if not file.name.endswith("_pb2.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
                data = ast.literal_eval(node.value)
                if data is not None:
                    published_file = descriptor_pb2.FileDescriptorProto.FromString(data)
                    for message in published_file.message_type:
                        yield f"{published_file.package}.{message.name}", message


def test_tables_are_those_that_containerd_published() -> None:
    compared = set()
    for name, message in published():
        # the envelope moved into another package, as it is
        ours = name.replace("services.events.ttrpc.v1.Envelope", "types.Envelope")
        if ours not in NAMES:
            continue
        compared.add(ours)
        rows = our_rows(ours)
        for field in message.field:
            kind = field.type_name.removeprefix(".") or KIND_NAMES[field.type]
            kind = kind.replace("services.events.ttrpc.v1.Envelope", "types.Envelope")
            repeated = "*" * (field.label == F.LABEL_REPEATED)
            assert (field.name, field.number, kind, repeated) in rows
        assert len(rows) == len(message.field)
    assert {"containerd.types.Mount", "containerd.types.Envelope"} < compared
    assert {name for name in NAMES if name.startswith("containerd.events.")} < compared
    assert "containerd.v1.types.ProcessInfo" in compared


def test_methods() -> None:
    for request, response in tables.METHODS.values():
        for version in ("v2", "v3"):
            assert f"containerd.task.{version}.{request}" in NAMES
            short = f"containerd.task.{version}.{response}"
            assert short in NAMES or response == "google.protobuf.Empty"
    assert len(tables.METHODS) == 17
    status = POOL.FindEnumTypeByName("containerd.v1.types.Status").values_by_name
    # the shim is never in the middle of pausing when it is asked, and always knows
    expected = {name: value.number for name, value in status.items()}
    del expected["PAUSING"], expected["UNKNOWN"]
    assert {name: getattr(tables, name) for name in expected} == expected
