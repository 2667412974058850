"""The depth experiment at tiny size."""

import json
import math

import pytest
import torch

from torchstu.experiments.reproduce.depth import EXPERIMENT, REFERENCE, data, final, matched_width, sections
from torchstu.experiments.reproduce.experiment import Row

SETTINGS = {
    "seeds": 2, "systems": ["linear", "wiener"], "states": 2, "radii": [0.5, 0.8], "length": 32, "samples": 32, "validation": 8,
    "steps": 12, "batch": 8, "layers": [1, 2], "parameters": 400, "filters": 8,
    "mixers": [{"name": "STU", "label": "STU, no y-term", "y_term": False, "options": {"num_filters": 6}, "rates": [0.02]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 0)]


def test_trials_are_every_system_stack_depth_rate_and_seed():
    planned = EXPERIMENT.trials(SETTINGS, 5)
    assert len(planned) == 2 * (2 * 2 * 2 + 2)
    assert json.loads(json.dumps(planned)) == planned
    assert len({json.dumps(trial, sort_keys=True) for trial in planned}) == len(planned)
    assert planned == EXPERIMENT.trials(SETTINGS, 5)


def test_stacks_have_the_same_number_of_parameters():
    settings = SETTINGS | {"parameters": 4000}
    widths = [matched_width("LRU", layers, "glu", {"state_dim": 8}, settings) for layers in (1, 2, 4, 8)]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_a_trial_gives_the_same_result_twice(rows):
    for row in (rows[0], rows[-1]):
        assert EXPERIMENT.run(row.trial)[0] == row.result


def test_systems_are_what_they_are_called():
    trial = EXPERIMENT.trials(SETTINGS, 0)[0]
    (u, y), (_, fresh) = data(trial)
    assert u.shape == (32, 32, 1)
    assert float(torch.cat([y, fresh]).square().mean()) == pytest.approx(1)
    (same, bent), _ = data(trial | {"system": "wiener"})
    assert torch.equal(same, u)
    torch.testing.assert_close(bent, y.tanh())
    (_, other), _ = data(trial | {"system": "hammerstein"})
    assert (other - y).abs().max() > 0.01


def test_one_linear_layer_is_enough_for_a_linear_system_only(rows):
    errors = {row.trial["system"]: final(row) for row in rows if row.trial["stack"] == REFERENCE}
    assert errors["linear"] < 1e-8
    assert errors["wiener"] > 1e-2


def test_sections_say_what_the_rows_say(rows):
    linear, wiener, cost = sections(rows, SETTINGS)
    assert len(linear.table.rows) == 2 * 2 + 1
    assert "One linear layer fitted in closed form reaches" in linear.text
    assert "Wiener" in wiener.text
    assert linear.figure.startswith("<svg")
    assert len(cost.table.rows) == 2 * 2 * 2
    assert "times as long as one of 1" in cost.text


def test_sections_work_on_one_seed_and_on_runs_that_diverged(rows):
    first = [Row(row.trial, row.result | {"diverged": True}, row.measured) for row in rows if row.trial["seed"] == 0]
    linear, _, cost = sections(first, SETTINGS)
    assert "no depth was trained without diverging" in linear.text
    assert all(line[5] == "100%" for line in cost.table.rows)
    assert math.isinf(final(first[0]))
