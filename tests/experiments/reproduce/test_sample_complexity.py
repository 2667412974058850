"""Sequences needed, small: the star of cells, the search, and the tables."""

import json

import pytest

pytest.importorskip("pytorch_lightning")

from torchstu.experiments.reproduce import sample_complexity
from torchstu.experiments.reproduce.experiment import Row

SETTINGS = {
    "seeds": 1,
    "targets": [1e-1, 1e-4],
    "most": 8,
    "validation": 4,
    "base": {"states": 4, "gap": 1e-2, "length": 64},
    "states": [4, 8],
    "gap": [1e-2],
    "length": [64, 96],
    "training": {"steps": 20, "batch": 1},
    "learners": {
        "STU, closed form": {"kind": "closed form", "factor": 2, "num_filters": 12, "ridge": 1e-12, "tail_penalty": 0.0},
        "lags, closed form": {"kind": "lags", "factor": 2, "ridge": 1e-12},
        "LRU, gradient": {"kind": "gradient", "factor": 4, "mixer": "LRU", "size": 8, "rate": 0.01},
    },
}


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *sample_complexity.run(trial)) for trial in sample_complexity.trials(SETTINGS, 0)]


def test_cells_are_a_star():
    found = [(c["states"], c["gap"], c["length"]) for c in sample_complexity.cells(SETTINGS)]
    assert found == [(4, 1e-2, 64), (8, 1e-2, 64), (4, 1e-2, 96)]


def test_trials_are_json_and_results_the_same_twice(rows):
    trials = sample_complexity.trials(SETTINGS, 0)
    assert json.loads(json.dumps(trials)) == trials
    for row in rows[:3]:
        assert json.dumps(sample_complexity.run(row.trial)[0]) == json.dumps(row.result)


def test_spectral_filters_need_fewer_sequences_than_free_lags_and_gradient_does_not_arrive(rows):
    needs = {row.trial["learner"]: sample_complexity.reached(row, 1e-4) for row in rows[:3]}
    assert needs["STU, closed form"] <= 2
    assert needs["lags, closed form"] >= 3  # 3 L weights an output, L equations a sequence
    assert needs["LRU, gradient"] is None


def test_reached_counts_from_where_it_stays():
    row = Row({}, {"counts": [1, 2, 4, 8], "errors": [0.01, 0.5, 0.05, "inf"]}, {})
    assert sample_complexity.reached(row, 0.1) is None
    row.result["errors"][-1] = 0.02
    assert sample_complexity.reached(row, 0.1) == 4


def test_the_page_has_a_table_for_each_goal_and_works_with_part_of_the_rows(rows):
    sections = sample_complexity.sections(rows, SETTINGS)
    assert [s.title for s in sections] == ["What was asked", "Down to an error of 0.1", "Down to an error of 0.0001"]
    assert [r[:3] for r in sections[1].table.rows] == [[4, "0.01", 64], [8, "0.01", 64], [4, "0.01", 96]]
    assert sections[2].table.rows[0][-1] == "never"
    assert "STU, closed form in 3 of 3 searches" in sections[0].text
    assert sample_complexity.sections(rows[:1], SETTINGS)
