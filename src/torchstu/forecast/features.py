"""What a direct forecast is linear in, row by row of one series: lags, spectral features (4), seasons, known inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from torchstu.ops.convolution import features
from torchstu.spectral.filters import filter_bank
from torchstu.spectral.priors import PriorLike

ROWS_AT_ONCE = 2**15


@dataclass(frozen=True, eq=False)
class Series:
    """One series on a regular grid of times.

    Attributes:
        y: (T,), NaN where missing.
        inputs: (T + future, D) known inputs at the same times and after them; None without.
        start: the first time, as a number of steps: what the phase of seasons is counted from.
    """

    y: np.ndarray
    inputs: np.ndarray | None = None
    start: int = 0

    @cached_property
    def filled(self) -> np.ndarray:
        """(T,) with the last value that was seen in place of missing ones: nothing from later."""
        seen = np.flatnonzero(~np.isnan(self.y))
        if not len(seen):
            return np.zeros_like(self.y)
        last = np.searchsorted(seen, np.arange(len(self.y)), side="right") - 1
        return self.y[seen[np.maximum(last, 0)]]

    def units(self, differenced: bool) -> tuple[float, float]:
        """(level, scale) that the series is taken in: mean and deviation, of its steps with a level of 0 where differenced."""
        steps = np.diff(self.y) if differenced else self.y
        steps = steps[~np.isnan(steps)]
        level = 0.0 if differenced or not len(steps) else float(steps.mean())
        largest = float(np.abs(self.filled).max())  # squares of what float64 holds may be more than it holds
        scale = largest * float(np.sqrt(np.mean(((steps - level) / largest) ** 2))) if len(steps) and largest else 0.0
        return level, scale if scale > 1e-12 * largest else 1.0


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """f_t of the forecast ŷ_{t+h} = anchor + f_t W_h, with w the series in its units or its differences, columns in this order:

        w_t, …, w_{t-p+1};   U_{t,k} = Σ_{i≥1} φ_k(i) w_{t+1-i}, k = 1..K;   cos and sin of 2πjt/P for the periods P;
        and, at the time t+h of the forecast, x, its lags and its spectral features.

    Attributes:
        differenced: w_t = y_t - y_{t-1}, and forecasts are counted from y_t; else from the mean.
        lags: p. num_filters: K, may be 0. length: L, the memory of the filters. prior: of the filters.
        periods: in steps. harmonics: of each, at most.
        input_lags: of known inputs. num_inputs: D.
    """

    differenced: bool
    lags: int
    num_filters: int
    length: int
    prior: PriorLike
    periods: tuple[float, ...]
    harmonics: int
    num_inputs: int = 0
    input_lags: int = 3

    @cached_property
    def taps(self) -> torch.Tensor:
        """(L, K), the filters."""
        if not self.num_filters:
            return torch.zeros(self.length, 0, dtype=torch.float64)
        return torch.as_tensor(np.array(filter_bank(self.length, self.num_filters, self.prior).filters))

    @property
    def memory(self) -> int:
        """Steps before t that f_t reads."""
        return max(self.lags, self.length if self.num_filters else 0, self.input_lags) + 1

    @cached_property
    def frequencies(self) -> np.ndarray:
        """Of the seasons, in turns a step, each once."""
        found = sorted({round(j / p, 12) for p in self.periods for j in range(1, self.harmonics + 1) if j / p <= 0.5})
        return np.array(found)

    @cached_property
    def groups(self) -> dict[str, slice]:
        """Which columns are whose."""
        sizes = {
            "lags": self.lags,
            "filters": self.num_filters,
            "seasons": len(self.frequencies) + int((self.frequencies < 0.5).sum()),  # sin(πt) is zero
            "inputs": self.num_inputs * self.input_lags,
            "filtered inputs": self.num_inputs * self.num_filters,
        }
        ends = np.cumsum([0, *sizes.values()])
        return {name: slice(int(a), int(b)) for name, a, b in zip(sizes, ends[:-1], ends[1:], strict=True)}

    @property
    def width(self) -> int:
        """P."""
        return self.groups["filtered inputs"].stop

    def own(self, series: Series, units: tuple[float, float], start: int, stop: int) -> np.ndarray:
        """f_t without known inputs, t = start..stop-1 counted from the first step of the series: (stop - start, P')."""
        level, scale = units
        first = start - self.memory
        y = series.filled[max(first, 0) : stop]
        y = np.concatenate([np.full(max(-first, 0), y[0]), y])
        w = (np.diff(y, prepend=y[0]) if self.differenced else y - level) / scale
        columns = [self._past(w[:, None], self.lags, stop - start)]
        times = series.start + np.arange(start, stop)
        turns = 2 * np.pi * np.fmod(times[:, None] * self.frequencies, 1.0)
        return np.concatenate([*columns, np.cos(turns), np.sin(turns[:, self.frequencies < 0.5])], axis=1)

    def known(self, inputs: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Columns of known inputs (T', D), in units of theirs, at times start..stop-1: (stop - start, P - P')."""
        first = start - self.memory
        x = inputs[max(first, 0) : stop]
        x = np.concatenate([np.repeat(x[:1], max(-first, 0), axis=0), x])
        return self._past(x, self.input_lags, stop - start)

    def _past(self, w: np.ndarray, lags: int, rows: int) -> np.ndarray:
        """Lags and spectral features (rows, (lags + K) D) of the last rows of w (·, D)."""
        delayed = [w[len(w) - rows - i : len(w) - i] for i in range(lags)]
        if self.num_filters:
            filtered = features(torch.as_tensor(w)[None], self._padded(len(w)))[0, len(w) - rows :]
            delayed.append(filtered.flatten(1).numpy())
        return np.concatenate(delayed, axis=1)

    def _padded(self, steps: int) -> torch.Tensor:
        taps = self.taps[:steps]
        return torch.cat([taps, taps.new_zeros(max(steps - len(taps), 0), taps.shape[1])])
