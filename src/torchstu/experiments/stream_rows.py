"""Rows of text through a `SeriesStream`: columns by name, times in order, what cannot be read told, latencies counted."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from torchstu.data.files import MISSING
from torchstu.experiments.series_stream import SeriesStream

_BINS = 40
"""Bins of latencies a decade."""
_SHOWN = 40
"""Characters of a cell in a message."""


class BadRowError(ValueError):
    """A row that cannot be taken in; the message says why."""


class OutOfOrderError(BadRowError):
    """A row that is not after the one before: it has no place in time."""


class Columns:
    """Where the columns of a model are in a table with a header.

    Args:
        header: the line.
        inputs, outputs: of the model; outputs may be absent, all of them.
        time: a column of times, used if it is there.

    Raises:
        ValueError: no header, a column that is missing, or there twice, or some outputs without the others.
    """

    def __init__(self, header: str, inputs: Sequence[str], outputs: Sequence[str], time: str | None) -> None:
        names = [name.strip() for name in cells(header)]
        present = [name for name in outputs if name in names]
        if present and len(present) < len(outputs):
            absent = next(name for name in outputs if name not in names)
            raise ValueError(f"input: column {absent!r} is missing, {present[0]!r} is there; give all outputs or none")
        for name in inputs:
            if name not in names:
                shown = ", ".join(repr(short(own)) for own in names[:20])
                raise ValueError(f"input: column {name!r} is missing; the columns are {shown}")
        for name in names:
            if names.count(name) > 1 and name in (*inputs, *outputs, time):
                raise ValueError(f"input: column {name!r} is there {names.count(name)} times")
        self.width = len(names)
        self.inputs = [(name, names.index(name)) for name in inputs]
        self.outputs = [(name, names.index(name)) for name in present]
        self.time = time if time in names else None
        self._time_at = names.index(time) if time is not None and time in names else None

    def read(self, fields: list[str]) -> tuple[list[float], list[float] | None, str | None, list[str]]:
        """Inputs, outputs with NaN where they are missing (None without such columns), the time, and what to say of outputs.

        Raises:
            BadRowError: another number of fields, or inputs that are no finite numbers.
        """
        if len(fields) != self.width:
            raise BadRowError(f"{len(fields)} fields, the header has {self.width}")
        inputs = [_number(name, fields[at]) for name, at in self.inputs]
        outputs, words = [], []
        for name, at in self.outputs:
            text = fields[at].strip()
            try:
                outputs.append(math.nan if text.lower() in MISSING else _number(name, text))
            except BadRowError as error:
                outputs.append(math.nan)
                words.append(f"{error}; taken as missing")
        return inputs, outputs or None, None if self._time_at is None else fields[self._time_at], words


class Times:
    """Times of rows: that they increase, and how many are missing between two.

    Attributes:
        last: of the last row, in seconds or the column's own unit; None before.
        usual: the shortest step so far; None before the second row.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.usual: float | None = None

    def missing(self, text: str) -> tuple[float, int]:
        """The time as a number, and rows missing before it, by the shortest step so far.

        Raises:
            BadRowError: no time, or one that is not after the last.
        """
        try:
            now = float(text)
        except ValueError:
            try:
                now = datetime.fromisoformat(text.strip()).timestamp()
            except (ValueError, OverflowError):
                raise BadRowError(f"time {short(text)!r} is no number and no ISO date") from None
        if not math.isfinite(now):
            raise BadRowError(f"time {short(text)!r}; it must be a finite number or an ISO date")
        if self.last is None:
            return now, 0
        step = now - self.last
        if not step > 0:
            raise OutOfOrderError(f"time {short(text)!r} is not after that of the row before")
        return now, 0 if self.usual is None else max(0, round(step / self.usual) - 1)

    def take(self, now: float) -> None:
        """Go on to a row's time."""
        if self.last is not None:
            self.usual = now - self.last if self.usual is None else min(self.usual, now - self.last)
        self.last = now


class RowPredictor:
    """Lines of CSV to lines of CSV.

    Args:
        stream: predicts.
        columns: of the lines.
        marked: whether a last column says, by 1, that a row may have been written before.
        fill_gaps: whether rows that are missing by their times are gone through; else rows follow each other, as in a fit.

    Attributes:
        row: of the last line, counted from 1 after the header; malformed ones count.
        bad: malformed rows.
        times: of the rows.
        known_rows: rows up to this one may have been written before.
    """

    def __init__(self, stream: SeriesStream, columns: Columns, *, marked: bool, fill_gaps: bool) -> None:
        self.stream, self.columns, self.marked, self.times = stream, columns, marked, Times()
        self.fill_gaps = fill_gaps and columns.time is not None
        names, levels = stream.model.output_names, ("", "_low", "_high") if stream.level is not None else ("",)
        head = ["row", *([columns.time] if columns.time else []), *(f"{name}{kind}" for name in names for kind in levels)]
        self.header = ",".join(map(_cell, head + ["repeat"] * marked)) + "\n"
        self.row = self.bad = self.known_rows = 0
        self._latencies: dict[int, int] = {}

    def line(self, text: str) -> tuple[str, list[str]]:
        """The prediction of a row, and what to say of it.

        Raises:
            BadRowError: its inputs cannot be taken in; it counts, and the stream is as it was.
        """
        began = time.perf_counter()
        self.row += 1
        try:
            inputs, outputs, when, words = self.columns.read(cells(text))
            now, absent = (None, 0) if when is None else self.times.missing(when)
            if absent and self.fill_gaps:
                self.stream.scaled(inputs)  # refused before time goes on
                words.append(f"{absent} rows are missing before it; gone through with the inputs before")
                self.stream.skip(absent)
            found = self.stream.step(inputs, outputs)
        except (ValueError, csv.Error) as error:
            self.bad += 1
            kind = OutOfOrderError if isinstance(error, OutOfOrderError) else BadRowError
            raise kind(f"row {self.row}: {error}") from error
        if now is not None:
            self.times.take(now)
        values = found.values if self.stream.level is None else np.stack(found, axis=1)  # type: ignore[arg-type]
        out = [str(self.row), *([] if when is None else [_cell(when)]), *map(repr, values.ravel().tolist())]
        if self.marked:
            out.append("1" if self.row <= self.known_rows else "0")
        place = math.floor(_BINS * math.log10(time.perf_counter() - began))
        self._latencies[place] = self._latencies.get(place, 0) + 1
        return ",".join(out) + "\n", [f"row {self.row}: {word}" for word in words]

    def pass_over(self, error: BadRowError) -> None:
        """Go through the step of a row that raised it, with the inputs of the row before.

        A row out of order has none, and where gaps are filled the next row does it.
        """
        if not self.fill_gaps and not isinstance(error, OutOfOrderError):
            self.stream.skip()

    def latency(self, share: float) -> float:
        """Seconds that a share of the rows took at most, to 6 %; NaN before the first."""
        wanted = share * sum(self._latencies.values())
        for place in sorted(self._latencies):
            wanted -= self._latencies[place]
            if wanted <= 0:
                return 10 ** ((place + 1) / _BINS)
        return math.nan

    def state(self) -> dict[str, Any]:
        """What changes but for the stream."""
        return {"row": self.row, "bad": self.bad, "last": self.times.last, "usual": self.times.usual}

    def load_state(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        self.row, self.bad, self.times.last, self.times.usual = (state[name] for name in ("row", "bad", "last", "usual"))


def cells(line: str) -> list[str]:
    """Of a line of CSV."""
    return next(csv.reader([line], strict=True), []) if '"' in line else line.split(",")


def short(text: str) -> str:
    """At most 40 characters."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _number(name: str, text: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        raise BadRowError(f"column {name!r} is {short(text)!r}, no number") from None
    if not math.isfinite(value):
        raise BadRowError(f"column {name!r} is {short(text)!r}; it must be a finite number")
    return value


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"') else text
