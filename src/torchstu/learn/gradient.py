"""Mini-batch gradient descent for any mixer, on PyTorch Lightning."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from torchstu.extras import require
from torchstu.layers.base import Mixer
from torchstu.learn.criteria import CRITERIA, Criterion
from torchstu.learn.optimizers import SpectralAdamW, plain_adamw
from torchstu.spectral.priors import positive_int

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "spectral": SpectralAdamW,
    "unit": partial(SpectralAdamW, coordinates="unit"),
    "adamw": plain_adamw,
}
"""(mixer, learning rate, weight decay) to an optimizer."""


@dataclass
class TrainingHistory:
    """What a training run left behind.

    Attributes:
        samples: sequences seen at each validation, starting with 0.
        errors: on the validation data then: relative error of the roll-out, or share of wrong labels; inf if not finite.
        losses: the training loss of every step.
        seconds: wall-clock time of the training, validation included.
        diverged: whether it ended early because a loss was not finite.
    """

    samples: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    diverged: bool = False


def fit_gradient(
    mixer: Mixer,
    U: Any,
    Y: Any,
    *,
    steps: int,
    batch_size: int = 1,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: Literal["spectral", "unit", "adamw"] = "spectral",
    loss: Literal["l2", "cross_entropy"] = "l2",
    objective: Literal["next", "rollout"] = "next",
    clip: float | None = None,
    validation: tuple[Any, Any] | None = None,
    validate_every: int | Sequence[int] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TrainingHistory:
    """Train a mixer in place with AdamW and a cosine schedule to zero; two runs with one seed are the same, on one thread.

    Args:
        mixer: any `Mixer`, on any device; its dtype is that of the training.
        U, Y: sequences (N, L, D_in) and (N, L, D_out); for "cross_entropy" Y is (N, L), integers below D_out, -100 where
            nothing is to be predicted.
        steps: optimizer steps; the data are passed again, in a new order, when they run out.
        batch_size: sequences a step.
        learning_rate, weight_decay: of AdamW; a mixer's `optimizer_hints` change them for single weights.
        optimizer: "spectral" is `SpectralAdamW`, which steps the weights of filters in the coordinates that suit the layer;
            "unit" always as if filters had norm 1, "adamw" always as stored, beside σ^{1/4} φ. All the same without filters.
        loss: "l2", or "cross_entropy" of outputs that are logits.
        objective: "next" trains the prediction from true past outputs, design (10) (for a mixer without a y-term the same as
            the roll-out); "rollout" the output from inputs alone. With "cross_entropy" it must be "rollout".
        clip: largest gradient norm; None does not clip.
        validation: sequences whose error is recorded: the relative error of the roll-out, or the share of wrong labels.
        validate_every: steps between validations, or the steps themselves; None means twenty in all. The start and the end
            are always recorded.
        seed: of the order of the data and of dropout; the caller's generators are left as they were.
        progress: whether a progress bar is drawn, where there is a terminal to draw it on.

    Raises:
        ValueError: options out of range, shapes that do not fit, values not finite, labels out of range.
        TypeError: values that are not numbers, labels that are not integers.
        MissingExtraError: without the extra ``train``.
    """
    lightning = require("train", "pytorch_lightning")
    steps, batch_size = positive_int("steps", steps), positive_int("batch_size", batch_size)
    check_choices(optimizer, loss, objective)
    check_rates(learning_rate, weight_decay, clip)
    points, weight, was_training = validation_steps(validate_every, steps), next(mixer.parameters()), mixer.training
    criterion = CRITERIA[loss]
    data = criterion.dataset(mixer, U, Y, weight.dtype)
    held_out = None if validation is None else criterion.dataset(mixer, *validation, weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)
    make = partial(OPTIMIZERS[optimizer], mixer, learning_rate, weight_decay)
    training = _Training(mixer, criterion, objective, held_out, points, steps, make)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), quiet_lightning():
        warnings.simplefilter("ignore")  # Lightning advises on workers and loggers; both are chosen here
        torch.manual_seed(seed)
        trainer = _trainer(lightning, weight.device.type, steps, clip, progress and sys.stdout.isatty())
        start = time.perf_counter()
        trainer.fit(_lightning_module(lightning, training), loader)
        training.history.seconds = time.perf_counter() - start
    mixer.train(was_training)
    return training.history


def _trainer(lightning: Any, device: str, steps: int, clip: float | None, bar: bool) -> Any:
    return lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu" if device == "cpu" else "auto",
        devices=1,
        gradient_clip_val=clip,
        enable_progress_bar=bar,
        callbacks=[_progress_bar()] if bar else [],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def check_choices(optimizer: str, loss: str, objective: str) -> None:
    """Refuse unknown words, and cross-entropy of anything but the roll-out.

    Raises:
        ValueError: see above.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: {optimizer!r}; it must be one of {list(OPTIMIZERS)}")
    if loss not in CRITERIA:
        raise ValueError(f"loss: {loss!r}; it must be one of {list(CRITERIA)}")
    if objective not in ("next", "rollout"):
        raise ValueError(f"objective: {objective!r}; it must be 'next' or 'rollout'")
    if loss == "cross_entropy" and objective != "rollout":
        raise ValueError(
            f"objective: {objective!r} with loss='cross_entropy'; labels are no past outputs: it must be 'rollout'"
        )


def check_rates(learning_rate: float, weight_decay: float, clip: float | None) -> None:
    """Refuse numbers that no optimizer can use.

    Raises:
        ValueError: see above.
    """
    for name, value, positive in (("learning_rate", learning_rate, True), ("weight_decay", weight_decay, False)):
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise ValueError(f"{name}: {value}; it must be a finite number {'above' if positive else 'of at least'} 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: {clip}; it must be None or above 0")


def validation_steps(every: int | Sequence[int] | None, steps: int) -> frozenset[int]:
    """The steps after which to validate, from an interval or a list of them.

    Raises:
        TypeError: not integers. ValueError: steps outside 1..steps.
    """
    if isinstance(every, Sequence) and not isinstance(every, str):
        points = [positive_int("validate_every", step) for step in every]
        if points and max(points) > steps:
            raise ValueError(f"validate_every: step {max(points)}; there are {steps}")
        return frozenset(points)
    interval = max(1, steps // 20) if every is None else positive_int("validate_every", every)
    return frozenset(range(interval, steps + 1, interval))


@dataclass
class _Training:
    """What a run of `fit_gradient` is made of, and what it leaves."""

    mixer: Mixer
    criterion: Criterion
    objective: str
    held_out: TensorDataset | None
    points: frozenset[int]
    steps: int
    make_optimizer: Callable[[], torch.optim.Optimizer]
    history: TrainingHistory = field(default_factory=TrainingHistory)
    seen: int = 0

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """Of one batch."""
        self.seen += len(u)
        outputs = self.mixer.next_step(u, y) if self.objective == "next" else self.mixer(u)[0]
        loss = self.criterion.loss(outputs, y)
        self.history.losses.append(float(loss.detach()))
        return loss

    @torch.no_grad()
    def validate(self) -> None:
        """Record the error on the data held out, once for each number of sequences seen."""
        if self.held_out is None or self.history.samples[-1:] == [self.seen]:
            return
        self.mixer.eval()
        device = next(self.mixer.parameters()).device
        u, y = self.held_out.tensors
        outputs = torch.cat([self.mixer(part.to(device))[0].cpu() for part in u.split(64)])
        error = self.criterion.error(outputs, y)
        self.history.samples.append(self.seen)
        self.history.errors.append(error if math.isfinite(error) else math.inf)
        self.mixer.train()


def _lightning_module(lightning: Any, training: _Training) -> Any:
    """The LightningModule; defined here because its base class is imported only now."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = training.mixer

        def on_train_start(self) -> None:
            training.validate()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor | None:
            loss = training.loss(*batch)
            if not math.isfinite(training.history.losses[-1]):
                training.history.diverged = self.trainer.should_stop = True
                return None
            self.log("loss", loss, prog_bar=True)
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step in training.points:
                training.validate()

        def on_train_end(self) -> None:
            training.validate()

        def configure_optimizers(self) -> Any:
            optimizer = training.make_optimizer()
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=training.steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return Module()


def _progress_bar() -> Any:
    """One bar: steps, rate and loss; none for the validations."""
    progress: Any = require("train", "pytorch_lightning.callbacks.progress.tqdm_progress")

    class StepsBar(progress.TQDMProgressBar):
        def init_validation_tqdm(self) -> Any:
            return progress.Tqdm(disable=True)

    return StepsBar(refresh_rate=20, leave=False)


class quiet_lightning:
    """Lightning's loggers at ERROR while in the block: devices and stop reasons are in the history."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(f"pytorch_lightning.{n}") for n in ("utilities.rank_zero", "accelerators.cuda")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
