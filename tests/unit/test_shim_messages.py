# SPDX-License-Identifier: Apache-2.0
"""urunc.shim.messages against the official protobuf: the same bytes, the same values, the same
refusals; and the tables against published descriptors."""

from __future__ import annotations

import math
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from lib.compiled import CLASSES, KIND, NAMES, POOL, TASK_CREATE, is_map, row
from lib.examples import tries
from urunc.shim import messages
from urunc.shim.messages import MessageError, decode, encode

SOURCE = pathlib.Path(messages.__file__).parent.parent.parent


# ---- both ways


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-1 << bits - 1, (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    edges = [low, high, 0, 1, 127, 128]
    return st.sampled_from([*edges, -1] if signed else edges) | st.integers(low, high)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int32": integers(32, signed=True),
    "int64": integers(64, signed=True),
    "uint32": integers(32, signed=False),
    "uint64": integers(64, signed=False),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "string": st.text(max_size=8) | st.just("x" * 200),
    "bytes": st.binary(max_size=8) | st.binary(min_size=130, max_size=130),
}
# of keys that begin alike protobuf has the longer first, and Go the shorter, as we do
MAPS = st.dictionaries(st.text("aé~", min_size=2, max_size=2), SCALARS["string"], max_size=3)


def sparse(name: str, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some fields."""
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    for field, _, kind, shape in map(row, POOL.FindMessageTypeByName(name).fields):
        if kind == "map":
            strategies[field] = MAPS
        elif kind in SCALARS:
            strategies[field] = (
                st.lists(SCALARS[kind], max_size=4) if shape == "*" else SCALARS[kind]
            )
        elif depth < 3:
            inner = sparse(kind, depth + 1)
            strategies[field] = st.lists(inner, max_size=2) if shape == "*" else inner
    return st.fixed_dictionaries({}, optional=strategies)


def filled(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values as `decode` gives them: with the defaults, by protobuf's descriptors."""
    whole = {}
    for published_field in POOL.FindMessageTypeByName(name).fields:
        field, _, kind, shape = row(published_field)
        value = values.get(field)
        if kind == "map":
            whole[field] = value or {}
        elif shape == "*":
            items = value or []
            whole[field] = items if kind in SCALARS else [filled(kind, item) for item in items]
        elif kind not in SCALARS:
            whole[field] = None if value is None else filled(kind, value)
        elif value is None:
            whole[field] = None if shape == "?" else published_field.default_value
        else:
            whole[field] = value
    return whole


def official(name: str, values: dict[str, Any]) -> Any:
    """protobuf's message with these values."""
    message = CLASSES[name]()
    fill(message, values)
    return message


def fill(message: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if is_map(field):
            getattr(message, name).update(value)
        elif field.message_type and field.is_repeated:
            for item in value:
                fill(getattr(message, name).add(), item)
        elif field.message_type:
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        elif field.is_repeated:
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


def read(message: Any) -> dict[str, Any]:
    """protobuf's message as `decode` gives it."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if is_map(field):
            values[field.name] = dict(value)
        elif field.message_type and field.is_repeated:
            values[field.name] = [read(item) for item in value]
        elif field.is_repeated:
            values[field.name] = list(value)
        elif field.has_presence and not message.HasField(field.name):
            values[field.name] = None
        else:
            values[field.name] = read(value) if field.message_type else value
    return values


def both_ways(name: str, values: dict[str, Any]) -> None:
    message = official(name, values)
    data = message.SerializeToString(deterministic=True)
    assert encode(name, values) == data
    assert decode(name, data) == filled(name, values) == read(message)
    assert encode(name, decode(name, data)) == data


@pytest.mark.parametrize("name", NAMES)
def test_both_ways(name: str) -> None:
    @tries(25)
    @given(sparse(name))
    def check(values: dict[str, Any]) -> None:
        both_ways(name, values)

    check()


@tries(300)
@given(sparse(KIND))
@example({"double": -0.0, "float": -0.0})
@example({"optional_string": "", "optional_int32": 0, "child": {}, "children": [{}, {}]})
@example({"double": math.inf, "float": -math.inf, "far": "x", "map": {"": ""}})
@example({"int32": -8, "int64": -1, "string": "\0", "bytes": b"\0\0"})
def test_both_ways_of_every_kind(values: dict[str, Any]) -> None:
    both_ways(KIND, values)


@given(sparse("test.kinds.Unpacked"))
def test_what_others_write_unpacked(values: dict[str, Any]) -> None:
    name = "test.kinds.Unpacked"
    data = official(name, values).SerializeToString(deterministic=True)
    assert decode(name, data) == decode("test.kinds.Repeated", data) == filled(name, values)
    assert encode(name, values) == encode("test.kinds.Repeated", values)  # we always pack
    assert read(CLASSES[name].FromString(encode(name, values))) == filled(name, values)


def test_maps_are_sorted() -> None:
    values = {"b": "2", "": "0", "ab": "", "a": "1"}
    data = encode(KIND, {"map": values})
    assert data == b"".join(encode(KIND, {"map": {key: values[key]}}) for key in sorted(values))
    assert decode(KIND, data)["map"] == values == read(CLASSES[KIND].FromString(data))["map"]
    # an entry lacks what is empty with some; and the last one wins
    assert decode(KIND, b"\x52\0\x52\x03\x0a\x01a" + data)["map"] == values


def test_not_a_number() -> None:
    values = decode(KIND, encode(KIND, {"double": math.nan, "float": math.nan}))
    assert math.isnan(values["double"]) and math.isnan(values["float"])


@given(sparse(KIND), sparse(KIND))
def test_the_last_one_wins_and_messages_merge(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    data = encode(KIND, first) + encode(KIND, second)
    assert decode(KIND, data) == read(CLASSES[KIND].FromString(data))


@given(sparse(KIND), st.sampled_from(NAMES))
def test_unknown_fields_are_skipped(values: dict[str, Any], name: str) -> None:
    fields = messages._shape(name).numbered
    foreign = messages._shape(KIND).fields
    values = {key: value for key, value in values.items() if foreign[key].number not in fields}
    data = encode(KIND, values)
    assert decode(name, data) == decode(name, b"") == read(CLASSES[name].FromString(data))


def compare(name: str, data: bytes) -> None:
    """What protobuf refuses is refused. What only we refuse is a field of another wire type; and,
    with Go, a number beyond 64 bits, and field 0 of a message without fields."""
    try:
        theirs = read(CLASSES[name].FromString(data))
    except (DecodeError, UnicodeDecodeError):
        theirs = None
    try:
        ours = decode(name, data)
    except MessageError as error:
        reasons = ("is expected", "of more than 64 bits", "no field number")
        assert theirs is None or any(reason in str(error) for reason in reasons)
    else:
        assert theirs is not None
        # as bytes, since NaN is not equal to itself
        assert encode(name, chosen(ours, theirs)) == encode(name, chosen(theirs, theirs))


def chosen(ours: Any, theirs: Any) -> Any:
    """Ours, with the entries of maps in one order and without those that theirs lacks: protobuf's
    order is by chance, and an entry with an unknown field is none to it. (To Go it is.)"""
    if isinstance(theirs, dict):
        return {key: chosen(ours[key], theirs[key]) for key in sorted(theirs)}
    if isinstance(theirs, list):
        return [chosen(one, other) for one, other in zip(ours, theirs, strict=True)]
    return ours


PIECES = st.lists(
    st.binary(max_size=6)
    | sparse(KIND).map(lambda values: encode(KIND, values))
    | st.integers(0, 200).map(lambda key: bytes((key,)))
    | st.sampled_from((b"\xff" * 9 + b"\x01", b"\x80\x80\x00", b"\x13\x14", b"\x0b\x0b\x0c\x0c"))
).map(b"".join)


@tries(400)
@given(PIECES)
def test_anything(data: bytes) -> None:
    compare(KIND, data)


@tries(300)
@given(sparse(KIND), st.data())
def test_damaged(values: dict[str, Any], draw: Any) -> None:
    data = bytearray(encode(KIND, values) or b"\x08\x01")
    at = draw.draw(st.integers(0, len(data) - 1))
    if draw.draw(st.booleans()):
        data[at] = draw.draw(st.integers(0, 255))
    else:
        del data[at:]
    compare(KIND, bytes(data))


@pytest.mark.parametrize("name", NAMES)
def test_anything_for_each(name: str) -> None:
    @tries(15, suppress_health_check=[HealthCheck.too_slow])
    @given(PIECES)
    def check(data: bytes) -> None:
        compare(name, data)

    check()


def nested(depth: int) -> bytes:
    """A Kinds with a child that has a child, so many."""
    data = b""
    for _ in range(depth):
        data = b"\x5a" + messages._varint(len(data)) + data
    return data


MALFORMED = {
    "a number without an end": (b"\x08\x80", f"{KIND}.bool: truncated"),
    "a key without an end": (b"\x80", f"{KIND}: truncated"),
    "11 bytes": (b"\x20" + b"\x80" * 10 + b"\0", f"{KIND}.uint32: a number of more than 10 bytes"),
    "65 bits": (b"\x28" + b"\xff" * 9 + b"\x02", f"{KIND}.uint64: a number of more than 64 bits"),
    "text without an end": (b"\x42\x05abc", f"{KIND}.string: truncated"),
    "a length without an end": (b"\x42\xff", f"{KIND}.string: truncated"),
    "a length beyond all": (b"\x42" + b"\xff" * 9 + b"\x01", f"{KIND}.string: truncated"),
    "half a float": (b"\x35\0\0", f"{KIND}.float: truncated"),
    "half a double": (b"\x39\0\0\0\0", f"{KIND}.double: truncated"),
    "half a packed float": (b"\x7a\x04\x32\x02\0\0", "test.kinds.Repeated.float: truncated"),
    "bad UTF-8": (b"\x42\x01\xff", f"{KIND}.string: not UTF-8"),
    "a surrogate": (b"\x42\x03\xed\xa0\x80", f"{KIND}.string: not UTF-8"),
    "bad UTF-8 in a map": (b"\x52\x03\x12\x01\xff", "not UTF-8"),
    "a number for text": (b"\x40\x01", f"{KIND}.string: wire type 0 where 2 is expected"),
    "text for a number": (b"\x12\x01a", f"{KIND}.int32: wire type 2 where 0 is expected"),
    "field 0": (b"\0\0", f"{KIND}: no field number: 0"),
    "field 2**29": (b"\x80\x80\x80\x80\x10\0", f"{KIND}: no field number: 536870912"),
    "wire type 6": (b"\xa6\x06", f"{KIND}.100: unexpected wire type 6"),
    "wire type 7": (b"\x0f", f"{KIND}.bool: wire type 7 where 0 is expected"),
    "the end of no group": (b"\xa4\x06", f"{KIND}.100: unexpected wire type 4"),
    "a group without an end": (b"\xa3\x06\x08\x01", f"{KIND}.100: truncated"),
    "a group ended as another": (b"\xa3\x06\xac\x06", f"{KIND}.100: unexpected wire type 4"),
    "groups too deep": (b"\xa3\x06" * 101 + b"\xa4\x06" * 101, f"{KIND}.100: nested too deeply"),
    "groups far too deep": (b"\xa3\x06" * 100_000, f"{KIND}.100: nested too deeply"),
    "unknown, cut": (b"\xa5\x06\0", f"{KIND}.100: truncated"),
    "messages too deep": (nested(101), f"{KIND}: nested too deeply"),
    "messages far too deep": (nested(2000), f"{KIND}: nested too deeply"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    data, text = MALFORMED[case]
    with pytest.raises(MessageError) as caught:
        decode(KIND, data)
    assert text in str(caught.value)
    compare(KIND, data)


def test_what_is_just_deep_enough() -> None:
    assert decode(KIND, nested(100))["child"]
    assert decode(KIND, b"\xa3\x06" * 100 + b"\xa4\x06" * 100) == decode(KIND, b"")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such field": ({"nonsense": 1}, f"{KIND}: no field 'nonsense'"),
    "too large": ({"uint32": 1 << 32}, f"{KIND}.uint32: 4294967296 is no uint32"),
    "negative": ({"uint64": -1}, f"{KIND}.uint64: -1 is no uint64"),
    "text": ({"int32": "1"}, f"{KIND}.int32: '1' is no int32"),
    "bytes for text": ({"string": b"1"}, f"{KIND}.string: b'1' is no string"),
    "text for bytes": ({"bytes": "1"}, f"{KIND}.bytes: '1' is no bytes"),
    "a number for bytes": ({"bytes": 7}, f"{KIND}.bytes: 7 is no bytes"),
    "a surrogate": ({"string": "\ud800"}, f"{KIND}.string: '\\ud800' is no string"),
    "a number in a map": ({"map": {"a": 1}}, f"{KIND}.map: {{'a': 1}} is no map"),
    "a list for a map": ({"map": [1]}, f"{KIND}.map: [1] is no map"),
    "text for a double": ({"double": "1"}, f"{KIND}.double: '1' is no double"),
    "a double for a float": ({"float": 1e300}, f"{KIND}.float: 1e+300 is no float"),
    "a number for a list": ({"repeated": {"bool": 1}}, "test.kinds.Repeated.bool: 1 is no bool"),
    "in a message": ({"child": {"int32": 1 << 31}}, f"{KIND}.int32: 2147483648 is no int32"),
    "no message": ({"child": 1}, f"{KIND}.child: 1 is no Kinds"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_encoded(case: str) -> None:
    values, text = WRONG[case]
    with pytest.raises(MessageError) as caught:
        encode(KIND, values)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["Nothing", "no.package.Message", "containerd.types.Nothing", ""])
def test_no_such_message(name: str) -> None:
    for function in (lambda: encode(name, {}), lambda: decode(name, b"")):
        with pytest.raises(MessageError, match="no message"):
            function()


# ---- helpers


def test_defaults_are_not_shared() -> None:
    first = decode(TASK_CREATE, b"")
    first["rootfs"].append(1)
    assert decode(TASK_CREATE, b"")["rootfs"] == []


@given(st.integers(0, 1 << 62))
def test_timestamp(time_ns: int) -> None:
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(time_ns)
    values = messages.timestamp(time_ns)
    assert encode("google.protobuf.Timestamp", values) == message.SerializeToString()


def test_any() -> None:
    wrapped = messages.any_of("containerd.events.TaskOOM", {"container_id": "a"})
    assert wrapped == {"type_url": "containerd.events.TaskOOM", "value": b"\x0a\x01a"}
    assert messages.type_of(wrapped) == "containerd.events.TaskOOM"
    assert messages.type_of({"type_url": "type.googleapis.com/a.B"}) == "a.B"


@pytest.mark.parametrize("answer", [b"unix:///run/containerd/s/0a", b'{"version":2}'])
def test_an_older_answer_of_start_is_no_bootstrap_result(answer: bytes) -> None:
    # containerd from 2.3 on tries protobuf first
    with pytest.raises(MessageError):
        decode("containerd.runtime.bootstrap.v1.BootstrapResult", answer)


def test_what_is_imported() -> None:
    probe = (
        "import sys; bare = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        "import urunc.shim.messages; print(*sorted(set(sys.modules) - bare))"
    )
    command = [sys.executable, "-I", "-S", "-c", probe, str(SOURCE)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = ["urunc", "urunc.shim", "urunc.shim.messages", "urunc.shim.tables"]
    assert answer.stdout.split() == ["__future__", "_struct", *ours]
