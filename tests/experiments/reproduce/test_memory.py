"""The memory experiment at tiny size."""

import json

import pytest
import torch

from torchstu.data.tasks import IGNORED, TASKS
from torchstu.experiments.reproduce.experiment import Row
from torchstu.experiments.reproduce.memory import EXPERIMENT, accuracy, chance, sections

SETTINGS = {
    "seeds": 2, "layers": 1, "parameters": 1200, "samples": 128, "validation": 64, "batch": 16, "steps": 60,
    "tasks": [
        {"name": "copying", "length": 5, "options": {"items": 1, "symbols": 2}},
        {"name": "adding", "length": 6},
    ],
    "mixers": [{"name": "LRU", "options": {"state_dim": 8}, "rates": [0.03]}, {"name": "GRU", "rates": [0.03]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return [Row(trial, *EXPERIMENT.run(trial)) for trial in EXPERIMENT.trials(SETTINGS, 0)]


def test_trials_are_every_task_mixer_rate_and_seed(rows):
    planned = EXPERIMENT.trials(SETTINGS, 0)
    assert len(planned) == 2 * 2 * 2
    assert json.loads(json.dumps(planned)) == planned
    assert len({json.dumps(trial, sort_keys=True) for trial in planned}) == len(planned)
    assert all(abs(row.result["parameters"] - 1200) < 200 for row in rows)


def test_a_trial_gives_the_same_result_twice(rows):
    for row in (rows[0], rows[-1]):
        assert EXPERIMENT.run(row.trial)[0] == row.result


def test_one_of_two_symbols_is_kept_over_a_wait(rows):
    shares = [row.result["accuracy"] for row in rows if row.trial["task"] == "copying"]
    assert max(shares) == 1.0


def test_accuracy_counts_what_is_asked():
    targets = torch.tensor([[IGNORED, 1, 0], [IGNORED, 2, 2]])
    outputs = torch.nn.functional.one_hot(torch.tensor([[2, 1, 0], [0, 2, 1]]), 3).float()
    assert accuracy(outputs, targets) == 0.75
    sums = torch.tensor([[[0.0], [1.0]], [[0.5], [0.7]]])
    assert accuracy(sums + torch.tensor([[[9.0], [0.03]], [[0.0], [0.05]]]), sums) == 0.5


def test_chance_is_what_the_best_guess_gets():
    for name, length in (("copying", 31), ("adding", 20), ("induction heads", 30), ("associative recall", 21)):
        targets = TASKS[name](4000, length, torch.Generator().manual_seed(0)).targets
        if name == "adding":
            measured = accuracy(torch.ones_like(targets), targets)
        else:
            asked = targets[targets != IGNORED]
            measured = float((asked == asked.mode().values).double().mean())
        assert measured == pytest.approx(chance({"name": name}), rel=0.25)


def test_sections_say_what_the_rows_say(rows):
    (section,) = sections(rows, SETTINGS)
    assert section.table.header == ("mixer", "parameters", "copying", "adding")
    assert [line[0] for line in section.table.rows] == ["LRU", "GRU", "a guess"]
    assert section.table.rows[-1][2:] == ["50%", "8%"]
    assert section.figure.startswith("<svg")
    (one,) = sections([row for row in rows if row.trial["seed"] == 0 and row.trial["task"] == "adding"], SETTINGS)
    assert one.table.header == ("mixer", "parameters", "adding")
