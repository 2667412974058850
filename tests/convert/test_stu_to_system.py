"""Layers as plain systems: the response to a stated error over four times the memory, orders, refusals."""

import numpy as np
import pytest
import torch

from torchstu import (
    ARSTU,
    LRU,
    STU,
    FilterBank,
    SpectralSSM,
    TensordotSTU,
    Uniform,
    filter_bank,
    impulse_response,
    random_lds,
    system_to_stu,
    to_lds,
)
from torchstu.convert import stu_to_system
from torchstu.testing import TOLERANCES

LENGTH = 96


def shaken(layer):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if isinstance(layer, ARSTU):
            layer.M_y.mul_(0.3)  # a stable y-term
    return layer


def own_bank():
    bank = filter_bank(LENGTH, 8)
    return FilterBank(bank.eigenvalues.copy(), bank.filters.copy())


OPTIONS = {"length": LENGTH, "num_filters": 12, "dtype": torch.float64}
MAKERS = {
    "STU": lambda: STU(2, 3, **OPTIONS),
    "STU, more inputs than outputs": lambda: STU(4, 1, **OPTIONS),
    "STU without y-term": lambda: STU(2, 2, autoregression=None, **OPTIONS),
    "delay beyond the lags": lambda: STU(3, 2, autoregression=None, delay=4, input_lags=2, **OPTIONS),
    "lags beyond the delay": lambda: STU(2, 3, delay=1, input_lags=6, **OPTIONS),
    "neither lags nor delay": lambda: STU(1, 2, delay=0, input_lags=0, **OPTIONS),
    "heads": lambda: ARSTU(4, 2, num_heads=2, **OPTIONS),
    "one bank": lambda: STU(2, 2, banks="positive", **OPTIONS),
    "signed": lambda: STU(2, 2, prior="signed", **OPTIONS),
    "ARSTU": lambda: ARSTU(2, 2, output_lags=3, **OPTIONS),
    "TensordotSTU tied": lambda: TensordotSTU(3, banks="tied", **OPTIONS),
    "TensordotSTU both": lambda: TensordotSTU(3, banks="both", **OPTIONS),
    "own bank": lambda: STU(2, 3, prior=own_bank(), banks="both", **OPTIONS | {"num_filters": 8}),
    "own bank, without y-term": lambda: STU(2, 1, prior=own_bank(), autoregression=None, **OPTIONS | {"num_filters": 8}),
    "own bank, TensordotSTU": lambda: TensordotSTU(2, banks="tied", prior=own_bank(), **OPTIONS | {"num_filters": 8}),
    "LRU": lambda: LRU(2, 3, state_dim=40, r_max=0.98, dtype=torch.float64),
}


def before_feedback(response, layer):
    """The response h of the layer less its y-term: h_i - Σ_j h_{i-j} M_j."""
    M_y, result = None if getattr(layer, "M_y", None) is None else layer.whole("M_y"), response.clone()
    for lag in range(0 if M_y is None else len(M_y)):
        result[lag + 1 :] -= torch.einsum("tpi,po->toi", response[: len(response) - lag - 1], M_y[lag].detach())
    return result


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def layer(request):
    return shaken(request.param())


@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_the_response_before_the_y_term_is_within_the_tolerance(layer, tolerance):
    expected = before_feedback(impulse_response(layer, 4 * LENGTH), layer)
    error = before_feedback(to_lds(layer, tolerance).impulse_response(4 * LENGTH), layer) - expected
    peak = float(expected[:LENGTH].abs().max())
    assert float(error.abs().max()) <= tolerance * peak
    gain = torch.linalg.matrix_norm(torch.fft.rfft(error, 8 * LENGTH, dim=0), 2).max()  # of the error, at any frequency
    assert float(gain) <= tolerance * peak + 1e-10 * peak * LENGTH


def test_nothing_is_lost_with_tolerance_zero(layer):
    expected = impulse_response(layer, 4 * LENGTH)
    error = to_lds(layer, 0).impulse_response(4 * LENGTH) - expected
    assert float(error.abs().max()) <= TOLERANCES["system response"] * float(expected.abs().max())


def test_simulate_is_forward(layer):
    u = torch.randn(2, 3 * LENGTH, layer.d_in, dtype=torch.float64)
    with torch.no_grad():
        y = layer(u)[0]
    assert float((to_lds(layer, 1e-10).simulate(u) - y).abs().max()) <= 1e-8 * float(y.abs().max())


def test_orders_shrink_as_the_tolerance_grows(layer):
    orders = [to_lds(layer, tolerance).state_dim for tolerance in (0, 1e-10, 1e-6, 1e-2)]
    assert orders == sorted(orders, reverse=True)
    assert orders[-1] < orders[0]


@pytest.mark.parametrize(
    ("make", "states"),
    [
        (lambda: STU(2, 3, **OPTIONS), lambda r: 2 * (2 * r + 2) + 2 * 3),  # delay and lags share two inputs
        (lambda: STU(4, 1, **OPTIONS), lambda r: 2 * r + 2 + 2),  # by way of the outputs, which are fewer
        (lambda: STU(2, 2, autoregression=None, **OPTIONS), lambda r: 2 * (2 * r + 3)),
        (lambda: STU(2, 2, autoregression=None, input_lags=1, **OPTIONS), lambda r: 2 * 2 * r),
        (lambda: TensordotSTU(3, banks="both", **OPTIONS), lambda r: 3 * 2 * r),
    ],
)
def test_unreduced_orders_are_counted(make, states):
    layer = shaken(make())
    assert to_lds(layer, 0).state_dim == states(layer.order)


def test_a_system_written_down_comes_back_with_its_states_those_of_its_lags_and_of_the_y_term():
    lds = random_lds(8, 1, 1, Uniform(0.9, 0.99), torch.Generator().manual_seed(3))
    back = to_lds(system_to_stu(lds, 1024), 1e-4)
    assert 8 + 2 + 2 <= back.state_dim <= 8 + 2 + 2 + 4
    torch.testing.assert_close(back.impulse_response(1024), lds.impulse_response(1024), rtol=0, atol=1e-3)


def test_a_layer_of_zeros_is_a_system_of_zeros():
    back = to_lds(STU(2, 3, **OPTIONS))
    assert back.state_dim == 2 * 3
    assert not back.impulse_response(5).any()
    assert to_lds(STU(2, 3, autoregression=None, **OPTIONS)).state_dim == 0


def test_weights_of_float32_are_converted_in_float64():
    layer = shaken(STU(2, 2, **OPTIONS)).float()
    u = torch.randn(1, LENGTH, 2, dtype=torch.float64)
    with torch.no_grad():
        y = layer.double()(u)[0]
    assert float((to_lds(layer.float()).simulate(u) - y).abs().max()) <= 1e-6 * float(y.abs().max())


@pytest.mark.parametrize("tolerance", [-1e-8, 1.0, float("nan")])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance: .*; it must be at least 0 and below 1"):
        to_lds(STU(1, 1, **OPTIONS), tolerance)


@pytest.mark.parametrize("tolerance", ["1e-8", None, True])
def test_a_tolerance_that_is_no_number_is_refused(tolerance):
    with pytest.raises(TypeError, match="tolerance: "):
        to_lds(STU(1, 1, **OPTIONS), tolerance)


def test_what_is_no_single_linear_layer_is_refused():
    with pytest.raises(TypeError, match="layer: SpectralSSM; it must be an STU, ARSTU, TensordotSTU or LRU"):
        to_lds(SpectralSSM(1, 1, d_model=2, num_layers=1, length=16, mixer_options={"num_filters": 4}))


def test_weights_that_are_not_finite_are_refused():
    layer = STU(1, 1, **OPTIONS)
    with torch.no_grad():
        layer.M_phi_minus[3] = np.nan
    with pytest.raises(ValueError, match="layer: M_phi_minus has values that are not finite"):
        to_lds(layer)


def test_more_states_than_fit_are_refused(monkeypatch):
    monkeypatch.setattr(stu_to_system, "MAX_STATES", 10)
    with pytest.raises(ValueError, match="states before reduction; it must have at most 10"):
        to_lds(STU(1, 1, **OPTIONS))


def test_a_mode_on_the_unit_circle_is_refused_unless_nothing_is_reduced():
    layer = LRU(1, 1, state_dim=4, dtype=torch.float64)
    with torch.no_grad():
        layer.nu_log[0] = -100.0
    with pytest.raises(ValueError, match="layer: has a mode of magnitude 1"):
        to_lds(layer)
    torch.testing.assert_close(to_lds(layer, 0).impulse_response(50), impulse_response(layer, 50), rtol=0, atol=1e-10)


def test_equal_singular_values_stay_together():
    """Two tied banks have every value twice: what is cut must have been paid for."""
    values = np.array([1.0, 0.1])
    assert stu_to_system._orders([values, values], 0.25) == [2, 2]
    assert stu_to_system._orders([values, values], 0.41) == [1, 1]
