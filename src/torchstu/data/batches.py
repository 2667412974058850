"""Time series from files piece by piece: a file may be larger than the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchstu.data.files import DataError, column_names, is_parquet, numbers
from torchstu.extras import require
from torchstu.spectral.priors import positive_int


def read_batches(
    path: str | Path, inputs: Sequence[str], outputs: Sequence[str], *, rows: int = 65_536, missing: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One recording in pieces, for ``SpectralRegressor.fit(..., continues=True)``.

    Args:
        path: a CSV (also .csv.gz) or Parquet file with a header, rows in time order.
        inputs, outputs: names of columns.
        rows: of a piece, at least 1; the last may be shorter.
        missing: whether an output may be missing (empty or NaN); it is NaN then. Inputs may not.

    Yields:
        U (rows, D_in) and Y (rows, D_out), float64.

    Raises:
        DataError: the file cannot be read, lacks a column, or holds a value that is no finite number; the row in the message
            counts from 1, without the header. Raised where it is met: pieces before it were given out.
        MissingExtraError: without the extra ``cli``.
    """
    path, rows = Path(path), positive_int("rows", rows)
    names, wanted = column_names(path), [*inputs, *outputs]
    if not inputs or not outputs:
        raise ValueError(f"{'inputs' if not inputs else 'outputs'}: no names; there must be at least one")
    for position, column in enumerate(wanted):
        if column not in names:
            raise DataError(f"{path}: no column {column!r}; there are {', '.join(names)}")
        if wanted.index(column) != position:
            raise DataError(f"{path}: column {column!r} is asked for twice; an input cannot be an output too")
    return _pieces(path, [names.index(column) for column in wanted], wanted, len(inputs), rows, missing)


def _pieces(
    path: Path, positions: list[int], wanted: list[str], inputs: int, rows: int, missing: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done = 0
    for frame in _parquet_frames(path, positions, rows) if is_parquet(path) else _csv_frames(path, positions, rows):
        frame.columns = wanted
        columns = [
            numbers(path, column, frame[column], first_row=done, missing=missing and place >= inputs)
            for place, column in enumerate(wanted)
        ]
        values = np.column_stack(columns)
        done += len(frame)
        yield values[:, :inputs], values[:, inputs:]


def _parquet_frames(path: Path, positions: list[int], rows: int) -> Iterator[Any]:
    parquet = require("cli", "pyarrow.parquet")
    require("cli", "pandas")
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:  # buffers would stay until the file is closed
            names = [file.schema_arrow.names[i] for i in positions]
            for batch in file.iter_batches(batch_size=rows, columns=names):
                yield batch.select(names).to_pandas()
    except (OSError, NotImplementedError) as error:
        raise DataError(f"{path}: is no readable Parquet file ({str(error).splitlines()[0]})") from error


def _csv_frames(path: Path, positions: list[int], rows: int) -> Iterator[Any]:
    pandas = require("cli", "pandas")
    options = {"dtype": str, "keep_default_na": False, "index_col": False, "encoding": "utf-8-sig", "chunksize": rows}
    try:
        with pandas.read_csv(path, **options) as reader:
            for frame in reader:
                yield frame.iloc[:, positions]
    except (pandas.errors.ParserError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path}: is no readable CSV file ({str(error).strip().splitlines()[-1]})") from error
