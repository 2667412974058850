"""Relative error, impulse responses and tail energy."""

import pytest
import torch

from torchstu import ARSTU, STU, FilterBank, filter_bank, random_lds, relative_error, system_to_stu
from torchstu.learn.diagnostics import feedback_radius, impulse_response, tail_energy


def test_relative_error():
    y = torch.tensor([[3.0, 4.0]])
    assert relative_error(y, y) == 0
    assert relative_error(0 * y, y) == 1
    assert relative_error(y + 0.5, y) == pytest.approx(0.25 / 12.5)
    with pytest.raises(ValueError, match="prediction: shape"):
        relative_error(y[0], y)
    with pytest.raises(ValueError, match="target: is zero"):
        relative_error(y, 0 * y)


def test_impulse_response_of_a_written_down_system():
    lds = random_lds(4, 2, 3, "symmetric", torch.Generator().manual_seed(0))
    torch.testing.assert_close(impulse_response(system_to_stu(lds, 256, 24), 100), lds.impulse_response(100), rtol=0, atol=1e-5)


def test_feedback_radius():
    """Against the growth of a roll-out without input."""
    assert feedback_radius(STU(2, 2, length=16, num_filters=4)) == pytest.approx(1.0)
    assert feedback_radius(STU(2, 2, length=16, num_filters=4, autoregression=None)) == 0
    layer = ARSTU(3, 3, length=16, num_filters=4, output_lags=3, dtype=torch.float64)
    with torch.no_grad():
        layer.M_y.copy_(torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0)))
    pulse = torch.zeros(1, 400, 3, dtype=torch.float64)
    state = layer.initial_state(1)._replace(outputs=torch.randn(1, 3, 3, dtype=torch.float64))
    with torch.no_grad():
        y = layer(pulse, state)[0][0].norm(dim=1)
    growth = float((y[-1] / y[199]) ** (1 / 200))
    assert feedback_radius(layer) == pytest.approx(growth, rel=0.01)


def test_tail_energy_of_filters_that_end_is_zero():
    bank = filter_bank(16, 4)
    own = FilterBank(bank.eigenvalues, bank.filters)
    for prior, expected in ((own, False), ("positive", True)):
        layer = STU(1, 1, length=16, num_filters=4, prior=prior, autoregression=None, dtype=torch.float64)
        with torch.no_grad():
            layer.M_phi_plus.fill_(1.0)
        assert (tail_energy(layer, 16) > 1e-6) is expected
