"""Responses against transforms of long impulse responses, and intervals against the truth of many noisy simulations."""

import math

import numpy as np
import pytest
import torch

from torchstu import ARSTU, LDS, LRU, STU, FilterBank, SpectralRegressor, TensordotSTU, filter_bank, impulse_response
from torchstu.learn.responses import frequency_response, frequency_response_interval, impulse_response_interval
from torchstu.ops.autoregression import feedback

EXACT = 1e-9  # against the transform of a response that has died away, relative to the largest; measured 3e-13
FREQUENCIES = torch.tensor([-0.3, 0.01, 0.1, 0.25, 0.49])


def shaken(layer, size=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return layer.double()


def transform(response, frequencies=FREQUENCIES):
    waves = torch.exp(-2j * math.pi * torch.outer(frequencies.double(), torch.arange(len(response)).double()))
    return torch.einsum("fl,loi->foi", waves, response.to(waves.dtype))


def own_bank():
    bank = filter_bank(32, 4)
    return FilterBank(bank.eigenvalues.copy(), bank.filters.copy())


LAYERS = {
    "no y-term": lambda: STU(2, 3, length=64, num_filters=6, autoregression=None),
    "signed": lambda: STU(2, 3, length=64, num_filters=6, autoregression=None, prior="signed"),
    "a bank of one's own": lambda: STU(2, 3, length=32, num_filters=4, autoregression=None, delay=2, prior=own_bank()),
    "preconditioned": lambda: STU(2, 3, length=64, num_filters=6, preconditioning=5),
    "learned": lambda: ARSTU(2, 3, length=64, num_filters=6),
    "heads": lambda: ARSTU(4, 2, length=64, num_filters=6, num_heads=2),
    "tensordot": lambda: TensordotSTU(3, length=64, num_filters=6),
    "LRU": lambda: LRU(2, 3, state_dim=4, r_max=0.95),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_frequency_response_is_the_transform_of_the_impulse_response(kind):
    made = LAYERS[kind]()
    layer = made.double() if kind == "LRU" else shaken(made, 0.1)
    response = impulse_response(layer, 2**14).double()
    assert response[-1000:].abs().max() < EXACT * response.abs().max() / 1000
    expected = transform(response)
    error = (frequency_response(layer, FREQUENCIES) - expected).abs().max() / expected.abs().max()
    assert error < EXACT


def test_frequency_response_of_a_system_solves_its_equations(generator):
    A = 0.9 * torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    lds = LDS(A, torch.randn(4, 2, generator=generator), torch.randn(3, 4, generator=generator), torch.ones(3, 2))
    expected = transform(lds.impulse_response(1000))
    assert (frequency_response(lds, FREQUENCIES) - expected).abs().max() < EXACT * expected.abs().max()
    gain = LDS(torch.zeros(0, 0), torch.zeros(0, 1), torch.zeros(1, 0), [[2.0]])
    assert torch.equal(frequency_response(gain, [0.0, 0.1]).real, torch.full((2, 1, 1), 2.0, dtype=torch.float64))


def test_the_fixed_y_term_is_an_integrator():
    layer = shaken(STU(1, 2, length=64, num_filters=6), 0.1)
    bare = STU(1, 2, length=64, num_filters=6, autoregression=None, delay=2, input_lags=3).double()
    bare.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "M_y"})
    z = torch.exp(2j * math.pi * FREQUENCIES.double())
    expected = frequency_response(bare, FREQUENCIES) / (1 - z**-2)[:, None, None]
    assert (frequency_response(layer, FREQUENCIES) - expected).abs().max() < EXACT * expected.abs().max()
    for pole in (0.0, 0.5):
        with pytest.raises(ValueError, match="frequencies: the y-term has a pole"):
            frequency_response(layer, [0.1, pole])


def test_with_a_sample_time_frequencies_are_hertz():
    layer = shaken(LAYERS["no y-term"]())
    assert torch.allclose(frequency_response(layer, [1.0, 2.0], 0.1), frequency_response(layer, [0.1, 0.2]))
    with pytest.raises(ValueError, match="of Hz, at most 5"):
        frequency_response(layer, [6.0], 0.1)


@pytest.mark.parametrize(("given", "says"), [([0.6], "cycles per step, at most 0.5"), ([], "frequencies"), (0.1, "frequencies"),
                                             ([math.nan], "frequencies")])  # fmt: skip
def test_bad_frequencies(given, says):
    with pytest.raises(ValueError, match=says):
        frequency_response(LAYERS["no y-term"](), given)


def test_bad_arguments():
    with pytest.raises(TypeError, match="model: str"):
        frequency_response("model", [0.1])
    with pytest.raises(ValueError, match="sample_time: 0"):
        frequency_response(LAYERS["no y-term"](), [0.1], 0)
    for ask in (lambda r: impulse_response_interval(r, 4), lambda r: frequency_response_interval(r, [0.1])):
        with pytest.raises(TypeError, match="regressor: STU"):
            ask(LAYERS["no y-term"]())
        with pytest.raises(ValueError, match="not fitted"):
            ask(SpectralRegressor(4))
    rng = np.random.default_rng(0)
    fitted = SpectralRegressor(4).fit(rng.standard_normal((50, 1)), rng.standard_normal((50, 1)))
    for level in (0, 1, 1.5):
        with pytest.raises(ValueError, match="level"):
            impulse_response_interval(fitted, 4, level)
    with pytest.raises(ValueError, match="length"):
        impulse_response_interval(fitted, 0)


FITS = {"no y-term": 200, "fixed": 80, "fixed, next": 80, "learned": 120}
TERMS = {
    "no y-term": {"autoregression": None},
    "fixed": {"autoregression": "fixed"},
    "fixed, next": {"autoregression": "fixed", "objective": "next"},
    "learned": {"autoregression": "learned", "objective": "next", "output_lags": 2},
}


def noisy_fits(term):
    """A layer, and regressors of its own form fitted to what it does with white noise of the kind that they assume."""
    options = {"length": 32, "num_filters": 3, "banks": "positive", "input_lags": 3} | TERMS[term]
    layer_options = {name: value for name, value in options.items() if name != "objective"}
    layer = shaken(STU(1, 2, **layer_options), 0.5)
    if term == "learned":
        with torch.no_grad():
            layer.M_y.copy_(torch.tensor([[[0.5, 0.2], [0.0, -0.3]], [[0.1, 0.0], [0.3, 0.2]]]))
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(FITS[term], 3, 100, 1, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(FITS[term], 3, 100, 2, generator=generator, dtype=torch.float64)
    for own_u, own_noise in zip(u, noise, strict=True):
        with torch.no_grad():
            own = feedback(own_noise, layer.M_y) if TERMS[term].get("objective") == "next" else own_noise
            y = layer(own_u)[0] + own
        yield layer, SpectralRegressor(tail_penalty=0.0, **options).fit(own_u, y)


@pytest.mark.parametrize("term", TERMS)
def test_intervals_cover_the_true_responses(term):
    frequencies, impulse, gains, phases = torch.linspace(0.02, 0.48, 8), [], [], []
    for layer, fitted in noisy_fits(term):
        interval = impulse_response_interval(fitted, 40)
        truth = impulse_response(layer, 40)
        impulse.append(((interval.lower <= truth) & (truth <= interval.upper)).double())
        spectrum, true = frequency_response_interval(fitted, frequencies), frequency_response(layer, frequencies)
        gains.append(((spectrum.lower <= true.abs()) & (true.abs() <= spectrum.upper)).double())
        phases.append(((true / spectrum.response).angle().abs() <= spectrum.phase).double())
    for covered in (impulse, gains, phases):
        share = torch.stack(covered).mean(0)
        assert 0.86 < share.mean() < 0.94  # measured 0.879 to 0.914
        assert share.min() > 0.9 - 4.5 * math.sqrt(0.09 / FITS[term])


def test_intervals_shrink_with_the_noise_and_widen_with_the_level():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((2, 200, 1))
    noise = rng.standard_normal((2, 200, 1))
    clean = np.cumsum(u, axis=1) * 0.1
    widths = []
    for size, level in ((0.1, 0.9), (0.01, 0.9), (0.01, 0.99)):
        interval = impulse_response_interval(SpectralRegressor(6, length=64).fit(u, clean + size * noise), 30, level)
        widths.append(float((interval.upper - interval.lower).mean()))
    assert widths[1] < 0.3 * widths[0]
    assert 1.4 < widths[2] / widths[1] < 1.8  # 2.576 / 1.645
