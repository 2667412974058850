"""The training itself: one optimizer step, the look at the validation data after it, and what Lightning needs to run them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchstu.data.sequences import Batch, SequenceData
from torchstu.extras import require
from torchstu.learn.gradient import OPTIMIZERS, validation_steps
from torchstu.training.checkpoints import RunFolder
from torchstu.training.history import History
from torchstu.training.loaders import NOISE, StepBatches, derived_seed, evaluation_batches, training_loader
from torchstu.training.losses import Tally, loss_sum, over_processes, targets_that_count
from torchstu.training.recipe import OptimizerConfig, Recipe
from torchstu.training.recipe_file import recipe_text
from torchstu.training.results import forget_peak_memory, peak_memory
from torchstu.training.strategies import Predictor, Strategy

LOG_EVERY = 10
"""Steps between entries of the training loss in TensorBoard."""

WATCHER_ENDED = "stopped by the watcher"
"""Why a run ended whose watcher said so."""

Watcher = Callable[[dict[str, Any]], bool]
"""Gets each validation's row; True ends the training."""


def learning_rate_factor(config: OptimizerConfig, steps: int, step: int) -> float:
    """The share of the highest learning rate in a step, counted from 0: linear growth, then half a cosine to the last step."""
    warmup = config.warmup_steps_of(steps)
    if step < warmup:
        return (step + 1) / warmup
    last = config.final_learning_rate / config.learning_rate
    passed = (step - warmup) / max(1, steps - 1 - warmup)
    return last + (1 - last) * (1 + math.cos(math.pi * min(passed, 1.0))) / 2


def make_optimizer(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe; weights that their layer wants slower get ``slow_rate``, if there is one."""
    optimizer = OPTIMIZERS[config.name](module, config.learning_rate, config.weight_decay)
    for group in optimizer.param_groups:
        if config.slow_rate is not None and group["lr"] != config.learning_rate:
            group["lr"] = config.slow_rate
    return optimizer


@dataclass
class Engine:
    """A run while it goes on; `lightning_module` gives it to Lightning.

    Attributes:
        recipe, data, folder, strategy: of the run.
        predictor: the model.
        history: so far.
        watch: called after each validation, in the first process.
        lines: whether that process prints a line then.
    """

    recipe: Recipe
    data: SequenceData
    folder: RunFolder
    strategy: Strategy
    predictor: Predictor
    history: History
    watch: Watcher | None = None
    lines: bool = False
    module: Any = field(default=None, repr=False)
    mark: float = 0.0

    def __post_init__(self) -> None:
        training = self.recipe.training
        self.points = validation_steps(training.validate_every, training.steps)

    @property
    def share(self) -> int:
        """Which piece of each batch is this process's."""
        return 0 if self.strategy.batch_shares == 1 else self.module.global_rank

    @property
    def part_size(self) -> int:
        """Sequences that a process works on at once."""
        training = self.recipe.training
        return training.batch_size // (self.strategy.batch_shares * training.accumulate)

    def loader(self) -> Any:
        """The batches from the step that the run is at."""
        training, shares = self.recipe.training, self.strategy.batch_shares
        batches = StepBatches(len(self.data.train), training.batch_size, self.recipe.seed, self.module.global_step,
                              training.steps, self.share, shares)  # fmt: skip
        on_gpu = self.strategy.device == "cuda"
        return training_loader(self.data.train, batches, training.accumulate, training.workers, on_gpu)

    def step(self, parts: list[Batch]) -> None:
        """One step of the optimizer on the parts of a batch, unless loss or gradient are not finite."""
        pieces = [self.strategy.piece(part, self.module.global_rank) for part in parts]
        loss = self.backward(pieces)
        if not math.isfinite(loss):
            self.diverge(f"the loss was {loss}")
            return
        self.history.add_loss(loss)
        optimizer, step = self.module.optimizers(), self.module.global_step
        optimizer.step()
        optimizer.zero_grad()
        self.module.lr_schedulers().step()
        self.module.log("loss", loss, prog_bar=True, logger=False, batch_size=1)
        if step % LOG_EVERY == 0 and self.module.logger:
            self.module.logger.log_metrics({"train_loss": loss}, step=step + 1)

    def backward(self, parts: list[Batch]) -> float:
        """The mean loss over all targets of all parts and processes; its gradient is in the weights."""
        task, step, rank = self.data.task, self.module.global_step, self.module.global_rank
        counted = torch.stack([targets_that_count(task, part.targets) for part in parts]).sum()
        count = max(1.0, float(over_processes(counted)))
        total = torch.zeros((), dtype=torch.float64, device=counted.device)
        for index, part in enumerate(parts):
            torch.manual_seed(derived_seed(self.recipe.seed, NOISE, step, rank, index))
            loss = loss_sum(task, self.predictor(part), part.targets)
            total += loss.detach()
            more = index < len(parts) - 1
            with self.strategy.no_sync(self.module.trainer.strategy) if more else nullcontext():
                self.module.manual_backward(loss * (self.strategy.gradient_factor / count))
        self.strategy.finish_gradients(self.predictor)
        return float(over_processes(total)) / count

    def before_step(self) -> None:
        """Clip; a gradient that is not finite is dropped, and training ends (16-bit mixed precision tries a smaller scale)."""
        weights = [weight for weight in self.predictor.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        clip = self.recipe.optimizer.clip
        if torch.isfinite(whole):
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(weights, clip, whole)
        elif self.recipe.training.precision != "16-mixed":
            for weight in weights:
                weight.grad = None
            self.diverge(f"the norm of the gradient was {float(whole)}")

    def diverge(self, what: str) -> None:
        """End the training, with the weights before this step."""
        self.history.diverged = True
        self.history.ended = f"diverged: {what} in step {self.module.global_step + 1}"

    def after_step(self) -> None:
        """Validate and save where it is time."""
        self.tick("training_seconds")
        step, rows, every = self.module.global_step, self.history.validations, self.recipe.training.checkpoint_every
        due = step in self.points or step == self.recipe.training.steps or bool(self.history.ended)
        validated = due and not (rows and rows[-1]["step"] == step)
        if validated:
            self.validate(step)
        over = bool(self.history.ended) or step == self.recipe.training.steps
        if over or (step % every == 0 if every else validated):
            self.tick("other_seconds")
            self.history.peak_memory = max(self.history.peak_memory, peak_memory(self.strategy.device) or 0)
            self.module.trainer.save_checkpoint(self.folder.last, weights_only=False)
        self.module.trainer.should_stop = bool(self.history.ended)
        self.tick("other_seconds")

    def tick(self, account: str) -> None:
        """Book the seconds since the last time."""
        now = time.perf_counter()
        setattr(self.history, account, getattr(self.history, account) + now - self.mark)
        self.mark = now

    def validate(self, step: int) -> None:
        """Look at the validation data; keep the weights if they are the best so far; end if there is no more to gain."""
        trainer, history, training = self.module.trainer, self.history, self.recipe.training
        tally = self.evaluate()
        rate = self.recipe.optimizer.learning_rate * learning_rate_factor(
            self.recipe.optimizer, training.steps, max(step - 1, 0)
        )
        history.add_validation(step, training.batch_size, tally.loss, tally.error, rate)
        row = history.validations[-1]
        if trainer.is_global_zero:
            self.folder.write_metrics(history.validations)
            self.module.logger.log_metrics({key: value for key, value in row.items() if key != "step"}, step=step)
            if self.lines:
                print(progress_line(row, training.steps), file=sys.stderr, flush=True)
        if history.best == len(history.validations) - 1:  # before last.ckpt, which says that it is there
            trainer.save_checkpoint(self.folder.best, weights_only=True)
        stop = bool(self.watch is not None and trainer.is_global_zero and self.watch(dict(row)))
        if training.patience is not None and history.without_improvement >= training.patience:
            history.ended = history.ended or f"stopped early: {training.patience} validations without improvement"
        elif trainer.strategy.broadcast(stop):
            history.ended = history.ended or WATCHER_ENDED

    @torch.no_grad()
    def evaluate(self) -> Tally:
        """Loss and error on the validation data, of all processes together."""
        trainer, rank, shares = self.module.trainer, self.module.global_rank, self.strategy.batch_shares
        tally = Tally(self.data.task, self.data.d_out, self.module.device)
        self.predictor.eval()
        for batch, counts in evaluation_batches(self.data.validation, self.part_size, self.share, shares):
            there = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            piece = self.strategy.piece(there, rank)
            with trainer.precision_plugin.forward_context():
                outputs = self.predictor(piece)
            if counts:
                tally.add(outputs, piece.targets)
        self.predictor.train()
        return tally.over_processes()


def progress_line(row: dict[str, Any], steps: int) -> str:
    """A validation in words."""
    return (
        f"step {row['step']} of {steps}: loss {row['train_loss']:.4g} in training, {row['validation_loss']:.4g} in validation, "
        f"error {row['validation_error']:.4g}"
    )


def lightning_module(engine: Engine) -> Any:
    """The LightningModule; defined here because its base class is imported only now."""
    lightning: Any = require("train", "pytorch_lightning")
    text = recipe_text(engine.recipe)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.predictor = engine.predictor
            engine.module = self

        def configure_model(self) -> None:
            engine.strategy.divide(self.predictor)

        def configure_optimizers(self) -> Any:
            optimizer = make_optimizer(self.predictor, engine.recipe.optimizer)
            config, steps = engine.recipe.optimizer, engine.recipe.training.steps
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(config, steps, step))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def train_dataloader(self) -> Any:
            return engine.loader()

        def on_train_start(self) -> None:
            forget_peak_memory(engine.strategy.device)
            engine.mark = time.perf_counter()

        def training_step(self, parts: list[Batch], index: int) -> None:
            engine.step(parts)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            engine.before_step()

        def on_train_batch_end(self, *_: Any) -> None:
            engine.after_step()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint |= {"history": engine.history.as_dict(), "recipe": text}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            engine.history = History(**checkpoint["history"])

    return Module()
