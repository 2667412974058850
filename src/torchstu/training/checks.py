"""What is wrong with a recipe that its types do not say, found before anything is trained."""

from __future__ import annotations

import math
import os
from dataclasses import asdict

import torch

from torchstu.data.sequences import SequenceData
from torchstu.layers.registry import MIXERS
from torchstu.training.losses import WHOLE_SEQUENCE
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import recipe_from
from torchstu.training.strategies import Strategy


def check_recipe(recipe: Recipe) -> None:
    """Refuse what cannot be run, with the key's path, what it was and what it may be.

    Raises:
        ValueError: unknown keys and wrong types (also of options), numbers out of range, a batch that cannot be divided, a
            machine that is not as the recipe says.
    """
    recipe_from(asdict(recipe))
    _check_training(recipe)
    _check_optimizer(recipe)
    if recipe.seed < 0:
        raise ValueError(f"seed: {recipe.seed}; it must be at least 0")
    _check_division(recipe)
    _check_machine(recipe)


def _check_training(recipe: Recipe) -> None:
    training = recipe.training
    for key in ("steps", "batch_size", "accumulate", "validate_every", "checkpoint_every", "patience", "devices", "nodes"):
        value = getattr(training, key)
        if value is not None and value < 1:
            raise ValueError(f"training.{key}: {value}; it must be at least 1")
    if training.workers < 0:
        raise ValueError(f"training.workers: {training.workers}; it must be at least 0")


def _check_optimizer(recipe: Recipe) -> None:
    optimizer = recipe.optimizer
    for key, above in (("learning_rate", True), ("slow_rate", True), ("clip", True), ("weight_decay", False)):
        value = getattr(optimizer, key)
        if value is not None and not (math.isfinite(value) and (value > 0 if above else value >= 0)):
            raise ValueError(f"optimizer.{key}: {value}; it must be finite and {'above' if above else 'at least'} 0")
    if not 0 <= optimizer.warmup_steps < recipe.training.steps:
        raise ValueError(
            f"optimizer.warmup_steps: {optimizer.warmup_steps}; it must be at least 0 and below training.steps, "
            f"{recipe.training.steps}"
        )
    if not 0 <= optimizer.final_learning_rate <= optimizer.learning_rate:
        raise ValueError(
            f"optimizer.final_learning_rate: {optimizer.final_learning_rate}; it must be in 0..optimizer.learning_rate, "
            f"{optimizer.learning_rate}"
        )


def _check_division(recipe: Recipe) -> None:
    training, shares = recipe.training, Strategy.of(recipe.training).batch_shares
    parts = shares * training.accumulate
    if training.batch_size % parts:
        raise ValueError(
            f"training.batch_size: {training.batch_size}; it must be a multiple of {parts}, the {shares} process"
            f"{'es' if shares > 1 else ''} times training.accumulate, {training.accumulate}"
        )


def _check_machine(recipe: Recipe) -> None:
    training = recipe.training
    started, world = (os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if started is not None and world is not None:  # torchrun's
        nodes = max(1, int(world) // int(started))
        for key, value in (("devices", int(started)), ("nodes", nodes)):
            if getattr(training, key) != value:
                raise ValueError(f"training.{key}: {getattr(training, key)}; torchrun started {value}, it must be so too")
    gpus = torch.cuda.device_count()
    if training.accelerator == "gpu" and gpus < training.devices:
        raise ValueError(f"training.accelerator: 'gpu' with training.devices {training.devices}; this machine has {gpus}")


def check_fit(recipe: Recipe, data: SequenceData) -> None:
    """Refuse what the data do not allow.

    Raises:
        ValueError: a sequence to be divided among processes, with a task or a model that looks along it.
    """
    if recipe.training.strategy != "sequence":
        return
    model, reason = recipe.model, ""
    if data.task in WHOLE_SEQUENCE:
        reason = f"data of task {data.task!r}; it must be a task with a target a step"
    elif model.bidirectional:
        reason = "model.bidirectional; it must be False"
    elif model.norm == "batch":
        reason = "model.norm 'batch'; it must be 'layer', 'rms' or None"
    else:
        nonlinear = [name for name in model.mixers if MIXERS[name].is_linear is not True]
        linear = [name for name, mixer in MIXERS.items() if mixer.is_linear is True]
        if nonlinear:
            reason = f"model.mixer {nonlinear[0]!r}; it must be linear, one of {', '.join(linear)}"
    if reason:
        raise ValueError(f"training.strategy: 'sequence' with {reason}")
