# SPDX-License-Identifier: Apache-2.0
"""What containerd sends to `start`, and the answer that each containerd reads, against the official
protobuf."""

from __future__ import annotations

from typing import Any

import pytest

from lib.compiled import BOOTSTRAP, CLASSES
from urunc.shim import bootstrap, messages
from urunc.shim.messages import MessageError, decode, encode

ADDRESS = "unix:///run/containerd/s/0a"
OPTIONS = messages.any_of("containerd.runc.v1.Options", {"binary_name": "urunc", "root": "/x"})
OTHER = {"type_url": "type.googleapis.com/a.B", "value": b"b"}


def official(name: str, values: dict[str, Any]) -> Any:
    """protobuf's own message."""
    made: Any = CLASSES[name]()
    for field, value in values.items():
        if field == "extensions":
            for extension in value:
                added = made.extensions.add()
                for part, content in extension.get("value", {}).items():
                    setattr(added.value, part, content)
        else:
            setattr(made, field, value)
    return made


def test_start_of_containerd_up_to_2_2() -> None:
    data = encode("google.protobuf.Any", OPTIONS)
    assert bootstrap.read(data, "c1", "default") == (None, [OPTIONS])
    assert bootstrap.read(b"", "c1", "default") == (None, [])
    assert bootstrap.read(b"", "", "") == (None, [])


def test_start_of_containerd_from_2_3_on() -> None:
    values = {
        "instance_id": "c1",
        "namespace": "default",
        "log_level": -4,
        "containerd_ttrpc_address": "/run/t",
        "extensions": [{"value": OPTIONS}, {}, {"value": OTHER}],
        "socket_dir": "/run/s",
    }
    data = official(BOOTSTRAP, values).SerializeToString()
    parameters, options = bootstrap.read(data, "c1", "default")
    assert parameters is not None
    assert {name: parameters[name] for name in values if name != "extensions"} == {
        name: values[name] for name in values if name != "extensions"
    }
    assert options == [OPTIONS, OTHER]


def test_each_decodes_as_the_other() -> None:
    # options of a type named as a container, whose bytes are text: an Any by its identity alone
    data = encode("google.protobuf.Any", {"type_url": "a.B", "value": b"text"})
    assert decode(BOOTSTRAP, data)["instance_id"] == "a.B"
    assert bootstrap.read(data, "c1", "text") == (None, [{"type_url": "a.B", "value": b"text"}])
    assert bootstrap.read(data, "a.B", "default")[0] is None
    data = encode(BOOTSTRAP, {"instance_id": "c1", "namespace": "n", "log_level": 4})
    assert decode("google.protobuf.Any", data) == {"type_url": "c1", "value": b"n"}
    assert bootstrap.read(data, "c1", "n")[0] is not None
    assert bootstrap.read(data, "c2", "n")[0] is None


def test_start_with_nonsense() -> None:
    with pytest.raises(MessageError):
        bootstrap.read(b"\xff", "c1", "default")


def answered(version: str) -> Any:
    """What a containerd of this version parses, with the official protobuf."""
    values = {"instance_id": "c1", "namespace": "n", "containerd_version": version}
    parameters, _ = bootstrap.read(encode(BOOTSTRAP, values), "c1", "n")
    name = "containerd.runtime.bootstrap.v1.BootstrapResult"
    return CLASSES[name].FromString(bootstrap.answer(parameters, ADDRESS))


def test_answer_to_a_containerd_that_reads_an_address() -> None:
    assert bootstrap.answer(None, ADDRESS) == ADDRESS.encode()


@pytest.mark.parametrize(
    ("version", "protocol"),
    [
        ("2.4.2", 3),
        ("v2.4.0-rc.1", 3),
        ("2.10.0+unknown", 3),
        ("3.0.1", 3),
        ("2.3.7", 2),
        ("2.3.4~ds1", 2),
        ("main", 2),
        ("", 2),
    ],
)
def test_answer_to_a_containerd_that_reads_a_result(version: str, protocol: int) -> None:
    """Version 3, where containerd cleans up after each container of a pod; the mounts it takes."""
    result = answered(version)
    assert (result.version, result.address, result.protocol) == (protocol, ADDRESS, "ttrpc")
    (extension,) = result.extensions
    assert extension.value.type_url.rpartition("/")[2] == "containerd.types.MountCapabilities"
    taken: Any = CLASSES["containerd.types.MountCapabilities"].FromString(extension.value.value)
    assert (list(taken.types), list(taken.transforms)) == (["erofs"], [])
