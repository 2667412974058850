"""Shares of diverged and stuck runs, over learning rates and seeds."""

import math

import pytest

from torchstu.experiments.reproduce import stability
from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.recipes import read_recipe

SETTINGS = {
    "seeds": 1,
    "system": {"states": 4, "low": 0.9, "high": 0.99},
    "length": 32,
    "samples": 200,
    "batch": 4,
    "validation": 4,
    "rates": [1e-6, 0.1, 1e6],
    "mixers": [{"name": "AR-STU", "size": 6}, {"name": "LRU", "size": 8, "options": {"r_min": 0.5, "r_max": 0.99}}],
}


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *stability.run(trial)) for trial in stability.trials(SETTINGS, 3)]


def test_small_rates_get_stuck_middle_ones_learn_and_huge_ones_diverge(rows):
    outcomes = {(row.trial["mixer"], row.trial["rate"]): row.result["outcome"] for row in rows}
    assert outcomes["AR-STU", 1e-6] == outcomes["LRU", 1e-6] == "stuck"
    assert outcomes["AR-STU", 0.1] == "learned"
    assert outcomes["AR-STU", 1e6] == outcomes["LRU", 1e6] == "diverged"


def test_a_trial_is_the_same_twice(rows):
    assert stability.run(rows[1].trial)[0] == rows[1].result


def test_outcomes_by_their_definitions():
    assert stability.outcome([1.0, 0.6, 0.4], False) == "learned"
    assert stability.outcome([1.8, 0.4, 0.9], False) == "stuck"
    assert stability.outcome([20.0, 9.0, 15.0], False) == "diverged"
    assert stability.outcome([1.0, 0.4, math.nan], False) == "diverged"
    assert stability.outcome([1.0, 0.4, math.inf], False) == "diverged"
    assert stability.outcome([1.0, 0.4], True) == "diverged"


def test_words_and_table_follow_the_rows(rows):
    (section,) = stability.sections(rows, SETTINGS)
    assert "AR-STU 2 of 3" in section.text
    table = {line[0]: line for line in section.table.rows}
    assert table["AR-STU"][1:5] == [3, 1, 1, "0.1"]
    (only,) = stability.sections([row for row in rows if row.trial["mixer"] == "LRU"], SETTINGS)
    assert [line[0] for line in only.table.rows] == ["LRU"]
    assert stability.sections([], SETTINGS)[0].table.rows == []


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_the_recipe_names_mixers_that_can_be_made(scale):
    from torchstu.experiments.reproduce.systems import make

    settings = read_recipe(stability.__name__, "stability")[scale]
    for mixer in settings["mixers"]:
        make(mixer["name"], mixer["size"], settings["length"], mixer.get("options"), device="meta")
    assert len(stability.trials(settings, 0)) == len(settings["mixers"]) * len(settings["rates"]) * settings["seeds"]
