"""What is wrong with a recipe that its types do not say, found before anything is trained."""

from __future__ import annotations

import math
import os
from dataclasses import asdict

import torch
from torch import nn

from torchstu.data.sequences import SequenceData
from torchstu.layers.registry import MIXERS, make_mixer
from torchstu.learn.optimizers import parameter_groups
from torchstu.training.losses import WHOLE_SEQUENCE
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import check_data, check_mixers
from torchstu.training.strategies import Strategy
from torchstu.training.typed import build


def check_recipe(recipe: Recipe, own_data: bool = False) -> None:
    """Refuse what cannot be run, with the key's path, what it was and what it may be.

    Args:
        recipe: of the run.
        own_data: whether data are given, so that the recipe need not name a data set of the package.

    Raises:
        ValueError: unknown keys and wrong types (also of options), numbers out of range, a batch that cannot be divided, a
            machine that is not as the recipe says.
    """
    build(Recipe, asdict(recipe))
    check_mixers(recipe)
    if not own_data:
        check_data(recipe.data)
    _check_training(recipe)
    _check_optimizer(recipe)
    if not 0 <= recipe.seed < 2**63:
        raise ValueError(f"seed: {recipe.seed}; it must be in 0..{2**63 - 1}")
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
    if not 0 <= optimizer.warmup < 1:
        raise ValueError(f"optimizer.warmup: {optimizer.warmup}; it must be a share of the steps, at least 0 and below 1")
    if not 0 <= optimizer.final_learning_rate <= optimizer.learning_rate:
        raise ValueError(
            f"optimizer.final_learning_rate: {optimizer.final_learning_rate}; it must be in 0..optimizer.learning_rate, "
            f"{optimizer.learning_rate}"
        )
    _check_slow_rate(recipe)


def _check_slow_rate(recipe: Recipe) -> None:
    model, optimizer = recipe.model, recipe.optimizer
    if optimizer.slow_rate is None:
        return
    layers = [model.layer(index) for index in range(len(model.mixers))]
    with torch.random.fork_rng(devices=[]):
        mixers = [make_mixer(name, model.d_model, model.length, **options, device="meta") for name, options in layers]
    groups = parameter_groups(nn.ModuleList(mixers), optimizer.learning_rate, 0.0)
    if all(group["lr"] == optimizer.learning_rate for group in groups):
        raise ValueError(
            f"optimizer.slow_rate: {optimizer.slow_rate}; it must be null: model.mixer {' and '.join(model.mixers)} has no "
            "weight that wants a slower rate"
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
        ValueError: an empty part; a pooling for a task that has none; a sequence to be divided among processes, with a task or
            a model that looks along it.
    """
    name, options = recipe.data.name, dict(recipe.data.options)
    for part in ("train", "validation", "test"):
        if not len(getattr(data, part)):
            raise ValueError(f"data.options: {options} leave the {part} part of {name} empty; it must have an example")
    if recipe.pooling is not None and data.task not in WHOLE_SEQUENCE:
        raise ValueError(f"pooling: {recipe.pooling!r}; it must be null: data of task {data.task!r} have a target a step")
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
