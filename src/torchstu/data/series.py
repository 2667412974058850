"""One recording in a file as a data set: outputs from inputs step by step, or the coming steps from the past.

Shapes: L rows, W steps of a window, C inputs of the model, D outputs, h steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchstu.data.files import DataError, Table, read_table, weather
from torchstu.data.scaling import Scaler
from torchstu.data.sequences import Example, SequenceData
from torchstu.spectral.priors import positive_int


@dataclass(frozen=True, eq=False)
class Windows:
    """Pieces of one recording, each a sequence of its own; a batch of them is what a `DataLoader` gets.

    Attributes:
        inputs: (L, C) float32.
        targets: (L, D) float32; NaN where the recording has ended before the step asked for.
        window: W, the steps of a piece; the last one may be shorter.
        stride: rows from one start to the next, at most W.
        context: first steps of each piece that are not asked: their targets are NaN.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    window: int
    stride: int
    context: int = 0

    def __len__(self) -> int:
        return max(1, -(-(len(self.inputs) - self.window) // self.stride) + 1)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index: {index}; there are {len(self)} windows")
        span = slice(index * self.stride, index * self.stride + self.window)
        targets = self.targets[span]
        if self.context:
            targets = torch.cat([torch.full_like(targets[: self.context], torch.nan), targets[self.context :]])
        return self.inputs[span], targets


def series(
    *,
    file: str | None = None,
    outputs: list[str],
    inputs: list[str] | None = None,
    time: str | None = None,
    horizon: int = 0,
    window: int = 1024,
    stride: int | None = None,
    validation: float = 0.15,
    test: float = 0.15,
    missing: bool = False,
) -> SequenceData:
    """A recording cut by time into three parts, scaled by what the training part says, in windows.

    With ``horizon=0`` the outputs of a step are told from the inputs up to it ("step regression"). With a horizon h the model
    sees inputs and outputs up to a step and tells the outputs of the h steps that follow, step after step ("forecast", h · D
    channels). Targets never reach into the next part.

    Windows of the validation and the test part overlap by half, and only the second half of each is asked, so that the model
    has W/2 rows of memory wherever it is measured; the first window begins in the part before. Each row is asked once.

    Args:
        file: CSV (also .csv.gz) or Parquet, rows in time order; None: the weather that ships with the package.
        outputs, inputs: columns; a forecast may do without inputs.
        time: a column of the file with times that must increase; None reads none.
        horizon: h.
        window: W, at most the rows of the training part.
        stride: rows between the starts of training windows, at most W; None: W, no overlap.
        validation, test: shares of the rows, at the end of the recording.
        missing: whether outputs may be missing (empty or NaN): nothing is asked there. Inputs may not; a forecast sees both.

    Raises:
        DataError: the file cannot be read, lacks a column, has a value that is no finite number, or times that do not increase.
        ValueError: numbers out of range, parts too short, a part without a value of an output.
    """
    inputs = inputs or []
    _check_columns(outputs, inputs, horizon, missing)
    horizon, window = positive_int("horizon", horizon, minimum=0), positive_int("window", window)
    stride = window if stride is None else positive_int("stride", stride)
    if stride > window:
        raise ValueError(f"stride: {stride}; it must be at most window, {window}, or rows would be left out")
    table = _table(file, [*inputs, *outputs], time, outputs if missing else [])
    spans = _spans(len(table.values), validation, test, window, horizon)
    u, y = table.select(inputs), table.select(outputs)
    _check_parts(y, outputs, spans)
    scalers = _scaler(u[spans[0]], inputs), _scaler(y[spans[0]], outputs)
    u, y = scalers[0].transform(u), scalers[1].transform(y)
    seen, seen_scaler = (np.concatenate([u, y], axis=1), _joined(*scalers)) if horizon else (u, scalers[0])
    parts = [_windows(seen, y, span, horizon, window, stride if part == 0 else None) for part, span in enumerate(spans)]
    return SequenceData(
        name=f"series, {horizon} steps ahead" if horizon else "series",
        task="forecast" if horizon else "step regression",
        inputs="reals",
        d_in=seen.shape[1],
        d_out=parts[0].targets.shape[1],
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        source="weather of Greensboro NC, NREL TMY3, as shipped with pvlib-python" if file is None else str(file),
        about={
            "licence": "BSD-3-Clause (of pvlib-python)" if file is None else "unknown",
            "split": f"by time, rows {', '.join(f'{span.start + 1}..{span.stop}' for span in spans)}",
            "unit": "standard deviations of each output in the training part, from its mean there",
            "columns": {"inputs": [*inputs, *(outputs if horizon else [])], "outputs": list(outputs)},
            "horizon": horizon,
            "window": window,
            "input_scaler": seen_scaler.to_dict(),
            "output_scaler": scalers[1].to_dict(),
            "baselines": _baselines(y, spans[2], horizon),
        },
    )


def _check_columns(outputs: list[str], inputs: list[str], horizon: int, missing: bool) -> None:
    if not outputs:
        raise ValueError("outputs: no names; there must be at least one")
    if not inputs and not horizon:
        raise ValueError("inputs: none, with horizon 0; outputs can be told from inputs, or from their past with a horizon")
    if not isinstance(missing, bool):
        raise TypeError(f"missing: {missing!r}; it must be True or False")
    if missing and horizon:
        raise ValueError(f"missing: True, with horizon {horizon}; a forecast sees its outputs, none of them may be missing")


def _table(file: str | None, names: list[str], time: str | None, missing: list[str]) -> Table:
    if file is not None:
        return read_table(Path(file).expanduser(), names, time, missing)
    if time is not None:
        raise ValueError(f"time: {time!r}; without a file, for the weather that ships, it must be None")
    return weather()


def _spans(rows: int, validation: float, test: float, window: int, horizon: int) -> list[slice]:
    """The rows of the three parts."""
    for name, share in (("validation", validation), ("test", test)):
        if not 0 < share < 1:
            raise ValueError(f"{name}: {share}; it must be a share of the rows, above 0 and below 1")
    if validation + test >= 1:
        raise ValueError(f"validation, test: {validation} and {test}; they must leave rows for training")
    first, second = rows - round(rows * (validation + test)), rows - round(rows * test)
    if window > first:
        raise ValueError(f"window: {window}; the training part has {first} of {rows} rows, it must be at most that")
    if min(second - first, rows - second) <= horizon:
        raise ValueError(f"horizon: {horizon}; the parts have {first}, {second - first}, {rows - second} rows, it must be less")
    return [slice(0, first), slice(first, second), slice(second, rows)]


def _check_parts(y: np.ndarray, names: list[str], spans: list[slice]) -> None:
    for part, span in zip(("training", "validation", "test"), spans, strict=True):
        for name, column in zip(names, y[span].T, strict=True):
            if np.isnan(column).all():
                raise DataError(f"outputs: column {name!r} has no value in the {part} part, rows {span.start + 1}..{span.stop}")


def _scaler(values: np.ndarray, names: list[str]) -> Scaler:
    """Of each column's values that are not missing."""
    fits = [Scaler.fit(column[~np.isnan(column)], f"series {name!r},") for name, column in zip(names, values.T, strict=True)]
    return Scaler(np.array([fit.mean for fit in fits]), np.array([fit.std for fit in fits]))


def _joined(first: Scaler, second: Scaler) -> Scaler:
    return Scaler(np.concatenate([first.mean, second.mean]), np.concatenate([first.std, second.std]))


def _windows(seen: np.ndarray, y: np.ndarray, span: slice, horizon: int, window: int, stride: int | None) -> Windows:
    """Of a part; without a stride those of a part to be measured on, which begin in the part before."""
    context = window // 2 if stride is None else 0
    start = span.start - context
    targets = _ahead(y[start : span.stop], horizon)
    return Windows(_tensor(seen[start : span.stop]), _tensor(targets), window, stride or window - context, context)


def _ahead(y: np.ndarray, horizon: int) -> np.ndarray:
    """(L, D) to (L, h · D): at step t the outputs of t+1 .. t+h, NaN behind the end; with horizon 0 as it is."""
    if not horizon:
        return y
    ahead = np.full((horizon, *y.shape), np.nan)
    for step in range(horizon):
        ahead[step, : len(y) - step - 1] = y[step + 1 :]
    return ahead.transpose(1, 0, 2).reshape(len(y), -1)


def _baselines(y: np.ndarray, span: slice, horizon: int) -> dict[str, Any]:
    """Name to Σ(prediction - target)² / Σ target² over the targets of a part, as the error of a model is counted."""
    targets = _ahead(y[span], horizon)
    guesses = {"the mean of the training part": np.zeros_like(targets)}
    if horizon:
        guesses["the last value seen"] = np.tile(y[span], horizon)
    base = float(np.nansum(targets**2))
    return {name: float(np.nansum((guess - targets) ** 2)) / base if base else None for name, guess in guesses.items()}


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
