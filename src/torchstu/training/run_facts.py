"""What the files of a run folder say, checked: the recipe, the results, the curve."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torchstu.data.sequences import TaskKind
from torchstu.extras import require

PARTS = ("train", "validation", "test")
_NUMBER = (int, float, type(None))
_RESULTS: dict[str, tuple[type, ...]] = {
    "test": (dict,), "validation": (list,), "confusion": (list, type(None)), "classes": (list, type(None)),
    "parameters": (int,), "steps": (int,), "seconds": _NUMBER, "sequences_per_second": _NUMBER, "peak_memory_bytes": _NUMBER,
    "environment": (dict,), "data": (dict,), "diverged": (bool,), "stopped_early": (bool,), "seed": (int,),
}  # fmt: skip
_DATA: dict[str, tuple[type, ...]] = {"name": (str,), "source": (str,), "task": (str,)} | dict.fromkeys(PARTS, (int,))
_WORDS: dict[type, str] = {
    dict: "a table of keys", list: "a list", int: "an integer", bool: "true or false", float: "a number", str: "words",
    type(None): "null",
}  # fmt: skip


@dataclass(frozen=True)
class RunFacts:
    """What the three files of a run folder say."""

    recipe: dict[str, Any]
    recipe_text: str
    results: dict[str, Any]
    metrics: dict[str, list[tuple[int, float]]]
    """Column of metrics.csv to its finite values and their steps."""
    has_model: bool

    @property
    def task(self) -> str:
        """See `torchstu.data.sequences.TaskKind`."""
        return self.results["data"]["task"]

    @property
    def about(self) -> dict[str, Any]:
        """See `torchstu.data.sequences.SequenceData`."""
        return self.results["data"].get("about", {})

    @property
    def mixers(self) -> list[str]:
        """Names, in turns."""
        mixer = self.recipe["model"]["mixer"]
        return [mixer] if isinstance(mixer, str) else list(mixer)


def read_run(folder: Path) -> RunFacts:
    """Read ``recipe.yaml``, ``results.json`` and ``metrics.csv``.

    Raises:
        ValueError: one is missing, or does not hold what such a file must; the message names file and key.
        MissingExtraError: without the extra ``train``.
    """
    yaml = require("train", "yaml")
    recipe_text = _text(folder, "recipe.yaml")
    try:
        recipe = yaml.safe_load(recipe_text)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe.yaml: is no YAML ({str(error).splitlines()[0]}); it must be what training wrote") from error
    try:
        results = json.loads(_text(folder, "results.json"))
    except json.JSONDecodeError as error:
        raise ValueError(f"results.json: is no JSON ({error}); it must be what training wrote") from error
    _check_keys("recipe.yaml", recipe, {"model": (dict,)})
    _check_keys("recipe.yaml, model", recipe["model"], {"mixer": (str, list), "d_model": (int,), "num_layers": (int,)})
    _check_results(results)
    return RunFacts(recipe, recipe_text, results, read_metrics(_text(folder, "metrics.csv")), (folder / "model").is_dir())


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{name}: is not in {folder}; that must be the folder of a training run") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is no text in UTF-8; it must be what training wrote") from error


def _check_keys(where: str, found: Any, wanted: dict[str, tuple[type, ...]]) -> None:
    """Refuse what is no table with these keys and types; a bool is no integer."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {_short(found)}; it must be a table of keys")
    for key, kinds in wanted.items():
        if key not in found:
            raise ValueError(f"{where}: has no {key!r}; it must have {', '.join(wanted)}")
        value = found[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{where}, {key}: {_short(value)}; it must be {' or '.join(_WORDS[kind] for kind in kinds)}")


def _check_results(results: Any) -> None:
    _check_keys("results.json", results, _RESULTS)
    _check_keys("results.json, data", results["data"], _DATA)
    _check_keys("results.json, data, about", results["data"].get("about", {}), {})
    _check_keys("results.json, test", results["test"], {"loss": _NUMBER, "error": _NUMBER})
    for entry in results["validation"]:
        _check_keys("results.json, validation", entry, {"step": (int,), "loss": _NUMBER, "error": _NUMBER})
    if results["data"]["task"] not in get_args(TaskKind):
        raise ValueError(f"results.json, data, task: {results['data']['task']!r}; it must be one of {list(get_args(TaskKind))}")
    counts, classes = results["confusion"], results["classes"] or []
    if counts is None:
        return
    size = len(counts)
    if not all(isinstance(row, list) and len(row) == size and all(type(cell) is int for cell in row) for row in counts):
        raise ValueError("results.json, confusion: rows that differ; it must be as many integers a row as there are rows")
    if classes and len(classes) != size:
        raise ValueError(f"results.json, classes: {len(classes)} names; beside confusion they must be {size}, or none")


def read_metrics(text: str) -> dict[str, list[tuple[int, float]]]:
    """Columns of losses and errors; an empty cell is a step at which nothing was measured, and inf or nan is not drawn."""
    rows = csv.DictReader(text.splitlines())
    names = [name for name in rows.fieldnames or [] if "loss" in name or "error" in name]
    if "step" not in (rows.fieldnames or []) or not names:
        columns = ", ".join(rows.fieldnames or []) or "none"
        raise ValueError(f"metrics.csv: columns {columns}; they must be 'step' and some with 'loss' or 'error' in their names")
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for row in rows:
        for name in names:
            try:
                step, value = int(row["step"]), float(row[name] or math.nan)
            except (TypeError, ValueError) as error:
                cells = f"{row['step']!r}, {row[name]!r}"
                raise ValueError(f"metrics.csv, line {rows.line_num}: {cells}; step and {name} must be numbers") from error
            if math.isfinite(value):
                found[name].append((step, value))
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
