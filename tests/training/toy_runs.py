"""A small data set for every task, and training runs on it as a command: python toy_runs.py OUTPUT RECIPE.json ..."""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from torchstu.data.registry import DATASETS
from torchstu.data.sequences import IGNORED, SequenceData
from torchstu.models.config import BackboneConfig
from torchstu.training.recipe import DataConfig, OptimizerConfig, Recipe, TrainingConfig

DATASETS["toy"] = "toy_runs:toy"


@dataclass(frozen=True)
class ToyExamples:
    """Sequences of 5 to 12 steps of two channels; the label says whether the first channel's sum is positive."""

    task: str
    part: int
    size: int
    seed: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(1_000_000 * self.seed + 10_000 * self.part + index)
        u = torch.randn(5 + index % 8, 2, generator=generator)
        if self.task == "pair classification":
            v = torch.randn(5 + index % 3, 2, generator=generator)
            return (u, v), (u[:, 0].sum() > v[:, 0].sum()).long()
        if self.task == "classification":
            return u, (u[:, 0].sum() > 0).long()
        sums = u[:, 0].cumsum(0)
        if self.task == "step classification":
            return u, torch.where(torch.arange(len(u)) % (2 + index % 3) == 0, (sums > 0).long(), IGNORED)
        target = torch.stack([sums, u[:, 1]], dim=1)
        target[: index % 4] = float("nan")
        return u, target


def toy(*, task: str = "classification", size: int = 64, held_out: int = 20, seed: int = 0) -> SequenceData:
    """Any task, drawn by index."""
    parts = [ToyExamples(task, part, n, seed) for part, n in enumerate((size, held_out, held_out))]
    classes = ("negative", "positive") if "classification" in task else ()
    return SequenceData(f"toy {task}", task, "reals", 2, 2, *parts, source="drawn at random", classes=classes)


def recipe(task="classification", *, data=None, model=None, optimizer=None, seed=3, pooling=None, **training):
    """A run of 12 steps of batches of 8, changed where said."""
    shape = {"d_model": 6, "num_layers": 2, "length": 16, "mixer": "STU", "mixer_options": {"num_filters": 4}}
    rates = {"learning_rate": 1e-2, "warmup": 0.25, "clip": 1.0, "weight_decay": 0.01}
    return Recipe(
        data=DataConfig("toy", {"task": task} | (data or {})),
        model=BackboneConfig(**(shape | (model or {}))),
        optimizer=OptimizerConfig(**(rates | (optimizer or {}))),
        training=TrainingConfig(**({"steps": 12, "batch_size": 8, "validate_every": 4, "accelerator": "cpu"} | training)),
        pooling=pooling,
        seed=seed,
    )


def command(*runs, ranks=()):
    """A Python command line for runs, pairs of a folder and a recipe; what starts the processes can come before the script."""
    words = [sys.executable, *map(str, ranks), __file__]
    for folder, chosen in runs:
        file = folder.with_name(f"{folder.name}.json")
        file.write_text(json.dumps(asdict(chosen)))
        words += [str(folder), str(file)]
    return words


def plain_card(folder):
    """In place of the card, which takes longer than these runs and has tests of its own."""
    (folder / "card.md").write_text("a card")


def run_all(arguments):
    """The runs of the command line, one after the other."""
    import torchstu.training.card
    from torchstu.training.recipe_file import recipe_from
    from torchstu.training.run import train

    torch.set_num_threads(1)
    torchstu.training.card.write_card = plain_card
    for output, file in zip(arguments.runs[::2], arguments.runs[1::2], strict=True):

        def watch(row, output=output):
            if row["step"] == arguments.copy_at:
                shutil.copytree(output, output.with_name(f"{output.name} killed"), dirs_exist_ok=True)
            return False

        train(recipe_from(json.loads(file.read_text())), output, resume=arguments.resume, watch=watch)


def run_rank(rank, port, arguments):
    """One of two processes, in the environment that ``torchrun --nproc-per-node 2`` makes."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
    rank_zero_only.rank = rank  # was read from the environment when it was imported
    run_all(arguments)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    """``--copy-at STEP`` copies the folder at that step's validation, as a run killed there would leave it; ``--two-ranks``
    forks, since packages need longer to import than these runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", metavar="OUTPUT RECIPE", type=Path, nargs="+")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--copy-at", type=int)
    parser.add_argument("--two-ranks", action="store_true")
    arguments = parser.parse_args()
    if not arguments.two_ranks:
        run_all(arguments)
        return
    import pytorch_lightning.loggers  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    fork, port = multiprocessing.get_context("fork"), free_port()
    ranks = [fork.Process(target=run_rank, args=(rank, port, arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))


if __name__ == "__main__":
    main()
