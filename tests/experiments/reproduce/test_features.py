"""The ablation of Eq. 4's parts."""

import numpy as np
import pytest
import torch

from torchstu import Uniform, random_lds
from torchstu.experiments.reproduce import features
from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.recipes import read_recipe

SETTINGS = {
    "seeds": 1,
    "system": {"states": 32, "low": 0.99, "high": 1.0},
    "length": 64,
    "filters": 10,
    "validation": 4,
    "fitted": 8,
    "steps": 100,
    "batch": 4,
    "rates": [0.1],
    "parts": [
        {
            "name": "scaling",
            "title": "Scaling",
            "variants": [
                {"name": "fourth root", "y_term": "none"},
                {"name": "norm 1", "y_term": "none", "scaling": "unit"},
                {"name": "whitened", "y_term": "none", "scaling": "whitened"},
            ],
        },
        {"name": "banks", "title": "Banks", "variants": [{"name": "both"}, {"name": "positive only", "banks": "positive"}]},
    ],
    "long": {
        "steps": 200,
        "target": 1e-3,
        "runs": [{"name": "norm 1", "y_term": "none", "scaling": "unit", "rate": 0.1}],
    },
}


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *features.run(trial)) for trial in features.trials(SETTINGS, 0)]


def find(rows, kind, **wanted):
    return [row for row in rows if row.trial["kind"] == kind and wanted.items() <= row.trial["features"].items()]


def test_variants_that_two_parts_share_run_once_and_scaling_is_not_solved_for_twice(rows):
    assert len(find(rows, "descent")) == 5
    assert len(find(rows, "closed form")) == 3


def test_without_a_y_term_filters_of_norm_one_learn_faster(rows):
    stored, unit = (find(rows, "descent", y_term="none", scaling=name)[0].result["errors"][-1] for name in ("stored", "unit"))
    assert unit < stored / 3
    assert find(rows, "long")[0].result["errors"][-1] < 1e-3


def test_one_bank_cannot_hold_both_signs_even_in_closed_form(rows):
    both, positive = (find(rows, "closed form", banks=name, y_term="fixed")[0].result["error"] for name in ("both", "positive"))
    assert both < 1e-6 < 1e-3 < positive


def test_a_trial_is_the_same_twice(rows):
    for kind in ("descent", "closed form"):
        row = find(rows, kind)[0]
        assert features.run(row.trial)[0] == row.result


def test_data_by_convolution_are_those_of_the_simulation():
    generator = torch.Generator().manual_seed(0)
    lds = random_lds(16, 3, 3, Uniform(0.99, 1.0), generator)
    u, y = features.convolved_sequences(lds, 5, 100, generator)
    torch.testing.assert_close(y, lds.simulate(u), rtol=1e-10, atol=1e-10 * float(y.abs().max()))


def test_whitened_filters_give_uncorrelated_outputs_of_variance_one():
    bank = features.whitened_bank(64, 8)
    weight = 1 - np.arange(64)[:, None] / 64
    np.testing.assert_allclose(bank.filters.T @ (weight * bank.filters), np.eye(bank.count), atol=1e-8)
    assert 8 < bank.count <= 16


def test_sections_follow_the_rows(rows):
    long, scaling, banks = features.sections(rows, SETTINGS)
    assert "1 of 1 runs end at 0.001 or below" in long.text
    assert [line[0] for line in scaling.table.rows] == ["fourth root", "norm 1", "whitened"]
    assert "The best variant is both" in banks.text
    empty = features.sections([], SETTINGS)
    assert [section.table.rows for section in empty] == [[], [], []]


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_the_recipe_makes_layers(scale):
    settings = read_recipe(features.__name__, "features")[scale]
    planned = features.trials(settings, 0)
    assert all(part["name"] in features.PARTS for part in settings["parts"])
    kinds = {trial["kind"] for trial in planned}
    assert kinds == {"descent", "closed form", "long"}
    for trial in planned[: len(planned) // settings["seeds"]]:
        if trial["kind"] == "descent" and trial["features"]["scaling"] != "whitened" and trial["rate"] == settings["rates"][0]:
            features.make_layer(trial)
