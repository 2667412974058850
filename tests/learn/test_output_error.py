"""Refinement by output error: exact without noise, efficient with it, stable always."""

import numpy as np
import pytest
import torch

from torchstu import LDS, Rotations, SpectralRegressor, Uniform, random_lds, relative_error
from torchstu.learn.colored_noise import filtered, noise_lags
from torchstu.learn.output_error import refine
from torchstu.learn.separable import Recording, _linearized, _moved, read_out
from torchstu.systems.kalman import KalmanFilter
from torchstu.systems.modes import Modes, hankel_reduction, modes_of

ROUNDED = 1e-22  # relative squared error of a roll-out that is right to rounding; measured 1e-29


def make(lds, generator, steps=512, noise=0.0, sequences=1, x0=None):
    U = torch.randn(sequences, steps, lds.d_in, generator=generator).double()
    clean = lds.simulate(U, x0)
    return U, clean, clean + noise * clean.std() * torch.randn(clean.shape, generator=generator).double()


def fresh_error(system, lds, generator, steps=4096):
    U, Y, _ = make(lds, generator, steps)
    return relative_error(system.simulate(U), Y)


@pytest.mark.parametrize("delta", [1e-2, 1e-7])
@pytest.mark.parametrize("steps", [256, 1024])
def test_without_noise_a_small_symmetric_system_is_found_exactly(delta, steps, generator):
    lds = random_lds(4, 1, 1, Uniform(0.0, 1 - delta), generator)
    U, Y, _ = make(lds, generator, steps)
    result = refine(U, Y, SpectralRegressor(24, ridge=1e-12).fit(U, Y))
    assert result.order == 4
    assert not result.kept_start
    assert fresh_error(result.system, lds, generator, 16 * steps) < ROUNDED
    expected = lds.eigenvalues().real.sort().values
    torch.testing.assert_close(result.system.eigenvalues().real.sort().values, expected, rtol=0, atol=1e-6)


def test_without_noise_or_start_a_rotating_system_is_found_exactly(generator):
    lds = random_lds(6, 2, 3, Rotations((0.8, 0.99), (0.1, 2.0)), generator)
    U, Y, _ = make(lds, generator)
    result = refine(U[0].numpy(), Y[0].numpy())
    assert result.order == 6
    assert fresh_error(result.system, lds, generator) < ROUNDED


def test_with_noise_the_error_is_near_the_efficient_bound(generator):
    """Mean over systems of (error · data) / (parameters · σ²): 1 for an efficient estimate of known order."""
    ratios = []
    for seed in range(6):
        own = torch.Generator().manual_seed(seed)
        lds = random_lds(4, 2, 2, Uniform(0.3, 0.99), own)
        U, _, Y = make(lds, own, 1000, noise=0.1)
        result = refine(U, Y, order=4)
        assert result.order == len(result.system.A) == 4
        assert result.noise == pytest.approx(0.1 * float(lds.simulate(U).std()), rel=0.1)
        ratios.append(fresh_error(result.system, lds, own) / (0.01 * (4 * 4 + 4) / 2000))
    assert 0.4 < np.mean(ratios) < 1.6, ratios


def test_the_noise_of_a_long_recording_never_makes_a_system_unstable():
    for seed in range(4):
        own = torch.Generator().manual_seed(seed)
        lds = random_lds(32, 1, 1, Uniform(0.0, 1 - 1e-7), own)
        U, _, Y = make(lds, own, 256, noise=0.3)
        system = refine(U, Y).system
        assert not len(system.A) or system.eigenvalues().abs().max() < 1
        assert fresh_error(system, lds, own, 16 * 256) < 1


def test_many_modes_of_few_hankel_values_take_a_small_order_with_noise(generator):
    lds = random_lds(200, 1, 1, Uniform(0.0, 0.999, dense=False), generator)
    U, _, Y = make(lds, generator, 1024, noise=0.1)
    start = SpectralRegressor(24, ridge=1e-2).fit(U, Y)
    result = refine(U, Y, start)
    assert 1 <= result.order <= 10
    error = fresh_error(result.system, lds, generator, 1024)
    assert error < 1e-3
    assert result.criterion[result.order] == min(result.criterion.values())


def test_a_start_that_no_order_beats_is_kept(generator):
    lds = random_lds(60, 1, 1, Uniform(0.0, 0.9999, dense=False), generator)
    U, Y, _ = make(lds, generator)
    result = refine(U, Y, lds, max_order=3)
    assert result.kept_start
    assert result.system is lds
    model = SpectralRegressor(24, ridge=1e-12).fit(U, Y)
    result = refine(U, Y, model, max_order=2)
    assert result.kept_start
    assert relative_error(result.system.simulate(U), Y) < 10 * relative_error(model.predict(U), Y) + 1e-20


def test_a_given_order_is_what_comes_back(generator):
    lds = random_lds(8, 2, 1, Uniform(0.5, 0.99), generator)
    U, Y, _ = make(lds, generator)
    for order in (1, 3):
        result = refine(U, Y, lds, order=order)
        assert result.system.state_dim == result.order == order
        assert not result.kept_start
    assert refine(U, Y, order=3).residual < refine(U, Y, order=1).residual


def test_unknown_initial_states_are_estimated(generator):
    lds = random_lds(3, 1, 2, Uniform(0.9, 0.99), generator)
    x0 = 5 * torch.randn(2, 3, generator=generator).double()
    U, Y, _ = make(lds, generator, 300, sequences=2, x0=x0)
    result = refine(U, Y, initial_state="unknown")
    assert result.order == 3
    assert relative_error(result.system.simulate(U, result.initial_state), Y) < ROUNDED
    assert fresh_error(result.system, lds, generator) < ROUNDED
    assert refine(U, Y, order=3).residual > 1e-4


def test_unobserved_outputs_and_a_warm_up_are_left_out(generator):
    lds = random_lds(4, 1, 2, Uniform(0.5, 0.99), generator)
    U, Y, _ = make(lds, generator)
    Y[torch.rand(Y.shape, generator=generator) < 0.3] = torch.nan
    Y[:, :20] += 100
    result = refine(U, Y, warmup=20)
    assert result.order == 4
    assert fresh_error(result.system, lds, generator) < ROUNDED


def test_a_level_is_fitted_where_the_start_has_one(generator):
    lds = random_lds(2, 1, 1, Uniform(0.5, 0.9), generator)
    U, Y, _ = make(lds, generator)
    start = SpectralRegressor(12, fit_intercept=True).fit(U, Y + 3)
    result = refine(U, Y + 3, start, order=2)
    torch.testing.assert_close(result.intercept, torch.tensor([3.0], dtype=torch.float64))
    assert fresh_error(result.system, lds, generator) < ROUNDED


def test_the_gradient_is_that_of_the_error(generator):
    lds = random_lds(4, 2, 2, Rotations((0.8, 0.95), (0.3, 1.0)), generator)
    U, _, Y = make(lds, generator, 200, noise=0.1)
    Y[0, 5, 1] = torch.nan
    beta = torch.randn(3, 2, generator=generator).numpy() + 1j * torch.tensor([[0.0, 0], [0, 0], [1, 2]]).numpy()
    modes = Modes(np.array([0.1, 0.3, 0.2]), np.array([0.0, np.pi, 0.7]), beta).normalized()
    data = Recording(U.numpy(), Y.numpy(), 3, True, True)
    modes = Modes(modes.gap, modes.angle, np.pad(modes.inputs, ((0, 0), (0, 1)), constant_values=0.3)).normalized()
    J, r = _linearized(data, read_out(data, modes))
    gradient = -2 * J.T @ r
    for k in range(len(gradient)):
        step = np.zeros(len(gradient))
        step[k] = 1e-5
        errors = [read_out(data, _moved(modes, sign * step)).error for sign in (1, -1)]
        assert (errors[0] - errors[1]) / 2e-5 == pytest.approx(gradient[k], rel=1e-5, abs=1e-6 * np.abs(gradient).max())


def test_hankel_reduction_recovers_the_poles_of_a_response(generator):
    lds = random_lds(6, 2, 3, Uniform(0.3, 0.99), generator)
    A, B, sigma = hankel_reduction(lds.impulse_response(2048), 6)
    torch.testing.assert_close(torch.as_tensor(np.sort(modes_of(A, B).poles.real)), lds.eigenvalues().real.sort().values)
    assert sigma[6] < 1e-13 * sigma[0]


def test_noise_with_a_memory_is_whitened(generator):
    """Process noise: closer to the clean output than the white fit, and one step as good as the filter that knows the truth."""
    better = []
    for seed in (1, 2):
        own = torch.Generator().manual_seed(seed)
        lds = random_lds(4, 2, 1, Uniform(0.7, 0.97), own)
        U = torch.randn(9, 600, 2, generator=own).double()
        clean = lds.simulate(U)
        q = 0.5 * float(clean.std() / lds.simulate(torch.zeros_like(U), process_noise=1.0, generator=own).std())
        Y = lds.simulate(U, process_noise=q, observation_noise=0.02, generator=own)
        white, colored = (refine(U[:1], Y[:1], max_order=5, noise=noise) for noise in ("white", "colored"))
        assert len(white.noise_lags) == 0
        assert len(colored.noise_lags) >= 1
        assert colored.system.eigenvalues().abs().max() < 1
        error = [relative_error(result.system.simulate(U[1:]), clean[1:]) for result in (white, colored)]
        better.append(error[0] / error[1])
        floor = (KalmanFilter(lds, q, 0.02).predict_next(U[1:], Y[1:]) - Y[1:]).square().mean()
        step = (colored.predict_next(U[1:], Y[1:]) - Y[1:]).square().mean()
        assert 1.0 <= step / floor < 1.08  # measured 1.01 to 1.03
        torch.testing.assert_close(white.predict_next(U[1:], Y[1:]), white.system.simulate(U[1:]))
    assert np.exp(np.mean(np.log(better))) > 1.5, better


def test_the_autoregression_of_a_residual_is_found():
    rng = np.random.default_rng(0)
    e = rng.standard_normal((3, 4000, 2)) * [1.0, 20.0]
    assert len(noise_lags(e)) == 0
    for t in range(2, 4000):
        e[:, t] += 1.2 * e[:, t - 1] - 0.5 * e[:, t - 2]
    lags = noise_lags(e)
    assert len(lags) == 2
    np.testing.assert_allclose(lags, [1.2, -0.5], atol=0.03)
    assert len(noise_lags(filtered(e, lags)[:, 2:])) == 0
    assert np.abs(np.roots([1, *-lags])).max() < 1


U, Y = np.random.default_rng(0).standard_normal((2, 50, 1))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: refine(U, Y[:40]), ValueError, r"Y: shape \(1, 40, 1\)"),
        (lambda: refine(U * np.nan, Y), ValueError, "U: has values that are not finite"),
        (lambda: refine(U, Y * np.nan), ValueError, "Y: no output is observed"),
        (lambda: refine(U, Y * np.inf), ValueError, "Y: has values that are not finite"),
        (lambda: refine(U, Y + 1j), TypeError, "Y: dtype complex128"),
        (lambda: refine(U[:, 0], Y), ValueError, r"U: shape \(50,\)"),
        (lambda: refine(U, Y, order=0), ValueError, "order: 0"),
        (lambda: refine(U, Y, order="all"), ValueError, "order: 'all'"),
        (lambda: refine(U, Y, order=25), ValueError, "order: 25 has 51 unknowns"),
        (lambda: refine(U, Y, warmup=50), ValueError, "warmup: 50"),
        (lambda: refine(U, Y, initial_state="rest"), ValueError, "initial_state: 'rest'"),
        (lambda: refine(U, Y, noise="pink"), ValueError, "noise: 'pink'"),
        (lambda: refine(U, Y, noise="colored", initial_state="unknown"), ValueError, "noise: 'colored'"),
        (lambda: refine(U, Y, "start"), TypeError, "start: str"),
        (lambda: refine(U, Y, SpectralRegressor()), ValueError, "not fitted"),
        (
            lambda: refine(U, Y, LDS(np.eye(1), np.ones((1, 2)), np.ones((1, 1)), np.ones((1, 2)))),
            ValueError,
            "start: 2 inputs",
        ),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_degenerate_data_gives_a_finite_system():
    silent = refine(np.zeros((50, 1)), np.zeros((50, 1)))
    assert silent.order == 0
    constant = refine(np.ones((60, 2)), np.ones((60, 1)))  # collinear inputs
    assert torch.isfinite(constant.system.simulate(torch.ones(200, 2))).all()
    assert refine(U[:1], Y[:1]).order == 0


def test_a_start_of_the_order_asked_for_is_refined_at_once():
    generator = torch.Generator().manual_seed(5)
    lds = random_lds(3, 1, 1, Uniform(0.5, 0.95), generator)
    u = torch.randn(2, 300, 1, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    near = type(lds)(0.98 * lds.A, lds.B, lds.C, lds.D)
    found = refine(u, y, near, order=3)
    assert list(found.criterion) == [3]
    assert found.residual < 1e-22


@pytest.mark.parametrize("A", [[[0.9, 1.0], [0.0, 0.9]], [[0.9, 0.0], [0.0, 0.9]], [[1.01, 0.0], [0.0, 0.5]]])
def test_a_start_whose_modes_do_not_describe_it_does_no_harm(A):
    """Defective, repeated and unstable starts of the right order: no worse than no start."""
    truth = LDS([[0.9, 1.0], [0.0, 0.9]], [[0.3], [1.0]], [[1.0, 0.5]], [[0.0]])
    u = torch.randn(2, 300, 1, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    y = truth.simulate(u)
    alone = refine(u, y, order=2).residual
    assert refine(u, y, LDS(A, truth.B, truth.C, truth.D), order=2).residual <= 10 * alone
