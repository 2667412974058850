"""Standard errors and intervals, design (10): they cover what they say."""

import numpy as np
import pytest
import torch

from torchstu import SpectralRegressor, Uniform, random_lds
from torchstu.learn.intervals import conformal_quantile

L = 100


def noisy(lds, count, generator, spread=torch.randn):
    u = torch.randn(count, L, lds.d_in, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    return u, y, y + 0.5 * spread(y.shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(0)
    lds = random_lds(8, 2, 2, Uniform(0.8, 0.98), generator)
    u, _, y = noisy(lds, 20, generator)
    return SpectralRegressor(8, tail_penalty=0.0).fit(u, y), noisy(lds, 1000, generator), lds, generator


def coverage(ends, y):
    lower, upper = ends
    return float(((y >= lower) & (y <= upper)).double().mean())


@pytest.mark.parametrize("conformal", [False, True])
def test_ninety_per_cent_are_eighty_eight_to_ninety_two(fitted, conformal):
    model, (u, _, y), lds, generator = fitted
    if conformal:
        model.calibrate(*noisy(lds, 200, generator)[::2])
    assert 0.88 <= coverage(model.predict_interval(u, level=0.9, conformal=conformal), y) <= 0.92
    assert 0.48 <= coverage(model.predict_interval(u, level=0.5, conformal=conformal), y) <= 0.52


def test_intervals_after_a_past_count_its_noise(fitted):
    model, (u, _, y), *_ = fitted
    past = u[:, :40], y[:, :40]
    ends = model.predict_interval(u[:, 40:], past=past, level=0.9)
    assert 0.88 <= coverage(ends, y[:, 40:]) <= 0.92
    middle = (ends[0] + ends[1]) / 2
    torch.testing.assert_close(middle, model.predict(u[:, 40:], past))


def test_intervals_one_step_ahead():
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(1, 4000, 1, generator=generator, dtype=torch.float64)
    y = torch.zeros_like(u)
    noise = torch.randn(4000, generator=generator, dtype=torch.float64)
    for t in range(2, 4000):
        y[0, t] = 0.5 * y[0, t - 1] + 0.3 * y[0, t - 2] + u[0, t] + noise[t]
    options = {"autoregression": "learned", "objective": "next", "fit_intercept": True}
    model = SpectralRegressor(4, length=50, **options).fit(u[:, :1000], y[:, :1000])
    assert 0.88 <= coverage(model.predict_interval(u, y, level=0.9), y) <= 0.92
    assert model.noise_variance.item() == pytest.approx(1.0, rel=0.1)
    model.calibrate(u[:, :2000], y[:, :2000], one_step=True)
    assert 0.88 <= coverage(model.predict_interval(u[:, 2000:], y[:, 2000:], conformal=True), y[:, 2000:]) <= 0.92


def test_conformal_intervals_need_no_normal_noise():
    generator = torch.Generator().manual_seed(2)
    lds = random_lds(8, 1, 1, Uniform(0.8, 0.98), generator)

    def heavy(shape, **options):
        return torch.randn(shape, **options) / torch.randn(shape, **options).abs().clamp(min=0.05)

    u, _, y = noisy(lds, 40, generator, heavy)
    model = SpectralRegressor(8).fit(u, y).calibrate(*noisy(lds, 200, generator, heavy)[::2])
    fresh_u, _, fresh_y = noisy(lds, 400, generator, heavy)
    assert 0.88 <= coverage(model.predict_interval(fresh_u, conformal=True), fresh_y) <= 0.92
    assert coverage(model.predict_interval(fresh_u), fresh_y) > 0.93  # of errors of one normal kind: too wide here


def test_standard_errors_are_the_spread_of_weights():
    """Over many data sets the weights scatter as a single fit says."""
    generator = torch.Generator().manual_seed(3)
    lds = random_lds(4, 1, 1, Uniform(0.5, 0.9), generator)
    u = torch.randn(4, L, 1, generator=generator, dtype=torch.float64)
    clean = lds.simulate(u)
    fits = [
        SpectralRegressor(3, tail_penalty=0.0).fit(
            u, clean + 0.3 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        )
        for _ in range(300)
    ]
    for name in ("M_phi_plus", "M_phi_minus", "M_u"):
        scatter = torch.stack([getattr(fit.layer, name).detach() for fit in fits]).std(0)
        stated = torch.stack([fit.standard_errors()[name] for fit in fits]).square().mean(0).sqrt()
        torch.testing.assert_close(stated, scatter, rtol=0.2, atol=0)


def test_quantile_of_split_conformal_prediction():
    errors = torch.arange(1.0, 10.0)[:, None].double()
    assert conformal_quantile(errors, 0.9).item() == 9.0
    assert conformal_quantile(errors, 0.5).item() == 5.0
    assert conformal_quantile(-errors, 0.5).item() == 5.0
    assert conformal_quantile(errors, 0.95).item() == float("inf")


def test_arrays_and_single_sequences(fitted):
    model, (u, *_), *_ = fitted
    lower, upper = model.predict_interval(u[0].numpy())
    assert isinstance(lower, np.ndarray)
    assert lower.shape == upper.shape == (L, 2)


def test_bad_input_is_refused(fitted):
    model, (u, _, y), *_ = fitted
    fresh = SpectralRegressor(8).fit(u[:4], y[:4])
    for says, call in {
        "level: 1": lambda: model.predict_interval(u, level=1),
        "past: given with conformal": lambda: model.predict_interval(u, past=(u, y), conformal=True),
        "past: given with Y": lambda: model.predict_interval(u, y, past=(u, y)),
        "Y: intervals for one step ahead of a fit with objective='rollout'": lambda: model.predict_interval(u, y),
        r"conformal: True; call calibrate\(U, Y\) first": lambda: fresh.predict_interval(u, conformal=True),
        r"conformal: True; call calibrate\(U, Y, one_step=True\)": lambda: fresh.predict_interval(u, y, conformal=True),
        "U: shape": lambda: model.predict_interval(u[..., :1]),
        "not fitted": lambda: SpectralRegressor(8).predict_interval(u),
    }.items():
        with pytest.raises(ValueError, match=says):
            call()


def test_data_that_are_fitted_exactly_say_nothing_on_the_noise():
    generator = torch.Generator().manual_seed(4)
    u, y = (torch.randn(20, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    lower, upper = SpectralRegressor(12, tail_penalty=0.0).fit(u, y).predict_interval(u)
    assert torch.isinf(lower).all()
    assert torch.isinf(upper).all()
