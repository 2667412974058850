"""The experiment on noise, at tiny size: the Kalman filter is the floor, and the next-step fit pays for its target."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.noise import CLOSED, EXPERIMENT, KALMAN, LRU, NEXT, REFINED, ROLLOUT

SETTINGS: dict[str, Any] = {
    "seeds": 2,
    "states": 4,
    "radius": 0.95,
    "length": 96,
    "training": 5,
    "fresh": 4,
    "filters": 6,
    "max_order": 4,
    "levels": [0.0, 0.3],
    "lru_rates": [0.03, 0.1],
    "lru": {"states": 4, "radii": [0.5, 0.95], "steps": 3, "batch": 4},
}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Every trial of the settings, run once."""
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 1)]


def test_trials_are_values_in_a_fixed_order() -> None:
    """JSON gives them back; every pair of levels, learner, rate and seed, once."""
    trials = EXPERIMENT.trials(SETTINGS, 1)
    texts = [json.dumps(trial, sort_keys=True) for trial in trials]
    assert [json.loads(text) for text in texts] == trials
    assert len(set(texts)) == len(texts) == 4 * (len(CLOSED) + len(REFINED) + 1 + 2) * 2


def test_a_trial_run_again_is_the_same_to_the_last_bit(rows: list[Row]) -> None:
    """One of each learner."""
    for row in {row.trial["learner"]: row for row in rows}.values():
        assert json.dumps(EXPERIMENT.run(row.trial)[0]) == json.dumps(row.result), row.trial["learner"]


def test_nothing_is_below_the_floor_and_the_next_step_fit_pays(rows: list[Row]) -> None:
    """Where the output is observed with noise: errors of one step against the Kalman filter's; roll-outs of the two fits."""
    found = {
        (r.trial["learner"], r.trial["process"], r.trial["seed"]): r.result
        for r in rows
        if r.trial["observation"] and r.trial["process"] in (0.0, 0.3)
    }
    for (learner, process, seed), result in found.items():
        floor = found[KALMAN, process, seed]["step"]
        assert result["step"] > 0.97 * floor, learner  # 384 fresh steps: the floor itself scatters
    for seed in (1, 2):
        assert found[NEXT, 0.0, seed]["rollout"] > 2 * found[ROLLOUT, 0.0, seed]["rollout"]
        assert (
            found[NEXT, 0.0, seed]["step"] > 1.5 * found[KALMAN, 0.0, seed]["step"]
        )  # the target y_t - y_{t-2} has twice the noise
    clean = [
        row.result for row in rows if not row.trial["process"] + row.trial["observation"] and row.trial["learner"] == ROLLOUT
    ]
    assert all(result["rollout"] < 1e-5 for result in clean)


def test_sections_say_what_the_rows_say(rows: list[Row]) -> None:
    """All rows, one seed of them, and a single row; the LRU is shown at its best rate."""
    for part in (rows, [row for row in rows if row.trial["seed"] == 1], rows[:1]):
        sections = EXPERIMENT.sections(part, SETTINGS)
        assert len(sections) == 2
        assert all(section.text and section.table for section in sections)
    rollouts, steps = EXPERIMENT.sections(rows, SETTINGS)
    assert rollouts.table is not None
    assert steps.table is not None
    assert len(rollouts.table.rows) == 4
    assert len(steps.table.rows) == 3
    tenfold = [
        Row(r.trial, {k: 10 * v for k, v in r.result.items()}, r.measured) if r.trial["learner"] == NEXT else r for r in rows
    ]
    assert EXPERIMENT.sections(tenfold, SETTINGS)[0].text != rollouts.text
    slow = {"rollout": 1e9, "step": 1e9}
    one_rate = [Row(r.trial, r.result if r.trial.get("rate") != 0.1 else slow, r.measured) for r in rows]
    assert "1e9" not in str(EXPERIMENT.sections(one_rate, SETTINGS)[0].table)
    assert LRU in rollouts.table.header
