"""Weights written down from a system, design (7): error and its rate."""

import numpy as np
import pytest
import torch

from torchstu import LDS, Rotations, Uniform, random_lds, relative_error, system_to_stu, to_lds


@pytest.fixture(scope="module")
def marginal():
    generator = torch.Generator().manual_seed(2)
    lds = random_lds(256, 3, 3, Uniform(0.999, 1.0), generator)
    u = torch.randn(4, 1024, 3, generator=generator, dtype=torch.float64)
    return lds, u, lds.simulate(u)


def error(lds, u, y, count):
    with torch.no_grad():
        return relative_error(system_to_stu(lds, 1024, count)(u)[0], y)


def test_256_marginally_stable_states_to_1e_8(marginal):
    assert error(*marginal, 24) < 1e-8


def test_error_falls_exponentially_with_the_filters(marginal):
    errors = np.log([error(*marginal, count) for count in (8, 12, 16, 20)])
    slopes = np.diff(errors) / 4
    assert (slopes < -(np.pi**2) / (4 * np.log(1024))).all(), "slower than the theorem"


def test_the_response_is_the_systems(marginal):
    """A system with both signs, eigenvalue 0, and 1: the first responses exactly, design (7)."""
    values = np.array([1.0, 0.0, -1.0, 0.3, -0.5])
    rng = np.random.default_rng(0)
    lds = LDS(np.diag(values), rng.normal(size=(5, 2)), rng.normal(size=(3, 5)), rng.normal(size=(3, 2)))
    layer = system_to_stu(lds, 64, 16)
    pulse = torch.zeros(2, 40, 2, dtype=torch.float64)
    pulse[:, 0] = torch.eye(2)
    with torch.no_grad():
        response = layer(pulse)[0].permute(1, 2, 0)
    torch.testing.assert_close(response, lds.impulse_response(40), rtol=0, atol=2e-5)
    torch.testing.assert_close(response[:2], lds.impulse_response(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 5, 8])
def test_preconditioned_weights_give_the_same_system(degree):
    """M_u and M_phi for the response of p(A), both signs, and D: exact at the first lags, and the way back is a system."""
    values = np.array([0.999, 0.2, -0.98, 0.7, -0.5])
    rng = np.random.default_rng(0)
    lds = LDS(np.diag(values), rng.normal(size=(5, 2)), rng.normal(size=(3, 5)), rng.normal(size=(3, 2)))
    layer = system_to_stu(lds, 128, 20, preconditioning=degree)
    assert layer.delay == layer.output_lags == degree
    u = torch.randn(2, 128, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_error(layer(u)[0], lds.simulate(u)) < 1e-9  # measured 5e-12
        torch.testing.assert_close(layer(u)[0][:, :degree], lds.simulate(u)[:, :degree], rtol=1e-12, atol=1e-12)
        assert relative_error(to_lds(layer).simulate(u), layer(u)[0]) < 1e-12


def test_a_system_with_real_eigenvectors_need_not_be_symmetric():
    A = np.array([[0.9, 0.3], [0.0, -0.8]])
    lds = LDS(A, np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1)))
    u = torch.randn(1, 100, 1, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(system_to_stu(lds, 128, 20)(u)[0], lds.simulate(u)) < 1e-10


@pytest.mark.parametrize(
    ("lds", "text"),
    [
        (random_lds(4, 1, 1, Rotations(angle=(0.5, 1.0))), "lds: A has complex eigenvalues"),
        (LDS(np.eye(1) * 1.5, np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1))), "lds: A has an eigenvalue of magnitude 1.5"),
        (LDS(np.array([[0.5, 1.0], [0.0, 0.5]]), np.ones((2, 1)), np.ones((1, 2)), np.zeros((1, 1))), "no usable basis"),
    ],
)
def test_other_systems_are_refused(lds, text):
    with pytest.raises(ValueError, match=text):
        system_to_stu(lds, 64, 8)
