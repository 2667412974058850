"""How often training fails: the share of diverged and stuck runs over learning rates and seeds, for each mixer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.heatmap import heatmap_or_note
from torchstu.report.page import Section, Table

LEARNED, STUCK, DIVERGED = "learned", "stuck", "diverged"
DIVERGED_ABOVE, LEARNED_BELOW = 10.0, 0.5
"""Relative errors at the end; 1 is what predicting zero gets, whatever a layer starts with."""


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One short training for each mixer, rate and seed."""
    common = {name: settings[name] for name in ("system", "length", "samples", "batch", "validation")}
    return [
        common
        | {"mixer": mixer["name"], "size": mixer["size"], "options": dict(mixer.get("options", {})), "decay": 0.0}
        | {"rate": rate, "seed": seed + i}
        for mixer in settings["mixers"]
        for rate in settings["rates"]
        for i in range(settings["seeds"])
    ]


def run(trial: Trial) -> tuple[Result, Measured]:
    """Whether a run learned, stuck or diverged, and its errors."""
    from torchstu.experiments.reproduce.systems import train

    history, _ = train(trial)
    result = {"outcome": outcome(history.errors, history.diverged), "samples": history.samples, "errors": history.errors}
    return result, {"seconds": history.seconds}


def outcome(errors: Sequence[float], not_finite: bool) -> str:
    """A word for a run, by a loss that was not finite and by the error at the end."""
    end = errors[-1]
    if not_finite or not end <= DIVERGED_ABOVE:
        return DIVERGED
    return LEARNED if end < LEARNED_BELOW else STUCK


def failures(rows: Sequence[Row]) -> tuple[float, str]:
    """The share of runs that did not learn, nan without runs, and words: how many, and what the others reached."""
    from torchstu.experiments.reproduce.systems import median

    if not rows:
        return math.nan, ""
    words = [row.result["outcome"] for row in rows]
    parts = [f"{words.count(word)} {word}" for word in (DIVERGED, STUCK) if word in words]
    learned = [float(row.result["errors"][-1]) for row in rows if row.result["outcome"] == LEARNED]
    if learned:
        parts.append(f"{median(learned):.0e}")
    return 1 - len(learned) / len(rows), "\n".join(parts)


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """One heat map, and a table of how wide the range of rates is that serves."""
    names, rates = [mixer["name"] for mixer in settings["mixers"]], settings["rates"]
    cells = {
        (name, rate): failures([row for row in rows if row.trial["mixer"] == name and row.trial["rate"] == rate])
        for name in names
        for rate in rates
    }
    names = [name for name in names if any(row.trial["mixer"] == name for row in rows)]
    figure = (
        {}
        if not names
        else heatmap_or_note(
            [[cells[name, rate][0] for rate in rates] for name in names],
            names,
            [f"{rate:g}" for rate in rates],
            texts=[[cells[name, rate][1] for rate in rates] for name in names],
            xlabel="learning rate",
            title="Share of runs that failed: dark none, light all",
        )
    )
    table = Table(
        ("mixer", "runs", DIVERGED, STUCK, "rates at which none fails", "lowest error"), _table(rows, names, cells, rates)
    )
    return [Section("How often training fails", _words(rows, settings, names, cells), table, **figure)]


def _table(rows: Sequence[Row], names: Sequence[str], cells: Any, rates: Sequence[float]) -> list[list[Any]]:
    lines = []
    for name in names:
        own = [row for row in rows if row.trial["mixer"] == name]
        words = [row.result["outcome"] for row in own]
        safe = [f"{rate:g}" for rate in rates if cells[name, rate][0] == 0]
        lowest = min(float(row.result["errors"][-1]) for row in own)
        lines.append([name, len(own), words.count(DIVERGED), words.count(STUCK), ", ".join(safe) or "none", lowest])
    return lines


def _words(rows: Sequence[Row], settings: Settings, names: Sequence[str], cells: Any) -> str:
    system, rates = settings["system"], settings["rates"]
    magnitude = f"{system['low']:g} to {system['high']:g}" if "low" in system else f"{system.get('radius', '')}"
    asked = (
        f"How carefully must the learning rate be chosen? Each layer learns a system of {system['states']} states "
        f"with eigenvalues of magnitude {magnitude}, "
        f"3 inputs and 3 outputs, from {settings['samples']} sequences of {settings['length']} steps, "
        f"{settings['batch']} at a time, with "
        f"{len(rates)} rates from {min(rates):g} to {max(rates):g}, each with {settings['seeds']} draws of system, "
        f"data and weights. "
        f"A run has diverged when a loss was not a finite number or its error ended above {DIVERGED_ABOVE:g} (1 is what "
        f"predicting zero gets); it is stuck when it ended above {LEARNED_BELOW:g}. Cells say how many of the runs did, and "
        f"the median error of the others. The runs are short, so at a small rate stuck may mean only that more steps "
        f"were needed; sizes are those of the recipe, not equal."
    )
    failed = {name: sum(row.result["outcome"] != LEARNED for row in rows if row.trial["mixer"] == name) for name in names}
    count = {name: sum(row.trial["mixer"] == name for row in rows) for name in names}
    order = sorted(names, key=lambda name: failed[name] / count[name])
    came = (
        "Shares of failed runs: " + ", ".join(f"{name} {failed[name]} of {count[name]}" for name in order) + "."
        if order
        else ""
    )
    widths = {name: sum(cells[name, rate][0] == 0 for rate in rates) for name in names}
    if widths:
        most = max(widths, key=lambda name: widths[name])
        came += f" The widest range of rates without a failure has {most}: {widths[most]} of {len(rates)}."
    return f"{asked}\n\n{came}"


EXPERIMENT = Experiment(
    name="stability",
    question="How often does training diverge or get stuck, over learning rates and seeds, for each layer?",
    trials=trials,
    run=run,
    sections=sections,
)
