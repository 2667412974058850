"""Laws of the block form of a bank, design (8)."""

import numpy as np
import pytest

from torchstu import filter_bank
from torchstu.spectral.blocks import block_form
from torchstu.testing import TOLERANCES

CASES = [
    (64, 8, "positive", 4),
    (64, 8, "positive", 64),
    (64, 8, "signed", 20),
    (64, 16, "positive", 256),
    (1024, 24, "positive", 96),
]
EXACT = 1e-13


@pytest.fixture(params=CASES, ids=str, scope="module")
def case(request):
    length, count, prior, block = request.param
    bank = filter_bank(length, count, prior)
    return bank, block, block_form(bank, block, EXACT)


def fold(bank, block):
    """(I + A^C)^{-1}, from the factors and not from the form."""
    A = bank.state_space.A
    return np.linalg.inv(np.eye(len(A)) + np.linalg.matrix_power(A, block))


def taps_of(form):
    """The negacyclic kernel (C, K) from its transforms: even and odd taps at π(4m - 1)/C, m < C/4."""
    block = len(form.shapes)
    waves = np.exp(1j * np.pi / block * np.outer(np.arange(block), 4 * np.arange(block // 4) - 1))
    taps = np.empty((block, form.even.shape[1]))
    for offset, half in ((0, form.even), (1, form.odd)):
        taps[offset::2] = (waves[offset::2] @ half).real * 4 / block
    return taps


def test_shapes_times_response_is_the_free_response(case):
    """Σ_p shapes_p(s) response_p = σ^{1/4} A^{s+1} (I + A^C)^{-1}."""
    bank, block, form = case
    power, folded = bank.state_space.A, fold(bank, block)
    largest = np.abs(form.response).max()
    for s in range(block):
        expected = (power @ folded)[: bank.count] * bank.eigenvalues[:, None] ** 0.25
        np.testing.assert_allclose(np.tensordot(form.shapes[s], form.response, axes=1), expected, atol=10 * EXACT * largest)
        power = power @ bank.state_space.A


def test_shapes_are_orthonormal_and_few(case):
    bank, block, form = case
    np.testing.assert_allclose(form.shapes.T @ form.shapes, np.eye(form.shapes.shape[1]), atol=1e-13)
    coarse = block_form(bank, block, 3e-7)
    assert coarse.shapes.shape[1] <= form.shapes.shape[1] <= min(block, bank.state_space.order)
    assert coarse.shapes.shape[1] < form.shapes.shape[1] or block == 4


def test_negacyclic_plus_free_response_is_the_bank(case):
    """A unit input at step j, the state x before: U_s^neg + A^{s+1} (I + A^C)^{-1} (x + x') is A^{s-j} b + A^{s+1} x."""
    bank, block, form = case
    space, taps = bank.state_space, taps_of(form)
    scale, x = bank.eigenvalues**0.25, np.random.default_rng(0).normal(size=bank.state_space.order)
    decay = space.free_response(space.A @ x, block)[:, : bank.count] * scale
    driven = space.free_response(space.b, block)[:, : bank.count] * scale
    for j in {0, 1, block // 2, block - 1}:
        after = form.jump @ x + form.drive[:, j]
        free = form.shapes @ (form.response @ (x + after))  # (C, K)
        negacyclic = np.concatenate([-taps[block - j :], taps[: block - j]])
        expected = decay + np.concatenate([np.zeros((j, bank.count)), driven[: block - j]])
        np.testing.assert_allclose(negacyclic + free, expected, atol=TOLERANCES["realization"])


def test_the_fold_cannot_amplify(case):
    """A^C has its eigenvalues in [0, 1], so those of I + A^C lie in [1, 2]: for even C this holds for -A too."""
    _, _, form = case
    eigenvalues = np.linalg.eigvals(form.jump)
    assert np.abs(eigenvalues.imag).max() <= 1e-9
    assert eigenvalues.real.min() >= -1e-9
    assert eigenvalues.real.max() < 1
