"""Direct forecasts of many horizons at once, in closed form, from one series or from many that share weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from torchstu.forecast.choice import Choice, choose
from torchstu.forecast.equations import NormalEquations
from torchstu.forecast.features import ROWS_AT_ONCE, FeatureMap, Series


@dataclass(eq=False)
class Panel:
    """Series with what their forecasts are measured in.

    Attributes:
        series: one or more.
        horizons: h, increasing, in steps.
        units: of each map, (level, scale) of each series.
        input_units: mean and deviation of known inputs, (2, D); None without.
    """

    series: list[Series]
    horizons: np.ndarray
    units: dict[bool, list[tuple[float, float]]] = field(default_factory=dict)
    input_units: np.ndarray | None = None

    def __post_init__(self) -> None:
        for differenced in (False, True):
            self.units[differenced] = [one.units(differenced) for one in self.series]
        if self.series[0].inputs is not None:
            rows = np.concatenate([one.inputs[: len(one.y)] for one in self.series if one.inputs is not None])
            deviation = rows.std(axis=0)
            self.input_units = np.stack([rows.mean(axis=0), np.where(deviation > 0, deviation, 1.0)])

    @property
    def reach(self) -> int:
        """The longest horizon."""
        return int(self.horizons[-1])

    def empty(self, own: FeatureMap) -> NormalEquations:
        """No rows."""
        return NormalEquations.empty(own.width, len(self.horizons), shared=self.input_units is None)

    def inputs(self, at: int) -> np.ndarray:
        """Of a series, in their units, (T + future, D)."""
        assert self.input_units is not None
        inputs = self.series[at].inputs
        assert inputs is not None
        return (inputs - self.input_units[0]) / self.input_units[1]

    def rows(self, own: FeatureMap, at: int, start: int, stop: int) -> np.ndarray:
        """Features at t = start..stop-1: (n, P), or (H, n, P) with known inputs."""
        first = own.own(self.series[at], self.units[own.differenced][at], start, stop)
        if self.input_units is None:
            return first
        low, high = start + int(self.horizons[0]), min(stop + self.reach, len(self.inputs(at)))
        known = own.known(self.inputs(at), low, high)
        missing = stop + self.reach - high
        known = np.concatenate([known, np.zeros((missing, known.shape[1]))])  # rows without a target
        parts = [known[h - self.horizons[0] :][: stop - start] for h in self.horizons]
        return np.stack([np.concatenate([first, part], axis=1) for part in parts])

    def anchors(self, differenced: bool, at: int, start: int, stop: int) -> np.ndarray:
        """What forecasts are counted from, (n, 1)."""
        one = self.series[at]
        return one.filled[start:stop, None] if differenced else np.full((stop - start, 1), self.units[False][at][0])

    def targets(self, at: int, start: int, stop: int, *, filled: bool = False) -> np.ndarray:
        """y_{t+h}, (n, H), NaN where not there."""
        one = self.series[at]
        y = np.concatenate([one.filled if filled else one.y, np.full(self.reach, np.nan)])
        return y[np.arange(start, stop)[:, None] + self.horizons]

    def accumulate(
        self,
        own: FeatureMap,
        normal: NormalEquations,
        starts: np.ndarray,
        stops: np.ndarray,
        *,
        targets_from_fill: bool = False,
    ) -> None:
        """Add rows starts[i]..stops[i]-1 of each series."""
        for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            for first in range(start, stop, ROWS_AT_ONCE):
                last = min(first + ROWS_AT_ONCE, stop)
                targets = self.targets(at, first, last, filled=targets_from_fill)
                away = targets - self.anchors(own.differenced, at, first, last)
                normal.add(self.rows(own, at, first, last), away / self.units[own.differenced][at][1])

    def fold_starts(self, fold: int, folds: int) -> np.ndarray:
        """Where a block of later data begins in each series."""
        lengths = np.array([len(one.y) for one in self.series])
        size = np.minimum(np.maximum(2 * self.reach, lengths // 10), lengths // (2 * folds))
        return lengths - (folds - fold) * size

    def origins(self, starts: np.ndarray, stops: np.ndarray, most: int) -> list[tuple[int, np.ndarray]]:
        """Of forecasts in the blocks: (series, t), with something to compare with, thinned to so many."""
        total = int((stops - starts).sum())
        every = max(1, -(-total // most))
        found = []
        for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            stop = min(stop, len(self.series[at].y) - int(self.horizons[0]) + 1)
            times = np.arange(start - 1 + (at % every if len(starts) > 1 else 0), stop - 1, every)
            if len(times := times[times >= 0]):
                found.append((at, times))
        return found

    def scale(self, at: int) -> float:
        """That errors of a series are measured in: that of its differences."""
        return self.units[True][at][1]

    def truth(self, origins: list[tuple[int, np.ndarray]]) -> np.ndarray:
        """What is to be forecast at origins, in units of the series, (n, H)."""
        parts = [self.targets(at, t[0], t[-1] + 1)[t - t[0]] / self.scale(at) for at, t in origins]
        return np.concatenate([np.zeros((0, len(self.horizons))), *parts])

    def at_origins(self, own: FeatureMap, origins: list[tuple[int, np.ndarray]]) -> list[tuple[np.ndarray, ...]]:
        """Features, anchors and scale of forecasts at origins, in units of the series."""
        found: list[tuple[np.ndarray, ...]] = []
        for at, t in origins:
            start, stop, unit = int(t[0]), int(t[-1]) + 1, self.scale(at)
            features = self.rows(own, at, start, stop)[..., t - start, :]
            anchors = self.anchors(own.differenced, at, start, stop)[t - start]
            found.append((features, anchors / unit, np.array(self.units[own.differenced][at][1] / unit)))
        return found

    def forecasts(self, parts: list[tuple[np.ndarray, ...]], columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """With each of some weights (R, 1 + P', H): (R, n, H), from `at_origins`."""
        found = [np.zeros((len(weights), 0, weights.shape[2]))]
        for features, anchors, scale in parts:
            kept = features[..., columns]
            if kept.ndim == 2:
                away = kept @ weights[:, 1:]
            else:
                away = np.moveaxis(kept @ np.moveaxis(weights[:, 1:], 0, 2).transpose(1, 0, 2), 0, 1).transpose(2, 0, 1)
            found.append(anchors + scale * (away + weights[:, :1]))
        return np.concatenate(found, axis=1)


class DirectForecast:
    """ŷ_{t+h} as the average of a few ridge regressions on lags, spectral features, seasons and known inputs.

    Args:
        horizons: steps ahead, each at least 1.
        maps: what may be read; `forecast_maps` makes them.
        lags: numbers of lags to choose from.
    """

    def __init__(self, horizons: Sequence[int] | np.ndarray, maps: Sequence[FeatureMap], lags: Sequence[int]) -> None:
        self.horizons, self.maps, self.lags = np.unique(np.array(horizons, dtype=int)), tuple(maps), tuple(lags)
        self.choice: Choice | None = None

    def fit(self, series: list[Series]) -> DirectForecast:
        """Choose, then fit what was chosen to all rows."""
        self.panel = Panel(series, self.horizons)
        self.choice = choose(self.panel, self.maps, self.lags)
        self.used = sorted({member.map for member, _ in self.choice.members})
        self.normals = {index: self.panel.empty(self.maps[index]) for index in self.used}
        self.done = np.zeros(len(series), dtype=int)
        self._learn()
        return self

    def extend(self, series: list[Series], *, learn: bool = True) -> None:
        """Take series that go on from those known; with ``learn`` the weights become those of all rows."""
        self.panel.series = series
        if learn:
            self._learn()

    def _learn(self) -> None:
        lengths = np.array([len(one.y) for one in self.panel.series])
        whole = np.maximum(lengths - self.panel.reach, self.done)
        self.weights = []
        for index, normal in self.normals.items():
            self.panel.accumulate(self.maps[index], normal, self.done, whole)
        tails = {index: normal.copy() for index, normal in self.normals.items()}
        for index, normal in tails.items():  # rows whose targets are not all there yet
            self.panel.accumulate(self.maps[index], normal, whole, lengths)
        self.done = whole
        assert self.choice is not None
        for member, _ in self.choice.members:
            columns = member.columns(self.maps[member.map])
            self.weights.append((columns, tails[member.map].solve(columns, (member.ridge,))[0]))

    def predict(self, at: int, times: np.ndarray) -> np.ndarray:
        """Forecasts of a series from origins t, (n, H)."""
        assert self.choice is not None
        origins, count = [(at, times)], 0
        total = np.zeros((len(times), len(self.horizons)))
        for (member, often), (columns, weights) in zip(self.choice.members, self.weights, strict=True):
            parts = self.panel.at_origins(self.maps[member.map], origins)
            total = total + often * self.panel.forecasts(parts, columns, weights[None])[0]
            count += often
        return total / count * self.panel.scale(at)
