"""The library's Trainer for language models: its arguments, its loss, its checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from torchstu.integrations.transformers.text import TokenFile, Windows, next_token_loss
from torchstu.learn.optimizers import parameter_groups

if TYPE_CHECKING:
    from torchstu.integrations.transformers.language import LanguageRun

VALIDATED = 2**15
"""Tokens of a validation on the way; the last one reads all."""


def training_arguments(run: LanguageRun, folder: Path, progress: bool) -> TrainingArguments:
    """The trainer's; with them this process finds the others that torchrun started."""
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=run.steps,
        learning_rate=run.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=math.ceil(run.warmup * run.steps),
        max_grad_norm=run.clip,
        logging_steps=max(1, run.validate_every // 5),
        eval_strategy="steps",
        eval_steps=run.validate_every,
        save_steps=run.validate_every,
        save_total_limit=2,
        seed=run.seed,
        report_to=[],
        average_tokens_across_devices=False,  # batches have one size
        disable_tqdm=not progress,
        remove_unused_columns=False,  # what a model's signature does not name would be dropped without a word
        label_names=["labels"],
        ddp_timeout=24 * 3600,  # the first process measures while others wait
        use_cpu=not torch.cuda.is_available(),
        bf16=run.bf16,
    )
    parts = arguments.world_size * max(1, arguments.n_gpu)
    if run.batch_size % parts:
        raise ValueError(f"batch_size: {run.batch_size}; it must be a multiple of {parts}, the devices that share a batch")
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = run.batch_size // parts
    return arguments


def make_trainer(
    run: LanguageRun, arguments: TrainingArguments, model: Any, tokens: TokenFile, say: Callable[[str], None], clock: Clock
) -> Trainer:
    """What trains a model on the training part and says how it does on some of the validation part."""
    groups = parameter_groups(model, run.learning_rate, run.weight_decay)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Windows(tokens.part("train"), run.context),
        eval_dataset=_some(Windows(tokens.part("validation"), run.context)),
        optimizers=(torch.optim.AdamW(groups, lr=run.learning_rate, betas=(0.9, 0.95)), None),
        callbacks=[_Says(say, tokens), clock],
        compute_loss_func=next_token_loss,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _some(windows: Windows) -> Any:
    """At most `VALIDATED` tokens, evenly taken: what a validation on the way reads."""
    step = -(-len(windows) * windows.context // VALIDATED)
    return torch.utils.data.Subset(windows, range(0, len(windows), step))


class Clock(TrainerCallback, ExportableState):
    """Seconds of a run, over its restarts, and those of them in steps; checkpoints have them.

    Args:
        seconds, stepping: before.
    """

    def __init__(self, seconds: float = 0.0, stepping: float = 0.0) -> None:
        self.before, self.stepping = seconds, stepping
        self.began = self.step_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self.before + time.perf_counter() - self.began

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The trainer begins a step."""
        self.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """It has ended one."""
        self.stepping += time.perf_counter() - self.step_began

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"args": {"seconds": self.seconds, "stepping": self.stepping}, "attributes": {}}


class _Says(TrainerCallback):
    """A line after each validation."""

    def __init__(self, say: Callable[[str], None], tokens: TokenFile) -> None:
        self.say, self.rate = say, tokens.tokens["validation"] / tokens.bytes["validation"] / math.log(2)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any) -> None:
        loss = (metrics or {}).get("eval_loss", math.nan)
        self.say(f"step {state.global_step} of {args.max_steps}: {loss * self.rate:.3f} bits per byte in validation")


def last_checkpoint(folder: Path) -> tuple[str | None, int, dict[str, float]]:
    """The last checkpoint that can be read, its step, and the seconds of its `Clock`."""
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path), int(state["global_step"]), dict(state["stateful_callbacks"]["Clock"]["args"])
        except (OSError, ValueError, KeyError):
            continue  # cut off while it was written
    return None, 0, {}
