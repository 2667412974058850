"""What it costs to reach an error, in steps, operations and seconds, and what a step costs against the length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

REACH, STEP, SOLVE = "reach", "step", "closed form"
SOLVED = "STU, closed form"


def trials(settings: Settings, seed: int) -> list[Trial]:
    """Training runs and closed-form fits for each seed, then single steps at each length."""
    names = ("system", "length", "samples", "batch", "validation")
    common = {name: settings[name] for name in names}
    planned: list[Trial] = []
    for mixer in settings["mixers"]:
        layer = {"mixer": mixer["name"], "size": mixer["size"], "options": dict(mixer.get("options", {}))}
        planned += [
            common | layer | {"kind": REACH, "rate": mixer["rate"], "decay": mixer.get("decay", 0.0), "seed": seed + i}
            for i in range(min(mixer.get("seeds", math.inf), settings["seeds"]))
        ]
        planned += [
            layer | {"kind": STEP, "length": length, "batch": settings["batch"], "repeats": settings["repeats"], "seed": seed}
            for length in settings["lengths"]
        ]
    solve = {"mixer": SOLVED, "size": settings["filters"], "kind": SOLVE, "target": min(settings["targets"])}
    return [*planned, *(common | solve | {"seed": seed + i} for i in range(settings["seeds"]))]


def run(trial: Trial) -> tuple[Result, Measured]:
    """One of the three kinds."""
    return {REACH: _reach, STEP: _step, SOLVE: _solve}[trial["kind"]](trial)


def _batch(trial: Trial) -> tuple[Any, Any]:
    """Random inputs and outputs of the trial's shape in float32: what a step costs does not depend on them."""
    import torch

    from torchstu.experiments.reproduce.systems import CHANNELS

    generator = torch.Generator().manual_seed(trial["seed"])
    u, y = torch.randn(2, trial["batch"], trial["length"], CHANNELS, generator=generator)
    return u, y


def _reach(trial: Trial) -> tuple[Result, Measured]:
    """A learning curve in steps, the operations of a step, and the seconds of a step."""
    from torchstu.experiments.reproduce.systems import parameters, train
    from torchstu.experiments.reproduce.work import operations, step_seconds

    history, mixer = train(trial)
    u, y = _batch(trial)
    steps = [count // trial["batch"] for count in history.samples]
    result = {"parameters": parameters(mixer), "steps": steps, "errors": history.errors, "diverged": history.diverged}
    result["operations"] = operations(mixer, u, y)
    return result, {"step seconds": step_seconds(mixer, u, y, 5), "seconds": history.seconds}


def _step(trial: Trial) -> tuple[Result, Measured]:
    """Operations and kept bytes of one step, its seconds and its peak memory."""
    from torchstu.experiments.reproduce.systems import make, parameters
    from torchstu.experiments.reproduce.work import kept_bytes, operations, peak_bytes, step_seconds

    mixer = make(trial["mixer"], trial["size"], trial["length"], trial["options"], trial["seed"])
    u, y = _batch(trial)
    result = {"parameters": parameters(mixer), "operations": operations(mixer, u, y), "kept bytes": kept_bytes(mixer, u, y)}
    return result, {"step seconds": step_seconds(mixer, u, y, trial["repeats"]), "peak bytes": peak_bytes(mixer, u, y)}


def _solve(trial: Trial) -> tuple[Result, Measured]:
    """Closed-form fits to 1, 2, 4, … sequences until the least error is reached, and the seconds of each."""
    from torchstu.experiments.reproduce.systems import draw_system, sequences
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.diagnostics import relative_error

    lds, generator = draw_system(trial["system"], trial["seed"])
    u, y = sequences(lds, trial["validation"], trial["length"], generator)
    data = sequences(lds, trial["samples"], trial["length"], generator)
    SpectralRegressor(trial["size"], tail_penalty=0.0).fit(data[0][:1], data[1][:1])  # filters are made once, before the clock
    counts: list[int] = []
    errors: list[float] = []
    seconds, count = [], 1
    while count <= trial["samples"] and (not errors or errors[-1] > trial["target"]):
        start = time.perf_counter()
        fit = SpectralRegressor(trial["size"], tail_penalty=0.0).fit(data[0][:count], data[1][:count])
        seconds.append(time.perf_counter() - start)
        counts.append(count)
        errors.append(relative_error(fit.predict(u), y))
        count *= 2
    return {"samples": counts, "errors": errors}, {"fit seconds": seconds}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """What an error costs, then what a step costs against the length."""
    return [_reached(rows, settings), _by_length(rows, settings)]


def needed(row: Row, target: float) -> dict[str, float] | None:
    """Sequences, steps, operations and seconds until a row first has an error of at most the target; None if it never "
    "does."""
    from torchstu.experiments.reproduce.systems import first_below

    errors = [float(error) for error in row.result["errors"]]
    if row.trial["kind"] == SOLVE:
        count = first_below(row.result["samples"], errors, target)
        if count is None:
            return None
        seconds = float(row.measured["fit seconds"][row.result["samples"].index(count)])
        return {"sequences": count, "steps": 0, "operations": math.nan, "seconds": seconds}
    steps = first_below(row.result["steps"], errors, target)
    if steps is None:
        return None
    seconds = steps * float(row.measured["step seconds"])
    return {
        "sequences": steps * row.trial["batch"],
        "steps": steps,
        "operations": steps * float(row.result["operations"]),
        "seconds": seconds,
    }


def _reached(rows: Sequence[Row], settings: Settings) -> Section:
    from torchstu.experiments.reproduce.systems import chosen, grouped

    groups = grouped(chosen(rows, lambda row: row.trial["kind"] in (REACH, SOLVE)), "mixer")
    cells = [
        [name, *(_cell([needed(row, target) for row in group], key) for target in settings["targets"] for key in _shown(name))]
        for (name,), group in groups.items()
    ]
    header = [
        "layer",
        *(f"{what} to {target:g}" for target in settings["targets"] for what in ("steps", "operations", "seconds")),
    ]
    system = settings["system"]
    text = (
        f"What does an error cost? The paper's system ({system['states']} states, ±{system['radius']:g}), sequences of "
        f"{settings['length']} steps, "
        f"{settings['batch']} a training step, {settings['samples']} of them; each layer at the rate of the recipe, "
        "which served it best on this kind of system in short runs. "
        "Counted are training steps until the error on fresh sequences, computed from inputs alone, is first at or below a "
        "goal; operations are an estimate "
        "that does not depend on the machine (products, transforms and elementwise work, forward and backward); seconds "
        "are steps times the measured time of a step on one thread, "
        "measuring the error not included. The closed form has no steps: its cost is one fit to the smallest of 1, 2, 4, … "
        "sequences that serve.\n\n" + _verdict(groups, settings)
    )
    return Section("What an error costs", text, Table(header, cells))


def _shown(name: str) -> tuple[str, ...]:
    return ("sequences", "operations", "seconds") if name == SOLVED else ("steps", "operations", "seconds")


def _cell(found: Sequence[dict[str, float] | None], key: str) -> str:
    """Median and range of a cost over seeds."""
    from torchstu.experiments.reproduce.systems import spread

    values = [None if entry is None else entry[key] for entry in found]
    if any(value is not None and math.isnan(value) for value in values):
        return "–"
    forms: dict[str, Callable[[float], str]] = {"operations": lambda v: f"{v:.1e}", "seconds": lambda v: f"{v:.2g}"}
    words = spread(values, forms.get(key, lambda v: f"{v:g}"))
    return f"fit to {words}" if key == "sequences" else words


def _verdict(groups: dict[tuple[Any, ...], list[Row]], settings: Settings) -> str:
    """Who gets to each goal in the least median time."""
    from torchstu.experiments.reproduce.systems import median

    sentences = []
    for target in settings["targets"]:
        costs = {}
        for (name,), group in groups.items():
            found = [needed(row, target) for row in group]
            costs[name] = median([None if entry is None else entry["seconds"] for entry in found])
        ranked = sorted((name for name in costs if math.isfinite(costs[name])), key=lambda name: costs[name])
        missing = [name for name in costs if name not in ranked]
        there = ", ".join(f"{name} {costs[name]:.2g} s" for name in ranked) or "no layer"
        sentences.append(f"To {target:g}: {there}" + (f"; not reached: {', '.join(missing)}." if missing else "."))
    return " ".join(sentences)


def _by_length(rows: Sequence[Row], settings: Settings) -> Section:
    from torchstu.experiments.reproduce.systems import chosen, grouped

    steps = chosen(rows, lambda row: row.trial["kind"] == STEP)
    series: dict[str, Any] = {}
    cells = []
    for (name,), group in grouped(steps, "mixer").items():
        ordered = sorted(group, key=lambda row: row.trial["length"])
        lengths, times = [r.trial["length"] for r in ordered], [1e3 * float(r.measured["step seconds"]) for r in ordered]
        series[name] = (lengths, times)
        for row, milliseconds in zip(ordered, times, strict=True):
            peak = row.measured.get("peak bytes")
            kept = float(row.result["kept bytes"]) / 2**20
            operations = f"{row.result['operations']:.1e}"
            peak_cell = "not known" if peak is None else f"{float(peak) / 2**20:.3g}"
            cells.append([name, row.trial["length"], row.result["parameters"], milliseconds, operations, kept, peak_cell])
    text = (
        f"What does one training step cost as sequences grow? Forward and backward of {settings['batch']} sequence(s), on "
        f"one thread in single precision, median of {settings['repeats']}. "
        "Memory is what the forward pass keeps for the backward pass, which is the same on every machine, and the rise of "
        "the process's own memory during the step. " + _growth(series)
    )
    header = ("layer", "L", "parameters", "ms a step", "operations", "MiB kept", "MiB at the peak")
    figure = figure_or_note(series=series, xlabel="length L", ylabel="milliseconds a training step", logx=True, logy=True)
    return Section("What a step costs", text, Table(header, cells), **figure)


def _growth(series: dict[str, Any]) -> str:
    """By how much the time of a step grows from the shortest to the longest sequence."""
    parts = [f"{name} {times[-1] / times[0]:.2g} times" for name, (lengths, times) in series.items() if len(lengths) > 1]
    if not parts:
        return ""
    lengths = next(iter(series.values()))[0]
    span = f"From {lengths[0]} to {lengths[-1]} steps, {lengths[-1] / lengths[0]:g} times as many"
    return f"{span}, the time of a training step grows: {', '.join(parts)}."


EXPERIMENT = Experiment(
    name="cost",
    question="What does it cost to reach an error, in steps, operations and seconds, and a step as sequences grow?",
    trials=trials,
    run=run,
    sections=sections,
)
