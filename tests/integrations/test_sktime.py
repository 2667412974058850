"""sktime's interface, by sktime's own checks and by what users do."""

import numpy as np
import pandas as pd
import pytest
from sktime.datasets import load_airline, load_longley
from sktime.forecasting.base import ForecastingHorizon
from sktime.forecasting.model_evaluation import evaluate
from sktime.performance_metrics.forecasting import MeanAbsoluteError
from sktime.split import ExpandingWindowSplitter
from sktime.utils.estimator_checks import check_estimator

from torchstu.integrations.sktime import SpectralForecaster
from torchstu.integrations.sktime.grid import Grid

pytestmark = pytest.mark.filterwarnings("ignore")
CHECKS = 890
"""Said in docs/forecasting.md."""


@pytest.mark.timeout(600)
def test_sktimes_own_checks():
    results = check_estimator(SpectralForecaster, raise_exceptions=False, verbose=False)
    assert {name: result for name, result in results.items() if result != "PASSED"} == {}
    assert len(results) >= CHECKS


def hourly(steps, start="2025-01-01"):
    t = np.arange(steps)
    y = 20 + 5 * np.sin(2 * np.pi * t / 24) + np.random.default_rng(0).normal(size=steps)
    return pd.Series(y, index=pd.date_range(start, periods=steps, freq="h"), name="load")


def test_airline_passengers():
    """The last year from the eleven before: a third of the seasonal naive forecast's error."""
    y = load_airline()
    forecaster = SpectralForecaster().fit(y[:132], fh=range(1, 13))
    assert forecaster.periods_ == (12.0,)
    error = np.abs(forecaster.predict() - y[132:]).mean()
    assert error < 0.35 * np.abs(y[120:132].to_numpy() - y[132:].to_numpy()).mean()
    intervals = forecaster.predict_interval(coverage=[0.5, 0.9])["Number of airline passengers"]
    inside = (intervals[0.9, "lower"] < y[132:]) & (y[132:] < intervals[0.9, "upper"])
    assert inside.mean() > 0.5
    assert (intervals[0.9, "lower"] < intervals[0.5, "lower"]).all()


def test_rolling_origin_with_updates_is_deterministic():
    y = hourly(500)
    results = [
        evaluate(SpectralForecaster(), ExpandingWindowSplitter(range(1, 7), 400, 20), y, strategy="update",
                 scoring=MeanAbsoluteError())["test_MeanAbsoluteError"]
        for _ in range(2)
    ]  # fmt: skip
    assert (results[0] == results[1]).all()
    assert results[0].mean() < 1.5 * np.sqrt(2 / np.pi)


def test_updated_without_learning_keeps_its_weights():
    y = hourly(500)
    forecaster = SpectralForecaster(periods=(24,)).fit(y[:400], fh=[1, 5])
    before = [weights.copy() for _, weights in forecaster._model.weights]
    forecaster.update(y[400:450], update_params=False)
    assert forecaster.cutoff[0] == y.index[449]
    assert all((a == b).all() for a, (_, b) in zip(before, forecaster._model.weights, strict=True))
    ahead = forecaster.predict()
    assert list(ahead.index) == [y.index[450], y.index[454]]
    forecaster.update(y[450:])
    assert not all((a == b).all() for a, (_, b) in zip(before, forecaster._model.weights, strict=True))


def test_gaps_are_missing_values():
    """A tenth left out, and left out as NaN: the same forecasts, not much worse than with all values."""
    y = hourly(600)
    kept = np.random.default_rng(1).random(600) > 0.1
    kept[[0, 1, 2, 599]] = True
    as_nan = y.where(kept)
    fh = range(1, 25)
    forecasts = [SpectralForecaster(periods=(24,)).fit(one, fh=fh).predict() for one in (y, as_nan)]
    truth = 20 + 5 * np.sin(2 * np.pi * np.arange(600, 624) / 24)
    errors = [np.abs(forecast.to_numpy() - truth).mean() for forecast in forecasts]
    assert errors[1] < 0.6
    assert errors[0] < 0.5


def test_known_inputs():
    y, X = load_longley()
    forecaster = SpectralForecaster().fit(y[:-2], X=X[:-2], fh=[1, 2])
    assert np.isfinite(forecaster.predict(X=X[-2:])).all()
    with pytest.raises(ValueError, match="X: known up to 1 steps before the last forecast"):
        SpectralForecaster().fit(y[:-2], X=X[:-2], fh=[1, 2]).predict(X=X[-2:-1])
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"heat": rng.normal(size=300)}, index=pd.RangeIndex(300))
    y = 3 * X["heat"] + X["heat"].shift(1, fill_value=0.0)
    forecast = SpectralForecaster().fit(y[:290], X=X[:290], fh=range(1, 11)).predict(X=X[290:])
    np.testing.assert_allclose(forecast, y[290:], atol=0.05)


def test_a_panel_of_series_of_unequal_length():
    parts = [hourly(200 + 20 * i).to_frame() * 10.0**i for i in range(3)]
    y = pd.concat(parts, keys=["a", "b", "c"], names=["place", "time"])
    forecaster = SpectralForecaster().fit(y, fh=[1, 2, 30])
    forecast = forecaster.predict()
    assert forecast.index.names == ["place", "time"]
    assert forecast.shape == (9, 1)
    for i, place in enumerate("abc"):
        assert np.abs(forecast.loc[place, "load"] / 10.0**i - 20).max() < 9


def test_the_order_of_rows_of_fh_and_the_future_of_dates():
    y = hourly(300)
    when = ForecastingHorizon(y.index[-1] + pd.to_timedelta([1, 3], unit="h"), is_relative=False)
    one, other = (SpectralForecaster(periods=(24,)).fit(y, fh=fh).predict() for fh in ([3, 1], when))
    pd.testing.assert_series_equal(one.sort_index(), other, check_freq=False)


def test_in_sample_forecasts_are_one_step_ahead():
    y = hourly(300)
    inside = SpectralForecaster(periods=(24,)).fit_predict(y, fh=ForecastingHorizon(y.index, is_relative=False))
    assert len(inside) == 300
    assert np.abs(inside - y)[100:].mean() < 1.1
    assert np.abs(inside - y)[100:].mean() > 0.3


def test_constant_series_among_others():
    flat = pd.Series(np.full(60, 7.0))
    assert (SpectralForecaster().fit(flat, fh=[1, 5]).predict() == 7.0).all()
    y = pd.concat(
        [flat.to_frame("y"), flat.to_frame("y") + np.random.default_rng(0).normal(size=(60, 1))], keys=["flat", "not"]
    )
    forecast = SpectralForecaster().fit(y, fh=[1, 5]).predict()
    assert np.isfinite(forecast).all().all()
    np.testing.assert_allclose(forecast.loc["flat"], 7.0, atol=1.0)


def refused(match, y, fh=(1,), X=None, **parameters):
    with pytest.raises((ValueError, TypeError), match=match):
        SpectralForecaster(**parameters).fit(y, fh=list(fh), X=X)


def test_one_horizon_with_inputs_and_periods_as_an_array():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"heat": rng.normal(size=150)})
    y = 3 * X["heat"]
    forecaster = SpectralForecaster(periods=np.array([7.0, 12.0])).fit(y[:149], X=X[:149], fh=[1])
    np.testing.assert_allclose(forecaster.predict(X=X[149:]), y[149:], atol=0.05)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_units_at_the_edge_of_float64(unit):
    y = hourly(100)
    expected = SpectralForecaster(periods=(24,)).fit(y, fh=[1, 2]).predict()
    np.testing.assert_allclose(SpectralForecaster(periods=(24,)).fit(y * unit, fh=[1, 2]).predict() / unit, expected, rtol=1e-6)


def test_bad_input_is_named():
    y = hourly(100)
    refused("y: every value is missing", y * np.nan)
    X = pd.DataFrame({"heat": np.arange(100.0)}, index=y.index)
    forecaster = SpectralForecaster().fit(y[:99], X=X[:99], fh=[1])
    with pytest.raises(ValueError, match=r"X: columns \['wind'\]; they must be those of fit, \['heat'\]"):
        forecaster.predict(X=X[99:].rename(columns={"heat": "wind"}))
    refused(r"fh: 100 steps ahead; the series have 100 steps", y, fh=[100])
    refused("y: infinite at 2025-01-01 03:00:00", y.where(y.index != y.index[3], np.inf))
    refused("y: dates without a frequency", y.iloc[[0, 1, 2, 5, 9, 11]])
    refused("num_filters: -1; it must", y, num_filters=-1)
    refused("num_filters: 30; it must be at most length, 20", y, num_filters=30, length=20)
    refused("length: 0", y, length=0)
    refused("lags: 0", y, lags=0)
    refused("harmonics: 'x'", y, harmonics="x")
    refused(r"periods: \(1,\); it must be 'auto' or numbers of steps, each at least 2", y, periods=(1,))
    refused("periods: 'week'", y, periods="week")
    refused("X: infinite", y, X=pd.DataFrame({"x": np.where(np.arange(100) == 5, np.inf, 1.0)}, index=y.index))
    panel = pd.concat([y.to_frame("y")], keys=["a"], names=["place", "time"])
    forecaster = SpectralForecaster().fit(panel, fh=[1])
    with pytest.raises(ValueError, match=r"y: .*b.* were not in fit"):
        forecaster.update(pd.concat([hourly(5, "2025-01-05 04:00").to_frame("y")], keys=["b"], names=["place", "time"]))


@pytest.mark.parametrize(
    ("freq", "seasons"),
    [("h", (24, 168, 8766)), ("30min", (2, 48, 336)), ("D", (7, 365)), ("B", (5, 261)), ("W", (52,)), ("MS", (12,)),
     ("ME", (12,)), ("QS", (4,)), ("YS", ()), ("2D", (4, 183)), ("s", (3600, 86400))],
)  # fmt: skip
def test_seasons_of_a_calendar(freq, seasons):
    found = Grid.of(pd.date_range("2020-01-01", periods=9, freq=freq)).seasons()
    assert [round(p) for p in found][: len(seasons)] == list(seasons)


def test_grids_number_times():
    index = pd.date_range("2020-01-31", periods=9, freq="ME")
    grid = Grid.of(index)
    assert grid.numbers(index[[0, 3, 8]]).tolist() == [0, 3, 8]
    with pytest.raises(ValueError, match="2020-02-05"):
        grid.numbers(pd.DatetimeIndex(["2020-02-05"]))
    periods = pd.period_range("2020-01", periods=5, freq="M")
    assert Grid.of(periods[2:]).numbers(periods).tolist() == [-2, -1, 0, 1, 2]
    assert Grid.of(pd.RangeIndex(5, 9)).numbers(pd.Index([5, 8])).tolist() == [0, 3]
