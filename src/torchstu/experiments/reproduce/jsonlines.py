"""Canonical JSON: equal values are equal bytes; infinities and NaN, which JSON lacks, are strings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

NON_FINITE = ("inf", "-inf", "nan")
"""What stands for them; no other string may be one of these."""


def to_json(value: Any, name: str = "value") -> str:
    """One line: keys sorted, floats by ``repr``, inf and NaN as strings, tuples as lists.

    Args:
        value: None, bool, int, float, str, and lists, tuples and dicts of these with string keys.
        name: what it is, for errors.

    Raises:
        TypeError: something else inside; the message says where.
        ValueError: a string that stands for a number that is not finite.
    """
    return json.dumps(_plain(value, name), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def from_json(text: str) -> Any:
    """The value of `to_json`'s line, its inf and NaN restored.

    Raises:
        ValueError: not JSON.
    """
    return _restored(json.loads(text))


def read_lines(path: Path) -> list[Any]:
    """The values of a file of lines.

    Raises:
        OSError: it cannot be read.
        ValueError: a line that is not JSON; the message says which.
    """
    values = []
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            values.append(from_json(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON; restore the file or remove its folder") from error
    return values


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, str):
        if value in NON_FINITE:
            raise ValueError(f"{name}: the string {value!r}; it must be a float, or another word")
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name}: the key {key!r}; it must be a string")
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    raise TypeError(f"{name}: a {type(value).__name__}; it must be a value that JSON has")


def _restored(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if value in NON_FINITE else value
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    return value
