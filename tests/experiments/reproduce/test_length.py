"""The length experiment at tiny size."""

import json
import math

import pytest

from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.length import CLOSED_FORMS, EXPERIMENT, best_rates, sections

SETTINGS = {
    "seeds": 2, "system": {"states": 4, "low": 0.9, "high": 0.95}, "length": 32, "multiples": [1, 2, 8], "samples": 24,
    "validation": 4, "steps": 15, "batch": 4, "noise": [0.0, 0.1], "filters": 8, "share": 0.3,
    "mixers": [
        {"name": "STU", "rates": [0.1]},
        {"name": "STU", "label": "STU, no y-term", "y_term": False, "memory": 64, "rates": [0.03]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 3)]


def test_trials_are_every_mixer_rate_noise_and_seed():
    planned = EXPERIMENT.trials(SETTINGS, 3)
    assert len(planned) == 2 * 2 * (1 + 1 + len(CLOSED_FORMS))
    assert json.loads(json.dumps(planned)) == planned
    assert len({json.dumps(trial, sort_keys=True) for trial in planned}) == len(planned)
    assert {trial["seed"] for trial in planned} == {3, 4}
    assert planned == EXPERIMENT.trials(SETTINGS, 3)


def test_a_trial_gives_the_same_result_twice(rows):
    for row in (rows[0], rows[-1]):
        assert EXPERIMENT.run(row.trial)[0] == row.result


def test_the_closed_form_follows_a_clean_system_beyond_its_training(rows):
    for row in rows:
        assert len(row.result["errors"]) == 3
        if row.trial["mixer"] is None and not row.trial["noise"]:
            assert row.result["errors"][0] < 1e-8
            assert row.result["errors"][2] < 1e-2


def test_sections_say_what_the_rows_say(rows):
    clean, noisy = sections(rows, SETTINGS)
    assert "clean" in clean.title
    assert "10%" in noisy.title
    assert len(clean.table.rows) == 4
    assert "2 seeds" in clean.text
    assert clean.figure.startswith("<svg")
    ends = best_rates([row for row in rows if not row.trial["noise"]])
    best = min(ends, key=lambda label: sum(row.result["errors"][-1] for row in ends[label]))
    assert f"the smallest error is that of {best}" in clean.text


def test_sections_work_on_one_seed_and_on_errors_that_are_not_finite(rows):
    first = [row for row in rows if row.trial["seed"] == 3]
    broken = [Row(row.trial, row.result | {"errors": [math.inf] * 3}, {}) for row in first if row.trial["mixer"]]
    words = sections(broken + [row for row in first if row.trial["mixer"] is None], SETTINGS)[0].text
    assert "Worse than predicting zero there: STU, STU, no y-term." in words
