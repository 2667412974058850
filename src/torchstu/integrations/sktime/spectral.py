"""Forecasts in closed form, in sktime's interface."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sktime.forecasting.base import BaseForecaster

from torchstu.forecast.direct import DirectForecast
from torchstu.forecast.features import Series
from torchstu.forecast.intervals import error_quantiles
from torchstu.forecast.maps import forecast_maps
from torchstu.forecast.periods import find_periods
from torchstu.integrations.sktime.grid import Grid
from torchstu.spectral.priors import PriorLike, positive_int

FRAMES = ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"]


class SpectralForecaster(BaseForecaster):
    """Direct forecasts of every horizon from lags, spectral features and seasons, in closed form.

        ŷ_{t+h} = anchor + f_t W_h,    f_t = [w_t … w_{t-p+1},  Σ_i φ_k(i) w_{t+1-i},  cos and sin of seasons,  inputs at t+h]

    with w the series or its differences, and the anchor its mean or its last value. Ridge regression gives all W_h at once. How
    many lags, whether filters and seasons, which ridge: what forecasts the last blocks of the training data best from what is
    before them, an average of up to four. Nothing is drawn at random.

    Several series (a panel) share their weights, each in its own units: a global fit. Columns of a multivariate series are
    forecast apart. Missing values count as the last one seen where they are read, and not at all where they are to be forecast.
    Intervals come from the errors on the blocks. `update` adds rows to the sums that weights are solved from: the result is
    that of a fit to all rows with the same choices, at the cost of the new ones.

    Args:
        num_filters: K, at least 0; none below 64 steps.
        length: L, the filters' memory; a quarter of the series, at most 2048, if None.
        prior: of the filters, as in `STU`; "positive" and the periods' `Harmonics`, joined, if None.
        periods: seasons in steps; "auto" finds them, among what the index suggests and in the data; () for none.
        harmonics: of each season, at most.
        lags: p; chosen if None.

    Attributes:
        periods_: seasons that are used.
        choice_: members of the average, and the errors of all that was tried.

    Raises:
        ValueError: from ``fit`` and ``predict``: parameters out of range, horizons longer than the data, values that are not
            finite, inputs that are missing in the future.

    Source: arXiv 2312.06837 for the filters; ``docs/forecasting.md``.

    Examples:
        >>> from sktime.datasets import load_airline
        >>> from torchstu.integrations.sktime import SpectralForecaster
        >>> forecaster = SpectralForecaster().fit(load_airline(), fh=[1, 2, 3])
        >>> forecaster.predict().round().tolist()
        [449.0, 413.0, 450.0]
        >>> intervals = forecaster.predict_interval(coverage=0.9)
    """

    _tags = {  # noqa: RUF012
        "authors": "torchstu",
        "python_dependencies": None,
        "y_inner_mtype": FRAMES,
        "X_inner_mtype": FRAMES,
        "capability:multivariate": False,
        "capability:exogenous": True,
        "capability:insample": True,
        "capability:pred_int": True,
        "capability:pred_int:insample": True,
        "capability:missing_values": True,
        "capability:update": True,
        "capability:categorical_in_X": False,
        "capability:non_contiguous_X": False,
        "requires-fh-in-fit": True,
    }

    def __init__(
        self,
        num_filters: int = 24,
        *,
        length: int | None = None,
        prior: PriorLike | None = None,
        periods: Sequence[float] | Literal["auto"] = "auto",
        harmonics: int = 24,
        lags: int | None = None,
    ) -> None:
        self.num_filters, self.length, self.prior = num_filters, length, prior
        self.periods, self.harmonics, self.lags = periods, harmonics, lags
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a default of sktime that makes no difference here
            super().__init__()

    def _fit(self, y: pd.DataFrame, X: pd.DataFrame | None, fh: Any) -> SpectralForecaster:
        self._check()
        parts, self._names = instances(y), list(y.index.names)
        self._grid = min((Grid.of(part.index) for part in parts.values()), key=lambda grid: grid.origin)
        if fh.freq is None and self._grid.step is not None:
            fh.freq = self._grid.step  # of a panel of dates sktime does not see it
        ahead = np.asarray(fh.to_relative(self.cutoff).to_pandas(), dtype=int)
        self._steps = np.unique(np.concatenate([[1], ahead[ahead > 0]]))
        self._inputs = None if X is None else list(map(str, X.columns))
        self._first = {key: int(self._grid.numbers(part.index)[0]) for key, part in parts.items()}
        self._values: dict[Hashable, np.ndarray] = {key: np.empty(0) for key in parts}
        self._known: dict[Hashable, np.ndarray] = {key: np.empty((0, 0)) for key in parts}
        self._extend(y, X)
        if all(np.isnan(values).all() for values in self._values.values()):
            raise ValueError("y: every value is missing; some must be there")
        longest = max(len(values) for values in self._values.values())
        if self._steps[-1] >= longest:
            raise ValueError(f"fh: {self._steps[-1]} steps ahead; the series have {longest} steps, it must be fewer")
        self.periods_ = self._find_periods()
        steps = int(np.median([len(values) for values in self._values.values()]))
        maps, lags = forecast_maps(
            steps,
            self.periods_,
            num_filters=self.num_filters,
            length=self.length,
            prior=self.prior,
            harmonics=self.harmonics,
            lags=self.lags,
            num_inputs=0 if X is None else X.shape[1],
        )
        self._model = DirectForecast(self._steps, maps, lags).fit(self._series())
        self.choice_ = self._model.choice
        return self

    def _update(self, y: pd.DataFrame, X: pd.DataFrame | None = None, update_params: bool = True) -> SpectralForecaster:
        self._extend(y, X)
        self._model.extend(self._series(), learn=update_params)
        return self

    def _predict(self, fh: Any, X: pd.DataFrame | None) -> pd.DataFrame:
        return self._frame(fh, X, lambda key, steps: self._forecast(key, steps), list(self._columns))

    def _predict_quantiles(self, fh: Any, X: pd.DataFrame | None, alpha: list[float]) -> pd.DataFrame:
        levels = np.array(alpha)
        model = self._model
        spread = error_quantiles(model.choice.residuals, model.horizons, levels)  # type: ignore[union-attr]

        def quantiles(key: Hashable, steps: np.ndarray) -> np.ndarray:
            rows = spread[np.searchsorted(model.horizons, np.maximum(steps, 1))]
            return self._forecast(key, steps) + rows * model.panel.scale(self._at[key])

        names = pd.MultiIndex.from_product([self._columns, alpha])
        return self._frame(fh, X, quantiles, names)

    def _check(self) -> None:
        for name in ("num_filters", "length", "lags", "harmonics"):
            value = getattr(self, name)
            if not (value is None and name in ("length", "lags")) and not (name == "num_filters" and value == 0):
                positive_int(name, value)
        named = isinstance(self.periods, str)
        auto = named and self.periods == "auto"
        if not auto and (named or not all(np.isfinite(p) and p >= 2 for p in np.asarray(self.periods, dtype=float))):
            raise ValueError(f"periods: {self.periods!r}; it must be 'auto' or numbers of steps, each at least 2")
        if self.length is not None and self.num_filters > self.length:
            raise ValueError(f"num_filters: {self.num_filters}; it must be at most length, {self.length}")

    def _find_periods(self) -> tuple[float, ...]:
        if not isinstance(self.periods, str):
            return tuple(float(p) for p in self.periods)
        longest = max(self._values.values(), key=len)
        return find_periods(longest, self._grid.seasons())

    def _extend(self, y: pd.DataFrame, X: pd.DataFrame | None) -> None:
        """Put values where they belong; between those seen and the newest of any series, NaN."""
        parts = instances(y)
        self._columns = y.columns
        if set(parts) - set(self._values):
            raise ValueError(f"y: {sorted(map(str, set(parts) - set(self._values)))} were not in fit")
        for key, part in parts.items():
            at = self._grid.numbers(part.index) - self._first[key]
            values = part.iloc[:, 0].to_numpy(dtype=float, na_value=np.nan)
            if np.isinf(values).any():
                raise ValueError(f"y: infinite at {part.index[int(np.argmax(np.isinf(values)))]}; it must be finite or missing")
            self._values[key] = put(self._values[key], at[at >= 0], values[at >= 0])
        if X is not None:
            self._extend_inputs(X)
        now = int(self._grid.numbers(self.cutoff)[0])
        for key, values in self._values.items():
            self._values[key] = put(values, np.arange(len(values), now + 1 - self._first[key]), np.array(np.nan))

    def _extend_inputs(self, X: pd.DataFrame) -> None:
        if list(map(str, X.columns)) != self._inputs:
            raise ValueError(f"X: columns {list(map(str, X.columns))}; they must be those of fit, {self._inputs}")
        for key, part in instances(X).items():
            if key not in self._known:
                continue
            at = self._grid.numbers(part.index) - self._first[key]
            known = self._known[key] if self._known[key].size else np.empty((0, X.shape[1]))
            self._known[key] = put(known, at[at >= 0], part.to_numpy(dtype=float, na_value=np.nan)[at >= 0])

    def _series(self) -> list[Series]:
        self._at = {key: at for at, key in enumerate(self._values)}
        return [
            Series(values, None if self._inputs is None else self._filled_inputs(key), self._first[key])
            for key, values in self._values.items()
        ]

    def _filled_inputs(self, key: Hashable) -> np.ndarray:
        known = pd.DataFrame(self._known[key]).ffill().bfill().fillna(0.0).to_numpy()
        if not np.isfinite(known).all():
            raise ValueError("X: infinite values; they must be finite or missing")
        return known

    def _forecast(self, key: Hashable, steps: np.ndarray) -> np.ndarray:
        """(n, 1) at steps from the cutoff; those in the past are foretold one step before."""
        model, at = self._model, self._at[key]
        now = len(self._values[key]) - 1
        found = np.empty((len(steps), 1))
        ahead = steps > 0
        if ahead.any():
            found[ahead, 0] = model.predict(at, np.array([now]))[0, np.searchsorted(model.horizons, steps[ahead])]
        origins = now + steps[~ahead] - 1
        if len(origins):
            low, high = max(int(origins.min()), 0), max(int(origins.max()), 0)
            every = model.predict(at, np.arange(low, high + 1))[:, 0]
            mean = np.nanmean(self._values[key]) if not np.isnan(self._values[key]).all() else 0.0
            found[~ahead, 0] = np.where(origins < 0, mean, every[np.maximum(origins, 0) - low])
        return found

    def _frame(self, fh: Any, X: pd.DataFrame | None, made: Any, columns: Any) -> pd.DataFrame:
        steps = np.asarray(fh.to_relative(self.cutoff).to_pandas(), dtype=int)
        index = fh.to_absolute_index(self.cutoff)
        self._take_future(X, steps)
        keys = list(self._values)
        blocks = [pd.DataFrame(made(key, steps), index=index, columns=columns) for key in keys]
        if keys == [None]:
            return blocks[0]
        return pd.concat(blocks, keys=keys, names=self._names)

    def _take_future(self, X: pd.DataFrame | None, steps: np.ndarray) -> None:
        if self._inputs is None:
            return
        if X is not None:
            self._extend_inputs(X)
        now = int(self._grid.numbers(self.cutoff)[0])
        for key, known in self._known.items():
            needed = now - self._first[key] + 1 + max(int(steps.max()), 0)
            if len(known) < needed:
                raise ValueError(
                    f"X: known up to {needed - len(known)} steps before the last forecast; every step up to it is needed"
                )
        self._model.panel.series = self._series()

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Parameters for sktime's tests."""
        return [{}, {"num_filters": 4, "periods": (4,), "lags": 3}]


def instances(frame: pd.DataFrame) -> dict[Hashable, pd.DataFrame]:
    """Series of a panel by their key, in the order of the frame; a single one has the key None."""
    if not isinstance(frame.index, pd.MultiIndex):
        return {None: frame}
    levels: list[Hashable] = list(range(frame.index.nlevels - 1))
    return {key: part.droplevel(levels) for key, part in frame.groupby(level=levels, sort=False)}


def put(values: np.ndarray, at: np.ndarray, new: np.ndarray) -> np.ndarray:
    """An array that is as long as needed, NaN where nothing was put."""
    size = max(len(values), int(at.max()) + 1 if len(at) else 0)
    found = np.full((size, *values.shape[1:]), np.nan)
    found[: len(values)] = values
    found[at] = new
    return found
