"""The Kalman filter against the conditional mean of the joint Gaussian, and as a floor."""

import numpy as np
import pytest
import torch

from torchstu import LDS, Rotations, Uniform, random_lds
from torchstu.systems.kalman import KalmanFilter

EXACT = 1e-9  # relative; measured 1e-14


def conditional_means(lds, u, y, q, r):
    """E[y_t | u_1..t, y_1..t-1] from the dense covariance of all outputs."""
    steps, d_out = y.shape
    powers = [torch.linalg.matrix_power(lds.A, i) for i in range(steps)]
    G = torch.zeros(steps * d_out, steps * lds.state_dim, dtype=torch.float64)
    for t in range(steps):
        for s in range(t + 1):
            G[t * d_out : (t + 1) * d_out, s * lds.state_dim : (s + 1) * lds.state_dim] = lds.C @ powers[t - s]
    covariance = q**2 * G @ G.T + r**2 * torch.eye(steps * d_out, dtype=torch.float64)
    mean, means = lds.simulate(u).reshape(-1), []
    for t in range(steps):
        past, now = slice(0, t * d_out), slice(t * d_out, (t + 1) * d_out)
        more = covariance[now, past] @ torch.linalg.solve(covariance[past, past], y.reshape(-1)[past] - mean[past]) if t else 0
        means.append(mean[now] + more)
    return torch.stack(means)


@pytest.mark.parametrize("spectrum", [Uniform(0.5, 0.99), Rotations((0.8, 0.99))], ids=["symmetric", "rotating"])
@pytest.mark.parametrize(("q", "r"), [(0.3, 0.2), (0.0, 0.2), (0.3, 1e-3)])
def test_predictions_are_conditional_means(spectrum, q, r, generator):
    lds = random_lds(4, 2, 2, spectrum, generator)
    u = torch.randn(3, 40, 2, generator=generator).double()
    y = lds.simulate(u, process_noise=q, observation_noise=r, generator=generator)
    predicted = KalmanFilter(lds, q, r).predict_next(u, y)
    expected = torch.stack([conditional_means(lds, *pair, q, r) for pair in zip(u, y, strict=True)])
    assert float((predicted - expected).abs().max() / expected.abs().max()) < EXACT
    torch.testing.assert_close(KalmanFilter(lds, q, r).predict_next(u[1], y[1]), predicted[1])


def test_without_noise_predictions_are_the_simulation_from_any_known_state(generator):
    lds = random_lds(5, 1, 2, Uniform(0.5, 0.9), generator)
    u, x0 = torch.randn(2, 30, 1, generator=generator).double(), torch.randn(2, 5, generator=generator).double()
    y = lds.simulate(u, x0)
    torch.testing.assert_close(KalmanFilter(lds, 0.0, 0.0).predict_next(u, y, x0), y)
    torch.testing.assert_close(KalmanFilter(lds, 0.0, 0.1).predict_next(u, y.flip(1), x0), y)  # a known state needs no outputs


def test_the_gain_converges_to_the_riccati_equation_and_errors_have_the_stated_covariance(generator):
    lds = random_lds(6, 2, 2, Rotations((0.5, 0.95)), generator)
    q, r = 0.2, 0.1
    gains, S = KalmanFilter(lds, q, r).gains(5000)
    assert len(gains) < 1000
    P = torch.zeros(6, 6, dtype=torch.float64)
    for _ in range(3000):  # the information form: another recursion to the same fixed point
        before = lds.A @ P @ lds.A.T + q**2 * torch.eye(6, dtype=torch.float64)
        P = torch.linalg.inv(torch.linalg.inv(before) + lds.C.T @ lds.C / r**2)
    torch.testing.assert_close(gains[-1], P @ lds.C.T / r**2, rtol=1e-9, atol=1e-12)
    u = torch.randn(20, 2000, 2, generator=generator).double()
    y = lds.simulate(u, process_noise=q, observation_noise=r, generator=generator)
    errors = (y - KalmanFilter(lds, q, r).predict_next(u, y))[:, 100:].reshape(-1, 2)
    torch.testing.assert_close(errors.T @ errors / len(errors), S, rtol=0.05, atol=0.05 * float(S.max()))
    before, after = errors[:-1], errors[1:]
    assert float((before.T @ after / len(after)).abs().max()) < 0.02 * float(S.max())  # innovations are white


def test_a_thousand_states(generator):
    lds = random_lds(1000, 1, 1, Uniform(0.0, 1 - 1e-7, dense=False), generator)
    u = torch.randn(40, 1, generator=generator).double()
    y = lds.simulate(u, process_noise=0.05, observation_noise=0.1, generator=generator)
    error = (KalmanFilter(lds, 0.05, 0.1).predict_next(u, y) - y).square().mean()
    assert float(error) < float((lds.simulate(u) - y).square().mean()) + 1e-3
    assert torch.isfinite(error)


ONE = LDS([[0.5]], [[1.0]], [[1.0]], [[0.0]])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: KalmanFilter("A", 0.1, 0.1), TypeError, "system: str"),
        (lambda: KalmanFilter(ONE, -0.1, 0.1), ValueError, "process_noise: -0.1"),
        (lambda: KalmanFilter(ONE, 0.1, True), TypeError, "observation_noise: bool"),
        (lambda: KalmanFilter(ONE, 0.1, 0.1).gains(0), ValueError, "steps: 0"),
        (
            lambda: KalmanFilter(ONE, 0.1, 0.1).predict_next(torch.zeros(4, 2), torch.zeros(4, 1)),
            ValueError,
            r"U: shape \(4, 2\)",
        ),
        (
            lambda: KalmanFilter(ONE, 0.1, 0.1).predict_next(torch.zeros(4, 1), torch.zeros(5, 1)),
            ValueError,
            r"Y: shape \(5, 1\)",
        ),
        (
            lambda: KalmanFilter(ONE, np.float32(0.1), 0).predict_next(torch.zeros(4, 1), torch.full((4, 1), torch.nan)),
            ValueError,
            "Y: 4 values are not finite",
        ),
        (
            lambda: KalmanFilter(ONE, 0.1, 0.1).predict_next(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(2)),
            ValueError,
            r"x0: shape \(2,\)",
        ),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
