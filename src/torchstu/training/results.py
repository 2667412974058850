"""What a run leaves behind: its results, and where they were obtained."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstu.data.sequences import WHOLE_SEQUENCE, SequenceData
from torchstu.models.store import save_model
from torchstu.training.build import build_model
from torchstu.training.checkpoints import RunFolder, read_own_checkpoint
from torchstu.training.history import History
from torchstu.training.loaders import evaluation_batches
from torchstu.training.losses import Tally
from torchstu.training.recipe import Recipe
from torchstu.training.recipe_file import recipe_text
from torchstu.training.strategies import Predictor, Strategy
from torchstu.whole_file import whole_file

PACKAGES = ("torchstu", "torch", "numpy", "pytorch-lightning")


def best_model(recipe: Recipe, data: SequenceData, folder: RunFolder, history: History) -> nn.Module:
    """The model with the weights that were best on the validation data; without a finite validation, with the last.

    Raises:
        ValueError, OSError: the checkpoint cannot be read, or is of another run. FileNotFoundError: it is missing.
    """
    path = folder.last if history.best is None else folder.best
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: is missing, the best weights on the validation data were in it; put it back, or train in another folder"
        )
    weights = read_own_checkpoint(path, recipe)["state_dict"]
    dtype = torch.float64 if recipe.training.precision == "64-true" else torch.float32
    predictor = Predictor(build_model(recipe.model, data, recipe.pooling, dtype=dtype), data.task)
    predictor.load_state_dict({key.removeprefix("predictor."): value for key, value in weights.items()})
    return predictor.model.eval()


@torch.no_grad()
def tested(model: nn.Module, data: SequenceData, batch_size: int, device: str) -> Tally:
    """Loss and error on the test data, in one process, at the precision of the weights."""
    predictor, tally = Predictor(model, data.task).to(device).eval(), Tally(data.task, data.d_out, device)
    for batch, _ in evaluation_batches(data.test, batch_size):
        there = move(batch, device)
        tally.add(predictor(there), there.targets)
    model.cpu()
    return tally


def move(batch: Any, device: str) -> Any:
    """Tensors in tuples to a device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    parts = [move(part, device) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def store_model(model: nn.Module, path: Path, extra: dict[str, Any]) -> None:
    """Save a model under a name, in the place of one that is there already.

    Raises:
        OSError: it cannot be written.
    """
    new, old = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_model(new, model, extra)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def summary(
    recipe: Recipe, data: SequenceData, strategy: Strategy, history: History, model: nn.Module, test: Tally
) -> dict[str, Any]:
    """Everything of ``results.json``; numbers that are not finite are None."""
    steps = history.validations[-1]["step"] if history.validations else 0
    seen = steps * recipe.training.batch_size
    rows = [
        {"step": row["step"], "loss": finite(row["validation_loss"]), "error": finite(row["validation_error"])}
        for row in history.validations
    ]
    return {
        "test": {"loss": finite(test.loss), "error": finite(test.error)},
        "validation": rows,
        "best_step": None if history.best is None else rows[history.best]["step"],
        "confusion": test.confusion.tolist() if data.task in WHOLE_SEQUENCE else None,
        "classes": list(data.classes),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "steps": steps,
        "seconds": history.training_seconds + history.other_seconds,
        "sequences_per_second": seen / history.training_seconds if history.training_seconds else None,
        "peak_memory_bytes": history.peak_memory or None,
        "environment": environment(strategy),
        "data": {"name": data.name, "source": data.source, "task": data.task, "train": len(data.train),
                 "validation": len(data.validation), "test": len(data.test), "about": data.about},
        "diverged": history.diverged,
        "stopped_early": bool(history.ended) and not history.diverged,
        "ended": history.ended,
        "seed": recipe.seed,
        "recipe": recipe_text(recipe),
    }  # fmt: skip


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as draft:
        draft.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: float) -> float | None:
    """The value, or None for what JSON has no word for."""
    return value if math.isfinite(value) else None


def forget_peak_memory(device: str) -> None:
    """Let `peak_memory` begin anew from what is held now, on CUDA and on Linux."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int | None:
    """Largest memory of this process in bytes, PyTorch's on a GPU, else resident; None where it is not told."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def environment(strategy: Strategy) -> dict[str, Any]:
    """Versions and machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a source tree that is not installed
            continue
    on_gpu = strategy.device == "cuda"
    return {
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "strategy": strategy.name,
        "processes": strategy.processes,
    }
