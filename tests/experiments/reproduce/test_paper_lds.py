"""The comparison on the paper's system, small: the plan, one run twice, and what the page says about made-up curves."""

import json
import math

import pytest

pytest.importorskip("pytorch_lightning")

from torchstu.experiments.reproduce import paper_lds
from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.systems import make, matched_size, median, parameters, spread

SETTINGS = {
    "seeds": 2,
    "system": {"states": 4, "radius": 0.9999},
    "length": 64,
    "samples": 48,
    "batch": 1,
    "validation": 4,
    "filters": 12,
    "mixers": [
        {"name": "STU", "size": 12, "rates": [0.05, 0.1]},
        {"name": "LRU", "size": 8, "rates": [0.01], "decay": 0.01, "options": {"r_min": 0.9, "r_max": 0.999}},
    ],
}


def row(mixer, seed, samples, errors, rate=0.1, comparisons=paper_lds.COMPARISONS):
    trial = {"mixer": mixer, "seed": seed, "rate": rate, "size": 9, "comparisons": list(comparisons)}
    return Row(trial, {"samples": samples, "errors": errors, "diverged": False, "parameters": 100}, {"seconds": 1.0})


def test_every_mixer_runs_at_both_sizes_and_all_rates():
    trials = paper_lds.trials(SETTINGS, 5)
    assert trials == paper_lds.trials(SETTINGS, 5)
    assert json.loads(json.dumps(trials)) == trials
    stu = [t for t in trials if t["mixer"] == "STU"]
    assert [(t["rate"], t["seed"]) for t in stu] == [(0.05, 5), (0.05, 6), (0.1, 5), (0.1, 6)]
    assert stu[0]["comparisons"] == [paper_lds.EQUAL, paper_lds.OWN]  # one size serves both
    sizes = {t["comparisons"][0]: t["size"] for t in trials if t["mixer"] == "LRU"}
    target = parameters(make("STU", 12, 64))
    assert sizes[paper_lds.OWN] == 8
    assert abs(parameters(make("LRU", sizes[paper_lds.EQUAL], 64)) - target) <= 0.1 * target


def test_one_trial_is_the_same_twice_and_the_page_is_made_of_it():
    trials = [t for t in paper_lds.trials(SETTINGS, 0) if t["seed"] == 0 and t["rate"] != 0.1]
    rows = [Row(trial, *paper_lds.run(trial)) for trial in trials]
    again = paper_lds.run(trials[0])[0]
    assert json.dumps(again) == json.dumps(rows[0].result)
    assert rows[0].result["samples"][:6] == [0, 1, 2, 3, 4, 6]
    assert rows[0].result["errors"][-1] < rows[1].result["errors"][-1]  # STU before LRU
    titles = [section.title for section in paper_lds.sections(rows, SETTINGS)]
    assert titles == ["At equal numbers of parameters", "Each layer at a size of its own", "How many times fewer sequences"]


def test_ratios_come_from_the_best_runs_of_each_seed():
    rows = [
        row("LRU", 0, [0, 10, 80], [1.0, 0.9, 0.5]),
        row("LRU", 0, [0, 10, 80], [1.0, 0.9, 0.8], rate=0.2),  # a worse rate
        row("LRU", 1, [0, 10, 80], [1.0, 0.9, 0.2]),
        row("STU", 0, [0, 4, 8], [1.0, 0.4, 0.1]),
        row("STU", 1, [0, 4, 8], [1.0, 0.4, 0.1]),
    ]
    assert [(e["error"], e["STU"], e["ratio"]) for e in paper_lds.sample_ratios(rows)] == [(0.5, 4, 20.0), (0.2, 8, 10.0)]
    words = paper_lds.sections(rows, SETTINGS)[-1].text
    assert "15 times fewer sequences (median of 2 seeds; 10 to 20)" in words
    assert "holds for every seed" in words
    slow = [*rows[:4], row("STU", 1, [0, 40, 80], [1.0, 0.4, 0.1])]
    assert "does not" not in paper_lds.sections(slow, SETTINGS)[-1].text  # median of 20 and 1 is above 8
    assert "holds for the median" in paper_lds.sections(slow, SETTINGS)[-1].text
    never = [*rows[:4], row("STU", 1, [0, 40, 80], [1.0, 0.4, 0.3])]
    assert "never reached" in paper_lds.sections(never, SETTINGS)[-1].text


def test_a_run_that_diverged_is_no_best_run():
    bad = row("LRU", 0, [0, 10], [1.0, 0.1], rate=0.3)
    bad.result["diverged"] = True
    best = paper_lds._best([bad, row("LRU", 0, [0, 10], [1.0, 0.7])], "LRU")
    assert [r.trial["rate"] for r in best] == [0.1]


def test_summaries():
    assert median([3, None, 1]) == 3
    assert median([1, None]) == math.inf
    assert median([1, "inf", 2, 4]) == 3
    assert spread([2.0, 1.0, None]) == "2 (1 … never)"
    assert spread([None]) == "never"


def test_a_size_that_no_layer_has_is_refused():
    with pytest.raises(ValueError, match="target: 13 parameters; STU"):
        matched_size("STU", 13, 64)
