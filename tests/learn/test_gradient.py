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
