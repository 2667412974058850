"""Sums over targets that count, whatever the batches are cut into."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from torchstu.data.sequences import IGNORED
from torchstu.learn.diagnostics import relative_error
from torchstu.training.losses import Tally, loss_sum, targets_that_count


def labelled(generator, task):
    shape = (6,) if task == "classification" else (6, 9)
    outputs = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, shape, generator=generator)
    targets.view(-1)[::4] = IGNORED
    return outputs, targets


def numbers(generator):
    outputs, targets = torch.randn(2, 6, 9, 3, generator=generator, dtype=torch.float64)
    targets[torch.rand(6, 9, 3, generator=generator) < 0.3] = float("nan")
    return outputs, targets


@pytest.mark.parametrize("task", ["classification", "step classification"])
def test_labels(task, generator):
    outputs, targets = labelled(generator, task)
    counted = [(o, t) for o, t in zip(outputs.view(-1, 3), targets.view(-1).tolist(), strict=True) if t != IGNORED]
    by_hand = sum(float(-torch.log_softmax(o, 0)[t]) for o, t in counted)
    assert int(targets_that_count(task, targets)) == len(counted)
    assert float(loss_sum(task, outputs, targets)) == pytest.approx(by_hand, rel=1e-12)
    tally = Tally(task, 3)
    for part in (slice(0, 1), slice(1, 6)):
        tally.add(outputs[part], targets[part])
    assert tally.loss == pytest.approx(by_hand / len(counted), rel=1e-12)
    assert tally.error == sum(int(o.argmax()) != t for o, t in counted) / len(counted)


def test_confusion(generator):
    outputs, targets = labelled(generator, "classification")
    tally = Tally("classification", 3)
    tally.add(outputs, targets)
    expected = [[0] * 3 for _ in range(3)]
    for o, t in zip(outputs, targets.tolist(), strict=True):
        if t != IGNORED:
            expected[t][int(o.argmax())] += 1
    assert tally.confusion.tolist() == expected
    assert Tally("step classification", 3).confusion.numel() == 0


@pytest.mark.parametrize("task", ["step regression", "forecast"])
def test_numbers(task, generator):
    outputs, targets = numbers(generator)
    counts = ~targets.isnan()
    squares = (outputs - targets)[counts].square()
    assert int(targets_that_count(task, targets)) == int(counts.sum()) < targets.numel()
    assert float(loss_sum(task, outputs, targets)) == pytest.approx(float(squares.sum()), rel=1e-12)
    tally = Tally(task, 3)
    for part in (slice(0, 4), slice(4, 6)):
        tally.add(outputs[part], targets[part])
    assert tally.loss == pytest.approx(float(squares.mean()), rel=1e-12)
    assert tally.error == pytest.approx(relative_error(outputs[counts], targets[counts]), rel=1e-12)


def test_gradient_of_what_does_not_count_is_zero(generator):
    outputs, targets = numbers(generator)
    outputs.requires_grad_()
    loss_sum("forecast", outputs, targets).backward()
    assert torch.equal(outputs.grad == 0, targets.isnan())


def test_half_precision_is_summed_in_single():
    outputs, targets = torch.full((1, 4000, 1), 3.0, dtype=torch.bfloat16), torch.zeros(1, 4000, 1)
    assert float(loss_sum("step regression", outputs, targets)) == 36000
    logits, labels = torch.zeros(4000, 2, dtype=torch.float16), torch.zeros(4000, dtype=torch.int64)
    assert float(loss_sum("classification", logits, labels)) == pytest.approx(4000 * math.log(2), rel=1e-5)
    assert float(cross_entropy(logits, labels, reduction="sum")) != pytest.approx(4000 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("task", ["classification", "step regression"])
def test_not_finite_is_infinite(task):
    outputs = torch.full((2, 3), float("nan")) if task == "classification" else torch.full((2, 5, 3), float("nan"))
    targets = torch.zeros(2, dtype=torch.int64) if task == "classification" else torch.ones(2, 5, 3)
    tally = Tally(task, 3)
    assert tally.loss == tally.error == math.inf, "no target yet"
    tally.add(outputs, targets)
    assert tally.loss == tally.error == math.inf
