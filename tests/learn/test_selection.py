"""What the data choose, design (10): ridge and filters by cross-validation, the tail penalty by what the memory foretells."""

import numpy as np
import pytest
import torch

from torchstu import FilterBank, SpectralRegressor, Uniform, random_lds, relative_error
from torchstu.learn.accumulation import Triangles
from torchstu.learn.selection import ridge_path


def sequences(lds, count, length, generator, observation=0.0, process=0.0):
    u = torch.randn(count, length, lds.d_in, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    noise = lds.simulate(u, process_noise=1.0, generator=generator) - y if process else torch.zeros_like(y)
    if process:
        noise = noise * (process * y.std() / noise.std())
    return u, y, y + noise + observation * y.std() * torch.randn(y.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["observation", "process"])
@pytest.mark.parametrize("level", [0.0, 0.01, 0.1, 0.3])
def test_automatic_ridge_is_within_ten_per_cent_of_the_best_of_a_grid(kind, level):
    """Held-out error against measured outputs, at 0, 1, 10 and 30 % noise of both kinds; thirty ridges."""
    generator = torch.Generator().manual_seed(0)
    lds = random_lds(64, 2, 2, Uniform(0.99, 0.9999), generator)
    u, _, y = sequences(lds, 12, 512, generator, **{kind: level})
    fresh_u, _, fresh_y = sequences(lds, 40, 512, generator, **{kind: level})
    model = SpectralRegressor(20, ridge="auto", tail_penalty=0.0).fit(u, y)
    error = relative_error(model.predict(fresh_u), fresh_y)
    size = torch.linalg.matrix_norm(model._fitted.triangles.factor[0], 2).item() ** 2
    grid = []
    for ridge in size * 10.0 ** np.linspace(-22, 1, 30):
        model.set_params(ridge=float(ridge), ridge_power=model.ridge_power_used)._stream = model._stream.under(
            model._stream.options.__class__(**vars(model._stream.options) | {"ridge": float(ridge)})
        )
        model.__dict__.pop("_solution")
        grid.append(relative_error(model.predict(fresh_u), fresh_y))
    assert error <= 1.1 * min(grid)


def test_path_is_cross_validation_by_hand():
    """The score is the error of every fold under the ridge solution of the others, an unpenalized column included."""
    generator = torch.Generator().manual_seed(0)
    F = torch.randn(60, 7, generator=generator, dtype=torch.float64)
    F[:, 0] = 1.0
    y = F @ torch.randn(7, 2, generator=generator, dtype=torch.float64) + torch.randn(
        60, 2, generator=generator, dtype=torch.float64
    )
    shape = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    ones = torch.ones(20, 2, dtype=torch.float64)
    parts = [slice(0, 20), slice(20, 40), slice(40, 60)]
    folds = [Triangles.empty(7, 2).add(F[p], y[p], ones) for p in parts]
    path = ridge_path(folds, shape, np.array([0.0, 0.3, 30.0]))
    for ridge, score in zip(path.ridges, path.scores, strict=True):
        expected = 0.0
        for part in parts:
            rest = torch.ones(60, dtype=torch.bool)
            rest[part] = False
            A, b = F[rest], y[rest]
            m = torch.linalg.solve(A.T @ A + ridge * torch.diag(shape**2), A.T @ b)
            expected += float((F[part] @ m - y[part]).square().sum())
        assert score == pytest.approx(expected, rel=1e-9)
    apart = [fold.apart() for fold in folds]
    np.testing.assert_allclose(ridge_path(apart, shape, path.ridges).scores, path.scores, rtol=1e-9)


def test_triangles_hold_what_rows_say():
    generator = torch.Generator().manual_seed(1)
    F, y = (torch.randn(50, n, generator=generator, dtype=torch.float64) for n in (5, 3))
    weights = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    shared = Triangles.empty(5, 3).add(F[:20], y[:20], torch.ones(20, 3, dtype=torch.float64))
    mixed = shared.add(F[20:], y[20:], weights[20:])
    assert len(shared.factor) == 1
    assert len(mixed.factor) == 3
    weights[:20] = 1.0
    m = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    expected = (weights * (F @ m - y).square()).sum(0)
    torch.testing.assert_close(mixed.squared_error(m), expected)
    torch.testing.assert_close(mixed.squared_target(), (weights * y.square()).sum(0))
    torch.testing.assert_close(Triangles.together([shared, mixed]).squared_error(m), expected + shared.squared_error(m))
    fewer = mixed.columns(torch.tensor([3, 0]))
    small = torch.zeros(5, 3, dtype=torch.float64)
    small[[3, 0]] = m[:2]
    torch.testing.assert_close(fewer.squared_error(m[:2]), mixed.squared_error(small))


def test_automatic_filters_follow_the_data():
    generator = torch.Generator().manual_seed(3)
    lds = random_lds(64, 1, 1, Uniform(0.9, 0.999), generator)
    fresh_u, fresh_y, _ = sequences(lds, 8, 256, generator)
    found = {}
    for level in (0.0, 0.3):
        u, _, y = sequences(lds, 4, 256, generator, observation=level)
        model = SpectralRegressor("auto", ridge="auto", tail_penalty=0.0).fit(u, y)
        found[level] = model
        fixed = [relative_error(SpectralRegressor(k, tail_penalty=0.0).fit(u, y).predict(fresh_u), fresh_y) for k in (8, 24)]
        assert relative_error(model.predict(fresh_u), fresh_y) <= 1.1 * min(fixed)
    assert found[0.0].layer.num_filters > found[0.3].layer.num_filters
    with pytest.raises(ValueError, match="num_filters: 'auto' with a bank of one's own"):
        SpectralRegressor("auto", prior=FilterBank(np.ones(2), np.eye(256, 2))).fit(u, y)


@pytest.mark.parametrize(("low", "high", "inside", "beyond"), [(0.9, 0.99, 1e-12, 1e-4), (0.999, 1.0, 1e-12, 0.5)])
def test_tail_penalty_knows_whether_a_system_forgets(low, high, inside, beyond):
    """It holds a response that decays, and leaves alone one that does not."""
    generator = torch.Generator().manual_seed(3)
    lds = random_lds(64, 1, 1, Uniform(low, high), generator)
    u, y, _ = sequences(lds, 8, 256, generator)
    fresh_u, fresh_y, _ = sequences(lds, 4, 256, generator)
    long_u, long_y, _ = sequences(lds, 1, 16 * 256, generator)
    model = SpectralRegressor(20).fit(u, y)
    assert relative_error(model.predict(fresh_u), fresh_y) < inside
    assert relative_error(model.predict(long_u), long_y) < beyond
    free = SpectralRegressor(20, tail_penalty=0.0).fit(u, y)
    assert relative_error(model.predict(long_u), long_y) <= 2 * relative_error(free.predict(long_u), long_y)
