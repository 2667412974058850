"""One series from a file: put on a regular grid, forecast, and tested by rolling origin beside other forecasters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.performance_metrics.forecasting import MeanAbsoluteError
from sktime.registry import craft
from sktime.split import ExpandingWindowSplitter

from torchstu.data.files import Table
from torchstu.integrations.sktime.spectral import SpectralForecaster

MOST_GAPS = 0.5
"""Share of the grid that may be missing."""


class Row(NamedTuple):
    """A forecaster's line in the table; ``mase`` is in units of the seasonal naive forecast's error, one step ahead."""

    model: str
    mae: float
    mase: float
    seconds: float


@dataclass(frozen=True)
class ForecastResult:
    """What `forecast_series` found.

    Attributes:
        y: the series on its grid, NaN in gaps.
        forecast: columns "forecast", "lower" and "upper" after its end.
        rows: the back-test, `SpectralForecaster` first.
        origins: of the back-test.
        periods: seasons that were used.
    """

    y: pd.Series
    forecast: pd.DataFrame
    rows: list[Row]
    origins: int
    periods: tuple[float, ...]


def on_grid(table: Table) -> pd.DataFrame:
    """Columns of a table on the regular grid that most of its times lie on, NaN where there is no row.

    Raises:
        ValueError: times of no one frequency, or more gaps than values.
    """
    names = list(table.names)
    if table.time is None:
        return pd.DataFrame(table.values, columns=names)
    if table.time.dtype.kind != "M":
        return _on_numbers(table)
    index = pd.DatetimeIndex(table.time)
    step: Any = pd.infer_freq(index) if len(index) > 2 else None
    if step is None:
        gaps = np.diff(table.time).astype("timedelta64[ns]").astype(np.int64)
        kinds, counts = np.unique(gaps, return_counts=True)
        usual = int(kinds[counts.argmax()])
        off = np.flatnonzero(gaps % usual)
        if len(off):
            gap, most = (pd.Timedelta(nanoseconds, "ns") for nanoseconds in (int(gaps[off[0]]), usual))
            raise ValueError(f"time: row {off[0] + 2} is {gap} after the one before, most are {most}; one frequency is needed")
        step = pd.Timedelta(usual, "ns")
    grid = pd.date_range(index[0], index[-1], freq=step)
    _check_gaps(len(grid), len(index))
    return pd.DataFrame(table.values, columns=names, index=index).reindex(grid)


def _on_numbers(table: Table) -> pd.DataFrame:
    assert table.time is not None
    gaps = np.diff(table.time)
    usual = float(np.median(gaps))
    places = (table.time - table.time[0]) / usual
    off = np.flatnonzero(np.abs(places - np.round(places)) > 0.01)
    if len(off):
        raise ValueError(f"time: row {off[0] + 1} is at {table.time[off[0]]:g}, between steps of {usual:g}; one step is needed")
    at = np.round(places).astype(int)
    _check_gaps(int(at[-1]) + 1, len(at))
    return pd.DataFrame(table.values, columns=list(table.names), index=at).reindex(pd.RangeIndex(at[-1] + 1))


def _check_gaps(steps: int, rows: int) -> None:
    if rows < (1 - MOST_GAPS) * steps:
        raise ValueError(f"time: {rows} rows on {steps} steps from the first to the last; at least half must be there")


def forecast_series(
    frame: pd.DataFrame,
    target: str,
    horizon: int,
    *,
    inputs: Sequence[str] = (),
    origins: int = 10,
    level: float = 0.9,
    peers: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> ForecastResult:
    """Test a forecaster by rolling origin on the end of a series, then forecast what comes after it.

    Every forecaster is fitted once, to what is before the first origin, and moved forward without a new fit. Rows at the end of
    which the target is missing but inputs are known are the future.

    Args:
        frame: columns on a regular index, as `on_grid` gives.
        target: column to forecast.
        horizon: steps ahead, at least 1.
        inputs: columns that are known ahead.
        origins: of the back-test, at least 1; half a horizon apart, and all in the last half of the series.
        level: share of what comes that intervals shall hold.
        peers: forecasters of sktime as one writes them, such as "ThetaForecaster(sp=24)"; beside the seasonal naive one.

    Raises:
        ValueError: numbers out of range, a series too short for the horizon, inputs that end before the horizon, a peer that
            sktime does not know.
    """
    if horizon < 1 or origins < 1 or not 0 < level < 1:
        raise ValueError(f"horizon: {horizon}, origins: {origins}, level: {level}; at least 1, at least 1, between 0 and 1")
    known = frame[target].last_valid_index()
    if known is None:
        raise ValueError(f"{target}: no value at all")
    y, X = frame.loc[:known, target], frame[list(inputs)] if inputs else None
    fh = list(range(1, horizon + 1))
    apart = max(1, horizon // 2)
    origins = min(origins, (len(y) // 2 - horizon) // apart + 1)
    if origins < 1:
        raise ValueError(f"horizon: {horizon} steps; the series has {len(y)}, and half of it must be longer than the horizon")
    if X is not None and len(X) < len(y) + horizon:
        raise ValueError(f"inputs: {len(X) - len(y)} rows after the last {target}; the horizon of {horizon} needs as many")
    if X is not None and (missing := X[len(y) : len(y) + horizon].isna().any()).any():
        raise ValueError(f"inputs: {missing.idxmax()} is missing within the horizon; every step of it must be known")
    ours = SpectralForecaster().fit(y, X=None if X is None else X[: len(y)], fh=fh)
    season = max(1, round(max(ours.periods_, default=1.0)))
    models = {"SpectralForecaster": SpectralForecaster(periods=ours.periods_)}
    models["seasonal naive" if season > 1 else "naive"] = NaiveForecaster(sp=season)
    models |= {peer: _peer(peer) for peer in peers}
    splitter = ExpandingWindowSplitter(fh, len(y) - horizon - (origins - 1) * apart, apart)
    rows = _back_test(models, splitter, y, None if X is None else X[: len(y)], season, say)
    ahead: dict[str, Any] = {} if X is None else {"X": X[len(y) : len(y) + horizon]}
    bounds = ours.predict_interval(coverage=level, **ahead)
    bounds.columns = ["lower", "upper"]
    forecast = pd.concat([ours.predict(**ahead).rename("forecast"), bounds], axis=1)
    return ForecastResult(y, forecast, rows, origins, ours.periods_)


def _back_test(
    models: dict[str, Any], splitter: Any, y: pd.Series, X: pd.DataFrame | None, season: int, say: Callable[[str], None]
) -> list[Row]:
    """Every model from all origins; those that take no missing values get the last one seen in place of each."""
    unit = float(np.nanmean(np.abs(y[season:].to_numpy() - y[:-season].to_numpy())))
    filled = y.ffill().bfill(), None if X is None else X.ffill().bfill()
    options: dict[str, Any] = {"strategy": "no-update_params", "scoring": MeanAbsoluteError(), "error_score": "raise"}
    rows = []
    for name, model in models.items():
        own_y, own_X = (y, X) if model.get_tag("capability:missing_values") else filled
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = evaluate(model, splitter, own_y, X=own_X, **options)
        mae = float(table["test_MeanAbsoluteError"].mean())
        rows.append(Row(name, mae, mae / unit if unit else math.inf, float(table["fit_time"].sum() + table["pred_time"].sum())))
        say(f"{name}: mean absolute error {mae:.4g}")
    return rows


def times_of(table: Table, index: pd.Index) -> pd.Index:
    """What a time column of numbers says where a grid counts steps; dates, and rows without times, as they are."""
    if table.time is None or table.time.dtype.kind == "M":
        return index
    return pd.Index(table.time[0] + float(np.median(np.diff(table.time))) * index.to_numpy())


def _peer(words: str) -> Any:
    try:
        return craft(words)
    except Exception as error:  # whatever the words do
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise ValueError(
            f"peers: {words!r}: {reason}; it must be a forecaster of sktime, such as ThetaForecaster(sp=24)"
        ) from error
