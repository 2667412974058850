"""Residual tests: their size under the null hypothesis, their power against it, and chi-square against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from torchstu.learn.residuals import chi_square_tail, cross_correlation, fit_percent, whiteness

ROUNDING = 1e-12
RUNS = 400


def coloured(x, pole):
    """y_t = pole y_{t-1} + x_t along axis -2."""
    y = np.zeros_like(x)
    for t in range(x.shape[-2]):
        y[..., t, :] = x[..., t, :] + (pole * y[..., t - 1, :] if t else 0)
    return y


def test_fit_percent_by_hand():
    y = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, 40.0]])
    assert torch.equal(fit_percent(y, y), torch.full((2,), 100.0, dtype=torch.float64))
    assert torch.allclose(fit_percent(np.broadcast_to(y.mean(0), y.shape).copy(), y), torch.zeros(2, dtype=torch.float64))
    half = y.mean(0) + 0.5 * (y - y.mean(0))
    assert torch.allclose(fit_percent(half, y), torch.full((2,), 50.0, dtype=torch.float64))
    assert fit_percent(half[None], y[None]).shape == (2,)
    assert fit_percent(y[:, 0], y[:, 0]).shape == (1,)
    assert fit_percent(-10 * y, y).max() < 0


def test_fit_percent_of_what_diverged_and_of_what_was_not_measured():
    y = np.array([1.0, 2.0, np.nan, 4.0])
    assert float(fit_percent(np.array([1.0, 2.0, 99.0, 4.0]), y)) == 100.0
    assert float(fit_percent(np.array([1.0, np.inf, 0.0, 4.0]), y)) == -math.inf
    assert float(fit_percent(np.array([1.0, np.nan, 0.0, 4.0]), y)) == -math.inf
    with pytest.raises(ValueError, match="target: output 1 is constant"):
        fit_percent(np.zeros((3, 2)), np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]]))
    with pytest.raises(ValueError, match="target: output 0"):
        fit_percent(np.zeros(3), np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"prediction: shape \(3,\)"):
        fit_percent(np.zeros(3), y)


def test_chi_square_is_scipys():
    statistic, degrees = torch.tensor([0.1, 3.0, 25.0, 80.0, 5.0]).double(), torch.tensor([1.0, 2.0, 25.0, 30.0, 7.0]).double()
    assert np.allclose(chi_square_tail(statistic, degrees), stats.chi2.sf(statistic, degrees), rtol=1e-10)
    assert float(chi_square_tail(torch.tensor(0.0), torch.tensor(0.0))) == 1.0


def test_ljung_box_by_hand():
    e = np.array([1.0, -2.0, 3.0, 0.0, -1.0, 2.0, -3.0, 1.0, 0.5, -1.5, 1.0, -1.0])
    test, n, centred = whiteness(e, lags=2), len(e), e - e.mean()
    r = [float(centred[j:] @ centred[:-j] / (centred @ centred)) for j in (1, 2)]
    assert np.allclose(test.correlations[:, 0], r, rtol=ROUNDING)
    assert math.isclose(float(test.statistic), n * (n + 2) * (r[0] ** 2 / (n - 1) + r[1] ** 2 / (n - 2)), rel_tol=ROUNDING)
    assert math.isclose(test.band, stats.norm.ppf(0.995) / math.sqrt(n), rel_tol=1e-6)
    assert test.lags.tolist() == [1, 2]


def test_white_residuals_are_rejected_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    tests = [whiteness(rng.standard_normal((2, 250, 1)), lags=20, level=0.9) for _ in range(RUNS)]
    rejected = 1 - np.mean([bool(test.passed) for test in tests])
    assert 0.06 < rejected < 0.15  # measured 0.1025
    inside = np.mean([(test.correlations.abs() < test.band).double().mean() for test in tests])
    assert 0.89 < inside < 0.93


@pytest.mark.parametrize(("residual", "source"), [(0.0, 0.0), (0.9, 0.9), (0.95, -0.8)])
def test_cross_correlation_keeps_its_level_whatever_the_colour(residual, source):
    """Without the whitening six of ten correlations of the two slow series leave their band."""
    rng = np.random.default_rng(1)
    e, u = coloured(rng.standard_normal((RUNS, 500, 1)), residual), coloured(rng.standard_normal((RUNS, 500, 1)), source)
    tests = [cross_correlation(e[i], u[i], lags=20, level=0.9) for i in range(RUNS)]
    rejected = 1 - np.mean([bool(test.passed) for test in tests])
    assert 0.03 < rejected < 0.14  # measured 0.0675 three times: few lags of a short series
    inside = np.mean([(test.correlations.abs() < test.band).double().mean() for test in tests])
    assert 0.87 < inside < 0.93


def test_what_is_left_is_found():
    rng = np.random.default_rng(2)
    u, noise = rng.standard_normal((600, 2)), rng.standard_normal((600, 1))
    e = noise.copy()
    e[7:, 0] += 0.4 * u[:-7, 1]
    test = cross_correlation(e, u, lags=15)
    assert test.correlations.shape == (15, 1, 2)
    assert test.p_value.shape == (1, 2)
    assert test.passed.tolist() == [[True, False]]
    assert int(test.correlations[:, 0, 1].abs().argmax()) == 7
    assert float(test.correlations[7, 0, 1]) > 3 * test.band / 2.58
    assert whiteness(coloured(noise, 0.5)).passed.tolist() == [False]


def test_the_future_of_inputs_does_not_count():
    rng = np.random.default_rng(3)
    u = rng.standard_normal((600, 1))
    e = rng.standard_normal((600, 1))
    e[:-3] += 2 * u[3:]
    assert bool(cross_correlation(e, u).passed)


def test_collinear_lags_take_degrees_of_freedom_away():
    rng = np.random.default_rng(4)
    u = np.cos(0.3 * np.arange(500))[:, None]  # its lags span two directions
    test = cross_correlation(rng.standard_normal((500, 1)), u)
    assert float(test.degrees) <= 4
    assert 0 < float(test.p_value) <= 1


def test_channels_that_do_not_vary_say_nothing():
    rng = np.random.default_rng(5)
    e, u = rng.standard_normal((200, 2)), rng.standard_normal((200, 2))
    e[:, 1], u[:, 0] = 0.0, 5.0
    test = cross_correlation(e, u)
    assert test.p_value[1].tolist() == [1.0, 1.0]
    assert float(test.p_value[0, 0]) == 1.0
    assert torch.isfinite(test.correlations).all()
    assert float(whiteness(e).p_value[1]) == 1.0


def test_scale_and_level_do_not_matter():
    rng = np.random.default_rng(6)
    e, u = rng.standard_normal((300, 1)), rng.standard_normal((300, 1))
    one, other = cross_correlation(e, u), cross_correlation(7 + 1e-6 * e, 1e6 * u - 3e6)
    assert np.allclose(one.correlations, other.correlations, atol=1e-8)
    assert np.allclose(whiteness(e).statistic, whiteness(1e8 + e).statistic, rtol=1e-4)


@pytest.mark.parametrize(("options", "says"), [({"lags": 0}, "lags: 0"), ({"lags": 26}, "lags: 26 of sequences of 100 steps"),
                                               ({"level": 1.0}, "level: 1.0")])  # fmt: skip
def test_bad_options(options, says):
    e = np.random.default_rng(0).standard_normal((100, 1))
    for test in (lambda: whiteness(e, **options), lambda: cross_correlation(e, e, **options)):
        with pytest.raises(ValueError, match=says):
            test()


def test_bad_values():
    e = np.random.default_rng(0).standard_normal((200, 1))
    with pytest.raises(ValueError, match="inputs: shape"):
        cross_correlation(e, e[:100])
    with pytest.raises(ValueError, match="residuals: has a value that is not finite"):
        whiteness(np.where(np.arange(200)[:, None] == 3, np.nan, e))
    with pytest.raises(TypeError, match="residuals"):
        whiteness(np.array(["a"] * 200))
