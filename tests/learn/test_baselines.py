import numpy as np
import pytest
import torch

from torchstu.learn.baselines import LaggedRegression, Persistence, PlainAutoregression

LINE = np.arange(12.0)[:, None]


def make_autoregression(rng, steps=200):
    y = np.zeros((steps, 2))
    M = np.array([[[0.5, 0.2], [0.0, 0.4]], [[0.1, 0.0], [-0.3, 0.2]]])
    y[:2] = rng.standard_normal((2, 2))
    for t in range(2, steps):
        y[t] = [1.0, -2.0] + y[t - 1] @ M[0] + y[t - 2] @ M[1] + 0.1 * rng.standard_normal(2)
    return y, M


def test_persistence_holds_the_last_output():
    model = Persistence().fit(LINE, LINE)
    np.testing.assert_array_equal(model.predict(LINE[:3], past=(LINE, LINE))[:, 0], [11, 11, 11])
    np.testing.assert_array_equal(model.predict(LINE[:3])[:, 0], [0, 0, 0])
    np.testing.assert_array_equal(model.predict_next(LINE, LINE)[:, 0], [0, *range(11)])


def test_autoregression_finds_its_own_weights():
    y, M = make_autoregression(np.random.default_rng(0), 20_000)
    model = PlainAutoregression(2).fit(y, y)
    np.testing.assert_allclose(model.weights, M, atol=0.03)


def test_autoregression_rolls_out_as_the_loop_does():
    y, _ = make_autoregression(np.random.default_rng(0))
    model = PlainAutoregression(3, ridge=1e-3).fit(y, y)
    W, c = model.weights.numpy(), model.intercept.numpy()
    known = list(y)
    for _ in range(10):
        known.append(c + sum(known[-i] @ W[i - 1] for i in range(1, 4)))
    np.testing.assert_allclose(model.predict(np.zeros((10, 2)), past=(y, y)), known[-10:])
    following = np.array([c + sum(y[t - i] @ W[i - 1] for i in range(1, 4)) for t in range(3, 20)])
    np.testing.assert_allclose(model.predict_next(y, y)[3:20], following)
    np.testing.assert_allclose(model.predict(np.zeros((4, 2)))[0], c)
    short = model.predict(np.zeros((4, 2)), past=(y[:1], y[:1]))
    np.testing.assert_allclose(short[0], c + y[0] @ W[0])


def test_lagged_regression_is_exact_on_a_window_of_inputs():
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2, 60, 2))
    taps = rng.standard_normal((3, 2, 1))
    y = 5 + sum(np.pad(u, ((0, 0), (i, 0), (0, 0)))[:, :60] @ taps[i] for i in range(3))
    model = LaggedRegression(3).fit(u, y)
    np.testing.assert_allclose(model.weights, taps)
    np.testing.assert_allclose(model.intercept, [5])
    np.testing.assert_allclose(model.predict(u), y)
    np.testing.assert_allclose(model.predict(u[:, 40:], past=(u[:, :40], y[:, :40])), y[:, 40:])
    np.testing.assert_allclose(model.predict_next(u, y), model.predict(u))


@pytest.mark.parametrize("make", [Persistence, lambda: PlainAutoregression(2), lambda: LaggedRegression(2)])
def test_arrays_and_tensors_in_and_out(make):
    u, y = torch.randn(3, 30, 2), torch.randn(3, 30, 1)
    model = make().fit(u, y)
    past = (u, y)
    assert isinstance(model.predict(u, past), torch.Tensor)
    assert model.predict(u, past).shape == model.predict_next(u, y).shape == (3, 30, 1)
    single = model.predict(u[0].numpy(), (u[0].numpy(), y[0].numpy()))
    assert isinstance(single, np.ndarray)
    np.testing.assert_allclose(single, model.predict(u, past)[0], atol=1e-12)


def test_ridge_shrinks_the_weights_and_not_the_constant():
    rng = np.random.default_rng(0)
    u = rng.standard_normal((400, 1))
    y = 7 + u
    strong = LaggedRegression(1, ridge=1e9).fit(u, y)
    assert abs(float(strong.weights)) < 1e-5
    np.testing.assert_allclose(strong.intercept, y.mean(), rtol=1e-6)


def test_rows_are_reduced_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    u, y = rng.standard_normal((500, 2)), rng.standard_normal((500, 1))
    whole = LaggedRegression(4, 0.5).fit(u, y).weights
    monkeypatch.setattr("torchstu.learn.baselines._NUMBERS_AT_ONCE", 200)
    np.testing.assert_allclose(LaggedRegression(4, 0.5).fit(u, y).weights, whole)


def test_bad_options_and_shapes():
    with pytest.raises(ValueError, match="lags: 0"):
        PlainAutoregression(0)
    with pytest.raises(ValueError, match="ridge: -1"):
        LaggedRegression(1, -1)
    with pytest.raises(ValueError, match="lags: 12 for sequences of 11"):
        PlainAutoregression(12).fit(LINE, LINE)
    with pytest.raises(ValueError, match="Y: shape"):
        Persistence().fit(LINE, LINE[:5])


@pytest.mark.parametrize("make", [Persistence, lambda: PlainAutoregression(2), lambda: LaggedRegression(2)])
def test_shapes_are_checked_by_name(make):
    u, y = np.ones((9, 2)), np.arange(9.0)[:, None]
    with pytest.raises(ValueError, match="not fitted"):
        make().predict(u)
    model = make().fit(u, y)
    for says, call in {
        r"^U: .* 2 channels": lambda: model.predict(y),
        r"^Y: .* 1 channels": lambda: model.predict_next(u, u),
        r"^Y: .* steps": lambda: model.predict_next(u, y[:4]),
        r"^past\[0\]: .* 2 channels": lambda: model.predict(u, past=(y, y)),
        r"^past\[1\]: .* 1 channels": lambda: model.predict(u, past=(u, u)),
        r"^past\[1\]: .* steps": lambda: model.predict(u, past=(u, y[:4])),
        r"^past\[0\]: 3 sequences": lambda: model.predict(u, past=(np.stack([u] * 3), np.stack([y] * 3))),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()
