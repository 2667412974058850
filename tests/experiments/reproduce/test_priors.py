"""The experiment on banks of filters, at tiny size, and the mixer whose filters are learned."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.learned_filters import LearnedFilters
from torchstu.experiments.reproduce.priors import EXPERIMENT, make_bank
from torchstu.experiments.reproduce.priors_sections import FOURIER, HANKEL, LEARNED, LEGENDRE, RANDOM
from torchstu.testing import check_mixer

ORTHONORMAL = 1e-10
"""Measured 1e-12 at most, of the Hankel filters past what float64 supports too."""
SCALES = {"name": "all scales", "states": 24, "decays": [0.5, 1e-4], "flips": True, "feedback": False}
TURNING = {"name": "rotations", "states": 12, "radius": [0.98, 1.0], "angle": 0.2, "flips": False, "feedback": False}
NOISY = {"name": "noisy", "states": 6, "radius": [0.9, 0.99], "flips": True, "feedback": True, "noise": 0.1}
SETTINGS: dict[str, Any] = {
    "seeds": 2,
    "length": 128,
    "training": 6,
    "fresh": 2,
    "counts": [4, 24],
    "learned_counts": [4],
    "sector": 0.2,
    "rates": [0.003, 0.01],
    "gradient": {"steps": 3, "batch": 4},
    "cases": [SCALES, TURNING, NOISY],
}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Every trial of the settings, run once."""
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 5)]


def test_trials_are_values_in_a_fixed_order() -> None:
    """JSON gives them back; every case, bank, K, rate and seed, once."""
    trials = EXPERIMENT.trials(SETTINGS, 5)
    texts = [json.dumps(trial, sort_keys=True) for trial in trials]
    assert [json.loads(text) for text in texts] == trials
    assert len(set(texts)) == len(texts) == 3 * (6 * 2 + 2) * 2


def test_a_trial_run_again_is_the_same_to_the_last_bit(rows: list[Row]) -> None:
    """One of each bank."""
    for row in {row.trial["bank"]: row for row in rows}.values():
        assert json.dumps(EXPERIMENT.run(row.trial)[0]) == json.dumps(row.result), row.trial["bank"]


def test_hankel_filters_hold_all_time_scales_at_once(rows: list[Row]) -> None:
    """Without noise, modes of every memory: positive and signed leave far less than the other bases of as many responses."""
    for seed in (5, 6):
        errors = {
            row.trial["bank"]: row.result["error"]
            for row in rows
            if (row.trial["case"]["name"], row.trial["count"], row.trial["seed"]) == ("all scales", 24, seed)
        }
        assert max(errors["positive"], errors["signed"]) < 1e-2 * min(errors[bank] for bank in (RANDOM, FOURIER, LEGENDRE))
        turning = {
            row.trial["bank"]: row.result["error"]
            for row in rows
            if (row.trial["case"]["name"], row.trial["count"], row.trial["seed"]) == ("rotations", 24, seed)
        }
        assert turning["sector"] < 1e-3 * min(turning["positive"], turning[RANDOM])


def test_every_bank_has_the_same_number_of_weights(rows: list[Row]) -> None:
    """Of one case and one K, learned filters apart."""
    for case in SETTINGS["cases"]:
        weights = {
            row.result["weights"]
            for row in rows
            if row.trial["case"]["name"] == case["name"] and row.trial["count"] == 4 and row.trial["bank"] != LEARNED
        }
        assert len(weights) == 1


def test_sections_say_what_the_rows_say(rows: list[Row]) -> None:
    """All rows, one seed of them, and a single row; verdicts follow the errors."""
    for part in (rows, [row for row in rows if row.trial["seed"] == 5], rows[:1]):
        sections = EXPERIMENT.sections(part, SETTINGS)
        assert len(sections) >= 2
        assert all(section.text and section.table for section in sections)
    worse = [Row(r.trial, r.result | {"error": 1.0}, r.measured) if r.trial["bank"] in HANKEL else r for r in rows]
    assert "leave less than all others on 0 of 3 systems" in str(EXPERIMENT.sections(worse, SETTINGS)[0].text)


@pytest.mark.parametrize("name", ["positive", "signed", "sector", "random", "Fourier", "Legendre"])
@pytest.mark.parametrize("count", [1, 6, 31])
def test_banks_are_orthonormal(name: str, count: int) -> None:
    """K filters of length L, none scaled."""
    bank = make_bank(name, 96, count)
    assert bank.filters.shape == (96, count)
    assert (bank.eigenvalues == 1).all()
    np.testing.assert_allclose(bank.filters.T @ bank.filters, np.eye(count), atol=ORTHONORMAL)


def test_bases_span_what_they_are_named_for() -> None:
    """Legendre: polynomials; Fourier: waves of whole periods; random: another for every seed; unknown: an error."""
    t = np.arange(64)
    cubic = 1.0 + t - 0.3 * t**2 + 0.01 * t**3
    legendre, fourier = make_bank("Legendre", 64, 4).filters, make_bank("Fourier", 64, 5).filters
    np.testing.assert_allclose(legendre @ (legendre.T @ cubic), cubic, rtol=1e-9, atol=1e-9 * np.abs(cubic).max())
    wave = 2 + np.cos(2 * np.pi * 2 * t / 64 + 0.7)
    np.testing.assert_allclose(fourier @ (fourier.T @ wave), wave, rtol=1e-12)
    assert not np.allclose(make_bank("random", 64, 3, seed=0).filters, make_bank("random", 64, 3, seed=1).filters)
    with pytest.raises(ValueError, match="name: 'wavelet'"):
        make_bank("wavelet", 64, 4)


def test_learned_filters_keep_the_contract_of_a_mixer() -> None:
    """Shorter and longer than the pieces that the suite cuts."""
    for length in (1, 20):
        check_mixer(lambda dtype, n=length: LearnedFilters(3, 2, length=n, num_filters=4, dtype=dtype))  # type: ignore[misc]


def test_learned_filters_equal_their_definition() -> None:
    """Against the sum written out, with all weights drawn; 1e-12 in float64."""
    generator = torch.Generator().manual_seed(0)
    mixer = LearnedFilters(2, 3, length=5, num_filters=4, dtype=torch.float64)
    with torch.no_grad():
        for weight in mixer.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        u = torch.randn(1, 12, 2, generator=generator, dtype=torch.float64)
        expected = u @ mixer.D
        for t in range(12):
            for i in range(min(5, t + 1)):
                expected[:, t] += sum(mixer.phi[i, k] * (u[:, t - i] @ mixer.M[k]) for k in range(4))
        torch.testing.assert_close(mixer(u)[0], expected, rtol=0, atol=1e-12)
