"""Feedback of past outputs against its twin, design (5) and (6)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from twin import LENGTHS, against_twin, normal

from torchstu.ops import autoregression, reference
from torchstu.testing import close


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("lags", [1, 2, 3, 20])
def test_feedback(length, lags):
    against_twin(
        autoregression.feedback,
        reference.feedback,
        normal(2, length, 3),
        0.3 * normal(lags, 3, 3) / lags,
        normal(2, lags, 3),
    )


@pytest.mark.parametrize("block", [1, 4, 5, 16, 64])
@pytest.mark.parametrize(("steps", "lags"), [(1, 1), (1, 4), (2, 4), (3, 4), (4, 4), (33, 1), (50, 3), (100, 4)])
def test_feedback_at_every_block_size(steps, lags, block, monkeypatch):
    """Shorter than its lags, one block, broken blocks and many; the rule keeps a block no shorter than the lags."""
    monkeypatch.setattr(autoregression, "_block_size", lambda *_: max(block, lags))
    against_twin(
        autoregression.feedback,
        reference.feedback,
        normal(2, steps, 2),
        0.3 * normal(lags, 2, 2) / lags,
        normal(2, lags, 2),
    )


@given(batch=st.integers(1, 10**4), steps=st.integers(1, 10**6), lags=st.integers(1, 100), channels=st.integers(1, 10**4))
def test_a_feedback_block_holds_the_lags_and_little_more_than_the_sequence(batch, steps, lags, channels):
    size = autoregression._block_size(batch, steps, lags, channels)
    assert lags <= size <= max(lags, min(steps, 64))


def test_feedback_from_rest_needs_no_past():
    x, M = normal(2, 40, 3), 0.2 * normal(2, 3, 3)
    close(autoregression.feedback(x, M), reference.feedback(x, M), "twin float64", "without a past")


def test_feedback_gives_the_gradients_asked_for():
    x, M, past = normal(2, 9, 3), 0.2 * normal(2, 3, 3).requires_grad_(), normal(2, 2, 3)
    (only,) = torch.autograd.grad(autoregression.feedback(x, M, past).sum(), M)
    close(only, torch.autograd.grad(reference.feedback(x, M, past).sum(), M)[0], "twin float64", "gradient of M alone")
    assert torch.autograd.gradcheck(autoregression.feedback, (x.requires_grad_(), M, past.requires_grad_()))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("lags", [1, 4])
def test_lag_windows_put_the_newest_row_first(length, lags):
    known = normal(2, length + lags - 1, 3)
    windows = autoregression.lag_windows(known, lags, length)
    assert windows.shape == (2, length, 3 * lags)
    for t in range(length):
        assert torch.equal(windows[:, t], known[:, t : t + lags].flip(1).flatten(1))


@pytest.mark.parametrize("length", LENGTHS)
def test_lag2_cumsum_is_feedback_with_the_identity(length):
    identity = torch.stack([torch.zeros(3, 3), torch.eye(3)]).double()
    against_twin(
        autoregression.lag2_cumsum,
        lambda x, past: reference.feedback(x, identity, past),
        normal(2, length, 3),
        normal(2, 2, 3),
    )
    x = normal(2, length, 3)
    close(autoregression.lag2_difference(autoregression.lag2_cumsum(x)), x, "twin float64", "difference of sums")


@pytest.mark.parametrize("length", LENGTHS)
def test_lagged_sum_is_feedback_with_true_outputs(length):
    M, past, x = 0.3 * normal(3, 2, 2), normal(2, 3, 2), normal(2, length, 2)
    y = reference.feedback(x, M, past)
    close(x + autoregression.lagged_sum(y, M, past), y, "twin float64", "lagged sum")


@pytest.mark.parametrize("length", [*LENGTHS, 64, 65, 150])
@pytest.mark.parametrize("coefficients", [(0.0, 1.0), (0.0, 1.25, 0.0, -0.3125, 0.0), (0.5,), (0.0,), (0.3, -0.2, 0.1)])
def test_fixed_feedback_is_feedback_with_multiples_of_the_identity(length, coefficients):
    M = torch.stack([a * torch.eye(3, dtype=torch.float64) for a in coefficients])
    x, past = normal(2, length, 3), normal(2, len(coefficients), 3)
    if any(coefficients):
        against_twin(
            lambda x, past: autoregression.fixed_feedback(x, coefficients, past),
            lambda x, past: reference.feedback(x, M, past),
            x,
            past,
        )
    y = autoregression.fixed_feedback(x, coefficients)
    close(y, reference.feedback(x, M), "twin float64", "from rest")
    close(autoregression.fixed_innovation(y, coefficients), x, "twin float64", "innovation")
    y = autoregression.fixed_feedback(x, coefficients, past)
    close(autoregression.fixed_innovation(y, coefficients, past), x, "twin float64", "innovation after a past")
    close(autoregression.fixed_sum(past, coefficients) + x[:, 0], y[:, 0], "twin float64", "one step")


def test_fixed_feedback_has_more_lags_than_a_block_has_steps():
    coefficients = tuple(0.5 / (j + 1) ** 2 for j in range(80))
    M = torch.stack([a * torch.eye(1, dtype=torch.float64) for a in coefficients])
    for length in (3, 64, 200):
        x, past = normal(1, length, 1), normal(1, 80, 1)
        expected = reference.feedback(x, M, past)
        close(autoregression.fixed_feedback(x, coefficients, past), expected, "twin float64", "80 lags")
