"""What a training run is made of, as frozen dataclasses; a YAML file of the same keys is a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torchstu.models.config import BackboneConfig


@dataclass(frozen=True)
class DataConfig:
    """Which data.

    Attributes:
        name: of a data set, see `torchstu.data.registry.DATASETS`.
        options: its arguments, such as sizes, or the folder of released files.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine.

    Attributes:
        name: as in `torchstu.fit_gradient`: "spectral", "unit" or "adamw".
        learning_rate: the highest, after the warm-up.
        weight_decay: not of biases, norms, and weights that their layer exempts (M_y).
        slow_rate: rate of the weights that a layer wants slower (M_y of AR-STU, the dynamics of the baselines); None: the
            layer's own factor of ``learning_rate``.
        warmup: share of the steps, below 1, in which the rate grows linearly from zero.
        final_learning_rate: where the cosine ends, at the last step.
        clip: largest norm of the gradient; None does not clip.
    """

    name: Literal["spectral", "unit", "adamw"] = "spectral"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    slow_rate: float | None = None
    warmup: float = 0.0
    final_learning_rate: float = 0.0
    clip: float | None = None

    def warmup_steps_of(self, steps: int) -> int:
        """``warmup`` of a number of steps, rounded, and less than all."""
        return min(round(self.warmup * steps), steps - 1)


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at once, how often to look.

    Attributes:
        steps: optimizer steps.
        batch_size: sequences an optimizer step, over all processes and accumulated parts together.
        accumulate: parts that a step's batch is worked on in, one after the other.
        validate_every: steps between validations; None: twenty in all.
        checkpoint_every: steps between checkpoints; None: at each validation.
        patience: validations without improvement after which training stops; None never stops early.
        workers: processes that load data.
        precision: of the arithmetic, in Lightning's words.
        devices: processes (on CPUs) or GPUs a machine.
        nodes: machines.
        strategy: "auto"; "ddp" copies the model to every process, "fsdp2" divides it, "sequence" divides the sequences.
        accelerator: "auto", "cpu" or "gpu".
    """

    steps: int
    batch_size: int = 32
    accumulate: int = 1
    validate_every: int | None = None
    checkpoint_every: int | None = None
    patience: int | None = None
    workers: int = 0
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2", "sequence"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        data, model, optimizer, training: its parts.
        pooling: of tasks with one label a sequence: "mean" over the steps, the "last" step, or learned "attention"; None is
            "mean" there, and what the other tasks must have.
        seed: of weights, order of the data and dropout. Data that are generated or split have a seed in their options.
    """

    data: DataConfig
    model: BackboneConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    pooling: Literal["mean", "last", "attention"] | None = None
    seed: int = 0
