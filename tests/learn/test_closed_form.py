"""The closed form, design (10), and the tail penalty of (8): what it promises, at the sizes of its promise."""

import time

import numpy as np
import pytest
import torch

from torchstu import STU, FilterBank, SpectralRegressor, Uniform, random_lds, relative_error

L = 1024


def sequences(lds, count, length, generator):
    u = torch.randn(count, length, lds.d_in, generator=generator, dtype=torch.float64)
    return u, lds.simulate(u)


@pytest.fixture(scope="module")
def marginal():
    generator = torch.Generator().manual_seed(7)
    lds = random_lds(256, 3, 3, Uniform(0.999, 1.0), generator)
    return sequences(lds, 16, L, generator), sequences(lds, 8, L, generator)


def test_marginally_stable_system_to_1e_10_with_the_defaults(marginal):
    (u, y), (fresh_u, fresh_y) = marginal
    start = time.perf_counter()
    model = SpectralRegressor(24).fit(u, y)
    assert time.perf_counter() - start < 60  # 0.3 s on an idle core; the figure is the benchmark's
    assert relative_error(model.predict(fresh_u), fresh_y) < 1e-10
    assert model.residual < 1e-10


def test_error_falls_a_hundredfold_every_four_filters(marginal):
    (u, y), (fresh_u, fresh_y) = marginal
    errors = [
        relative_error(SpectralRegressor(count, tail_penalty=0).fit(u, y).predict(fresh_u), fresh_y) for count in (16, 20, 24)
    ]
    assert errors[1] < errors[0] / 100
    assert errors[2] < errors[1] / 100


def test_rollout_objective_is_the_better_one(marginal):
    (u, y), (fresh_u, fresh_y) = marginal
    rollout, following = (
        relative_error(SpectralRegressor(16, objective=o, tail_penalty=0).fit(u, y).predict(fresh_u), fresh_y)
        for o in ("rollout", "next")
    )
    assert rollout < following


@pytest.mark.parametrize(("low", "high", "clean", "noisy"), [(0.9, 0.99, 1e-5, None), (0.99, 0.999, 1e-3, 2e-2)])
def test_rolled_out_to_sixteen_memories(low, high, clean, noisy):
    generator = torch.Generator().manual_seed(11)
    lds = random_lds(256, 3, 3, Uniform(low, high), generator)
    long_u, long_y = sequences(lds, 2, 16 * L, generator)
    u, y = sequences(lds, 16, L, generator)
    assert relative_error(SpectralRegressor(24).fit(u, y).predict(long_u), long_y) <= clean
    noise = 0.1 * y.std() * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    model = SpectralRegressor(24).fit(u, y + noise)
    error = relative_error(model.predict(long_u), long_y)
    if noisy is not None:
        assert error <= noisy
        return
    bank = model.layer.bank
    cut = STU(3, 3, length=L, prior=FilterBank(bank.eigenvalues, bank.filters), banks="both", dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.layer.named_parameters():
            getattr(cut, name).copy_(parameter)
        assert error <= 2 * relative_error(cut(long_u)[0], long_y)


def small(seed=0, count=3, length=60, d_in=2, d_out=2):
    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(8, d_in, d_out, Uniform(0.5, 0.95), generator)
    return sequences(lds, count, length, generator)


@pytest.mark.parametrize("objective", ["rollout", "next"])
@pytest.mark.parametrize("autoregression", ["fixed", None, "learned"])
def test_the_fit_is_the_minimum_of_its_objective(objective, autoregression):
    """The gradient of the layer's own loss is zero at the fitted weights."""
    if autoregression == "learned" and objective == "rollout":
        pytest.skip("not convex, and refused")
    u, y = small()
    y = y + 0.1 * torch.randn(y.shape, dtype=torch.float64)
    options = {"autoregression": autoregression, "objective": objective, "tail_penalty": 0, "ridge": 0.0}
    layer = SpectralRegressor(6, length=40, **options).fit(u, y).layer
    prediction = layer(u)[0] if objective == "rollout" else layer.next_step(u, y)
    loss = (prediction - y).square().mean()
    zero = STU.reset_parameters
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    zero(layer)
    start = (layer(u)[0] if objective == "rollout" else layer.next_step(u, y)) - y
    reference = torch.autograd.grad(start.square().mean(), list(layer.parameters()))
    scale = max(float(g.abs().max()) for g in reference)
    assert max(float(g.abs().max()) for g in gradients) <= 1e-9 * scale


def test_ridge_is_on_coordinates_of_unit_norm_filters():
    """Stationarity of ‖y - ŷ‖² + ridge·(‖σ^{1/4} M_φ‖² + ‖M_u‖²), whatever the data."""
    u, y = small(1)
    layer = SpectralRegressor(6, length=40, ridge=3.0, tail_penalty=0).fit(u, y).layer
    scale = layer.scale[:, None, None]
    penalty = (scale * layer.M_phi_plus).square().sum() + (scale * layer.M_phi_minus).square().sum() + layer.M_u.square().sum()
    loss = (layer(u)[0] - y).square().sum()
    for parameter in layer.parameters():
        fit, shrink = (torch.autograd.grad(x, parameter, retain_graph=True)[0] for x in (loss, 3.0 * penalty))
        torch.testing.assert_close(fit, -shrink, rtol=1e-6, atol=1e-8)


def test_tail_penalty_is_the_energy_beyond_the_memory():
    """Stationarity of mean squared error + μ·Σ‖response on L..16L‖²."""
    u, y = small(2)
    layer = SpectralRegressor(6, length=20, tail_penalty=0.3).fit(u, y).layer
    pulse = torch.zeros(2, 320, 2, dtype=torch.float64)
    pulse[:, 0] = torch.eye(2)
    penalty = layer(pulse)[0][:, 20:].square().sum()
    loss = (layer(u)[0] - y).square().mean()
    for parameter in layer.parameters():
        fit, shrink = (torch.autograd.grad(x, parameter, retain_graph=True)[0] for x in (loss, 0.3 * penalty))
        torch.testing.assert_close(fit, -shrink, rtol=1e-5, atol=1e-7)


def test_intercept_acts_on_the_output():
    u, y = small(3)
    offset = torch.tensor([5.0, -2.0], dtype=torch.float64)
    for objective, autoregression in (("rollout", "fixed"), ("next", "fixed"), ("rollout", None)):
        options = {"objective": objective, "autoregression": autoregression, "fit_intercept": True, "tail_penalty": 0}
        model = SpectralRegressor(12, length=60, **options).fit(u, y + offset)
        assert relative_error(model.predict(u) - offset, y) < 1e-3
        torch.testing.assert_close(model.intercept, offset, rtol=0, atol=0.2)


def test_intercept_passes_through_a_learned_y_term():
    rng = torch.Generator().manual_seed(0)
    y = torch.zeros(1, 300, 1, dtype=torch.float64)
    u = torch.randn(1, 300, 1, generator=rng, dtype=torch.float64)
    for t in range(2, 300):
        y[:, t] = 0.5 * y[:, t - 1] + 0.3 * y[:, t - 2] + u[:, t]
    y = y + 7.0
    options = {"autoregression": "learned", "objective": "next", "fit_intercept": True}
    model = SpectralRegressor(4, length=20, **options).fit(u, y, warmup=20)
    torch.testing.assert_close(model.intercept, torch.tensor([7.0], dtype=torch.float64), rtol=0, atol=1e-3)
    assert relative_error(model.predict_next(u, y)[:, 20:] - 7, y[:, 20:] - 7) < 1e-6
    assert relative_error(model.predict(u[:, 50:], past=(u[:, :50], y[:, :50])) - 7, y[:, 50:] - 7) < 1e-6


def test_predictions_after_a_known_past():
    u, y = small(4, length=80)
    model = SpectralRegressor(14, length=40).fit(u, y)
    whole = model.predict(u)
    after = model.predict(u[:, 50:], past=(u[:, :50], whole[:, :50]))
    torch.testing.assert_close(after, whole[:, 50:])
    corrected = model.predict(u[:, 50:], past=(u[:, :50], y[:, :50]))
    assert not torch.equal(corrected, after)
    torch.testing.assert_close(model.predict_next(u, whole), whole)


def test_warmup_is_a_known_past():
    """A recording that begins in the middle: the steps before are an unknown past; the fit starts after the warm-up."""
    u, y = small(5, count=1, length=400, d_in=1, d_out=1)
    u, y = u[:, 100:], y[:, 100:]
    y[:, :40] += 3.0  # nothing that the inputs explain
    for autoregression in ("fixed", None):
        plain = SpectralRegressor(10, length=60, autoregression=autoregression, tail_penalty=0).fit(u, y)
        warm = SpectralRegressor(10, length=60, autoregression=autoregression, tail_penalty=0).fit(u, y, warmup=60)
        assert warm.residual < 0.1 * plain.residual
        after = warm.predict(u[:, 60:], past=(u[:, :60], y[:, :60]))
        assert relative_error(after, y[:, 60:]) == pytest.approx(warm.residual, rel=1e-6)


def test_arrays_in_arrays_out_and_one_sequence():
    u, y = (x.numpy() for x in small(6))
    model = SpectralRegressor(8).fit(u, y)
    assert isinstance(model.predict(u), np.ndarray)
    assert model.predict(u).shape == y.shape
    assert model.predict(u[0]).shape == y[0].shape
    assert model.predict_next(torch.as_tensor(u[0]), y[0]).shape == y[0].shape
    single = SpectralRegressor(8, ridge=1e-3).fit(u[0].astype(np.float32), y[0])
    assert single.layer.length == 60
    assert model.score(u, y) > 0.99


def test_the_tail_starts_where_the_data_end():
    """A memory longer than the sequences: lags that no data have seen are penalized too, and the roll-out stays put."""
    generator = torch.Generator().manual_seed(0)
    lds = random_lds(16, 1, 1, Uniform(0.9, 0.95), generator)
    u, y = sequences(lds, 8, 200, generator)
    noisy = y + 0.1 * y.std() * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    long_u, long_y = sequences(lds, 4, 1600, generator)
    for length in (200, 400, 1000):
        assert relative_error(SpectralRegressor(20, length=length).fit(u, noisy).predict(long_u), long_y) < 5e-3


def test_scikit_learn_selects_and_clones():
    sklearn_base, selection = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.model_selection")
    u, y = (x.numpy() for x in small(8, count=9))
    search = selection.GridSearchCV(SpectralRegressor(8, length=40), {"ridge": [1e-6, 1e6]}, cv=3).fit(u, y)
    assert search.best_params_ == {"ridge": 1e-6}
    assert sklearn_base.clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()
    assert sklearn_base.is_regressor(search.best_estimator_)
    assert "ridge=1e-06" in repr(search.best_estimator_)


def test_parameters_as_scikit_learn_asks():
    model = SpectralRegressor(8, ridge=0.5)
    copy = SpectralRegressor(**model.get_params())
    assert copy.get_params() == model.get_params()
    assert copy.set_params(ridge=1.0, num_filters=3).get_params()["ridge"] == 1.0
    with pytest.raises(ValueError, match="alpha: no parameter"):
        model.set_params(alpha=1)


def bad_value(x, value):
    x = x.clone()
    x[1, 2, 0] = value
    return x


U, Y = small()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: SpectralRegressor(8).fit(bad_value(U, float("nan")), Y), ValueError, r"U: .* \(1, 2, 0\)"),
        (lambda: SpectralRegressor(8).fit(U, bad_value(Y, float("inf"))), ValueError, "Y: has a value that is not finite"),
        (lambda: SpectralRegressor(8).fit(U, Y[:, :5]), ValueError, "Y: shape"),
        (lambda: SpectralRegressor(8).fit(np.array([["a", "b"]]), Y), TypeError, "U: dtype <U1"),
        (lambda: SpectralRegressor(61).fit(U, Y), ValueError, "num_filters: 61"),
        (lambda: SpectralRegressor(8, length=0).fit(U, Y), ValueError, "length: 0"),
        (lambda: SpectralRegressor(8, objective="l1").fit(U, Y), ValueError, "objective: 'l1'"),
        (lambda: SpectralRegressor(8, autoregression="learned").fit(U, Y), ValueError, "objective: 'rollout' with"),
        (lambda: SpectralRegressor(8, ridge=-1).fit(U, Y), ValueError, "ridge: -1"),
        (lambda: SpectralRegressor(8, tail_penalty="big").fit(U, Y), ValueError, "tail_penalty: 'big'"),
        (lambda: SpectralRegressor(8).fit(U, Y, warmup=60), ValueError, "warmup: 60"),
        (lambda: SpectralRegressor(8).predict(U), ValueError, "not fitted"),
        (lambda: SpectralRegressor(8).fit(U, Y).predict(U[..., :1]), ValueError, "U: shape"),
        (lambda: SpectralRegressor(8).fit(U[:0], Y[:0]), ValueError, "U: shape"),
        (lambda: SpectralRegressor(8).fit(U, Y * 1e200), ValueError, "U, Y: values so large"),
        (lambda: SpectralRegressor(8, ridge=float("inf")).fit(U, Y), ValueError, "ridge: inf"),
        (lambda: SpectralRegressor(8, ridge=True).fit(U, Y), ValueError, "ridge: True"),
        (lambda: SpectralRegressor(8, fit_intercept=True).fit(U, Y, warmup=5), ValueError, "fit_intercept: True"),
        (lambda: SpectralRegressor(8).fit(U, Y).predict_next(U, Y[..., :1]), ValueError, r"Y: shape \(3, 60, 1\)"),
        (lambda: SpectralRegressor(8).fit(U, Y).predict_next(U, Y[:1]), ValueError, "y: shape"),
        (lambda: SpectralRegressor(8).fit(U, Y).predict(U, past=(U[:, :5], Y[:, :9])), ValueError, "y: shape"),
        (lambda: SpectralRegressor(8).fit(U, Y).predict(U, past=(U[:1], Y[:1])), ValueError, r"past\[0\]: 1 sequences"),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
