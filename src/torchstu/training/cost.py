"""What a recipe will cost, before it runs: parameters counted, memory by rule, time from measured steps.

The rule for memory, a process:

    weights, gradients and the two moments of AdamW: 4 × the bytes of the weights (divided among processes by "fsdp2"),
    buffers such as filters: as they are,
    activations: what a forward pass keeps for the backward pass, times 1.25 for what that needs meanwhile.

Kept bytes, and the time of forward and backward pass, are measured on one sequence and on m, padded as a batch would be, and
continued along a line to the process's part of the batch. A step of the optimizer is added to the time.
"""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchstu.data.registry import dataset_function
from torchstu.data.sequences import Batch, SequenceData, collate
from torchstu.training.build import build_model, predict
from torchstu.training.loaders import load_data
from torchstu.training.module import make_optimizer
from torchstu.training.recipe import DataConfig, Recipe, TrainingConfig
from torchstu.training.results import move
from torchstu.training.strategies import Strategy

GIB = 2**30
WORKSPACE = 1.25
"""Peak of a backward pass over what it found kept; 0.8 to 1.6 was measured over eight mixers."""
BUDGET = 10.0
"""Seconds to be spent on measuring."""


@dataclass(frozen=True)
class RecipeCost:
    """What `recipe_cost` found.

    Attributes:
        parameters: trainable weights by part of the model.
        weight_bytes: weights, gradients, moments and buffers of a process.
        activation_bytes: the rest of a process's memory in training.
        sequences: of a process at once: its part of the batch.
        sequence_steps: length they are padded to.
        measured_sequences: how many of them were measured.
        step_seconds: one optimizer step.
        steps: optimizer steps of the recipe.
        device: where it was measured.
    """

    parameters: dict[str, int]
    weight_bytes: int
    activation_bytes: int
    sequences: int
    sequence_steps: int
    measured_sequences: int
    step_seconds: float
    steps: int
    device: str

    @property
    def hours(self) -> float:
        """Of training, without validations."""
        return self.step_seconds * self.steps / 3600

    @property
    def memory_bytes(self) -> int:
        """Of a process, without the program itself."""
        return self.weight_bytes + self.activation_bytes

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        return (
            f"parameters  {sum(self.parameters.values()):,} ({parts})\n"
            f"memory      about {_size(self.memory_bytes)} a process: {_size(self.weight_bytes)} for weights, gradients, "
            f"moments, buffers, {_size(self.activation_bytes)} for {self.sequences} sequences of {self.sequence_steps} steps\n"
            f"time        about {_time(self.step_seconds)} a step, {_time(self.step_seconds * self.steps)} for {self.steps:,} "
            f"steps without validations, measured with {self.measured_sequences} of {self.sequences} sequences on {self.device}"
        )


def recipe_cost(recipe: Recipe, data: SequenceData, seconds: float = BUDGET) -> RecipeCost:
    """Estimate what training will need, from steps on part of a batch; the model measured is thrown away.

    Args:
        recipe: of the run.
        data: its data.
        seconds: to be spent on measuring: the number of sequences is doubled until they are over, or the batch is whole. One
            sequence is measured in any case.

    Raises:
        ValueError, TypeError: the model cannot be built, or does not fit the data.
    """
    settings, strategy = recipe.training, Strategy.of(recipe.training)
    device, part = strategy.device, max(1, settings.batch_size // (strategy.batch_shares * settings.accumulate))
    sequence_shares = strategy.processes if strategy.name == "sequence" else 1
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(recipe.seed)
        dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        model = build_model(recipe.model, data, recipe.pooling, device, dtype)
        optimizer = make_optimizer(model, recipe.optimizer)
        whole = collate([data.train[i] for i in range(min(part, len(data.train)))])
        steps = _measured(_Step(model, optimizer, data, settings, device), whole, seconds)
    (_, first_kept, first_duration, _), (count, kept, duration, update) = steps[0], steps[-1]
    activations = _continued(first_kept, kept, count, part)
    passes = _continued(first_duration, duration, count, part)
    weight_shares = strategy.processes if strategy.name == "fsdp2" else 1
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) // weight_shares
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    lengths = whole.inputs[0] if isinstance(whole.inputs, tuple) else whole.inputs
    return RecipeCost(
        parameters=count_parameters(model),
        weight_bytes=4 * weights + buffers,
        activation_bytes=round(WORKSPACE * activations / sequence_shares),
        sequences=part,
        sequence_steps=lengths.shape[1],
        measured_sequences=count,
        step_seconds=passes * settings.accumulate / sequence_shares + update,
        steps=settings.steps,
        device=_device_name(device),
    )


def data_for_cost(recipe: Recipe) -> SequenceData:
    """The data of `recipe_for_cost`.

    Raises:
        ValueError: as `torchstu.training.loaders.load_data`.
    """
    return load_data(recipe_for_cost(recipe))


def recipe_for_cost(recipe: Recipe) -> Recipe:
    """The recipe; where it generates more than 10 000 sequences, one with no more than a batch."""
    known = inspect.signature(dataset_function(recipe.data.name)).parameters
    sizes = {"train": recipe.training.batch_size, "validation": 1, "test": 1}
    given = recipe.data.options
    if not known.keys() >= sizes.keys() or given.get("train", known["train"].default) <= 10_000:
        return recipe
    few = {part: min(given.get(part, known[part].default), size) for part, size in sizes.items()}
    return replace(recipe, data=DataConfig(recipe.data.name, given | few))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable weights by part: "embedding", "mixers", "gates and norms" of the blocks, "pooling and readout"."""
    counts = dict.fromkeys(("embedding", "mixers", "gates and norms", "pooling and readout"), 0)
    for name, weight in model.named_parameters():
        parts = name.removeprefix("encoder.").split(".")
        if "mixer" in parts or "backward_mixer" in parts:
            part = "mixers"
        else:
            part = {"embedding": "embedding", "backbone": "gates and norms"}.get(parts[0], "pooling and readout")
        counts[part] += weight.numel() if weight.requires_grad else 0
    return counts


def rows(batch: Batch, count: int) -> Batch:
    """The first sequences of a batch, padded as they are there."""

    def first(part: Any) -> Any:
        return tuple(map(first, part)) if isinstance(part, tuple) else part[:count]

    return Batch(*(first(part) for part in batch))


_Measured = tuple[int, int, float, float]
"""Sequences, bytes kept, seconds of both passes, seconds of the update."""


def _measured(step: _Step, whole: Batch, seconds: float) -> list[_Measured]:
    """Steps on one sequence, two, four, ..., until the next would take too long or the batch is whole."""
    start = time.perf_counter()
    found: list[_Measured] = [(1, *step(rows(whole, 1)))]
    if time.perf_counter() - start < seconds / 4:
        found = [(1, *step(rows(whole, 1)))]  # the first call warmed up
    while found[-1][0] < len(whole.targets) and time.perf_counter() - start < seconds / (1 if len(found) == 1 else 4):
        count = min(2 * found[-1][0], len(whole.targets))
        found.append((count, *step(rows(whole, count))))
    return found


def _continued(first: float, last: float, count: int, to: int) -> float:
    """Of ``to`` sequences, from those of one and of ``count``: on the line through both, in proportion if they are one."""
    slope = first if count == 1 else (last - first) / (count - 1)
    return last + min(max(slope, 0.0), last / count) * (to - count)


class _Step:
    """One training step, measured: bytes kept for the backward pass, seconds of both passes, of the update."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, data: SequenceData, settings: TrainingConfig, device: str
    ) -> None:
        self.model, self.optimizer, self.task, self.device = model, optimizer, data.task, device
        self.mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(settings.precision)

    def __call__(self, batch: Batch) -> tuple[int, float, float]:
        kept: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in (*self.model.parameters(), *self.model.buffers())}

        def keep(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return x

        batch = move(batch, self.device)
        start = self._now()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
            torch.autocast(self.device, dtype=self.mixed, enabled=self.mixed is not None),
        ):
            loss = predict(self.model, self.task, batch).float().square().mean()  # costs what the task's own loss does
        loss.backward()
        middle = self._now()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sum(kept.values()), middle - start, self._now() - middle

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"the CPU, threads: {torch.get_num_threads()}"


def _size(count: int) -> str:
    return f"{count / GIB:.2g} GiB" if count >= GIB / 10 else f"{count / 2**20:.2g} MiB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
