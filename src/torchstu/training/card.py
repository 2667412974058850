"""The model card of a training run: what was trained on what, how well it does, what it cost, and how to load it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstu.extras import MissingExtraError, require
from torchstu.report.figures import Panel, draw, standalone
from torchstu.report.page import write_text

PARTS = ("train", "validation", "test")
LABELLED = ("classification", "pair classification", "step classification")
"""Tasks whose error is the share of wrong labels; that of the others is relative."""
_CALLS = {
    "classification": "logits = model.at_end(u, lengths)  # (B, classes); lengths (B,) where sequences are padded",
    "pair classification": "logits = model((u1, u2), (lengths1, lengths2))  # (B, classes)",
    "step classification": "logits, state = model(u)  # (B, L, classes)",
    "step regression": "y, state = model(u)  # (B, L, channels)",
    "forecast": "y, state = model(u)  # (B, L, horizon * channels)",
}
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
class _Run:
    """What the three files of a run folder say."""

    recipe: dict[str, Any]
    recipe_text: str
    results: dict[str, Any]
    metrics: dict[str, list[tuple[int, float]]]
    """Column of metrics.csv to its finite values and their steps."""
    has_model: bool

    @property
    def task(self) -> str:
        return self.results["data"]["task"]

    @property
    def mixers(self) -> list[str]:
        mixer = self.recipe["model"]["mixer"]
        return [mixer] if isinstance(mixer, str) else list(mixer)


def write_card(folder: Path) -> Path:
    """Write ``card.md`` from ``recipe.yaml``, ``results.json`` and ``metrics.csv`` of a run folder, whole or not at all.

    The learning curves are drawn into ``curve.svg`` beside it: every column of ``metrics.csv`` that has "loss" or "error" in
    its name, over its column "step". Without matplotlib the card says what to install instead.

    Args:
        folder: of a run of `torchstu.training.run.train`.

    Returns:
        The path of the card.

    Raises:
        ValueError: a file is missing, or does not hold what such a file must; the message names file and key.
        OSError: the card cannot be written.
        MissingExtraError: without the extra ``train``.
    """
    folder = Path(folder)
    run = _read(folder)
    parts = [_header(run), _summary(run), _data_section(run), _curve_section(run, folder), _confusion_section(run)]
    parts += [_cost_section(run), _recipe_section(run), _loading_section(run)]
    return write_text(folder / "card.md", "\n\n".join(part for part in parts if part) + "\n")


def _read(folder: Path) -> _Run:
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
    return _Run(recipe, recipe_text, results, _read_metrics(_text(folder, "metrics.csv")), (folder / "model").is_dir())


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
    _check_keys("results.json, test", results["test"], {"loss": _NUMBER, "error": _NUMBER})
    for entry in results["validation"]:
        _check_keys("results.json, validation", entry, {"step": (int,), "loss": _NUMBER, "error": _NUMBER})
    if results["data"]["task"] not in _CALLS:
        raise ValueError(f"results.json, data, task: {results['data']['task']!r}; it must be one of {list(_CALLS)}")
    counts, classes = results["confusion"], results["classes"] or []
    if counts is None:
        return
    size = len(counts)
    if not all(isinstance(row, list) and len(row) == size and all(type(cell) is int for cell in row) for row in counts):
        raise ValueError("results.json, confusion: rows that differ; it must be as many integers a row as there are rows")
    if classes and len(classes) != size:
        raise ValueError(f"results.json, classes: {len(classes)} names; beside confusion they must be {size}, or none")


def _read_metrics(text: str) -> dict[str, list[tuple[int, float]]]:
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


def _header(run: _Run) -> str:
    """The YAML block that model hubs read."""
    yaml, results, data = require("train", "yaml"), run.results, run.results["data"]
    error = results["test"]["error"]
    kind, name = ("accuracy", "Accuracy") if run.task in LABELLED else ("relative-error", "Relative error")
    value = 1 - error if run.task in LABELLED and error is not None else error
    head: dict[str, Any] = {
        "library_name": "torchstu",
        "license": "unknown",
        "data_source": data["source"],
        "tags": ["torchstu", "state-space-model", "sequence-modeling", _slug(run.task), *map(_slug, run.mixers)],
        "metrics": [kind],
    }
    if value is not None and math.isfinite(value):
        result = {
            "task": {"type": _slug(run.task), "name": run.task},
            "dataset": {"type": _slug(data["name"]), "name": data["name"], "split": "test"},
            "metrics": [{"type": kind, "name": name, "value": round(value, 6)}],
        }
        head["model-index"] = [{"name": _title(run), "results": [result]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)}---"


def _title(run: _Run) -> str:
    return f"{' / '.join(run.mixers)} on {run.results['data']['name']}"


def _summary(run: _Run) -> str:
    results, model = run.results, run.recipe["model"]
    text = (
        f"# {_title(run)}\n\nA stack of {model['num_layers']} layers of {' and '.join(run.mixers)}, width {model['d_model']}, "
        f"trained with torchstu for {run.task}; {results['parameters']:,} parameters, seed {results['seed']}."
    )
    if results["diverged"]:
        text += f"\n\n**The training diverged** after step {results['steps']}, the last that was validated."
    if results["stopped_early"]:
        text += f"\n\nThe training stopped early, at step {results['steps']}."
    rows = [["test", "", results["test"]["loss"], results["test"]["error"]]]
    known = [entry for entry in results["validation"] if entry["error"] is not None and math.isfinite(entry["error"])]
    if known:
        best = min(known, key=lambda entry: (entry["error"], math.inf if entry["loss"] is None else entry["loss"]))
        rows.append(["validation, best", best["step"], best["loss"], best["error"]])
    meaning = (
        "the share of wrong labels"
        if run.task in LABELLED
        else "relative: the mean square of what is missed, over the target's"
    )
    return f"{text}\n\n{_table(['', 'step', 'loss', 'error'], rows)}\n\nThe error is {meaning}."


def _data_section(run: _Run) -> str:
    data = run.results["data"]
    rows = [[part, data[part]] for part in PARTS]
    text = f"## Data\n\n{data['name']}: {data['source'].rstrip('.')}.\n\n{_table(['part', 'sequences'], rows)}\n\n"
    return text + "Nothing was chosen on the test part. The licence of these weights is not stated; that of the data is above."


def _curve_section(run: _Run, folder: Path) -> str:
    panels = []
    for word in ("loss", "error"):
        drawn = {name.replace("_", " "): points for name, points in run.metrics.items() if word in name and points}
        series = {name: ([step for step, _ in points], [y for _, y in points]) for name, points in drawn.items()}
        if series:
            values = [value for _, y in series.values() for value in y]
            logy = min(values) > 0 and max(values) > 10 * min(values)
            ylabel = word if len(series) > 1 else next(iter(series))  # a line alone has no legend
            panels.append(Panel(series, "optimizer step", ylabel, logy=logy))
    if not panels:
        return "## Learning curve\n\nNo value was finite."
    words = f"Loss and error of {_title(run)} against optimizer steps."
    try:
        write_text(folder / "curve.svg", standalone(draw(panels, words)))
    except MissingExtraError as error:
        return f"## Learning curve\n\nNot drawn: {error}"
    return f"## Learning curve\n\n![{_escaped(words)}](curve.svg)"


def _confusion_section(run: _Run) -> str:
    counts = run.results["confusion"]
    if counts is None:
        return ""
    classes = run.results["classes"] or [str(i) for i in range(len(counts))]
    rows = [[f"**{name}**", *row] for name, row in zip(classes, counts, strict=True)]
    head = ["true \\ predicted", *classes]
    return f"## Confusion matrix\n\nSequences of the test part.\n\n{_table(head, rows)}"


def _cost_section(run: _Run) -> str:
    results = run.results
    rows: list[list[Any]] = [
        ["optimizer steps", f"{results['steps']:,}"],
        ["time, validation included, s", _shown(results["seconds"], ".1f")],
        ["sequences a second", _shown(results["sequences_per_second"], ".1f")],
        ["peak memory, MiB", _shown(results["peak_memory_bytes"], ".0f", 2**20)],
    ]
    where = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in results["environment"].items()]
    return f"## Cost and environment\n\n{_table(['', ''], [*rows, *where])}"


def _recipe_section(run: _Run) -> str:
    return (
        "## Recipe\n\nThe run again, from this file as `recipe.yaml`: `torchstu train recipe.yaml --output FOLDER`.\n\n"
        f"```yaml\n{run.recipe_text.strip()}\n```"
    )


def _loading_section(run: _Run) -> str:
    if not run.has_model:
        return "## Loading\n\nThis run saved no model."
    return (
        "## Loading\n\n`model/` is the best by validation: safetensors and a JSON file; nothing is unpickled.\n\n"
        f'```python\nimport torchstu\n\nmodel, facts = torchstu.load_model("model")\nmodel.eval()\n{_CALLS[run.task]}\n```'
    )


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """In Markdown; a float with four digits, inf and NaN by name, None as a dash."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else _escaped(str(value))


def _shown(value: float | None, form: str, unit: float = 1) -> str | None:
    return None if value is None else format(value / unit, form)


def _escaped(words: str) -> str:
    """Words that stay one cell, and one line."""
    return " ".join(words.split()).replace("|", "\\|")


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
