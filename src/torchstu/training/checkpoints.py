"""The folder of a run, and checkpoints that are whole or not there."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from torchstu.extras import require
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import parse_yaml, write_recipe
from torchstu.training.typed import build
from torchstu.whole_file import clear_drafts, whole_file

WHERE_IT_RUNS = frozenset(f"training.{key}" for key in ("devices", "nodes", "strategy", "accelerator", "workers", "accumulate"))
"""What may change when a run goes on, as far as its results stay the same, to rounding; see `may_change`."""
OF_A_RUN = ("recipe.yaml", "results.json", "metrics.csv", "checkpoints/*.ckpt", "card.md", "model", "tensorboard")
"""What a run writes over."""


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

    @property
    def card(self) -> Path:
        """The run for a reader."""
        return self.path / "card.md"

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Refuse a folder in which this run must not write; nothing is written yet.

        Raises:
            FileExistsError: there is a run already, and it shall not be resumed; or there are files of another origin.
            ValueError: the run there has another recipe.
        """
        found = [path for pattern in OF_A_RUN for path in sorted(self.path.glob(pattern))]
        if not found:
            return
        if self.recipe not in found:
            raise FileExistsError(f"{found[0]}: is there, and no recipe.yaml of a run; give another folder")
        if not resume:
            raise FileExistsError(f"{self.path}: has a run already; go on with it by --resume, or give another folder")
        check_same(self.recipe.read_text(encoding="utf-8"), recipe, self.recipe)

    def finished(self, recipe: Recipe) -> dict[str, Any] | None:
        """What ``results.json`` holds; None of a run that is not through.

        Raises:
            ValueError: it is not this run's.
        """
        if not self.results.exists():
            return None
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.results}: is no JSON ({error}); it must be of this run") from error
        _check_own(results, recipe, self.results)
        return results

    def prepare(self, recipe: Recipe) -> None:
        """Make the folder and write the recipe, in one process for all.

        Raises:
            OSError: it cannot be written.
        """
        self.last.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.recipe, self.metrics, self.results, self.card, self.last, self.best):
            clear_drafts(path)
        write_recipe(self.recipe, recipe)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """All validations so far, whole or not at all."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        with whole_file(self.metrics) as draft:
            draft.write_text(text.getvalue(), encoding="utf-8")


def may_change(recipe: Recipe) -> frozenset[str]:
    """Keys that may change when a run goes on: what says where it runs.

    Dropout is drawn by process and part of the batch, on the device, and a batch norm sees one part at a time: with them a
    batch that is divided in another way gives another result.
    """
    if recipe.model.dropout > 0:
        return frozenset({"training.workers"})
    return WHERE_IT_RUNS - {"training.accumulate"} if recipe.model.norm == "batch" else WHERE_IT_RUNS


def check_same(old: str, new: Recipe, path: Path) -> None:
    """Refuse to go on with another run than the one that was begun, whose recipe ``path`` holds as YAML.

    Raises:
        ValueError: a key differs that is not among those of `may_change`; the message names it.
    """
    try:
        before, now = _flat(asdict(build(Recipe, parse_yaml(old, str(path))))), _flat(asdict(new))
    except ValueError as error:
        raise ValueError(f"{path}: holds no recipe of a run ({error})") from error
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    # First what no run may change: with dropout the rest is fixed too, but that is not the reason then.
    for key in sorted(set(changed) - may_change(new), key=lambda key: key in WHERE_IT_RUNS):
        reason = " (model.dropout, or batch norm, depends on how a batch is divided)" if key in WHERE_IT_RUNS else ""
        raise ValueError(
            f"{key}: {now.get(key)!r}; the run in {path.parent} has {before.get(key)!r} and keeps its recipe{reason}"
        )


def _check_own(found: Any, recipe: Recipe, path: Path) -> None:
    text = found.get("recipe") if isinstance(found, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"{path}: does not say of which recipe it is; it must be of this run")
    check_same(text, recipe, path)


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


def read_own_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any]:
    """`read_checkpoint`, of one run only.

    Raises:
        ValueError: it is no checkpoint, or one of another recipe. OSError: it cannot be read.
    """
    checkpoint = read_checkpoint(path)
    _check_own(checkpoint, recipe, path)
    return checkpoint


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
