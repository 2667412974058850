"""Systems: what they compute, their random families, and refusal of bad input."""

import math

import numpy as np
import pytest
import torch

from torchstu import LDS, Rotations, Signs, Uniform, random_lds


def test_simulation_is_the_recursion():
    lds = random_lds(5, 2, 3, "symmetric", torch.Generator().manual_seed(0))
    u, x0 = torch.randn(4, 12, 2), torch.randn(4, 5).double()
    y, x = lds.simulate(u, x0), x0
    for t in range(12):
        x = x @ lds.A.T + u[:, t].double() @ lds.B.T
        torch.testing.assert_close(y[:, t], x @ lds.C.T + u[:, t].double() @ lds.D.T)
    torch.testing.assert_close(lds.simulate(u[0], x0[0]), y[0])


def test_outputs_are_the_convolution_with_the_impulse_response():
    lds = random_lds(6, 2, 3, "asymmetric", torch.Generator().manual_seed(1))
    h, u = lds.impulse_response(20), torch.randn(20, 2).double()
    assert h.shape == (20, 3, 2)
    torch.testing.assert_close(h[0], lds.C @ lds.B + lds.D)
    torch.testing.assert_close(h[2], lds.C @ lds.A @ lds.A @ lds.B)
    expected = torch.stack([sum(h[i] @ u[t - i] for i in range(t + 1)) for t in range(20)])
    torch.testing.assert_close(lds.simulate(u), expected)


def test_noise_is_reproducible_and_has_the_stated_size():
    lds, u = LDS(np.eye(1) * 0.5, np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1))), torch.zeros(20_000, 1)
    once, again = (lds.simulate(u, observation_noise=0.3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again)
    assert float(once.std()) == pytest.approx(0.3, rel=0.03)
    process = lds.simulate(u, process_noise=0.3, generator=torch.Generator().manual_seed(5))
    assert float(process.std()) == pytest.approx(0.3 / math.sqrt(1 - 0.25), rel=0.05)


def test_paper_system():
    lds = random_lds(4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lds.A, torch.diag(torch.diag(lds.A)))
    assert torch.equal(lds.A.abs().diag(), torch.full((4,), 0.9999, dtype=torch.float64))
    assert (lds.state_dim, lds.d_in, lds.d_out) == (4, 3, 3)


def test_symmetric_system_has_the_stated_spectrum():
    lds = random_lds(200, 3, 3, Uniform(0.99, 0.999), torch.Generator().manual_seed(0))
    assert torch.equal(lds.A, lds.A.T)
    values = lds.eigenvalues()
    assert values.imag.abs().max() == 0
    assert values.abs().min() >= 0.99 - 1e-9
    assert values.abs().max() <= 0.999 + 1e-9
    assert 50 < int((values.real > 0).sum()) < 150
    assert random_lds(8, 1, 1, Uniform(0.5, 0.6, dense=False)).A.triu(1).count_nonzero() == 0


def test_rotating_system_has_the_stated_spectrum():
    lds = random_lds(40, 1, 1, Rotations((0.9, 0.95), (0.2, 0.3)), torch.Generator().manual_seed(0))
    values = lds.eigenvalues()
    assert values.abs().min() >= 0.9 - 1e-9
    assert values.abs().max() <= 0.95 + 1e-9
    assert values.angle().abs().min() >= 0.2 - 1e-9
    assert values.angle().abs().max() <= 0.3 + 1e-9
    assert (lds.A - lds.A.T).abs().max() > 0.1
    commutator = lds.A @ lds.A.T - lds.A.T @ lds.A
    assert commutator.abs().max() > 1e-3
    normal = random_lds(40, 1, 1, Rotations(skew=1.0), torch.Generator().manual_seed(0)).A
    assert (normal @ normal.T - normal.T @ normal).abs().max() < 1e-12


GOOD = (np.eye(2), np.ones((2, 1)), np.ones((3, 2)), np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: LDS(np.ones((2, 3)), *GOOD[1:]), ValueError, r"A: shape \(2, 3\)"),
        (lambda: LDS(GOOD[0], np.ones((3, 1)), *GOOD[2:]), ValueError, r"B: shape \(3, 1\)"),
        (lambda: LDS(*GOOD[:3], np.zeros((2, 2))), ValueError, r"D: shape \(2, 2\)"),
        (lambda: LDS(np.eye(2) * 1j, *GOOD[1:]), TypeError, "A: dtype"),
        (lambda: LDS(np.full((2, 2), np.nan), *GOOD[1:]), ValueError, "A: has values"),
        (lambda: LDS(*GOOD).simulate(torch.zeros(4, 5, 2)), ValueError, r"u: shape \(4, 5, 2\)"),
        (lambda: LDS(*GOOD).simulate(torch.zeros(5, 1), torch.zeros(3)), ValueError, r"x0: shape \(3,\)"),
        (lambda: LDS(*GOOD).simulate(torch.zeros(5, 1), process_noise=-1), ValueError, "process_noise: -1"),
        (lambda: LDS(*GOOD).impulse_response(0), ValueError, "length: 0"),
        (lambda: random_lds(3, 1, 1, "asymmetric"), ValueError, "state_dim: 3"),
        (lambda: random_lds(4, 1, 1, "white"), ValueError, "spectrum: 'white'"),
        (lambda: random_lds(4, 1, 1, Signs(1.5)), ValueError, "spectrum: radii 1.5"),
        (lambda: random_lds(4, 1, 1, Rotations(skew=0.5)), ValueError, "spectrum: skew 0.5"),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
