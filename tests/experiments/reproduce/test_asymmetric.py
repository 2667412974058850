"""The experiment on systems that are not symmetric, at tiny size: rotations need a prior that holds them, real poles do not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from torchstu.experiments.reproduce.asymmetric import EXPERIMENT, draw, told_prior
from torchstu.experiments.reproduce.comparison import cell, curve, short
from torchstu.experiments.reproduce.experiment import Row

TURNING = {"name": "rotations", "kind": "rotations", "states": 8, "radius": [0.9, 1.0], "angle": [0.0, 0.5]}
JORDAN = {"name": "Jordan", "kind": "jordan", "states": 6, "radius": [0.5, 0.9], "angle": [0.0, 0.0]}
SETTINGS: dict[str, Any] = {
    "seeds": 2,
    "length": 64,
    "training": 8,
    "fresh": 2,
    "filters": 10,
    "output_lags": [2, 4],
    "lru_rates": [0.03, 0.1],
    "lru": {"states": 4, "radii": [0.5, 0.99], "steps": 3, "batch": 4},
    "pictured": ["rotations"],
    "systems": [TURNING, TURNING | {"name": "noisy rotations", "noise": 0.1}, JORDAN],
}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Every trial of the settings, run once."""
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 3)]


def test_trials_are_values_in_a_fixed_order() -> None:
    """JSON gives them back, none is there twice, seeds count from the base, and real poles have no told angle."""
    trials = EXPERIMENT.trials(SETTINGS, 3)
    texts = [json.dumps(trial, sort_keys=True) for trial in trials]
    assert [json.loads(text) for text in texts] == trials == EXPERIMENT.trials(SETTINGS, 3)
    assert len(set(texts)) == len(texts) == 2 * (8 + 8 + 7)
    assert {trial["seed"] for trial in trials} == {3, 4}
    assert not [t for t in trials if t["learner"] == "STU, told angle" and t["system"]["kind"] == "jordan"]


def test_a_trial_run_again_is_the_same_to_the_last_bit(rows: list[Row]) -> None:
    """One of each learner."""
    for row in {row.trial["learner"]: row for row in rows}.values():
        assert json.dumps(EXPERIMENT.run(row.trial)[0]) == json.dumps(row.result), row.trial["learner"]


def test_rotations_need_their_prior_and_real_poles_none(rows: list[Row]) -> None:
    """Closed forms without noise: the sector holds what the plain filters do not; lags that suffice hold it too."""
    errors: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row.trial["system"]["name"], row.trial["learner"]
        errors[key] = max(errors.get(key, 0.0), row.result["error"])
    assert errors["rotations", "STU"] > 1e-4
    assert errors["rotations", "STU, told angle"] < 1e-9
    assert errors["rotations", "AR-STU, 4 lags"] < 1e-9  # 2 outputs, 4 lags: 8 states
    assert errors["Jordan", "STU"] < 1e-6
    assert 1e-6 < errors["noisy rotations", "STU, told angle"] < 1


def test_sections_say_what_the_rows_say(rows: list[Row]) -> None:
    """All rows, one seed of them, and a single row; numbers change when rows do."""
    for part in (rows, [row for row in rows if row.trial["seed"] == 3], rows[:1]):
        sections = EXPERIMENT.sections(part, SETTINGS)
        assert len(sections) == 3
        assert all(section.text and section.table for section in sections)
    first = EXPERIMENT.sections(rows, SETTINGS)[0]
    assert "so real filters suffice" in str(first.text)
    worse = [Row(row.trial, row.result | {"error": 0.5}, row.measured) for row in rows]
    assert "so real filters do not suffice there" in str(EXPERIMENT.sections(worse, SETTINGS)[0].text)


def test_systems_have_the_poles_that_they_are_named_for() -> None:
    """Spectral radii, angles, and errors of unknown kinds."""
    generator = torch.Generator().manual_seed(0)
    gaussian = draw({"kind": "gaussian", "states": 12, "radius": [0.0, 0.95], "angle": [0.0, 3.0]}, generator)
    assert math.isclose(float(gaussian.eigenvalues().abs().max()), 0.95, rel_tol=1e-12)
    chain = draw({"kind": "chain", "states": 6}, generator)
    assert (chain.state_dim, chain.d_in, chain.d_out) == (6, 2, 2)
    assert float(draw(TURNING, generator).eigenvalues().angle().abs().max()) <= 0.5
    with pytest.raises(ValueError, match="kind: 'round'"):
        draw({"kind": "round", "states": 2, "radius": [0, 1], "angle": [0, 1]}, generator)


def test_the_told_prior_holds_the_angles() -> None:
    """From 0 a sector, away from it an arc."""
    assert told_prior([0.0, 0.4]).name == "Sector(0.4, radius=(0, 1))"
    assert told_prior([1.0, 1.2]).config == {
        "harmonics": {"periods": [2 * math.pi / 1.1], "width": pytest.approx(0.1), "harmonics": 1, "radius": [0.0, 1.0]}
    }


def test_cells_and_curves_of_errors() -> None:
    """Median and range; what is not finite is said in words and not drawn."""
    assert short(0.00234) == "2e-3"
    assert short(math.inf) == "diverged"
    assert cell([1e-3, 4e-3, 2e-3]) == "2e-3 (1e-3 … 4e-3)"
    assert (cell([]), cell([3e-5]), cell([1.0, math.nan])) == ("", "3e-5", "diverged (1e0 … diverged)")
    x, middle, low, high = curve({2.0: [1.0, 3.0, math.inf], 1.0: [5.0], 3.0: [math.nan]})
    np.testing.assert_array_equal([x, middle, low, high], [[1, 2], [5, 3], [5, 1], [5, 3]])
