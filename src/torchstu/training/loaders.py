"""Which sequences make which step's batch: a function of the seed and the step alone, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from torchstu.data.registry import dataset_function
from torchstu.data.sequences import Batch, Example, Examples, SequenceData, collate
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import check_data
from torchstu.training.typed import errors_under

ORDER, NOISE = 0, 1
"""What a derived seed is for."""


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers; different numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def load_data(recipe: Recipe) -> SequenceData:
    """The data set of a recipe. The recipe's seed is not the data's: runs with other seeds see the same data.

    Raises:
        ValueError: an unknown name, an argument that the data set does not have, what it says of its arguments and files.
    """
    check_data(recipe.data)
    name, options = recipe.data.name, dict(recipe.data.options)
    function = dataset_function(name)
    with errors_under("data.options", options):
        return function(**options)


@dataclass(frozen=True)
class StepBatches:
    """The indices of this process's share of every step's batch.

    The examples are passed in a new order each epoch, that of the generator with seed (seed, epoch); batches are cut from the
    epochs in a row, across their ends.

    Attributes:
        examples: how many there are.
        batch_size: of all processes together.
        seed: of the order.
        start, stop: steps.
        share, shares: which of how many equal pieces of a batch.
    """

    examples: int
    batch_size: int
    seed: int
    start: int
    stop: int
    share: int = 0
    shares: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        """The share of each step from ``start`` on."""
        size, epoch, order = self.batch_size // self.shares, -1, torch.empty(0)
        for step in range(self.start, self.stop):
            first, indices = step * self.batch_size + self.share * size, []
            for place in range(first, first + size):
                if place // self.examples != epoch:
                    epoch = place // self.examples
                    generator = torch.Generator().manual_seed(derived_seed(self.seed, ORDER, epoch))
                    order = torch.randperm(self.examples, generator=generator)
                indices.append(int(order[place % self.examples]))
            yield indices


def training_loader(examples: Examples, batches: StepBatches, accumulate: int, workers: int, pin: bool) -> DataLoader:
    """One item a step: the padded parts of this process's share, which are worked on one after the other."""
    return DataLoader(
        examples,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=partial(collate_parts, accumulate),
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(batches.seed),  # of the workers; else the caller's would be drawn from
    )


def collate_parts(parts: int, examples: list[Example]) -> list[Batch]:
    """Examples in equal parts, each padded by itself."""
    size = len(examples) // parts
    return [collate(examples[first : first + size]) for first in range(0, len(examples), size)]


def evaluation_batches(examples: Examples, batch_size: int, share: int = 0, shares: int = 1) -> Iterator[tuple[Batch, bool]]:
    """This process's batches of a whole part, and whether they count.

    Every process gets as many, since models in pieces work only together: who has none left gets one that does not count.
    """
    starts = range(0, len(examples), batch_size)
    for turn in range(-(-len(starts) // shares)):
        index = turn * shares + share
        start = starts[min(index, len(starts) - 1)]
        yield collate([examples[i] for i in range(start, min(start + batch_size, len(examples)))]), index < len(starts)
