"""One recording in a file as a data set: outputs from inputs step by step, or the coming steps from the past.

Shapes: L rows, W steps of a window, D outputs, h steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from torchstu.data.files import Table, read_table, weather
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
        stride: rows from one start to the next.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    window: int
    stride: int

    def __len__(self) -> int:
        return max(1, -(-(len(self.inputs) - self.window) // self.stride) + 1)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index: {index}; there are {len(self)} windows")
        span = slice(index * self.stride, index * self.stride + self.window)
        return self.inputs[span], self.targets[span]


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
) -> SequenceData:
    """A recording cut by time into three parts, scaled by what the training part says, in windows.

    With ``horizon=0`` the outputs of a step are told from the inputs up to it ("step regression"). With a horizon h the model
    sees inputs and outputs up to a step and tells the outputs of the h steps that follow, step after step ("forecast", h · D
    channels). Targets never reach into the next part.

    Args:
        file: CSV (also .csv.gz) or Parquet, rows in time order; None: the weather that ships with the package.
        outputs, inputs: columns; a forecast may do without inputs.
        time: a column of times that must increase; None reads none.
        horizon: h.
        window: W, at most the rows of the training part.
        stride: rows between the starts of training windows; None: W, no overlap. The other parts do not overlap.
        validation, test: shares of the rows, at the end of the recording.

    Raises:
        DataError: the file cannot be read, lacks a column, has a value that is no finite number, or times that do not increase.
        ValueError: numbers out of range, parts too short.
    """
    names = [*(inputs or []), *outputs]
    if not outputs:
        raise ValueError("outputs: no names; there must be at least one")
    if not inputs and not horizon:
        raise ValueError("inputs: none, with horizon 0; outputs can be told from inputs, or from their past with a horizon")
    horizon, window = positive_int("horizon", horizon, minimum=0), positive_int("window", window)
    stride = window if stride is None else positive_int("stride", stride)
    table = weather() if file is None else read_table(Path(file).expanduser(), names, time)
    cuts = _cuts(len(table.values), validation, test, window, horizon)
    spans = [slice(*pair) for pair in pairwise(cuts)]
    u, y = _scaled(table, inputs or [], spans[0]), _scaled(table, outputs, spans[0])
    seen = np.concatenate([u, y], axis=1) if horizon else u
    parts = [
        Windows(_tensor(seen[span]), _tensor(_targets(y[span], horizon)), window, stride if part == 0 else window)
        for part, span in enumerate(spans)
    ]
    source = "weather of Greensboro NC, NREL TMY3, as shipped with pvlib-python (BSD-3-Clause)" if file is None else str(file)
    return SequenceData(
        name=f"series, {horizon} steps ahead" if horizon else "series",
        task="forecast" if horizon else "step regression",
        inputs="reals",
        d_in=seen.shape[1],
        d_out=parts[0].targets.shape[1],
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        source=source,
    )


def _cuts(rows: int, validation: float, test: float, window: int, horizon: int) -> list[int]:
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
    return [0, first, second, rows]


def _scaled(table: Table, names: list[str], training: slice) -> np.ndarray:
    values = table.select(names)
    return Scaler.fit(values[training], "series").transform(values) if names else values


def _targets(y: np.ndarray, horizon: int) -> np.ndarray:
    """(L, D) to (L, h · D): at step t the outputs of t+1 .. t+h, NaN behind the end; with horizon 0 as it is."""
    if not horizon:
        return y
    ahead = np.full((horizon, *y.shape), np.nan)
    for step in range(horizon):
        ahead[step, : len(y) - step - 1] = y[step + 1 :]
    return ahead.transpose(1, 0, 2).reshape(len(y), -1)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
