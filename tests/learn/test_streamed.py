"""Streamed least squares, design (10): pieces, batches and files give what all data at once give; weights, missing outputs."""

import numpy as np
import pytest
import torch

from torchstu import SpectralRegressor, Uniform, random_lds, relative_error
from torchstu.learn import least_squares, rows

SAME = 1e-9  # of the largest prediction; measured 1e-15 to 1e-11
KINDS = [
    {},
    {"autoregression": None, "fit_intercept": True},
    {"objective": "next"},
    {"objective": "next", "autoregression": "learned", "output_lags": 3},
    {"preconditioning": 5},
    {"preconditioning": 3, "objective": "next"},
    {"banks": "positive"},
    {"prior": "signed"},
]


def data(seed=0, count=6, length=120, d_in=2, d_out=2, noise=0.05):
    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(8, d_in, d_out, Uniform(0.8, 0.98), generator)
    u = torch.randn(count, length, d_in, generator=generator, dtype=torch.float64)
    y = lds.simulate(u)
    return u, y + noise * y.std() * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def predictions(model, u, y):
    return model.predict(u) if model.objective == "rollout" else model.predict_next(u, y)


def same(a, b):
    assert float((a - b).abs().max()) <= SAME * float(b.abs().max())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("warmup", [0, 7])
def test_pieces_of_sequences_give_the_fit_to_whole_ones(kind, warmup):
    u, y = data()
    options = kind | {"length": 120}
    whole = SpectralRegressor(10, **options).fit(u, y, warmup=warmup)
    pieces = SpectralRegressor(10, **options)
    for start, stop in ((0, 5), (5, 6), (6, 70), (70, 120)):
        pieces.partial_fit(u[:, start:stop], y[:, start:stop], warmup=warmup, continues=start > 0)
    same(predictions(pieces, u, y), predictions(whole, u, y))
    assert pieces.residual == pytest.approx(whole.residual, rel=1e-9)
    assert pieces.tail_weight == pytest.approx(whole.tail_weight, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_batches_give_the_fit_to_all(kind):
    u, y = data()
    whole = SpectralRegressor(10, **kind).fit(u, y)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(u, y), batch_size=4)
    same(predictions(SpectralRegressor(10, **kind).fit(loader), u, y), predictions(whole, u, y))
    by_one = SpectralRegressor(10, length=120, **kind)
    for i in range(len(u)):
        by_one.partial_fit(u[i], y[i])
    same(predictions(by_one, u, y), predictions(whole, u, y))


def test_how_much_is_held_at_a_time_does_not_matter(monkeypatch):
    u, y = data(length=500)
    whole = SpectralRegressor(12, length=200).fit(u, y).predict(u)
    for module in (rows, least_squares):
        monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 3000)
    same(SpectralRegressor(12, length=200).fit(u, y).predict(u), whole)


def test_memory_does_not_grow_with_a_recording():
    u, y = data(count=1, length=4000, d_in=1, d_out=1)
    model = SpectralRegressor(8, length=100)

    def size():
        stream = model._stream
        tensors = [*stream.past[:-1], *(fold.factor for fold in stream.folds)]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    model.partial_fit(u[:, :1000], y[:, :1000])
    before = size()
    for start in range(1000, 4000, 1000):
        model.partial_fit(u[:, start : start + 1000], y[:, start : start + 1000], continues=True)
    assert size() == before
    assert model._stream.past.seen == 4000


def test_unequal_lengths():
    u, y = data()
    parts = [slice(0, 120), slice(0, 50), slice(0, 3)]
    U, Y = [u[i, p] for i, p in enumerate(parts)], [y[i, p] for i, p in enumerate(parts)]
    together = SpectralRegressor(10, ridge=1e-3).fit(U, Y)
    assert together.layer.length == 120
    apart = SpectralRegressor(10, ridge=1e-3, length=120)
    for one_u, one_y in zip(U, Y, strict=True):
        apart.partial_fit(one_u, one_y)
    same(together.predict(u), apart.predict(u))
    weighted = SpectralRegressor(10, ridge=1e-3).fit(U, Y, sample_weight=[1.0, 1.0, 0.0])
    same(weighted.predict(u), SpectralRegressor(10, ridge=1e-3).fit(U[:2], Y[:2]).predict(u))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_count_sequences(kind):
    """An integer weight is a sequence seen that many times."""
    u, y = data()
    weights = torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0, 1.0])
    index = [0, 0, 1, 3, 3, 3, 4, 5]
    options = kind | {"tail_penalty": 0.0, "ridge": 1e-2}
    weighted = SpectralRegressor(10, **options).fit(u, y, sample_weight=weights)
    repeated = SpectralRegressor(10, **options).fit(u[index], y[index])
    same(predictions(weighted, u, y), predictions(repeated, u, y))
    by_step = SpectralRegressor(10, **options).fit(u, y, sample_weight=weights[:, None].expand(6, 120))
    same(predictions(by_step, u, y), predictions(weighted, u, y))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_missing_outputs_are_left_out(kind):
    """The minimum of the error over what was observed: its gradient there is zero."""
    u, y = data(noise=0.2)
    gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    holes = torch.where(gone, torch.nan, y)
    model = SpectralRegressor(6, tail_penalty=0.0, missing="mask", **kind).fit(u, holes)
    layer = model.layer
    if kind.get("objective") == "next":
        prediction, target = layer.next_step(u, holes - model.intercept), holes - model.intercept
    else:
        prediction, target = layer(u)[0], holes - model.intercept
    seen = torch.isfinite(prediction) & torch.isfinite(target)
    assert 0.1 < float(seen.double().mean()) < 0.75
    loss = torch.where(seen, prediction.nan_to_num(0.0) - target.nan_to_num(0.0), 0.0)
    weights = [p for p in layer.parameters() if p.requires_grad]
    if kind.get("objective") != "next":
        gradients = torch.autograd.grad(loss.square().sum(), weights)
        scale = float((prediction * target.nan_to_num(0.0)).detach().abs().sum())
        assert max(float(g.abs().max()) for g in gradients) <= 1e-7 * scale
    clean = SpectralRegressor(6, tail_penalty=0.0, **kind).fit(u, y)
    assert relative_error(predictions(model, u, y), predictions(clean, u, y)) < 0.1


def test_whole_steps_missing_are_weight_zero():
    u, y = data()
    gone = torch.rand(y.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.3
    masked = SpectralRegressor(8, missing="mask").fit(u, torch.where(gone[..., None], torch.nan, y))
    weighted = SpectralRegressor(8).fit(u, y, sample_weight=(~gone).double())
    same(masked.predict(u), weighted.predict(u))


def test_one_output_may_come_without_its_channel():
    u, y = data(d_out=1)
    flat = y[..., 0]
    for inputs, outputs, with_channel in ((u, flat, y), (u[0], flat[0], y[0])):
        model, whole = (
            SpectralRegressor(8, ridge=1e-3).fit(inputs, outputs),
            SpectralRegressor(8, ridge=1e-3).fit(inputs, with_channel),
        )
        assert model.predict(inputs).shape == outputs.shape
        same(model.predict(inputs), whole.predict(inputs)[..., 0])
        same(model.predict_next(inputs, outputs), whole.predict_next(inputs, with_channel)[..., 0])
        after = model.predict(inputs, past=(inputs, outputs))
        same(after, whole.predict(inputs, past=(inputs, with_channel))[..., 0])
        lower, upper = model.predict_interval(inputs)
        assert lower.shape == upper.shape == outputs.shape
        assert model.score(inputs, outputs) == pytest.approx(whole.score(inputs, with_channel))


def test_an_output_seen_in_one_fold_does_not_spoil_the_choice():
    u, y = data(count=10)
    holes = y.clone()
    holes[1:, :, 1] = torch.nan
    options = {"autoregression": None, "ridge": "auto", "missing": "mask", "fit_intercept": True}
    model = SpectralRegressor(12, **options).fit(u, holes)
    assert relative_error(model.predict(u)[..., :1], y[..., :1]) < 0.02
    assert relative_error(model.predict(u)[..., 1:], y[..., 1:]) < 0.5


def test_a_level_of_an_integrator_is_refused():
    u = torch.randn(1, 200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"objective": "next", "autoregression": "learned", "output_lags": 1, "fit_intercept": True}
    with pytest.raises(ValueError, match="fit_intercept: True; the learned y-term integrates"):
        SpectralRegressor(4, **options).fit(u, (u + 1).cumsum(1))


def test_a_failed_call_leaves_what_was_fitted():
    u, y = data()
    model = SpectralRegressor(8).fit(u, y)
    before = model.predict(u)
    for call in (
        lambda: model.partial_fit(u[..., :1], y),
        lambda: model.partial_fit(u, y * 1e200),
        lambda: model.fit(u, torch.full_like(y, torch.nan)),
        lambda: model.fit([(u, y), (u, y[:, :5])]),
        lambda: model.fit(iter([])),
    ):
        with pytest.raises(ValueError, match=r"^U|^Y"):
            call()
        assert torch.equal(model.predict(u), before)


def test_penalties_may_change_between_calls():
    u, y = data()
    model = SpectralRegressor(8, length=120).fit(u[:3], y[:3])
    model.set_params(ridge=10.0, tail_penalty=0.0).partial_fit(u[3:], y[3:])
    same(model.predict(u), SpectralRegressor(8, length=120, ridge=10.0, tail_penalty=0.0).fit(u, y).predict(u))


U, Y = data()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: SpectralRegressor(8).fit(U), "Y: None; .* requires y to be passed"),
        (lambda: SpectralRegressor(8).fit([(U,)]), "U: a batch of tuple; it must be"),
        (lambda: SpectralRegressor(8).fit([(U, Y)], sample_weight=[1.0]), "sample_weight: given beside batches"),
        (lambda: SpectralRegressor(8).fit(U, Y, continues=True), "continues: True with Y"),
        (lambda: SpectralRegressor(8).fit(U, Y).score([U[0], U[1]], [Y[0], Y[1]]), "U: a list of 2 sequences"),
        (lambda: SpectralRegressor(8).fit(U, Y, sample_weight=[1.0] * 5), r"sample_weight: shape \(5,\)"),
        (lambda: SpectralRegressor(8).fit(U, Y, sample_weight=[-1.0] * 6), "sample_weight: has values that are negative"),
        (lambda: SpectralRegressor(8).fit(U, Y, sample_weight=[0.0] * 6), "Y: output 0 has no observed value"),
        (lambda: SpectralRegressor(8).fit([U[0], U[1]], [Y[0]]), "Y: 1 of them; beside a list of 2"),
        (lambda: SpectralRegressor(8).fit([U[0], U[1]], [Y[0], Y[1, :5]]), r"Y\[1\]: shape"),
        (lambda: SpectralRegressor(8).fit([U[0], U[1, :, :1]], [Y[0], Y[1]]), r"U\[1\], Y\[1\]: 1 and 2 channels"),
        (lambda: SpectralRegressor(8).partial_fit(U, Y, continues=True), "continues: True with length=None"),
        (lambda: SpectralRegressor(8, length=120).fit(U, Y).partial_fit(U[:2], Y[:2], continues=True), "U: 2 sequences; 6 are"),
        (lambda: SpectralRegressor(8).fit(U, Y).set_params(banks="positive").partial_fit(U, Y), "partial_fit: an option"),
        (lambda: SpectralRegressor(8).fit(U, Y).set_params(ridge="auto").partial_fit(U, Y), "ridge: 'auto' was not asked"),
        (lambda: SpectralRegressor(8, missing="drop").fit(U, Y), "missing: 'drop'; it must be"),
        (lambda: SpectralRegressor(8, missing="mask").fit(U, Y * torch.inf), "Y: has a value that is not finite"),
        (lambda: SpectralRegressor(8).fit(U, torch.where(Y > 0, Y, torch.nan)), "Y: has a value that is not finite"),
        (
            lambda: SpectralRegressor(8, missing="mask").fit(U, torch.where(Y > 9, Y, torch.nan), warmup=3),
            "Y: an output is missing in the last 2 steps of the warm-up",
        ),
        (lambda: SpectralRegressor(121).fit(U, Y), "num_filters: 121"),
        (lambda: SpectralRegressor("few").fit(U, Y), "num_filters"),
        (lambda: SpectralRegressor(8, ridge_power=-1).fit(U, Y), "ridge_power: -1"),
        (lambda: SpectralRegressor("auto").fit(U[:1, :1], Y[:1, :1]), "'auto' needs at least two"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call()


@pytest.mark.parametrize("options", [{}, {"num_filters": "auto", "ridge": "auto"}, {"objective": "next"}], ids=str)
def test_ugly_data_give_finite_models(options):
    """Constant channels, collinear inputs, sequences shorter than the lags, outliers of 1e6, float16: finite, whatever else."""
    u, y = (x.numpy() for x in data(noise=0.1))
    options = {"num_filters": 8} | options
    outlier = y.copy()
    outlier[0, 7, 0] = 1e6
    cases = {
        "constant input": (np.concatenate([u, np.ones_like(u[..., :1])], axis=2), y),
        "constant output": (u, np.concatenate([y, np.full_like(y[..., :1], 3.0)], axis=2)),
        "collinear inputs": (np.concatenate([u, u @ [[1.0], [-2.0]]], axis=2), y),
        "zero inputs": (np.zeros_like(u), y),
        "outlier": (u, outlier),
        "float16": (u.astype(np.float16), y.astype(np.float16)),
        "integers": (np.round(u * 10).astype(np.int32), np.round(y * 10).astype(np.int64)),
        "one short sequence": ([*u, u[0, :2]], [*y, y[0, :2]]),
    }
    for name, (one_u, one_y) in cases.items():
        model = SpectralRegressor(**options).fit(one_u, one_y)
        fresh = one_u[0] if isinstance(one_u, list) else one_u
        assert np.isfinite(model.predict(fresh)).all(), name
        assert np.isfinite(model.residual), name
    assert SpectralRegressor(**options).fit(*cases["collinear inputs"]).residual == pytest.approx(
        SpectralRegressor(**options).fit(u, y).residual, rel=0.05
    )
