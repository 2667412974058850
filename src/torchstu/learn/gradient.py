"""Mini-batch gradient descent with l2 loss for any mixer, on PyTorch Lightning."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from torchstu.extras import require
from torchstu.layers.base import Mixer
from torchstu.learn.diagnostics import relative_error
from torchstu.learn.least_squares import sequence
from torchstu.spectral.priors import positive_int


@dataclass
class TrainingHistory:
    """What a training run left behind.

    Attributes:
        samples: sequences seen at each validation, starting with 0.
        errors: relative roll-out error on the validation data then; inf where it is not finite.
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
    objective: Literal["next", "rollout"] = "next",
    clip: float | None = None,
    validation: tuple[Any, Any] | None = None,
    validate_every: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TrainingHistory:
    """Train a mixer in place with AdamW, a cosine schedule to zero and l2 loss.

    Args:
        mixer: any `Mixer`, on any device; its dtype is that of the training.
        U, Y: sequences (N, L, D_in) and (N, L, D_out).
        steps: optimizer steps; the data are passed again, in a new order, when they run out.
        batch_size: sequences a step.
        learning_rate, weight_decay: of AdamW; a mixer's `optimizer_hints` change them for single weights.
        objective: "next" trains the prediction from true past outputs, design (10) (for a mixer without a y-term the same as
            the roll-out); "rollout" the output from inputs alone.
        clip: largest gradient norm; None does not clip.
        validation: sequences whose roll-out error is recorded.
        validate_every: steps between validations; None means twenty in all.
        seed: of the order of the data and of dropout; the caller's generators are left as they were.
        progress: whether a progress bar is drawn, where there is a terminal to draw it on.

    Raises:
        ValueError: options out of range, shapes that do not fit, values not finite.
        MissingExtraError: without the extra ``train``.
    """
    lightning = require("train", "pytorch_lightning")
    steps, batch_size = positive_int("steps", steps), positive_int("batch_size", batch_size)
    if objective not in ("next", "rollout"):
        raise ValueError(f"objective: {objective!r}; it must be 'next' or 'rollout'")
    for name, value, positive in (("learning_rate", learning_rate, True), ("weight_decay", weight_decay, False)):
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise ValueError(f"{name}: {value}; it must be a finite number {'above' if positive else 'of at least'} 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: {clip}; it must be None or above 0")
    weight, was_training = next(mixer.parameters()), mixer.training
    data = _dataset(mixer, U, Y, weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, generator=generator)
    held_out = None if validation is None else DataLoader(_dataset(mixer, *validation, weight.dtype), batch_size=64)
    every = max(1, steps // 20) if validate_every is None else positive_int("validate_every", validate_every)
    options = {"learning_rate": learning_rate, "weight_decay": weight_decay, "steps": steps}
    module = _lightning_module(lightning, mixer, objective, batch_size, held_out, options)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), _quiet_lightning():
        warnings.simplefilter("ignore")  # Lightning advises on workers and loggers; both are chosen here
        torch.manual_seed(seed)
        trainer = lightning.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu" if weight.device.type == "cpu" else "auto",
            devices=1,
            gradient_clip_val=clip,
            limit_val_batches=0 if held_out is None else None,
            val_check_interval=every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=-1 if held_out is not None else 0,
            enable_progress_bar=progress and sys.stdout.isatty(),
            callbacks=[_progress_bar()] if progress and sys.stdout.isatty() else [],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        trainer.fit(module, loader, held_out)
        module.history.seconds = time.perf_counter() - start
    mixer.train(was_training)
    return module.history


def parameter_groups(mixer: Mixer, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: each mixer's `optimizer_hints` hold, and biases and norms do not decay."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for module in mixer.modules():
        hints = getattr(module, "optimizer_hints", {})
        for name, parameter in module.named_parameters(recurse=False):
            plain = (1.0, name != "bias" and not isinstance(module, torch.nn.LayerNorm))
            groups.setdefault(hints.get(name, plain), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * learning_rate, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]


def _dataset(mixer: Mixer, U: Any, Y: Any, dtype: torch.dtype) -> TensorDataset:
    u, y = sequence("U", U), sequence("Y", Y)
    if u.shape[2] != mixer.d_in or y.shape != (*u.shape[:2], mixer.d_out):
        raise ValueError(
            f"U, Y: shapes {tuple(u.shape)}, {tuple(y.shape)}; they must be (N, L, {mixer.d_in}) and (N, L, {mixer.d_out})"
        )
    return TensorDataset(u.to(dtype), y.to(dtype))


def _lightning_module(
    lightning: Any, mixer: Mixer, objective: str, batch_size: int, held_out: DataLoader | None, options: dict[str, Any]
) -> Any:
    """The LightningModule; defined here because its base class is imported only now."""

    class L2(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.mixer, self.history = mixer, TrainingHistory()
            self.pending: list[tuple[Tensor, Tensor]] = []

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor | None:
            u, y = batch
            prediction = self.mixer.next_step(u, y) if objective == "next" else self.mixer(u)[0]
            loss = (prediction - y).square().mean()
            self.history.losses.append(float(loss.detach()))
            if not math.isfinite(self.history.losses[-1]):
                self.history.diverged = self.trainer.should_stop = True
                return None
            self.log("loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Sequence[Tensor], index: int) -> None:
            self.pending.append((self.mixer(batch[0])[0].cpu(), batch[1].cpu()))

        def on_validation_epoch_end(self) -> None:
            predictions, targets = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
            self.pending = []
            error = relative_error(predictions, targets)
            self.history.samples.append(self.global_step * batch_size)
            self.history.errors.append(error if math.isfinite(error) else math.inf)

        def on_train_end(self) -> None:
            if held_out is not None and self.history.samples[-1] != self.global_step * batch_size:
                self.mixer.eval()
                with torch.no_grad():
                    for index, batch in enumerate(held_out):
                        self.validation_step([x.to(self.device) for x in batch], index)
                self.on_validation_epoch_end()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(parameter_groups(self.mixer, options["learning_rate"], options["weight_decay"]))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options["steps"])
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    return L2()


def _progress_bar() -> Any:
    """One bar: steps, rate and loss; none for the validations."""
    progress: Any = require("train", "pytorch_lightning.callbacks.progress.tqdm_progress")

    class StepsBar(progress.TQDMProgressBar):
        def init_validation_tqdm(self) -> Any:
            return progress.Tqdm(disable=True)

    return StepsBar(refresh_rate=20, leave=False)


class _quiet_lightning:
    """Lightning's loggers at ERROR while in the block: devices and stop reasons are in the history."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(f"pytorch_lightning.{n}") for n in ("utilities.rank_zero", "accelerators.cuda")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
