"""What training minimizes and what is recorded of data held out, as sums that processes and parts of a batch can add up.

Shapes: B sequences, L steps, C classes or channels of the output.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from torchstu.data.sequences import IGNORED, LABELLED, WHOLE_SEQUENCE, TaskKind


def targets_that_count(task: TaskKind, targets: Tensor) -> Tensor:
    """How many targets there are: labels but `IGNORED`, numbers but NaN. A number, (), int64."""
    return ((targets != IGNORED) if task in LABELLED else ~targets.isnan()).sum()


def loss_sum(task: TaskKind, outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum over all targets that count of cross entropies, or of squared errors.

    Args:
        task: says which.
        outputs: (B, C), or (B, L, C) for tasks with a target a step.
        targets: as in `torchstu.data.sequences.SequenceData`.
    """
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    if task in LABELLED:
        return cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return squared_errors(outputs, targets).sum()


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """(y - target)², 0 where the target is NaN."""
    counts = ~targets.isnan()
    return torch.where(counts, outputs - torch.where(counts, targets, 0), 0).square()


def over_processes(sums: Tensor) -> Tensor:
    """The sum over all processes, in place; without a process group the same."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    return sums


class Tally:
    """Loss and error of many batches, whatever their sizes.

    The loss is the mean over all targets. The error is the share of wrong labels, or the sum of squared errors over that of
    the squared targets. Both are infinite where they are not finite, and where there is no target.

    Args:
        task: see `torchstu.data.sequences.SequenceData`.
        d_out: C.
        device: of outputs and targets.
    """

    def __init__(self, task: TaskKind, d_out: int, device: torch.device | str = "cpu") -> None:
        self.task, self.d_out = task, d_out
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, targets, wrong or squared, base of the error
        square = d_out if task in WHOLE_SEQUENCE else 0
        self.confusion = torch.zeros(square, square, dtype=torch.int64, device=device)
        """Of true label (row) and chosen label (column), for tasks with one label a sequence."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """One batch; a logit that is not finite makes the error so."""
        count = targets_that_count(self.task, targets)
        if self.task in LABELLED:
            chosen, counts = outputs.argmax(-1), targets != IGNORED
            wrong = (chosen != targets)[counts].sum() + 0 * outputs.double().sum()
            base = count
            if self.task in WHOLE_SEQUENCE:
                pairs = (targets * self.d_out + chosen)[counts]
                self.confusion += torch.bincount(pairs, minlength=self.d_out**2).view(self.d_out, self.d_out)
        else:
            wrong = squared_errors(outputs.double(), targets.double()).sum()
            base = targets.double().nan_to_num().square().sum()
        self.sums += torch.stack([x.double() for x in (loss_sum(self.task, outputs, targets), count, wrong, base)])

    def over_processes(self) -> Tally:
        """The tally of all processes together, on every one of them."""
        over_processes(self.sums)
        if self.confusion.numel():
            over_processes(self.confusion)
        return self

    @property
    def loss(self) -> float:
        """The mean loss of a target."""
        return _ratio(self.sums[0], self.sums[1])

    @property
    def error(self) -> float:
        """See the class."""
        return _ratio(self.sums[2], self.sums[3])


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    value = float(numerator / denominator)
    return value if math.isfinite(value) else math.inf
