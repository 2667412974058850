"""TFRecord files without TensorFlow: the framing of records, and the fields of a ``tf.train.Example``.

A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4), little-endian. An
Example is a protocol buffer: features by name, each a list of byte strings, floats or integers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torchstu.data.files import DataError

_BYTES, _INTEGERS = 1, 3  # numbers of the kinds of lists in a Feature


class Place(NamedTuple):
    """Bytes of a file: ``length`` from ``start`` on."""

    start: int
    length: int


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where the data of each record start, and the data.

    The checksums of the lengths are verified, those of the data are not.

    Raises:
        DataError: a record is cut off, or its length damaged; records count from 1.
    """
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            number += 1
            length, check = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
            if len(head) < 12 or check != _masked_crc32c(head[:8]):
                raise DataError(f"{path}: record {number}: its length is damaged; it must be a TFRecord file")
            start = file.tell()
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                raise DataError(f"{path}: record {number}: cut off after {len(data)} of {length} bytes")
            yield start, data


def example_fields(data: bytes) -> dict[str, Place | int]:
    """The first value of each feature of a ``tf.train.Example``: an integer, or where in ``data`` its bytes are; no floats.

    Raises:
        ValueError: the bytes are no Example.
    """
    fields: dict[str, Place | int] = {}
    for features in _messages(data, Place(0, len(data)), 1):
        for entry in _messages(data, features, 1):
            name = next(_messages(data, entry, 1), Place(0, 0))
            for feature in _messages(data, entry, 2):
                value = _first_value(data, feature)
                if value is not None:
                    fields[data[name.start : name.start + name.length].decode()] = value
    return fields


def _first_value(data: bytes, feature: Place) -> Place | int | None:
    for values in _messages(data, feature, _BYTES):
        return next(_messages(data, values, 1), None)
    for values in _messages(data, feature, _INTEGERS):
        for number, value in _fields(data, values):
            if number == 1:  # packed or one by one
                return value if isinstance(value, int) else _varint(data, value.start, value.start + value.length)[0]
    return None


def _messages(data: bytes, place: Place, wanted: int) -> Iterator[Place]:
    for number, value in _fields(data, place):
        if number == wanted:
            if isinstance(value, int):
                raise ValueError(f"field {number} is a number; it must be bytes")
            yield value


def _fields(data: bytes, place: Place) -> Iterator[tuple[int, Place | int]]:
    """Number and value of each field of a message."""
    at, end = place.start, place.start + place.length
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {number} is of kind {kind}; it must be one of 0, 1, 2, 5")
        if at + length > end:
            raise ValueError(f"field {number} has {length} bytes; there are {end - at}")
        yield number, Place(at, length)
        at += length


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise ValueError("an integer is cut off")


def _masked_crc32c(data: bytes) -> int:
    """The Castagnoli checksum, rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
