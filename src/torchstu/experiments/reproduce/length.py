"""Trained on short sequences, run on longer ones: which layers still follow a system of slow modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

CLOSED_FORMS = {"STU, closed form, no tail penalty": 0.0, "STU, closed form, tail penalty": "auto"}
"""The two convex fits and their ``tail_penalty``."""


def trials(settings: Settings, seed: int) -> list[Trial]:
    """For each noise and seed: every mixer at every rate, then the two closed forms."""
    from torchstu.experiments.reproduce.systems import make, matched_size, parameters

    names = ("system", "length", "multiples", "samples", "validation", "filters", "batch", "steps")
    common = {name: settings[name] for name in names}
    target = parameters(make("STU", settings["filters"], settings["length"], device="meta"))
    planned: list[Trial] = []
    for noise in settings["noise"]:
        for mixer in settings["mixers"]:
            options, memory = dict(mixer.get("options", {})), mixer.get("memory", settings["length"])
            options |= {} if mixer.get("y_term", True) else {"autoregression": None}  # TOML has no null
            size = matched_size(mixer["name"], target, memory, options, share=settings["share"])
            learner = {"label": mixer.get("label", mixer["name"]), "mixer": mixer["name"], "size": size, "options": options}
            planned += [
                common | learner | {"memory": memory, "rate": rate, "noise": noise, "seed": seed + i}
                for rate in mixer["rates"]
                for i in range(settings["seeds"])
            ]
        planned += [
            common | {"label": label, "mixer": None, "rate": None, "noise": noise, "seed": seed + i}
            for label in CLOSED_FORMS
            for i in range(settings["seeds"])
        ]
    return planned


def run(trial: Trial) -> tuple[Result, Measured]:
    """Fit on L steps, then the error between one multiple of L and the next on fresh sequences without noise."""
    import time

    import torch

    from torchstu.experiments.reproduce.systems import draw_system, parameters, sequences

    lds, generator = draw_system(trial["system"], trial["seed"])
    u, y = sequences(lds, trial["samples"], trial["length"], generator)
    scale = trial["noise"] * y.square().mean((0, 1)).sqrt()
    noisy = y + scale * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    fresh, target = sequences(lds, trial["validation"], max(trial["multiples"]) * trial["length"], generator)
    start = time.perf_counter()
    layer = _fit(trial, u, noisy)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        prediction = layer(fresh.to(next(layer.parameters()).dtype))[0].double()
    result = {"errors": _errors_by_span(prediction, target, trial), "parameters": parameters(layer)}
    return result, {"seconds": seconds}


def _fit(trial: Mapping[str, Any], u: Any, y: Any) -> Any:
    from torchstu.experiments.reproduce.systems import make
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.gradient import fit_gradient

    if trial["mixer"] is None:
        penalty = CLOSED_FORMS[trial["label"]]
        return SpectralRegressor(trial["filters"], tail_penalty=penalty).fit(u, y).layer  # type: ignore[arg-type]
    mixer = make(trial["mixer"], trial["size"], trial["memory"], trial["options"], trial["seed"])
    fit_gradient(
        mixer, u, y, steps=trial["steps"], batch_size=trial["batch"], learning_rate=trial["rate"], seed=trial["seed"],
        progress=False,
    )  # fmt: skip
    return mixer.eval()


def _errors_by_span(prediction: Any, target: Any, trial: Mapping[str, Any]) -> list[float]:
    """Relative error on the steps up to each multiple of L that are beyond the multiple before it; inf where not finite."""
    from torchstu.learn.diagnostics import relative_error

    edges = [0, *(multiple * trial["length"] for multiple in trial["multiples"])]
    errors = [relative_error(prediction[:, a:b], target[:, a:b]) for a, b in itertools.pairwise(edges)]
    return [error if math.isfinite(error) else math.inf for error in errors]


def best_rates(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By label, the runs of the rate with the lowest median error within L."""
    from torchstu.experiments.reproduce.systems import grouped, median

    found: dict[str, tuple[float, list[Row]]] = {}
    for (label, _), group in grouped(rows, "label", "rate").items():
        error = median([row.result["errors"][0] for row in group])
        if label not in found or error < found[label][0]:
            found[label] = (error, group)
    return {label: group for label, (_, group) in found.items()}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """One section for each level of noise."""
    from torchstu.experiments.reproduce.systems import grouped

    return [_section(noise, best_rates(group), settings) for (noise,), group in grouped(rows, "noise").items()]


def _section(noise: float, runs: Mapping[str, list[Row]], settings: Settings) -> Section:
    from torchstu.experiments.reproduce.comparison import cell, curve

    length, multiples = settings["length"], settings["multiples"]
    edges = [0, *(multiple * length for multiple in multiples)]
    spans = [f"steps {a + 1} to {b}" for a, b in itertools.pairwise(edges)]
    cells, lines, bands = [], {}, {}
    for label, group in runs.items():
        by_span = {multiple: [row.result["errors"][i] for row in group] for i, multiple in enumerate(multiples)}
        rate = "" if group[0].trial["rate"] is None else f"{group[0].trial['rate']:g}"
        cells.append([label, group[0].result["parameters"], rate, *(cell(errors) for errors in by_span.values())])
        x, middle, low, high = curve(by_span)
        lines[label], bands[label] = (x, middle), (x, low, high)
    picture: dict[str, Any] = {"note": "No picture: no run has a finite error."}
    if any(len(x) for x, _ in lines.values()):
        picture = figure_or_note(
            series=lines, bands=bands, xlabel=f"end of the span of steps, in training lengths ({length} steps)",
            ylabel="relative error within the span", logx=True, logy=True,
        )  # fmt: skip
    title = (
        "Longer than trained, clean data" if not noise else f"Longer than trained, {noise:.0%} noise on the training outputs"
    )
    table = Table(("layer", "parameters", "rate", *spans), cells)
    return Section(title, _words(noise, runs, settings), table, **picture)


def _words(noise: float, runs: Mapping[str, list[Row]], settings: Settings) -> str:
    from torchstu.experiments.reproduce.systems import median, rate_words

    system, length, longest = settings["system"], settings["length"], max(settings["multiples"])
    slow, fast = 1 / (1 - system["high"]), 1 / (1 - system["low"])
    asked = (
        f"Does a layer trained on sequences of {length} steps still follow the system after {longest * length}? The system has "
        f"{system['states']} modes with magnitudes in [{system['low']}, {system['high']}]: they fade within {fast:.0f} to "
        f"{slow:.0f} steps. What a training sequence is too short to show must be inferred."
    )
    count = max(len(group) for group in runs.values())
    disturbed = f"with {noise:.0%} noise added to the outputs" if noise else "without noise"
    done = (
        f"Each layer, all at about the same number of parameters, saw {settings['samples']} sequences {disturbed} and was then "
        f"run on fresh ones of {longest * length} steps, at {rate_words(settings)}. Shown are median and range of "
        f"{count} seeds; a relative error of 1 is what predicting zero gives."
    )
    ends = {label: median([row.result["errors"][-1] for row in group]) for label, group in runs.items()}
    starts = {label: median([row.result["errors"][0] for row in group]) for label, group in runs.items()}
    best = min(ends, key=ends.__getitem__)
    failed = [label for label, end in ends.items() if not end < 1]
    came = (
        f"In the last span the smallest error is that of {best}, {ends[best]:.1e} after {starts[best]:.1e} within the training "
        f"length. "
        + (f"Worse than predicting zero there: {', '.join(failed)}." if failed else "All do better than predicting zero.")
    )
    return "\n\n".join((asked, done, f"{came} {_tail_verdict(ends)}".strip()))


def _tail_verdict(ends: Mapping[str, float]) -> str:
    """What the tail penalty changes, in words."""
    plain, penalized = (ends.get(label) for label in CLOSED_FORMS)
    if plain is None or penalized is None:
        return ""
    effect = "lowers" if penalized < 0.9 * plain else "does not lower"
    return (
        f"The tail penalty, which asks the fitted response to fade beyond the training length, {effect} the error of the "
        f"closed form there: {penalized:.1e} with it, {plain:.1e} without."
    )


EXPERIMENT = Experiment(
    name="length",
    question="Trained on sequences of L steps, which layers still follow a slow linear system at 4 and 16 times that length?",
    trials=trials,
    run=run,
    sections=sections,
)
