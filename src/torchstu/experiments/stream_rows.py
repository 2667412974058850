"""Rows of text through a `SeriesStream`: columns found by name, what cannot be read told, times counted."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence

import numpy as np

from torchstu.experiments.series_stream import SeriesStream

_BINS = 40
"""Bins of latencies a decade."""


class BadRowError(ValueError):
    """A row that cannot be taken in; the message says why."""


class Columns:
    """Where the columns of a model are in a table with a header.

    Args:
        header: names.
        inputs, outputs: of the model; outputs may be absent, all of them.
        time: a column that is passed on, or None.

    Raises:
        ValueError: a column that is missing, or there twice, or some outputs without the others.
    """

    def __init__(self, header: Sequence[str], inputs: Sequence[str], outputs: Sequence[str], time: str | None) -> None:
        present = [name for name in outputs if name in header]
        if present and len(present) < len(outputs):
            absent = next(name for name in outputs if name not in header)
            raise ValueError(f"input: column {absent!r} is missing, {present[0]!r} is there; give all outputs or none")
        for name in (*inputs, *([time] if time else [])):
            if name not in header:
                raise ValueError(f"input: column {name!r} is missing; the columns are {', '.join(map(repr, header))}")
        for name in header:
            if header.count(name) > 1 and name in (*inputs, *outputs, time):
                raise ValueError(f"input: column {name!r} is there {header.count(name)} times")
        self.width = len(header)
        self.inputs = [(name, header.index(name)) for name in inputs]
        self.outputs = [(name, header.index(name)) for name in present]
        self.time = None if time is None else header.index(time)

    def read(self, fields: list[str]) -> tuple[list[float], list[float] | None, str | None]:
        """Inputs, outputs with NaN where they are missing (None without such columns), and the time.

        Raises:
            BadRowError: another number of fields, or what is no finite number.
        """
        if len(fields) != self.width:
            raise BadRowError(f"{len(fields)} fields, the header has {self.width}")
        inputs = [_number(name, fields[at], missing=False) for name, at in self.inputs]
        outputs = [_number(name, fields[at], missing=True) for name, at in self.outputs] if self.outputs else None
        return inputs, outputs, None if self.time is None else fields[self.time]


def _number(name: str, text: str, missing: bool) -> float:
    try:
        value = float(text) if text.strip() or not missing else math.nan
    except ValueError:
        raise BadRowError(f"column {name!r} is {text!r}, no number") from None
    if not math.isfinite(value) and not (missing and math.isnan(value)):
        raise BadRowError(f"column {name!r} is {text!r}; it must be a finite number")
    return value


class RowPredictor:
    """Lines of CSV to lines of CSV.

    Args:
        stream: predicts.
        columns: of the lines.
        marked: whether a last column says, by 1, that a row may have been written before.

    Attributes:
        row: of the last line, counted from 1 after the header; malformed ones count.
        bad: malformed rows.
    """

    def __init__(self, stream: SeriesStream, columns: Columns, *, time: str | None, marked: bool) -> None:
        self.stream, self.columns, self.marked = stream, columns, marked
        names, levels = stream.model.output_names, ("", "_low", "_high") if stream.level is not None else ("",)
        head = ["row", *([time] if time else []), *(f"{name}{kind}" for name in names for kind in levels)]
        self.header = _line(head + ["repeat"] * marked)
        self.row, self.bad, self.known_rows = 0, 0, 0
        self._latencies: dict[int, int] = {}

    def line(self, text: bytes) -> str:
        """The prediction of a row.

        Raises:
            BadRowError: it cannot be taken in; it counts, and nothing else is changed.
        """
        began = time.perf_counter()
        self.row += 1
        try:
            words = text.decode("utf-8")
            fields = next(csv.reader([words]), []) if '"' in words else words.split(",")
            inputs, outputs, when = self.columns.read(fields)
            found = self.stream.step(inputs, outputs)
        except (ValueError, csv.Error) as error:
            self.bad += 1
            raise BadRowError(f"row {self.row}: {error}") from error
        values = found.values if self.stream.level is None else np.stack(found, axis=1)  # type: ignore[arg-type]
        cells = [str(self.row), *map(repr, values.ravel().tolist())]
        if when is not None:
            cells.insert(1, when if not any(mark in when for mark in ',"') else '"' + when.replace('"', '""') + '"')
        if self.marked:
            cells.append("1" if self.row <= self.known_rows else "0")
        place = math.floor(_BINS * math.log10(time.perf_counter() - began))
        self._latencies[place] = self._latencies.get(place, 0) + 1
        return ",".join(cells) + "\n"

    def latency(self, share: float) -> float:
        """Seconds that a share of the rows took at most, to 6 %; NaN before the first."""
        wanted = share * sum(self._latencies.values())
        for place in sorted(self._latencies):
            wanted -= self._latencies[place]
            if wanted <= 0:
                return 10 ** ((place + 1) / _BINS)
        return math.nan


def _line(cells: Sequence[str]) -> str:
    return ",".join(f'"{cell}"' if "," in cell else cell for cell in cells) + "\n"
