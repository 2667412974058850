"""Gradient descent on a well-kept trainer, for any mixer."""

import math

import pytest
import torch

from torchstu import ARSTU, LRU, STU, SpectralSSM, TensordotSTU, Uniform, fit_gradient, random_lds


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(3)
    lds = random_lds(4, 2, 2, Uniform(0.9, 0.99), generator)
    u = torch.randn(150, 64, 2, generator=generator)
    return u, lds.simulate(u)


def run(mixer, data, **options):
    u, y = data
    options = {"steps": 130, "learning_rate": 0.05, "validation": (u[130:], y[130:]), "progress": False} | options
    return fit_gradient(mixer, u[:130], y[:130], **options)


MAKE = {
    "STU": lambda: STU(2, 2, length=64, num_filters=8),
    "ARSTU": lambda: ARSTU(2, 2, length=64, num_filters=8),
    "TensordotSTU": lambda: TensordotSTU(2, length=64, num_filters=8, banks="both"),
    "LRU": lambda: LRU(2, 2, state_dim=16, r_min=0.8, r_max=0.99),
    "SpectralSSM": lambda: SpectralSSM(2, 2, d_model=8, num_layers=1, length=64, mixer_options={"num_filters": 8}),
}


@pytest.mark.parametrize("name", MAKE)
def test_every_mixer_learns(name, data):
    torch.manual_seed(0)
    history = run(MAKE[name](), data, learning_rate=0.05 if name in ("STU", "ARSTU") else 0.01)
    assert not history.diverged
    assert len(history.losses) == 130
    assert history.samples[0] == 0
    assert history.samples[-1] == 130
    assert history.errors[-1] < 0.8 * history.errors[0]


def test_next_step_loss_learns_the_rollout_of_an_stu(data):
    assert run(MAKE["STU"](), data, steps=500, learning_rate=0.1).errors[-1] < 1e-2


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generator_alone(data):
    layers = [MAKE["STU"]() for _ in range(3)]
    before = torch.random.get_rng_state()
    histories = [run(layer, data, steps=20, seed=seed) for layer, seed in zip(layers, (1, 1, 2), strict=True)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(layers[0].M_u, layers[1].M_u)
    assert not torch.equal(layers[0].M_u, layers[2].M_u)
    assert histories[0].losses == histories[1].losses
    assert histories[0].errors == histories[1].errors


def test_errors_are_recorded_at_the_steps_asked_for_and_at_both_ends(data):
    history = run(MAKE["STU"](), data, steps=20, batch_size=50, validate_every=[1, 2, 4, 8])
    # 130 sequences: two batches of 50 and one of 30
    assert history.samples == [0, 50, 100, 180, 360, 880]
    assert run(MAKE["STU"](), data, steps=10, validate_every=4).samples == [0, 4, 8, 10]


def test_validation_leaves_the_training_as_it_is(data):
    torch.manual_seed(0)
    options = {"d_model": 4, "num_layers": 1, "length": 64, "dropout": 0.5, "mixer_options": {"num_filters": 4}}
    models = [SpectralSSM(2, 2, **options) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    often = run(models[0], data, steps=12, validate_every=1)
    rarely = run(models[1], data, steps=12, validation=None)
    assert often.losses == rarely.losses
    assert models[0].training


@pytest.fixture(scope="module")
def labels():
    """The class of a step is that of the largest input two steps ago; the first two steps have none."""
    u = torch.randn(60, 20, 3, generator=torch.Generator().manual_seed(0))
    y = u.argmax(-1).roll(2, dims=1)
    y[:, :2] = -100
    return u, y


def test_cross_entropy_learns_labels_and_records_the_error_rate(labels):
    layer = STU(3, 3, length=20, num_filters=4, autoregression=None)
    history = run_labels(layer, labels, steps=200, learning_rate=0.1, batch_size=8, validation=labels)
    # with all weights 0 the logits are equal, so the first class is predicted
    assert history.errors[0] == pytest.approx(float((labels[1][:, 2:] != 0).double().mean()))
    assert history.errors[-1] < 0.05
    assert history.losses[0] == pytest.approx(math.log(3), rel=1e-5)


def run_labels(layer, labels, **options):
    options = {"steps": 2, "loss": "cross_entropy", "objective": "rollout", "progress": False} | options
    return fit_gradient(layer, *labels, **options)


def test_steps_without_a_label_change_nothing(labels):
    u, y = labels
    layers = [STU(3, 3, length=20, num_filters=4) for _ in range(2)]
    for layer, length in zip(layers, (20, 15), strict=True):
        cut = y.clone()
        cut[:, 15:] = -100
        run_labels(layer, (u[:, :length], cut[:, :length]), learning_rate=0.1)
    torch.testing.assert_close(layers[0].M_u, layers[1].M_u)
    empty = y[:1].clone()
    empty[:] = -100
    history = run_labels(layers[0], (u[:2], torch.cat([empty, y[1:2]])), steps=4, batch_size=1)
    assert not history.diverged
    assert 0.0 in history.losses


def test_labels_that_do_not_fit_are_refused(labels):
    u, y = labels
    layer = STU(3, 3, length=20, num_filters=4)
    with pytest.raises(TypeError, match=r"Y: dtype torch.float32"):
        run_labels(layer, (u, y.float()))
    with pytest.raises(ValueError, match=r"U, Y: shapes \(60, 20, 3\), \(60, 19\)"):
        run_labels(layer, (u, y[:, 1:]))
    with pytest.raises(ValueError, match=r"Y: labels 0..3; they must be 0..2 or -100"):
        run_labels(layer, (u, torch.where(y == 2, 3, y)))
    with pytest.raises(ValueError, match="Y: labels -1"):
        run_labels(layer, (u, torch.where(y == 2, -1, y)))
    with pytest.raises(ValueError, match="Y: -100 everywhere"):
        run_labels(layer, (u, torch.full_like(y, -100)))
    with pytest.raises(ValueError, match="objective: 'next' with loss='cross_entropy'"):
        run_labels(layer, labels, objective="next")


def test_divergence_is_reported_and_no_error(data):
    history = run(MAKE["ARSTU"](), data, learning_rate=1e6, objective="rollout")
    assert history.diverged
    assert not math.isfinite(history.losses[-1])
    assert len(history.losses) < 130


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"objective": "l1"}, "objective: 'l1'"),
        ({"loss": "l1"}, "loss: 'l1'"),
        ({"optimizer": "sgd"}, "optimizer: 'sgd'"),
        ({"clip": 0.0}, "clip: 0"),
        ({"validate_every": 0}, "validate_every: 0"),
        ({"validate_every": [5, 200]}, "validate_every: step 200"),
        ({"learning_rate": 0.0}, "learning_rate: 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"weight_decay": -1.0}, "weight_decay: -1"),
    ],
)
def test_bad_options_are_refused(options, text, data):
    with pytest.raises(ValueError, match=text):
        run(MAKE["STU"](), data, **options)
    with pytest.raises(ValueError, match="U, Y: shapes"):
        fit_gradient(MAKE["STU"](), data[0], data[1][:, :, :1], steps=1)
