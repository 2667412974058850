"""Costs, small: operations that can be counted by hand, what is kept and the tables."""

import json

import pytest
import torch

pytest.importorskip("pytorch_lightning")

from torchstu.experiments.reproduce import cost, work
from torchstu.experiments.reproduce.experiment import Row
from torchstu.layers.base import Mixer
from torchstu.layers.lru import LRU

SETTINGS = {
    "seeds": 1,
    "targets": [1e-1, 1e-4],
    "system": {"states": 4, "radius": 0.9999},
    "length": 64,
    "samples": 24,
    "batch": 1,
    "validation": 4,
    "filters": 12,
    "repeats": 2,
    "lengths": [32, 64],
    "mixers": [
        {"name": "STU", "size": 12, "rate": 0.1},
        {"name": "LRU", "size": 8, "rate": 0.01, "decay": 0.01, "options": {"r_min": 0.9, "r_max": 0.999}},
    ],
}


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *cost.run(trial)) for trial in cost.trials(SETTINGS, 0)]


def test_trials_are_json_and_results_the_same_twice(rows):
    trials = cost.trials(SETTINGS, 0)
    assert json.loads(json.dumps(trials)) == trials
    assert [t["kind"] for t in trials] == ["reach", "step", "step"] * 2 + ["closed form"]
    for row in rows:
        assert json.dumps(cost.run(row.trial)[0]) == json.dumps(row.result), row.trial


def test_operations_of_products_and_transforms():
    a, b = torch.randn(4, 5), torch.randn(5, 6)
    with work.OperationCounter() as counter:
        a @ b
    assert counter.total == 2 * 4 * 5 * 6
    with work.OperationCounter() as counter:
        a.to(torch.complex64) @ b.to(torch.complex64)
    assert counter.total == 8 * 4 * 5 * 6 + 2 * (20 + 30)  # and the two conversions
    c = torch.zeros(3, 8, dtype=torch.complex64)
    with work.OperationCounter() as counter:
        torch.fft.fft(c)
    assert counter.total == 5 * 3 * 8 * 3
    with work.OperationCounter() as counter:
        (a + 1).T[:2].view(2, 4)
    assert counter.total == 20


class Squares(Mixer):
    """y = w u², which keeps u² and two more for the backward pass of the loss."""

    def __init__(self):
        super().__init__()
        self.d_in = self.d_out = 3
        self.w = torch.nn.Parameter(torch.ones(()))

    def mix(self, u, state):
        return self.w * u.square(), state

    def initial_state(self, batch_size):
        return None


def test_kept_bytes_are_those_of_the_tensors_that_backward_needs():
    u, y = torch.randn(2, 2, 16, 3)
    assert work.kept_bytes(Squares(), u, y) == 2 * u.numel() * 4  # u² and the residual
    short, long = (work.kept_bytes(LRU(3, 3, state_dim=8), *torch.randn(2, 1, steps, 3)) for steps in (512, 4096))
    assert 4 * short < long < 9 * short


def test_more_steps_cost_more_operations(rows):
    for name in ("STU", "LRU"):
        short, long = (r.result["operations"] for r in rows if r.trial["kind"] == "step" and r.trial["mixer"] == name)
        assert short < long < 4 * short
    peaks = [r.measured["peak bytes"] for r in rows if r.trial["kind"] == "step"]
    assert all(peak is None or peak >= 0 for peak in peaks)


def test_costs_are_steps_times_the_cost_of_a_step():
    trial = {"kind": "reach", "mixer": "X", "batch": 2}
    row = Row(trial, {"steps": [0, 1, 2, 4], "errors": [1.0, 0.5, 0.05, 0.04], "operations": 100}, {"step seconds": 0.5})
    assert cost.needed(row, 0.1) == {"sequences": 4, "steps": 2, "operations": 200, "seconds": 1.0}
    assert cost.needed(row, 1e-3) is None


def test_the_closed_form_arrives_and_the_page_says_so(rows):
    sections = cost.sections(rows, SETTINGS)
    table = sections[0].table.rows
    assert [r[0] for r in table] == ["STU", "LRU", "STU, closed form"]
    assert table[2][4].startswith("fit to ")
    assert table[1][-1] == "never"
    assert "not reached:" in sections[0].text
    assert [r[:2] for r in sections[1].table.rows] == [["STU", 32], ["STU", 64], ["LRU", 32], ["LRU", 64]]
    assert cost.sections(rows[:1], SETTINGS)
