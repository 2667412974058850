"""`suggest_prior`: poles, candidates, and the issue's chain without being told."""

import math

import numpy as np
import pytest
import torch

from torchstu import LDS, SpectralRegressor, Uniform, random_lds, relative_error
from torchstu.learn.poles import estimate_poles
from torchstu.learn.prior_suggestion import suggest_prior
from torchstu.spectral.measures import Prior
from torchstu.spectral.sector import Sector
from torchstu.systems.physical import mass_spring_chain


def recordings(lds, count, steps, seed=0):
    u = torch.randn(count, steps, lds.d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u, lds.simulate(u)


@pytest.fixture(scope="module")
def chain():
    lds = mass_spring_chain(4, observed=(0, 3))
    U, Y = recordings(lds, 4, 384)
    return lds, U, Y, suggest_prior(U, Y)


def test_the_chain_to_1e_6_without_being_told(chain):
    lds, U, Y, suggestion = chain
    u, y = recordings(lds, 3, 384, seed=1)
    model = SpectralRegressor(**suggestion.options).fit(U, Y)
    assert relative_error(model.predict(u), y) <= 1e-6  # measured 4e-13
    plain = SpectralRegressor(24).fit(U, Y)
    assert relative_error(plain.predict(u), y) > 1e-2


def test_the_account_says_what_was_seen_and_tried(chain):
    *_, suggestion = chain
    assert isinstance(suggestion.prior, Prior)
    text = str(suggestion)
    assert "4 of them rotate" in text
    assert "'positive' leaves" in text
    errors = [trial.error for trial in suggestion.trials]
    assert errors == sorted(errors)
    assert suggestion.error == min(errors)
    assert {"positive", "signed"} < {trial.prior for trial in suggestion.trials}
    assert 5 in {trial.preconditioning for trial in suggestion.trials}


def test_the_same_data_give_the_same_suggestion(chain):
    _, U, Y, suggestion = chain
    again = suggest_prior(U.numpy(), Y.numpy())
    assert again.prior == suggestion.prior
    assert again.trials == suggestion.trials


def test_a_symmetric_system_keeps_positive():
    lds = random_lds(8, 1, 1, Uniform(0.9, 0.99), torch.Generator().manual_seed(3))
    suggestion = suggest_prior(*recordings(lds, 4, 256))
    assert suggestion.prior == "positive"
    assert suggestion.autoregression == "fixed"
    assert suggestion.preconditioning is None
    assert "None of them rotates" in str(suggestion)


def test_one_sequence_is_split_in_time():
    lds = mass_spring_chain(2, observed=(1,))
    U, Y = recordings(lds, 1, 640)
    suggestion = suggest_prior(U[0], Y[0])
    assert suggestion.error < 1e-6
    assert not isinstance(suggestion.prior, str)


def test_poles_are_those_of_the_system():
    lds = mass_spring_chain(3)
    poles = estimate_poles(*recordings(lds, 4, 400))
    true = lds.eigenvalues().numpy()
    true = true[true.imag > 0]
    found = poles.values[:3].numpy()
    assert max(np.abs(true - value).min() for value in found) < 1e-8
    assert float(poles.shares[:3].sum()) > 0.999
    assert float(poles.shares[3:].max()) < 1e-6


def test_noise_that_makes_the_autoregression_unstable_is_no_error():
    generator = torch.Generator().manual_seed(0)
    lds = LDS(torch.tensor([[1.0]]), torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1, 1))
    U, Y = recordings(lds, 2, 200)
    poles = estimate_poles(U, Y + 0.3 * torch.randn(Y.shape, generator=generator, dtype=torch.float64))
    assert float(poles.values.abs().max()) <= 1 + 1e-12
    assert torch.isfinite(poles.shares).all()


def test_rotations_in_a_sector_give_a_sector_that_holds_them():
    chain = mass_spring_chain(14, damping=0.5, observed=(0, 13))  # more peaks than `Harmonics` is tried with
    suggestion = suggest_prior(*recordings(chain, 6, 384))
    highest = float(chain.eigenvalues().angle().max())
    sectors = [trial for trial in suggestion.trials if trial.prior.startswith("Sector")]
    assert sectors
    assert not [trial for trial in suggestion.trials if "Harmonics" in trial.prior]
    assert isinstance(suggestion.prior, Sector)
    assert highest < suggestion.prior.max_angle < min(1.2 * highest, math.pi)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda U, Y: (U[:, :20], Y[:, :20]), "U: 20 steps"),
        (lambda U, Y: (U[:1], Y), r"Y: shape \(2, 64, 1\)"),
        (lambda U, Y: (U * math.nan, Y), "U: has a value that is not finite"),
        (lambda U, Y: (U, Y * 0), "Y: is zero everywhere"),
    ],
)
def test_bad_input_is_refused(change, text):
    U, Y = recordings(mass_spring_chain(1), 2, 64)
    with pytest.raises(ValueError, match=text):
        suggest_prior(*change(U, Y))
