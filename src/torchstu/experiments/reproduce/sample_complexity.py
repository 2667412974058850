"""How many sequences are needed to learn a system to a stated error, over state size, gap and length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

AXES = {"states": "number of states", "gap": "spectral gap δ", "length": "length L"}


def cells(settings: Settings) -> list[dict[str, Any]]:
    """The base cell, then one with each other value of one axis: a star, not a grid."""
    base = dict(settings["base"])
    return [base, *(base | {axis: value} for axis in AXES for value in settings[axis] if value != base[axis])]


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One search for each cell, learner and seed."""
    common = {name: settings[name] for name in ("targets", "most", "validation", "training")}
    return [
        common | cell | {"learner": learner, "seed": seed + i} | {"options": dict(settings["learners"][learner])}
        for cell in cells(settings)
        for learner in settings["learners"]
        for i in range(settings["seeds"])
    ]


def run(trial: Trial) -> tuple[Result, Measured]:
    """More sequences each time, by the learner's factor, a fit from the start to each, until the least error is reached."""
    from torchstu.experiments.reproduce.systems import draw_system, sequences
    from torchstu.learn.diagnostics import relative_error

    lds, generator = draw_system({"states": trial["states"], "gap": trial["gap"]}, trial["seed"])
    u, y = sequences(lds, trial["validation"], trial["length"], generator)
    data = sequences(lds, trial["most"], trial["length"], generator)
    predictor = PREDICTORS[trial["options"]["kind"]]
    counts: list[int] = []
    errors: list[float] = []
    start, count = time.perf_counter(), 1
    while count <= trial["most"] and (not errors or errors[-1] > min(trial["targets"])):
        error = relative_error(predictor(trial, data[0][:count], data[1][:count])(u), y)
        counts.append(count)
        errors.append(error if math.isfinite(error) else math.inf)
        count *= trial["options"]["factor"]
    return {"counts": counts, "errors": errors}, {"seconds": time.perf_counter() - start}


def _spectral(trial: Trial, u: Any, y: Any) -> Callable[[Any], Any]:
    from torchstu.learn.closed_form import SpectralRegressor

    options = {k: v for k, v in trial["options"].items() if k not in ("kind", "factor")}
    return SpectralRegressor(length=trial["length"], **options).fit(u, y).predict


def _lagged(trial: Trial, u: Any, y: Any) -> Callable[[Any], Any]:
    """One weight for every lag up to L, 3 L an output: every system is in reach. Before a sequence all was zero."""
    from torch.nn.functional import pad

    from torchstu.learn.baselines import LaggedRegression

    lags = trial["length"]
    before = (0, 0, lags - 1, 0)
    return LaggedRegression(lags, ridge=trial["options"]["ridge"]).fit(pad(u, before), pad(y, before)).predict


def _identified(trial: Trial, u: Any, y: Any) -> Callable[[Any], Any]:
    from torchstu.learn.identification import identify

    return identify(u, y).predict


def _gradient(trial: Trial, u: Any, y: Any) -> Callable[[Any], Any]:
    import torch

    from torchstu.experiments.reproduce.systems import make
    from torchstu.learn.gradient import fit_gradient

    options, training = trial["options"], trial["training"]
    mixer = make(options["mixer"], options["size"], trial["length"], options.get("mixer_options"), trial["seed"])
    fit_gradient(
        mixer, u, y, steps=training["steps"], batch_size=min(training["batch"], len(u)), learning_rate=options["rate"],
        weight_decay=options.get("decay", 0.0), seed=trial["seed"], progress=False,
    )  # fmt: skip

    def predict(inputs: Any) -> Any:
        with torch.no_grad():
            return mixer(inputs.float())[0]

    return predict


PREDICTORS: dict[str, Callable[[Trial, Any, Any], Callable[[Any], Any]]] = {
    "closed form": _spectral,
    "lags": _lagged,
    "identify": _identified,
    "gradient": _gradient,
}
"""Ways to learn: (trial, U, Y) to a function from inputs to predicted outputs."""


def reached(row: Row, target: float) -> int | None:
    """The least number of sequences from which on every fit tried has at most the error; None if the last has not."""
    counts, errors = row.result["counts"], [float(error) for error in row.result["errors"]]
    good = None
    for count, error in zip(reversed(counts), reversed(errors), strict=True):
        if error > target:
            break
        good = count
    return good


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """A table for each error, and one picture over each axis for the middle one."""
    return [_introduction(rows, settings), *(_table(rows, settings, target) for target in settings["targets"])]


def _introduction(rows: Sequence[Row], settings: Settings) -> Section:
    base, training = settings["base"], settings["training"]
    text = (
        "How much data does it take? Symmetric systems with 3 inputs and 3 outputs and no noise are learned from 1, 2, 4, "
        f"… (by gradient from {_counts(settings)}) up to {settings['most']} sequences; "
        "counted is the number from which on the error on fresh sequences, of outputs computed from inputs alone, stays at "
        "or below a goal. From one system in the middle "
        f"({base['states']} states, gap {base['gap']:g}, length {base['length']}) one property is changed at a time; with "
        "a gap δ no eigenvalue is larger than 1 - δ, "
        "and the magnitudes are uniform in [1 - 10δ, 1 - δ]: the smaller δ, the longer the memory.\n\n"
        f"Learners by gradient take {training['steps']} steps of {training['batch']} sequence(s) whatever the data, which "
        "they see again and again, at one rate, the best of those tried on the paper's system, for every cell; "
        "the others solve a least-squares problem. "
        f'A cell with "never" says that {settings["most"]} sequences (and those steps) were not '
        f"enough.\n\n{_comparison(rows, settings)}"
    )
    return Section("What was asked", text)


def _counts(settings: Settings) -> str:
    factor = max(options["factor"] for options in settings["learners"].values())
    return f"1, {factor}, {factor**2}, …"


def _comparison(rows: Sequence[Row], settings: Settings) -> str:
    """For each goal, how often each learner got there at all, and its median need where it did."""
    from torchstu.experiments.reproduce.systems import median

    sentences = []
    for target in settings["targets"]:
        parts = []
        for learner in settings["learners"]:
            needs = [reached(row, target) for row in rows if row.trial["learner"] == learner]
            there = [need for need in needs if need is not None]
            if needs:
                middle = f", by {median(there):g} sequences in the median" if there else ""
                parts.append(f"{learner} in {len(there)} of {len(needs)} searches{middle}")
        sentences.append(f"An error of {target:g} was reached by {'; '.join(parts)}.")
    return " ".join(sentences)


def _table(rows: Sequence[Row], settings: Settings, target: float) -> Section:
    from torchstu.experiments.reproduce.systems import median, spread

    learners, lines = list(settings["learners"]), []
    needs: dict[tuple[int, str], list[int | None]] = {}
    plan = cells(settings)
    for at, cell in enumerate(plan):
        for learner in learners:
            own = [r for r in rows if r.trial["learner"] == learner and all(r.trial[axis] == cell[axis] for axis in AXES)]
            needs[at, learner] = [reached(row, target) for row in own]
        words = [spread(needs[at, learner], lambda v: f"{v:g}") for learner in learners]
        lines.append([cell["states"], f"{cell['gap']:g}", cell["length"], *words])
    series = {}
    for learner in learners:
        points = [
            (cell["length"], median(needs[at, learner])) for at, cell in enumerate(plan) if _only(cell, plan[0], "length")
        ]
        known = sorted((x, y * x) for x, y in points if math.isfinite(y))
        if known:
            series[learner] = tuple(zip(*known, strict=True))
    header = ("states", "gap δ", "L", *(f"sequences, {learner}" for learner in learners))
    text = f"Sequences needed for a relative squared error of {target:g}: median over seeds (smallest … largest)."
    if series:
        text += " The picture has the total number of steps, sequences times length, against the length."
        figure = figure_or_note(series=series, xlabel="length L", ylabel="steps seen in all", logx=True, logy=True)
    return Section(f"Down to an error of {target:g}", text, Table(header, lines), **(figure if series else {}))


def _only(cell: dict[str, Any], base: dict[str, Any], axis: str) -> bool:
    """Whether a cell differs from the base in one axis at most."""
    return all(cell[other] == base[other] for other in AXES if other != axis)


EXPERIMENT = Experiment(
    name="sample-complexity",
    question="How many sequences does it take to reach an error, over state size, spectral gap and length?",
    trials=trials,
    run=run,
    sections=sections,
)
