"""Memory tasks as data sets: the tasks themselves are tested with `torchstu.data.tasks`."""

import pytest
import torch

from torchstu.data.memory import LENGTHS, memory_task
from torchstu.data.sequences import IGNORED, collate
from torchstu.data.tasks import TASKS, copying

SIZES = {"train": 7, "validation": 5, "test": 3}


@pytest.mark.parametrize("task", TASKS)
def test_shapes_and_kinds(task):
    data = memory_task(task=task, **SIZES)
    batch = collate([data.train[i] for i in range(7)])
    assert [len(part) for part in (data.train, data.validation, data.test)] == [7, 5, 3]
    if task == "adding":
        assert (data.task, data.inputs, data.d_in, data.d_out) == ("step regression", "reals", 2, 1)
        assert batch.inputs.shape == (7, LENGTHS[task], 2)
        assert batch.targets.shape == (7, LENGTHS[task], 1)
    else:
        assert (data.task, data.inputs) == ("step classification", "tokens")
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape == (7, LENGTHS[task])
        assert 0 <= batch.inputs.min() <= batch.inputs.max() < data.d_in
        asked = batch.targets[batch.targets != IGNORED]
        assert len(asked)
        assert 0 <= asked.min() <= asked.max() < data.d_out


def test_the_tokens_are_those_of_the_task():
    data = memory_task(task="copying", length=30, items=4, symbols=6, seed=2, **SIZES)
    task = copying(7, 30, torch.Generator().manual_seed(6), items=4, symbols=6)
    assert torch.equal(torch.stack([data.train[i][0] for i in range(7)]), task.inputs.argmax(-1))
    assert torch.equal(torch.stack([data.train[i][1] for i in range(7)]), task.targets)


def test_parts_and_seeds_differ_and_the_same_arguments_do_not():
    def first(seed=0, part="train"):
        return getattr(memory_task(task="induction heads", seed=seed, **SIZES), part)[0][0]

    assert torch.equal(first(), first())
    others = [first(seed=1), first(part="validation"), first(part="test")]
    assert not any(torch.equal(first(), other) for other in others)
    assert len(memory_task(task="copying", train=1001, validation=1, test=1).train) == 1001  # in pieces


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "guessing"}, "task: 'guessing'; it must be one of 'copying'"),
        ({"task": "copying", "length": 5}, "length: 5"),
        ({"task": "copying", "train": 0}, "train: 0"),
        ({"task": "copying", "seed": 1.5}, "seed: 1.5"),
        ({"task": "adding", "items": 3}, "items"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        memory_task(**options)
