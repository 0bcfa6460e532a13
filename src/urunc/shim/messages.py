# SPDX-License-Identifier: Apache-2.0
"""The codec for the protobuf messages that containerd and a shim exchange.

Pure: bytes to dicts and back. It exists because a shim and each of its starts would pay for
`protobuf`: importing that with the task service's messages takes 31 ms and 5 MiB of memory that is
not shared; this with the tables of all messages takes 1 ms and 0.2 MiB (medians of 41, CPython
3.11, protobuf 7.36, modules compiled).

In a dict, a message that is not there is None, as is an `optional` field; everything else has
proto3's default. Decoding takes what protobuf's own parsers take, less two things: a known field of
another wire type is an error here, not skipped, as nobody who has these tables sends it; and a
number of more than 64 bits is one, as in Go.
"""

from __future__ import annotations

from _struct import pack, unpack_from

from urunc.shim.tables import TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# how deep messages (and groups that are skipped) may stand within each other, as in protobuf
DEPTH_MAX = 100
KEY_BYTES_MAX = 5
"""Of 32 bits; protobuf refuses a longer one, whatever it says."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_LIMITS = {
    "bool": (0, 1),
    "int32": (-1 << 31, (1 << 31) - 1),
    "int64": (-1 << 63, (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}
_WIRES = {"float": _FIXED32, "double": _FIXED64, **dict.fromkeys(_LIMITS, _VARINT)}
_DEFAULTS = {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}


class MessageError(ValueError):
    """Bytes that are not such a message, or values that cannot be one; names message and field."""


class _Field:
    """One row of a table."""

    __slots__ = ("kind", "message", "name", "number", "optional", "repeated", "wire")

    def __init__(self, number: int, name: str, kind: str, package: str) -> None:
        self.number, self.name = number, name
        self.repeated, self.optional = kind[0] == "*", kind[0] == "?"
        self.kind = kind = kind.lstrip("*?")
        self.message = ""
        self.wire = _WIRES.get(kind, _BYTES)
        if self.wire == _BYTES and kind not in ("string", "bytes", "map"):
            near = kind in TABLES[package]
            self.message = (
                kind if "." in kind else f"{package if near else 'google.protobuf'}.{kind}"
            )

    def default(self) -> Any:
        """What stands in a dict where nothing came."""
        if self.kind == "map":
            return {}
        if self.repeated:
            return []
        return None if self.message or self.optional else _DEFAULTS.get(self.kind, 0)


class _Shape:
    """A message's fields, in the order of their numbers."""

    __slots__ = ("fields", "name", "numbered")

    def __init__(self, name: str) -> None:
        package, _, short = name.rpartition(".")
        try:
            text = TABLES[package][short]
        except KeyError:
            raise MessageError(f"no message {name!r}") from None
        self.name = name
        self.fields: dict[str, _Field] = {}
        number = 0
        for part in filter(None, text.split(";")):
            kind, _, names = part.partition(":")
            for entry in names.split():
                field, _, given = entry.partition("=")
                number = int(given) if given else number + 1
                self.fields[field] = _Field(number, field, kind.strip(), package)
        self.numbered = {field.number: field for field in self.fields.values()}


_SHAPES: dict[str, _Shape] = {}


def _shape(name: str) -> _Shape:
    shape = _SHAPES.get(name)
    if shape is None:
        shape = _SHAPES[name] = _Shape(name)
    return shape


def encode(message_name: str, values: Mapping[str, Any]) -> bytes:
    """A message's bytes: fields in the order of their numbers, maps by their keys, no defaults."""
    shape = _shape(message_name)
    unknown = [name for name in values if name not in shape.fields]
    if unknown:
        raise MessageError(f"{message_name}: no field {unknown[0]!r}")
    out = bytearray()
    for name, field in shape.fields.items():
        value = values.get(name)
        if value is None:
            continue
        try:
            _encode_field(field, value, out)
        except MessageError:
            raise
        except (AttributeError, OverflowError, TypeError, ValueError):
            raise MessageError(f"{message_name}.{name}: {value!r} is no {field.kind}") from None
    return bytes(out)


def _encode_field(field: _Field, value: Any, out: bytearray) -> None:
    key = field.number << 3
    if field.kind == "map":
        for name in sorted(value):  # both are written, even where they are empty
            pair = b"".join(
                _varint(number << 3 | _BYTES) + _varint(len(text)) + text
                for number, text in ((1, name.encode()), (2, value[name].encode()))
            )
            out += _varint(key | _BYTES) + _varint(len(pair)) + pair
    elif field.repeated and field.wire != _BYTES:
        packed = b"".join(_encode_value(field, item) for item in value)
        if packed:
            out += _varint(key | _BYTES) + _varint(len(packed)) + packed
    elif field.repeated:
        for item in value:
            out += _varint(key | _BYTES) + _encode_value(field, item)
    else:
        encoded = _encode_value(field, value)
        # a default is all zero bytes (-0.0 is not, and is none); a message has none
        if field.message or field.optional or encoded.strip(b"\0"):
            out += _varint(key | field.wire) + encoded


def _encode_value(field: _Field, value: Any) -> bytes:
    kind = field.kind
    if field.wire == _VARINT:
        lowest, highest = _LIMITS[kind]
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError
        return _varint(value & 0xFFFFFFFFFFFFFFFF)
    if field.wire != _BYTES:
        if not isinstance(value, int | float):
            raise TypeError
        return pack("<f" if kind == "float" else "<d", value)
    if field.message:
        data = encode(field.message, value)
    elif kind == "bytes":
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError
        data = bytes(value)
    else:
        data = value.encode()
    return _varint(len(data)) + data


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(message_name: str, data: bytes) -> dict[str, Any]:
    """A message's fields, all of them; MessageError where the bytes are not one."""
    shape = _shape(message_name)
    values = {name: field.default() for name, field in shape.fields.items()}
    _decode(shape, bytes(data), values, 0)
    return values


def _decode(shape: _Shape, data: bytes, values: dict[str, Any], depth: int) -> None:
    """Read all of data into values, over what is there."""
    at, end, where = 0, len(data), shape.name
    try:
        if depth > DEPTH_MAX:
            raise ValueError("nested too deeply")
        while at < end:
            where = shape.name
            number, wire, at = _read_key(data, at)
            field = shape.numbered.get(number)
            if field is None:
                where = f"{shape.name}.{number}"
                at = _skip(data, at, number, wire, depth)
            else:
                where = f"{shape.name}.{field.name}"
                at = _decode_field(field, data, at, wire, values, depth)
    except UnicodeDecodeError:
        raise MessageError(f"{where}: not UTF-8") from None
    except MessageError:
        raise
    except ValueError as error:
        raise MessageError(f"{where}: {error}") from None


def _decode_field(
    field: _Field, data: bytes, at: int, wire: int, values: dict[str, Any], depth: int
) -> int:
    """Read one field's value; where it ends."""
    name = field.name
    if wire == field.wire != _BYTES:
        value, at = _read_scalar(field.kind, data, at)
        if field.repeated:
            values[name].append(value)
        else:
            values[name] = value
        return at
    if wire != _BYTES or (field.wire != _BYTES and not field.repeated):
        raise ValueError(f"wire type {wire} where {field.wire} is expected")
    start, at = _read_length(data, at)
    piece = data[start:at]
    if field.wire != _BYTES:
        inner = 0
        while inner < len(piece):
            value, inner = _read_scalar(field.kind, piece, inner)
            values[name].append(value)
    elif field.kind == "map":
        pair = {"key": "", "value": ""}
        _decode(_shape("ttrpc.KeyValue"), piece, pair, depth + 1)
        values[name][pair["key"]] = pair["value"]
    elif field.message:
        shape = _shape(field.message)
        target = None if field.repeated else values[name]
        if target is None:
            target = {inner.name: inner.default() for inner in shape.fields.values()}
        _decode(shape, piece, target, depth + 1)
        if field.repeated:
            values[name].append(target)
        else:
            values[name] = target
    else:
        text: str | bytes = piece if field.kind == "bytes" else piece.decode()
        if field.repeated:
            values[name].append(text)
        else:
            values[name] = text
    return at


def _read_scalar(kind: str, data: bytes, at: int) -> tuple[int | float, int]:
    if kind == "float" or kind == "double":
        size = 4 if kind == "float" else 8
        if at + size > len(data):
            raise ValueError("truncated")
        number: float = unpack_from("<f" if size == 4 else "<d", data, at)[0]
        return number, at + size
    value, at = _read_varint(data, at)
    if kind == "bool":
        return value != 0, at
    if kind.endswith("32"):  # of a longer number the low bits count, as in every parser
        value &= 0xFFFFFFFF
    if kind[0] == "i" and value > _LIMITS[kind][1]:
        value -= 1 << (32 if kind == "int32" else 64)
    return value, at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and where it ends."""
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError("a number of more than 64 bits")
            return value, at
        shift += 7
    raise ValueError("a number of more than 10 bytes" if shift == 70 else "truncated")


def _read_key(data: bytes, at: int) -> tuple[int, int, int]:
    """(field number, wire type, where the key ends)."""
    key, end = _read_varint(data, at)
    if end - at > KEY_BYTES_MAX or not 0 < key >> 3 < 1 << 29:
        raise ValueError(f"no field number: {key >> 3}")
    return key >> 3, key & 7, end


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """Where what its length stands before begins and ends."""
    length, at = _read_varint(data, at)
    if at + length > len(data):
        raise ValueError("truncated")
    return at, at + length


def _skip(data: bytes, at: int, number: int, wire: int, depth: int) -> int:
    """Where the value of a field that we do not know ends."""
    if wire == _VARINT:
        return _read_varint(data, at)[1]
    if wire == _BYTES:
        return _read_length(data, at)[1]
    if wire in (_FIXED32, _FIXED64):
        at += 4 if wire == _FIXED32 else 8
        if at > len(data):
            raise ValueError("truncated")
        return at
    if wire != _GROUP:
        raise ValueError(f"unexpected wire type {wire}")
    if depth >= DEPTH_MAX:
        raise ValueError("nested too deeply")
    while True:
        inner, wire, at = _read_key(data, at)
        if (inner, wire) == (number, _GROUP_END):
            return at
        at = _skip(data, at, inner, wire, depth + 1)


def timestamp(time_ns: int) -> dict[str, int]:
    """A Timestamp's values for nanoseconds since 1970."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return {"seconds": seconds, "nanos": nanos}


def any_of(message_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A message wrapped into an Any's values, named as containerd's typeurl names it."""
    return {"type_url": message_name, "value": encode(message_name, values)}


def type_of(wrapped: Mapping[str, Any]) -> str:
    """The name of the type in an Any, without the host that some write before it."""
    name: str = wrapped["type_url"].rpartition("/")[2]
    return name
