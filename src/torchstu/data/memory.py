"""The memory tasks of `torchstu.data.tasks` as data sets to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchstu.data.sequences import SequenceData
from torchstu.data.tasks import TASKS, Task
from torchstu.spectral.priors import positive_int

LENGTHS = {"copying": 120, "selective copying": 256, "adding": 100, "induction heads": 256, "associative recall": 21}
"""L where none is asked for; that of "copying" is T + 2·items of the smallest published T."""


class TaskExamples:
    """Sequences of memory tasks: `torchstu.data.Examples`. Tokens are kept as numbers."""

    def __init__(self, pieces: Iterable[Task]) -> None:
        kept = [(_compact(piece), piece.targets) for piece in pieces]
        self.inputs, self.targets = (torch.cat(tensors) for tensors in zip(*kept, strict=True))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens (L,) int64 and labels (L,), or reals (L, 2) and (L, 1)."""
        inputs = self.inputs[index]
        return inputs if inputs.is_floating_point() else inputs.long(), self.targets[index]


def _compact(task: Task) -> Tensor:
    return task.inputs if task.targets.is_floating_point() else task.inputs.argmax(dim=-1).to(torch.int16)


def memory_task(
    *,
    task: str,
    length: int | None = None,
    train: int = 10_000,
    validation: int = 1000,
    test: int = 1000,
    seed: int = 0,
    **options: Any,
) -> SequenceData:
    """A synthetic memory task: "step classification" of tokens, or for "adding" "step regression".

    Args:
        task: a name in `torchstu.data.tasks.TASKS`.
        length: L; None takes that of `LENGTHS`.
        train, validation, test: sequences, each part from a random stream of its own.
        seed: of everything.
        options: of the task, such as ``items`` and ``symbols``.

    Raises:
        ValueError: an unknown name, or what the task refuses.
        TypeError: an option that the task does not have.
    """
    if task not in TASKS:
        raise ValueError(f"task: {task!r}; it must be one of {', '.join(map(repr, TASKS))}")
    counts = {"train": train, "validation": validation, "test": test}
    counts = {name: positive_int(name, count) for name, count in counts.items()}
    seed = positive_int("seed", seed, minimum=0)
    length = LENGTHS[task] if length is None else positive_int("length", length)
    parts = [
        TaskExamples(_pieces(TASKS[task], count, length, torch.Generator().manual_seed(3 * seed + part), options))
        for part, count in enumerate(counts.values())
    ]
    like = TASKS[task](1, length, torch.Generator(), **options)
    reals = like.targets.is_floating_point()
    return SequenceData(
        name=task,
        task="step regression" if reals else "step classification",
        inputs="reals" if reals else "tokens",
        d_in=like.inputs.shape[-1],
        d_out=like.d_out,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        source=f"generated, seed {seed}; see torchstu.data.tasks for the definitions",
        about={"licence": "that of torchstu, which generated them", "split": f"a random stream each, seed {seed}"},
    )


def _pieces(
    task: Callable[..., Task], count: int, length: int, generator: torch.Generator, options: dict[str, Any]
) -> Iterator[Task]:
    """The sequences, 500 at once: one-hot vectors of all of them may not fit."""
    for first in range(0, count, 500):
        yield task(min(500, count - first), length, generator, **options)
