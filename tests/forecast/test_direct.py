"""Direct forecasts as mathematics: sums that are least squares, forecasts that read no future, laws of units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstu.forecast.direct import DirectForecast
from torchstu.forecast.equations import NormalEquations
from torchstu.forecast.features import FeatureMap, Series
from torchstu.forecast.intervals import error_quantiles
from torchstu.forecast.maps import forecast_maps
from torchstu.forecast.periods import find_periods
from torchstu.spectral.filters import filter_bank
from torchstu.testing import TOLERANCES

EXACT = TOLERANCES["direct forecasts float64"]


def ridge_twin(z, y, ridge):
    """Ridge regression on centred columns in units of their deviation, row by row as it is written."""
    mean, deviation = z.mean(axis=0), z.std(axis=0)
    unit = (z - mean) / deviation
    weights = np.linalg.solve(unit.T @ unit + ridge * len(z) * np.eye(z.shape[1]), unit.T @ (y - y.mean())) / deviation
    return np.concatenate([[y.mean() - mean @ weights], weights])


@pytest.mark.parametrize("own", [False, True])
def test_sums_are_ridge_regression_of_the_rows_that_were_seen(own):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 80, 6)) + 2.0, rng.normal(size=(80, 3))
    z = z if own else np.repeat(z[:1], 3, axis=0)
    y[rng.random(y.shape) < 0.2] = np.nan
    normal = NormalEquations.empty(6, 3, shared=not own)
    for rows in (slice(0, 30), slice(30, 31), slice(31, 80)):
        normal.add(z[:, rows] if own else z[0, rows], y[rows])
    columns = np.array([0, 2, 5])
    solved = normal.solve(columns, (0.1, 1e-3))
    for at, ridge in enumerate((0.1, 1e-3)):
        for h in range(3):
            seen = ~np.isnan(y[:, h])
            expected = ridge_twin(z[h][seen][:, columns], y[seen, h], ridge)
            np.testing.assert_allclose(solved[at, :, h], expected, rtol=EXACT, atol=EXACT)


def test_a_column_that_does_not_vary_has_no_weight():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(50, 1)), np.full((50, 1), 3.0)], axis=1)
    normal = NormalEquations.empty(2, 1, shared=True)
    normal.add(z, 5.0 + z[:, :1])
    weights = normal.solve(np.arange(2), (1e-12,))[0]
    np.testing.assert_allclose(weights[:, 0], [5.0, 1.0, 0.0], atol=EXACT)


@pytest.mark.parametrize("differenced", [False, True])
def test_features_are_their_definition(differenced):
    """Lags, Σ_i φ_k(i) w_{t+1-i} and seasons, written out; the same in pieces."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=90)
    own = FeatureMap(differenced, 3, 4, 20, "positive", (4.0, 7.0), 2)
    series = Series(y, start=5)
    units = series.units(differenced)
    whole = own.own(series, units, 0, 90)
    padded = np.concatenate([np.full(40, y[0]), y])
    w = (np.diff(padded, prepend=padded[0]) if differenced else padded - units[0]) / units[1]
    filters = np.asarray(filter_bank(20, 4).filters)
    for t in (0, 1, 30, 89):
        past = w[: 40 + t + 1][::-1]
        turns = 2 * np.pi * (t + 5) * np.array([1 / 7, 1 / 4, 2 / 7, 1 / 2])
        expected = np.concatenate([past[:3], filters.T @ past[:20], np.cos(turns), np.sin(turns[:3])])
        np.testing.assert_allclose(whole[t], expected, atol=EXACT)
    np.testing.assert_allclose(np.concatenate([own.own(series, units, a, a + 30) for a in (0, 30, 60)]), whole, atol=EXACT)


def fitted(y, horizons=(1, 2, 5), periods=(), inputs=None, **options):
    maps, lags = forecast_maps(len(y), periods, num_inputs=0 if inputs is None else inputs.shape[1], **options)
    return DirectForecast(horizons, maps, lags).fit([Series(y, inputs)])


def wave(steps, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    return (
        np.cumsum(rng.normal(size=steps)) * 0.3 + 3 * np.sin(2 * np.pi * np.arange(steps) / 12) + noise * rng.normal(size=steps)
    )


@given(st.integers(0, 5), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=10, deadline=None)
def test_units_do_not_matter(seed, scale, shift):
    y = wave(150, seed)
    one, other = fitted(y), fitted(scale * y + shift)
    at = np.array([100, 149])
    spread = np.abs(y).max() * scale + abs(shift)
    np.testing.assert_allclose(other.predict(0, at), scale * one.predict(0, at) + shift, atol=1e-6 * spread)


def test_forecasts_read_no_future():
    y = wave(300)
    model = fitted(y, periods=(12.0,))
    before = model.predict(0, np.arange(100, 200))
    changed = y.copy()
    changed[200:] += 100.0
    model.extend([Series(changed)], learn=False)
    np.testing.assert_allclose(model.predict(0, np.arange(100, 200)), before, atol=1e-9)
    assert np.abs(model.predict(0, np.array([200])) - before[-1]).max() > 1


@pytest.mark.parametrize("known", [False, True])
def test_extended_is_fitted_to_all(known):
    """Weights after rows were added, also rows with gaps, are those of one pass over all rows with the same choices."""
    y = wave(400)
    y[[90, 91, 260, 395]] = np.nan
    inputs = np.random.default_rng(3).normal(size=(400, 2)) if known else None
    part = [Series(y[:n], None if inputs is None else inputs[:n]) for n in (300, 301, 350, 400)]
    model = fitted(y[:300], periods=(12.0,), inputs=None if inputs is None else inputs[:300])
    for one in part[1:]:
        model.extend([one])
    for (member, _), (columns, weights) in zip(model.choice.members, model.weights, strict=True):
        own = model.maps[member.map]
        normal = model.panel.empty(own)
        model.panel.accumulate(own, normal, np.array([0]), np.array([400]))
        expected = normal.solve(columns, (member.ridge,))[0]
        np.testing.assert_allclose(weights, expected, atol=1e-8 * np.abs(expected).max())


def test_a_season_and_a_trend_go_on():
    """Without noise: a parabola of a slope, a season and a decay are continued to 1e-3 of what they span."""
    t = np.arange(460)
    y = 0.05 * t + 2 * np.sin(2 * np.pi * t / 12) + np.cos(2 * np.pi * t / 30) + 3 * 0.98**t
    model = fitted(y[:400], horizons=range(1, 61), periods=(12.0, 30.0))
    forecast = model.predict(0, np.array([399]))[0]
    assert np.abs(forecast - y[400:]).max() < 1e-2


def test_a_long_memory_is_read_by_filters():
    """y follows the mean of a slow response to its own past noise: 3 lags and filters do better than 3 lags."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=6000)
    h = np.arange(1, 801) ** -0.7
    y = np.convolve(noise, h)[:6000]
    horizons = np.array([1, 10, 40])
    errors = {}
    for filters in (0, 16):
        model = fitted(y[:4000], horizons=horizons, num_filters=filters, length=800, lags=3)
        model.extend([Series(y)], learn=False)
        origins = np.arange(4000, 5900)
        errors[filters] = np.square(model.predict(0, origins) - y[origins[:, None] + horizons]).mean(axis=0)
    assert (errors[16][1:] < 0.97 * errors[0][1:]).all()


def test_known_inputs_of_the_future_are_used():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1))
    y = 2 * x[:, 0] + np.concatenate([[0.0], x[:-1, 0]]) + 0.01 * rng.normal(size=500)
    model = fitted(y[:480], inputs=x, horizons=range(1, 11))
    np.testing.assert_allclose(model.predict(0, np.array([479]))[0], y[480:490], atol=0.1)


def test_series_of_a_panel_share_weights():
    """Forty series of 30 steps of one system, in units of their own: together they come nearer to what can be known of them."""
    rng = np.random.default_rng(0)
    every, known = [], []
    for i in range(40):
        y = np.zeros(30)
        for t in range(2, 30):
            y[t] = 1.6 * y[t - 1] - 0.8 * y[t - 2] + 0.1 * rng.normal()
        next_one = 1.6 * y[-1] - 0.8 * y[-2]
        known.append([next_one, 1.6 * next_one - 0.8 * y[-1]])
        every.append(10.0 ** (i % 3) * y + i)
    maps, lags = forecast_maps(30, ())
    together = DirectForecast((1, 2), maps, lags).fit([Series(y) for y in every])
    forecasts = {
        "together": [together.predict(i, np.array([29]))[0] for i in range(40)],
        "alone": [DirectForecast((1, 2), maps, lags).fit([Series(y)]).predict(0, np.array([29]))[0] for y in every],
    }
    errors = {
        name: np.mean([np.abs((f - i) / 10.0 ** (i % 3) - known[i]) for i, f in enumerate(found)])
        for name, found in forecasts.items()
    }
    assert errors["together"] < 0.7 * errors["alone"]


def test_intervals_hold_what_they_say():
    """80 % intervals of an autoregression hold 80 % within four standard deviations, at every horizon."""
    rng = np.random.default_rng(5)
    y = np.zeros(9000)
    for t in range(1, 9000):
        y[t] = 0.9 * y[t - 1] + rng.standard_t(4)
    model = fitted(y[:3000])
    model.extend([Series(y)], learn=False)
    origins = np.arange(3000, 8990)
    low, high = error_quantiles(model.choice.residuals, model.horizons, np.array([0.1, 0.9])).T * model.panel.scale(0)
    errors = y[origins[:, None] + model.horizons] - model.predict(0, origins)
    np.testing.assert_allclose(((errors > low) & (errors < high)).mean(axis=0), 0.8, atol=0.04)


@given(st.integers(0, 60), st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_quantiles_are_in_order(count, levels, seed):
    errors = np.random.default_rng(seed).normal(size=(count, 2))
    levels = np.sort(levels)
    found = error_quantiles(errors, np.array([1, 4]), levels)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= 0).all()


def test_periods_are_found():
    rng = np.random.default_rng(0)
    t = np.arange(2000)
    day = np.sin(2 * np.pi * t / 24) + 0.6 * np.sin(2 * np.pi * t / 8 + 1)
    assert find_periods(day + 0.3 * rng.normal(size=2000)) == (24.0,)
    week = day * (1 + 0.4 * np.sin(2 * np.pi * t / 168)) + np.sin(4 * np.pi * t / 168) + 0.1 * rng.normal(size=2000)
    assert find_periods(week, (24.0, 168.0, 8766.0)) == (24.0, 168.0)
    (found,) = find_periods(np.sin(2 * np.pi * t / 52.18) + 0.05 * rng.normal(size=2000))
    assert abs(found / 52.18 - 1) < 0.002
    for nothing in (rng.normal(size=2000), np.cumsum(rng.normal(size=2000)), np.full(50, 3.0), np.arange(9.0), t**1.5):
        assert find_periods(nothing, (24.0, 168.0)) == ()


def test_series_too_short_to_choose_on():
    """Four values: the last value, more or less; nothing breaks."""
    model = fitted(np.array([1.0, 2.0, 4.0, 4.0]), horizons=(1, 2))
    forecast = model.predict(0, np.array([3]))
    assert np.isfinite(forecast).all()
    assert np.abs(forecast - 4).max() < 4
    assert np.isfinite(error_quantiles(model.choice.residuals, model.horizons, np.array([0.05, 0.95]))).all()
