"""Time series from files: read whole, checked, and refused with one line that says what is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from torchstu.extras import require

CSV, PARQUET = (".csv", ".csv.gz"), (".parquet", ".pq")
MISSING = {"", "nan", "na", "n/a", "null", "none", "nat"}


class DataError(ValueError):
    """A data file that cannot be used; the message is one line and names the file."""


class MissingValueError(DataError):
    """A column that has a missing value.

    Attributes:
        column: its name.
    """

    def __init__(self, path: Path, column: str, row: int) -> None:
        super().__init__(
            f"{path}: column {column!r}, row {row + 1}: a missing value (empty or NaN); it must be a finite number"
        )
        self.column = column


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of numbers, in time order.

    Attributes:
        names: of the columns, C of them.
        values: (L, C) float64, finite; NaN where a value that may be missing is.
        time: (L,) datetime64 or float64, strictly increasing; None if no time column was read.
    """

    names: tuple[str, ...]
    values: np.ndarray
    time: np.ndarray | None = None

    def select(self, names: Sequence[str]) -> np.ndarray:
        """Some of the columns, (L, len(names)).

        Raises:
            ValueError: a name that the table lacks.
        """
        for name in names:
            if name not in self.names:
                raise ValueError(f"column {name!r}: not read; there are {', '.join(self.names)}")
        return self.values[:, [self.names.index(name) for name in names]]


def column_names(path: str | Path) -> list[str]:
    """The header of a CSV (also .csv.gz) or Parquet file, without blanks around the names; a column may have an empty name.

    Raises:
        DataError: no such file, not readable as what its suffix says, empty, or a name twice in the header.
        MissingExtraError: without the extra ``cli``.
    """
    path = Path(path)
    _check_path(path)
    names = [name.strip() for name in (_parquet_names(path) if is_parquet(path) else _csv_names(path))]
    for position, name in enumerate(names):
        if name and names.index(name) != position:
            raise DataError(f"{path}: column {name!r} is twice in the header; names must differ")
    return names


def read_table(path: str | Path, columns: Sequence[str], time: str | None = None, missing: Sequence[str] = ()) -> Table:
    """Read columns of numbers from a CSV (also .csv.gz) or Parquet file with a header.

    Nothing is filled in: a missing value is an error, or NaN.

    Args:
        path: the file; its suffix says the format.
        columns: names to read, in the order wanted.
        time: a column of times (ISO 8601 or numbers) that must increase from row to row; None reads none.
        missing: those of the columns that may have missing values (empty or NaN); they are NaN.

    Raises:
        MissingValueError: another column has a missing value.
        DataError: the file cannot be read, has fewer than two rows, lacks a column, or holds a value that is no finite number;
            rows in the message count from 1, without the header.
        MissingExtraError: without the extra ``cli``.
    """
    path = Path(path)
    names = column_names(path)
    columns = list(columns)
    for position, column in enumerate(columns):
        if columns.index(column) != position:
            raise DataError(f"{path}: column {column!r} is asked for twice; an input cannot be an output too")
    wanted = [*columns, *([time] if time is not None and time not in columns else [])]
    for column in wanted:
        if not column or column not in names:
            raise DataError(f"{path}: no column {column!r}; {_what_there_is(names)}")
    positions = [names.index(column) for column in wanted]
    frame = _read_parquet(path, positions) if is_parquet(path) else _read_csv(path, positions)
    frame.columns = wanted
    if len(frame) < 2:
        raise DataError(f"{path}: {'one row' if len(frame) else 'no rows'} below the header; there must be at least 2")
    values = np.column_stack([numbers(path, column, frame[column], missing=column in missing) for column in columns])
    return Table(tuple(columns), values, None if time is None else _times(path, time, frame[time]))


def weather() -> Table:
    """A year of hourly weather, 8760 rows: Greensboro NC, station 723170, typical meteorological year (WEATHER.md beside it).

    Columns: global_irradiance and direct_irradiance (W/m²), wind_speed (m/s), pressure (mbar), temperature (°C).
    """
    packed = resources.files("torchstu.data").joinpath("weather.csv.gz").read_bytes()
    header, *rows = csv.reader(io.StringIO(gzip.decompress(packed).decode()))
    time = np.array([row[0] for row in rows], dtype="datetime64[m]")
    return Table(tuple(header[1:]), np.array([row[1:] for row in rows], dtype=np.float64), time)


def _what_there_is(names: list[str]) -> str:
    for separator, words in ((";", "';'"), ("\t", "a tab")):
        if len(names) == 1 and separator in names[0]:
            return f"the header is one name with {words} in it, which may be the separator; it must be a comma"
    return f"there are {', '.join(name or '(one without a name)' for name in names)}"


def is_parquet(path: Path) -> bool:
    """Whether the suffix says Parquet."""
    return path.name.lower().endswith(PARQUET)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; it must be a file")
    if not path.name.lower().endswith((*CSV, *PARQUET)):
        raise DataError(f"{path}: suffix {path.suffix!r}; it must be one of {', '.join((*CSV, *PARQUET))}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise DataError(f"{path}: is empty; it must have a header and at least 2 rows")


def _csv_names(path: Path) -> list[str]:
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            start = file.read(8192)
            if "\0" in start:
                raise DataError(f"{path}: is a binary file; it must be text in UTF-8, a header and rows with commas")
            file.seek(0)
            names = next(csv.reader(file, strict=True), [])
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _unreadable_csv(path, error) from error
    if not names:
        raise DataError(f"{path}: its first line is empty; it must be a header of column names")
    return names


def _unreadable_csv(path: Path, error: Exception) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{path}: is a binary file or not in UTF-8 (byte {error.start}); it must be text in UTF-8")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return DataError(f"{path}: is no readable CSV file ({reason})")


def _read_csv(path: Path, positions: list[int]) -> Any:
    """A data frame of strings."""
    pandas = require("cli", "pandas")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # rows longer than the header
            frame = pandas.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
            return frame.iloc[:, positions]
    except pandas.errors.ParserWarning as error:
        raise DataError(f"{path}: rows have more values than the header has names") from error
    except (ValueError, csv.Error, EOFError, OSError, zlib.error) as error:  # pandas' parser errors are ValueErrors
        raise _unreadable_csv(path, error) from error


def _parquet_names(path: Path) -> list[str]:
    parquet = require("cli", "pyarrow.parquet")
    try:
        return list(parquet.read_schema(path).names)
    except (ValueError, OSError) as error:  # Arrow's errors are one or the other
        raise DataError(f"{path}: is no readable Parquet file ({str(error).splitlines()[0]})") from error


def _read_parquet(path: Path, positions: list[int]) -> Any:
    parquet = require("cli", "pyarrow.parquet")
    require("cli", "pandas")
    names = _parquet_names(path)
    try:
        return parquet.read_table(path, columns=[names[i] for i in positions]).to_pandas(ignore_metadata=True)
    except (ValueError, OSError, NotImplementedError) as error:
        raise DataError(f"{path}: is no readable Parquet file ({str(error).splitlines()[0]})") from error


def numbers(path: Path, column: str, cells: Any, *, first_row: int = 0, missing: bool = False) -> np.ndarray:
    """A column as (L,) float64, finite but for missing values where those are allowed; ``first_row`` is its first cell's.

    Raises:
        MissingValueError, DataError: a cell that is none of these.
    """
    pandas = require("cli", "pandas")
    number_type = pandas.api.types.is_numeric_dtype(cells) and not pandas.api.types.is_bool_dtype(cells)
    absent = (cells.isna() if number_type else _missing(cells)).to_numpy()
    if absent.any() and not missing:
        raise MissingValueError(path, column, first_row + int(absent.argmax()))
    if not number_type:
        cells = cells.astype(str)
    values = pandas.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not number_type:  # before 3.1 pandas reads numbers to 15 digits
        read, values = np.isfinite(values), values.copy()
        values[read] = [float(cell) for cell in cells.to_numpy()[read]]
    bad = np.flatnonzero(~np.isfinite(values) & ~absent)
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{path}: column {column!r}, row {first_row + row + 1}: {cells.iloc[row]!r}; it must be a finite number"
        )
    return np.where(absent, np.nan, values)


def _missing(cells: Any) -> Any:
    return cells.isna() | cells.astype(str).str.strip().str.lower().isin(MISSING)


def _refuse_missing(path: Path, column: str, cells: Any) -> None:
    missing = _missing(cells).to_numpy()
    if missing.any():
        raise MissingValueError(path, column, int(missing.argmax()))


def _times(path: Path, column: str, cells: Any) -> np.ndarray:
    """A column as (L,) increasing times: numbers if its first value is one, else dates."""
    pandas = require("cli", "pandas")
    _refuse_missing(path, column, cells)
    dates = pandas.api.types.is_datetime64_any_dtype(cells)
    if not dates and not np.isnan(pandas.to_numeric(cells.iloc[0], errors="coerce")):
        times = numbers(path, column, cells)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas warns where it cannot infer one format; the rows below say so better
            parsed = pandas.to_datetime(cells, errors="coerce", utc=True)
        if parsed.isna().any():
            row = int(parsed.isna().to_numpy().argmax())
            raise DataError(
                f"{path}: column {column!r}, row {row + 1}: {str(cells.iloc[row])!r}; "
                "it must be a time such as 2003-01-31T12:00, written like the first row, or a number"
            )
        times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    steps = np.diff(times)
    late = np.flatnonzero(steps <= steps.dtype.type(0))
    if len(late):
        row = late[0] + 1
        raise DataError(
            f"{path}: column {column!r}, row {row + 1}: {str(cells.iloc[row])!r} does not come after "
            f"{str(cells.iloc[row - 1])!r}; times must increase"
        )
    return times
