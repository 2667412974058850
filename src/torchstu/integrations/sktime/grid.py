"""pandas indices as numbers of steps, and the seasons that a calendar suggests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

WEEKS = {"B": (5.0, 261.0), "D": (7.0, 365.2425)}
A_YEAR = {"ME": 12.0, "MS": 12.0, "M": 12.0, "BM": 12.0, "Q": 4.0, "BQ": 4.0, "Y": 1.0, "BY": 1.0, "W": 365.2425 / 7}
"""By how the name of a frequency begins."""


@dataclass(frozen=True)
class Grid:
    """Times origin + n · step.

    Attributes:
        origin: the first time.
        step: a frequency of pandas, or None for integers.
    """

    origin: Any
    step: Any

    @classmethod
    def of(cls, index: pd.Index) -> Grid:
        """Of the times of a series, increasing.

        Raises:
            ValueError: dates from which no frequency can be told.
        """
        if isinstance(index, pd.PeriodIndex):
            return cls(index[0], index.freq)
        if isinstance(index, pd.DatetimeIndex):
            step = index.freq or (pd.infer_freq(index) if len(index) > 2 else None)
            if step is None:
                raise ValueError("y: dates without a frequency; set one, as in y.asfreq('h'), which shows gaps as NaN")
            return cls(index[0], pd.tseries.frequencies.to_offset(step))
        return cls(int(index[0]), None)

    def numbers(self, index: pd.Index) -> np.ndarray:
        """n of times, negative before the origin.

        Raises:
            ValueError: times between those of the grid.
        """
        if self.step is None:
            return np.asarray(index, dtype=np.int64) - self.origin
        low, high = min(index[0], self.origin), max(index[-1], self.origin)
        if isinstance(index, pd.PeriodIndex):
            every: pd.Index = pd.period_range(low, high, freq=self.step)
        else:
            every = pd.date_range(low, high, freq=self.step)
        found = every.get_indexer(index)
        if (found < 0).any():
            raise ValueError(f"y: {index[int(np.argmax(found < 0))]} is no time of the frequency {self.step.freqstr}")
        return found - int(every.get_indexer(pd.Index([self.origin]))[0])

    def seasons(self) -> tuple[float, ...]:
        """Periods in steps that the frequency suggests: a day, a week, a year."""
        if self.step is None:
            return ()
        name, count = self.step.freqstr.lstrip("0123456789").split("-")[0], self.step.n
        if name in WEEKS and count == 1:
            return WEEKS[name]
        a_year = next((number for start, number in A_YEAR.items() if name.startswith(start)), None)
        if name != "D" and a_year is not None:
            return (a_year / count,) if a_year >= 2 * count else ()
        try:
            seconds = 86400.0 * count if name == "D" else pd.Timedelta(self.step).total_seconds()
        except ValueError:
            return ()
        return tuple(p / seconds for p in (3600, 86400, 604800, 31556952) if p / seconds >= 2)
