"""`identify`: the best of what is known, on data left out."""

import numpy as np
import pytest
import torch

from torchstu import Uniform, identify, random_lds, relative_error


def recording(states, low, high, steps, noise=0.0, channels=1, seed=0, count=None):
    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(states, channels, channels, Uniform(low, high), generator)
    shape = (steps, channels) if count is None else (count, steps, channels)
    u = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    return lds, u, y + noise * y.std() * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def fresh(lds, steps, seed=9):
    u = torch.randn(2, steps, lds.d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u, lds.simulate(u)


def test_a_small_system_is_found_exactly():
    lds, u, y = recording(4, 0.9, 0.9999, 400)
    found = identify(u, y)
    assert found.best == "system"
    assert found.refined.order == 4
    fresh_u, fresh_y = fresh(lds, 6400)
    assert relative_error(found.predict(fresh_u), fresh_y) < 1e-18
    theirs = sorted(lds.eigenvalues().real.tolist())
    np.testing.assert_allclose(sorted(found.system.eigenvalues().real.tolist()), theirs, atol=1e-8)


def test_a_large_system_needs_no_order():
    lds, u, y = recording(200, 0.0, 0.99, 500)
    found = identify(u, y, order=None)
    assert found.system is None
    fresh_u, fresh_y = fresh(lds, 500)
    assert relative_error(found.predict(fresh_u), fresh_y) < 1e-14


@pytest.mark.parametrize("count", [None, 6])
def test_noise_is_not_fitted(count):
    lds, u, y = recording(4, 0.5, 0.99, 400, noise=0.1, count=count)
    found = identify(u, y, order=3)
    fresh_u, fresh_y = fresh(lds, 400)
    assert relative_error(found.predict(fresh_u), fresh_y) < 3e-3
    assert found.refined.order == 3
    assert all(trial.rollout > 0 and trial.one_step > 0 for trial in found.tried)
    one_step = found.predict_next(u, y)
    assert one_step.shape == y.shape
    assert relative_error(one_step, y) < 0.015  # the noise alone is 0.01


def test_numbers_in_numbers_out():
    _, u, y = recording(3, 0.5, 0.9, 100)
    found = identify(u.numpy(), y.numpy())
    assert isinstance(found.predict(u.numpy()), np.ndarray)
    assert isinstance(found.predict_next(u.numpy(), y.numpy()), np.ndarray)
    assert found.predict(u.numpy()).shape == (100, 1)
    again = identify(u.numpy(), y.numpy())
    np.testing.assert_array_equal(again.predict(u.numpy()), found.predict(u.numpy()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"validation": 1.5}, "validation: 1.5"),
        ({"warmup": -1}, "warmup: -1"),
        ({"warmup": 70}, "U: 100 steps; with warmup=70"),
        ({"order": "large"}, "order: 'large'"),
    ],
)
def test_bad_input_is_refused(change, text):
    _, u, y = recording(3, 0.5, 0.9, 100)
    with pytest.raises((ValueError, TypeError), match=text):
        identify(u, y, **change)
