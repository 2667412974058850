"""Error against the number of filters, small: the fall, the bound, and where each way to compute flattens."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning")

from torchstu.experiments.reproduce import paper_filters
from torchstu.experiments.reproduce import paper_filters_sections as page
from torchstu.experiments.reproduce.experiment import Row

NAME = "16 states, ±[0.99, 1]"
SETTINGS = {
    "seeds": 1,
    "length": 128,
    "fitted": 8,
    "validation": 4,
    "counts": [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28],
    "trained_counts": [4, 12],
    "training": {"samples": 40, "batch": 1},
    "trained_seeds": 1,
    "optimizers": ["adamw", "unit"],
    "rates": [0.05, 0.2],
    "systems": {NAME: {"states": 16, "low": 0.99, "high": 1.0}},
}


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *paper_filters.run(trial)) for trial in paper_filters.trials(SETTINGS, 0)]


def test_the_plan_is_the_same_twice_and_of_json_values():
    trials = paper_filters.trials(SETTINGS, 3)
    assert json.loads(json.dumps(trials)) == trials
    assert [t["kind"] for t in trials] == ["closed form"] * 3 + ["bound"] + ["gradient"] * 8
    assert {t["seed"] for t in trials} == {3}


def test_results_are_the_same_twice(rows):
    for row in (rows[0], rows[1], rows[3], rows[-1]):
        assert json.dumps(paper_filters.run(row.trial)[0]) == json.dumps(row.result), row.trial["kind"]


def test_the_error_falls_over_many_orders_at_the_rate_of_the_eigenvalues(rows):
    found = page.slopes(rows, NAME)
    assert found["orders"] > 12  # 18 measured
    assert 0.7 < found["error"] / found["sigma"] < 1.3


def test_the_error_is_under_every_bound(rows):
    result = next(row.result for row in rows if row.trial["kind"] == "bound")
    for bound in ("computed", "spectral", "theorem"):
        assert (np.array(result["written"]) <= np.array(result[bound]) + result["rounding"]).all(), bound
    assert len(result["written"]) == len(SETTINGS["counts"])


def test_single_precision_and_dense_solvers_flatten_and_these_filters_do_not(rows):
    lines = page.flattening(rows, NAME)
    floors = {words: errors.min() for words, (_, errors) in lines.items()}
    assert floors["these filters, float64"] < 1e-3 * floors["eigh, float64"]
    assert floors["eigh, float64"] < floors["eigh, float32"]
    assert floors["these filters, float64"] < 1e-6 * floors["these filters, weights run in float32"]
    assert set(lines) >= {"gradient descent, stored weights", "gradient descent, norm 1"}


def test_where_a_curve_is_flat():
    assert page.flat_from([1, 2, 4, 8], np.array([1.0, 1e-2, 2e-3, 3e-3])) == 2
    assert page.flat_from([1, 2, 8], np.array([1.0, 1e-2, 1e-4])) is None
    assert page.flat_from([1, 5, 8], np.array([1.0, 1e-3, 1e-3])) is None  # three filters are too few to tell
    assert page.fitted_slope([1, 2, 3], np.exp([-2.0, -4.0, -6.0])) == pytest.approx(-2)
    assert math.isnan(page.fitted_slope([1], np.array([1.0])))


def test_the_page_works_with_any_part_of_the_rows(rows):
    whole = paper_filters.sections(rows, SETTINGS)
    assert [s.title for s in whole] == [
        "Error against the number of filters", f"Under the bound: {NAME}", f"Why it flattens: {NAME}",
    ]  # fmt: skip
    assert "in 15 of 15 cases" in whole[1].text
    assert "orders of magnitude" in whole[0].text
    for part in (rows[:1], rows[3:4], rows[4:]):
        assert paper_filters.sections(part, SETTINGS)


def test_the_two_coordinates_train_differently(rows):
    errors = {
        row.trial["optimizer"]: row.result["error"] for row in rows if row.trial.get("rate") == 0.2 and row.trial["count"] == 12
    }
    assert errors["adamw"] != errors["unit"]
