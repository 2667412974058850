"""Feedback of past outputs against its twin, design (5) and (6)."""

import pytest
import torch
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
