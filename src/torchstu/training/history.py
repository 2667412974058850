"""What a run has seen so far; it is saved with every checkpoint, so that a resumed run knows all of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """The validations of a run, and what happened since the last one.

    Attributes:
        validations: step, sequences, train_loss (the mean since the validation before), validation_loss, validation_error and
            learning_rate of each.
        loss_sum, loss_steps: of the training loss since the last validation.
        training_seconds, other_seconds: spent in steps, and in validations and checkpoints.
        peak_memory: bytes of the first process, on its device, since training began or went on; 0 where it is not told.
        ended: why training ended before its last step; empty otherwise.
        diverged: whether that was because numbers were not finite.
    """

    validations: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0
    training_seconds: float = 0.0
    other_seconds: float = 0.0
    peak_memory: int = 0
    ended: str = ""
    diverged: bool = False

    @property
    def best(self) -> int | None:
        """The validation with the smallest error, of equal ones that with the smallest loss; None without a finite one."""
        keys = [(row["validation_error"], row["validation_loss"]) for row in self.validations]
        finite = [i for i, key in enumerate(keys) if all(map(math.isfinite, key))]
        return min(finite, key=lambda i: keys[i]) if finite else None

    @property
    def without_improvement(self) -> int:
        """How many validations came after the best one; all of them without one."""
        return len(self.validations) - 1 - (-1 if self.best is None else self.best)

    def add_loss(self, loss: float) -> None:
        """Of one step."""
        self.loss_sum += loss
        self.loss_steps += 1

    def add_validation(self, step: int, batch_size: int, loss: float, error: float, learning_rate: float) -> None:
        """The next row."""
        self.validations.append({
            "step": step,
            "sequences": step * batch_size,
            "train_loss": self.loss_sum / self.loss_steps if self.loss_steps else math.inf,
            "validation_loss": loss,
            "validation_error": error,
            "learning_rate": learning_rate,
        })  # fmt: skip
        self.loss_sum, self.loss_steps = 0.0, 0

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)
