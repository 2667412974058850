"""The folder of a run, and checkpoints that are whole or not there."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from torchstu.extras import require
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import read_recipe, write_recipe
from torchstu.whole_file import whole_file

WHERE_IT_RUNS = frozenset(f"training.{key}" for key in ("devices", "nodes", "strategy", "accelerator", "workers", "accumulate"))
"""What may change when a run goes on: its results stay the same, to rounding."""


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """What is run, everything written out."""
        return self.path / "recipe.yaml"

    @property
    def last(self) -> Path:
        """The newest checkpoint: everything a run needs to go on."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights that were best on the validation data."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def metrics(self) -> Path:
        """The validations, one a line."""
        return self.path / "metrics.csv"

    @property
    def results(self) -> Path:
        """What is known at the end; only a finished run has it."""
        return self.path / "results.json"

    def prepare(self, recipe: Recipe, resume: bool) -> None:
        """Make the folder and write the recipe, in one process for all.

        Raises:
            FileExistsError: there is a run already, and it shall not be resumed.
            ValueError: the run there has another recipe.
            OSError: it cannot be written.
        """
        if self.recipe.exists():
            if not resume:
                raise FileExistsError(f"{self.path}: has a run already; go on with it by --resume, or give another folder")
            check_same(read_recipe(self.recipe), recipe, self.path)
        self.last.parent.mkdir(parents=True, exist_ok=True)
        for draft in (
            *self.path.glob(".metrics.csv.*"),
            *self.path.glob(".results.json.*"),
            *self.last.parent.glob(".*.ckpt*"),
        ):
            draft.unlink()  # of a process that was killed
        write_recipe(self.recipe, recipe)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """All validations so far, whole or not at all."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        with whole_file(self.metrics) as draft:
            draft.write_text(text.getvalue(), encoding="utf-8")


def check_same(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse to go on with another run than the one that was begun.

    Raises:
        ValueError: a key differs that is not in ``WHERE_IT_RUNS``; the message names it.
    """
    before, now = _flat(asdict(old)), _flat(asdict(new))
    for key in sorted((before.keys() | now.keys()) - WHERE_IT_RUNS):
        if before.get(key) != now.get(key):
            raise ValueError(f"{key}: {now.get(key)!r}; the run in {folder} has {before.get(key)!r} and keeps its recipe")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint; the one before stays until the new one is on disk.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with whole_file(path) as draft, draft.open("wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # PyTorch's writer turns some of the first into the second
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        before = "the one before is whole, --resume goes on from it" if path.exists() else "there is none before"
        raise OSError(f"{path}: the checkpoint could not be written ({reason}); {before}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors, numbers and words, onto the CPU; nothing in the file is executed.

    Raises:
        ValueError: it is no checkpoint. OSError: it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: is no readable checkpoint ({type(error).__name__})") from error


def checkpoint_io() -> Any:
    """Lightning's plugin that reads and writes as above."""
    io_plugins: Any = require("train", "pytorch_lightning.plugins.io")

    class WholeCheckpoints(io_plugins.CheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            write_checkpoint(Path(path), checkpoint)

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
            return read_checkpoint(Path(path))

        def remove_checkpoint(self, path: Any) -> None:
            Path(path).unlink(missing_ok=True)

    return WholeCheckpoints()
