"""Train a model from a recipe, from the first step to the model card, or go on where an earlier run ended."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchstu.data.sequences import SequenceData
from torchstu.extras import require
from torchstu.learn.gradient import quiet_lightning
from torchstu.training.build import build_model
from torchstu.training.checkpoints import RunFolder, checkpoint_io, read_own_checkpoint
from torchstu.training.checks import check_fit, check_recipe
from torchstu.training.history import History
from torchstu.training.loaders import load_data
from torchstu.training.module import Engine, Watcher, lightning_module
from torchstu.training.recipe import Recipe
from torchstu.training.results import best_model, store_model, summary, tested, write_results
from torchstu.training.strategies import Predictor, Strategy, is_first_process


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        output: its folder.
        results: what ``results.json`` holds; empty in all processes but the first.
        finished_before: whether it was through before this call, which did nothing.
    """

    output: Path
    results: dict[str, Any]
    finished_before: bool = False

    @property
    def test_error(self) -> float | None:
        """On the test data, of the model that was best on the validation data; None if it is not finite, or not known here."""
        return self.results.get("test", {}).get("error")

    @property
    def validation_error(self) -> float | None:
        """The smallest on the validation data; None without a finite one, or if it is not known here."""
        errors = [row["error"] for row in self.results.get("validation", []) if row["error"] is not None]
        return min(errors, default=None)

    @property
    def ended(self) -> str:
        """Why training ended before its last step; empty otherwise."""
        return self.results.get("ended", "")


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    data: SequenceData | None = None,
    resume: bool = False,
    progress: bool = True,
    watch: Watcher | None = None,
) -> TrainingResult:
    """Train a model, test it once, and write all there is to know of it into a folder.

    A run that was stopped at any moment, even by a power cut, goes on with ``resume`` from its last checkpoint and comes to
    the same weights, to the last bit on the same machine with as many threads. The batch of a step and its dropout depend on
    the recipe's seed and the step alone, so that there is no state of generators to be kept; the caller's stay as they were.
    Where it runs may change in between, unless the result depends on that, as dropout and batch norm do on how a batch is
    divided: see `torchstu.training.checkpoints.may_change`.

    The loss of a step is the mean over all targets that count of the whole batch, also over processes, accumulated parts, and
    sequences of unequal length.

    With several processes every one of them calls this function: Lightning starts the others by running the script again, or
    ``torchrun`` starts all. They must see one file system. The first one tests the model and writes.

    Args:
        recipe: data, model, optimizer and how to train.
        output: folder of the run: ``recipe.yaml``, ``checkpoints/``, ``metrics.csv``, ``tensorboard/``, ``model/``,
            ``results.json``, ``card.md``.
        data: in place of the data set that the recipe names; ``recipe.data`` is then what the record says of them. Each
            process, and each call that resumes, must be given the same.
        resume: whether to go on with the run that is in the folder, if there is one. A finished one is left as it is.
        progress: whether to draw a progress bar, or where stdout is no terminal, to print a line on stderr at each validation.
        watch: called after each validation, in the first process, with its row; training ends if it returns True.

    Raises:
        ValueError: the recipe cannot be run here, or the run in the folder has another; nothing has been written then.
        FileExistsError: the folder has a run and ``resume`` is False, or files of another origin where a run's would be.
        FileNotFoundError: the best weights of a run that is resumed are missing.
        OSError: a file cannot be written; the last checkpoint is whole.
        MissingExtraError: without the extra ``train``.
    """
    lightning = require("train", "pytorch_lightning")
    check_recipe(recipe, data is not None)
    first, folder, strategy = is_first_process(), RunFolder(Path(output)), Strategy.of(recipe.training)
    if first:
        folder.check(recipe, resume)
    results = folder.finished(recipe)
    if results is not None:
        return TrainingResult(folder.path, results if first else {}, finished_before=True)
    data = load_data(recipe) if data is None else data
    check_fit(recipe, data)
    if first:
        folder.prepare(recipe)
    with _own_generators(strategy):
        history = _fit(lightning, recipe, data, folder, strategy, progress, watch)
        return TrainingResult(folder.path, _finish(recipe, data, folder, strategy, history) if first else {})


@contextmanager
def _own_generators(strategy: Strategy) -> Iterator[None]:
    gpus = range(torch.cuda.device_count()) if strategy.device == "cuda" else ()
    with torch.random.fork_rng(devices=gpus):
        yield


def _fit(
    lightning: Any,
    recipe: Recipe,
    data: SequenceData,
    folder: RunFolder,
    strategy: Strategy,
    progress: bool,
    watch: Watcher | None,
) -> History:
    """Train from the last checkpoint, if there is one, to the end."""
    last = folder.last if folder.last.exists() else None
    begun: dict[str, Any] = read_own_checkpoint(last, recipe) if last else {"global_step": 0, "history": {}}
    history, step = History(**begun["history"]), begun["global_step"]
    del begun
    if history.ended or step >= recipe.training.steps:
        return history
    torch.manual_seed(recipe.seed)
    predictor = Predictor(build_model(recipe.model, data, recipe.pooling), data.task)
    bar = progress and sys.stdout.isatty()
    engine = Engine(recipe, data, folder, strategy, predictor, history, watch, lines=progress and not bar)
    with _lightning_in_hand():
        trainer = _trainer(lightning, recipe, folder, strategy, step, bar)
        trainer.fit(lightning_module(engine), ckpt_path=last, weights_only=True)
    return engine.history


@contextmanager
def _lightning_in_hand() -> Iterator[None]:
    """No advice on workers and loggers, which are chosen here; Ctrl-C is a KeyboardInterrupt, not the end of Python."""
    handler, log = signal.getsignal(signal.SIGINT), logging.getLogger("lightning_fabric")
    level = log.level
    with warnings.catch_warnings(), quiet_lightning():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch)\b")
        log.setLevel(logging.ERROR)  # it counts processes
        try:
            yield
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from stop
            raise
        finally:
            log.setLevel(level)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)  # Lightning has it ignored


def _trainer(lightning: Any, recipe: Recipe, folder: RunFolder, strategy: Strategy, step: int, bar: bool) -> Any:
    loggers: Any = require("train", "pytorch_lightning.loggers")
    require("train", "tensorboard")
    training = recipe.training
    _after_the_second_of(folder.path / "tensorboard")
    # Entries after the checkpoint, of the run that was stopped, are dropped.
    logger = loggers.TensorBoardLogger(str(folder.path), name="tensorboard", version="", purge_step=step + 1)
    return lightning.Trainer(
        max_steps=training.steps,
        max_epochs=-1,
        accelerator="cpu" if strategy.device == "cpu" else "gpu",
        devices=training.devices,
        num_nodes=training.nodes,
        strategy=strategy.for_lightning(),
        precision=training.precision,
        plugins=[checkpoint_io()],
        logger=logger,
        callbacks=[_progress_bar(step, training.steps)] if bar else [],
        enable_progress_bar=bar,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=str(folder.path),
    )


def _after_the_second_of(log: Path) -> None:
    """TensorBoard reads files in the order of their names, which tell only the second at which a part of a run began."""
    began = [file.name.split(".")[3] for file in log.glob("events.out.tfevents.*")]
    while str(int(time.time())) in began:
        time.sleep(0.05)


def _progress_bar(start: int, steps: int) -> Any:
    """Steps, rate and loss."""
    progress: Any = require("train", "pytorch_lightning.callbacks.progress.tqdm_progress")

    class StepsBar(progress.TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()
            bar.total, bar.initial, bar.n = steps, start, start
            bar.set_description("steps")
            return bar

        def on_train_epoch_start(self, *_: Any) -> None:
            """The one epoch that there is has begun with the bar."""

    return StepsBar(refresh_rate=20, leave=False)


def _finish(recipe: Recipe, data: SequenceData, folder: RunFolder, strategy: Strategy, history: History) -> dict[str, Any]:
    """Test the best model, save it, and write the results and the card."""
    from torchstu.training.card import write_card

    model = best_model(recipe, data, folder, history)
    part_size = recipe.training.batch_size // (strategy.batch_shares * recipe.training.accumulate)
    tally = tested(model, data, part_size, strategy.device)
    results = summary(recipe, data, strategy, history, model, tally)
    store_model(model, folder.path / "model", {"test": results["test"], "data": results["data"]})
    write_results(folder.results, results)
    write_card(folder.path)
    return results
