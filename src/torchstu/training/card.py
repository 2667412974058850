"""The model card of a training run: what was trained on what, how well it does, what it cost, and how to load it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstu.data.sequences import LABELLED
from torchstu.extras import MissingExtraError, require
from torchstu.report.figures import Panel, draw, standalone
from torchstu.report.page import write_text
from torchstu.training.run_facts import PARTS, RunFacts, read_run

_CALLS = {
    "classification": "logits = model.at_end(u, lengths)  # (B, classes); lengths (B,) where sequences are padded",
    "pair classification": "logits = model((u1, u2), (lengths1, lengths2))  # (B, classes)",
    "step classification": "logits, state = model(u)  # (B, L, classes)",
    "step regression": "y, state = model(u)  # (B, L, channels)",
    "forecast": "y, state = model(u)  # (B, L, horizon * channels)",
}
_SCALED_CALL = """about = facts["data"]["about"]
# rows: an array (L, {channels}) in the units of the file; its columns are {inputs}
u = torch.from_numpy(Scaler.from_dict(about["input_scaler"]).transform(rows)).float()[None]
with torch.no_grad():
    y, state = model(u)
y = y.numpy().reshape(*u.shape[:2], {steps}, {outputs})
values = Scaler.from_dict(about["output_scaler"]).inverse(y)  # (1, L, {steps}, {outputs}): {meaning}"""


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
    run = read_run(folder)
    parts = [_header(run), _summary(run), _data_section(run), _curve_section(run, folder), _confusion_section(run)]
    parts += [_cost_section(run), _recipe_section(run), _loading_section(run)]
    return write_text(folder / "card.md", "\n\n".join(part for part in parts if part) + "\n")


def _header(run: RunFacts) -> str:
    """The YAML block that model hubs read."""
    yaml, results, data = require("train", "yaml"), run.results, run.results["data"]
    error = results["test"]["error"]
    kind, name = ("accuracy", "Accuracy") if run.task in LABELLED else ("relative-error", "Relative error")
    value = 1 - error if run.task in LABELLED and error is not None else error
    head: dict[str, Any] = {
        "library_name": "torchstu",
        "license": "unknown",
        "data_source": data["source"],
        "data_license": run.about.get("licence", "unknown"),
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


def _title(run: RunFacts) -> str:
    return f"{' / '.join(run.mixers)} on {run.results['data']['name']}"


def _summary(run: RunFacts) -> str:
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
    rows += [[f"test, by {name}", "", None, error] for name, error in run.about.get("baselines", {}).items()]
    meaning = "The error is the share of wrong labels."
    if run.task not in LABELLED:
        meaning = "The loss is a mean square"
        meaning += f", of targets in {run.about['unit']}" if "unit" in run.about else ""
        meaning += ". The error is the sum of squares of what is missed, over that of the targets; it has no unit."
    return f"{text}\n\n{_table(['', 'step', 'loss', 'error'], rows)}\n\n{meaning}"


def _data_section(run: RunFacts) -> str:
    data = run.results["data"]
    rows = [[part, data[part]] for part in PARTS]
    text = f"## Data\n\n{data['name']}: {data['source'].rstrip('.')}.\n\n{_table(['part', 'sequences'], rows)}\n\n"
    text += f"Parts: {run.about.get('split', 'how they were made is not stated')}. Nothing was chosen on the test part. "
    licence = run.about.get("licence", "unknown")
    return text + f"Licence of the data: {licence}. The licence of these weights is not stated."


def _curve_section(run: RunFacts, folder: Path) -> str:
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


def _confusion_section(run: RunFacts) -> str:
    counts = run.results["confusion"]
    if counts is None:
        return ""
    classes = run.results["classes"] or [str(i) for i in range(len(counts))]
    rows = [[f"**{name}**", *row] for name, row in zip(classes, counts, strict=True)]
    head = ["true \\ predicted", *classes]
    return f"## Confusion matrix\n\nSequences of the test part.\n\n{_table(head, rows)}"


def _cost_section(run: RunFacts) -> str:
    results = run.results
    rows: list[list[Any]] = [
        ["optimizer steps", f"{results['steps']:,}"],
        ["time, validation included, s", _shown(results["seconds"], ".1f")],
        ["sequences a second", _shown(results["sequences_per_second"], ".1f")],
        ["peak memory, MiB", _shown(results["peak_memory_bytes"], ".0f", 2**20)],
    ]
    where = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in results["environment"].items()]
    return f"## Cost and environment\n\n{_table(['', ''], [*rows, *where])}"


def _recipe_section(run: RunFacts) -> str:
    return (
        "## Recipe\n\nThe run again, from this file as `recipe.yaml`: `torchstu train recipe.yaml --output FOLDER`.\n\n"
        f"```yaml\n{run.recipe_text.strip()}\n```"
    )


def _loading_section(run: RunFacts) -> str:
    if not run.has_model:
        return "## Loading\n\nThis run saved no model."
    imports, call = "import torchstu\n", _CALLS[run.task]
    if "output_scaler" in run.about:
        imports, call = "import torch\n\nimport torchstu\nfrom torchstu.data.scaling import Scaler\n", _scaled_call(run)
    return (
        "## Loading\n\n`model/` is the best by validation: safetensors and a JSON file; nothing is unpickled.\n\n"
        f'```python\n{imports}\nmodel, facts = torchstu.load_model("model")\nmodel.eval()\n{call}\n```'
    )


def _scaled_call(run: RunFacts) -> str:
    """The call with values in the units of the recording."""
    columns, horizon = run.about["columns"], run.about.get("horizon", 0)
    inputs, outputs = (_escaped(", ".join(columns[side])) for side in ("inputs", "outputs"))
    return _SCALED_CALL.format(
        channels=len(columns["inputs"]),
        outputs=len(columns["outputs"]),
        steps=horizon or 1,
        inputs=inputs,
        meaning=f"{outputs}, 1 to {horizon} steps ahead" if horizon else outputs,
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
