"""What each part of the paper's Eq. 4 is worth: y-term, input lags, scaling, banks; by descent and in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

DESCENT, CLOSED, LONG = "descent", "closed form", "long"
BASE: dict[str, Any] = {"y_term": "fixed", "input_lags": 3, "banks": "both", "scaling": "stored", "objective": "next"}
"""What a variant of a recipe has unless it says otherwise: the paper's Eq. 4."""
PARTS = {
    "y-term": "The layer adds its own output of two steps ago to what it computes (y-term). Is that worth having, and "
    "should its weight be learned?",
    "lags": "Besides the filters, the layer sees the last few inputs directly. How many should it see?",
    "scaling": "The paper multiplies filter k by the fourth root of its eigenvalue, which makes late filters very "
    "small. What do equal norms change, or filters "
    "made orthogonal to each other?",
    "banks": "The filters serve systems that decay without changing sign; a second bank, the same filters with "
    "alternating signs, serves the others. What if it is left "
    "out, or one bank made for both is used?",
}
"""The questions, by part."""


def trials(settings: Settings, seed: int) -> list[Trial]:
    """Each variant by descent at each rate, and in closed form where it has features of its own; then the long runs."""
    names = ("system", "length", "filters", "validation")
    common, planned = {name: settings[name] for name in names}, []
    short = {"steps": settings["steps"], "batch": settings["batch"]}
    long = {"steps": settings["long"]["steps"], "batch": settings["batch"]}
    for i in range(settings["seeds"]):
        base = common | {"seed": seed + i}
        for features in _distinct([variant for part in settings["parts"] for variant in part["variants"]]):
            planned += [base | short | {"kind": DESCENT, "features": features, "rate": rate} for rate in settings["rates"]]
        solved = [
            variant | {"scaling": "stored", "objective": "next"} for part in settings["parts"] for variant in part["variants"]
        ]
        for features in _distinct(solved):
            planned.append(base | {"kind": CLOSED, "features": features, "fitted": settings["fitted"]})
        for run in settings["long"]["runs"]:
            planned.append(base | long | {"kind": LONG, "features": _features(run), "rate": run["rate"]})
    return planned


def _features(variant: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variant.get(name, value) for name, value in BASE.items()}


def _distinct(variants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for variant in variants:
        if _features(variant) not in found:
            found.append(_features(variant))
    return found


def run(trial: Trial) -> tuple[Result, Measured]:
    """A learning curve, or the error of a closed-form fit."""
    from torchstu.experiments.reproduce.systems import draw_system, measuring_points
    from torchstu.learn.gradient import fit_gradient

    lds, generator = draw_system(trial["system"], trial["seed"])
    fresh = convolved_sequences(lds, trial["validation"], trial["length"], generator)
    if trial["kind"] == CLOSED:
        return _closed_form(trial, convolved_sequences(lds, trial["fitted"], trial["length"], generator), fresh)
    features, steps, batch = trial["features"], trial["steps"], trial["batch"]
    data = convolved_sequences(lds, steps * batch, trial["length"], generator)
    history = fit_gradient(
        make_layer(trial), *data, steps=steps, batch_size=batch, learning_rate=trial["rate"],
        optimizer="adamw" if features["scaling"] == "stored" else "unit", objective=features["objective"],
        validation=fresh, validate_every=measuring_points(steps), seed=trial["seed"], progress=False,
    )  # fmt: skip
    result = {"samples": history.samples, "errors": history.errors, "diverged": history.diverged}
    return result, {"seconds": history.seconds}


def make_layer(trial: Trial) -> Any:
    """The layer of a variant, in float32; all its weights start at zero but a learned y-term."""
    from torchstu.layers.stu import STU

    features, length, filters = trial["features"], trial["length"], trial["filters"]
    options: dict[str, Any] = {
        "length": length,
        "input_lags": features["input_lags"],
        "autoregression": None if features["y_term"] == "none" else features["y_term"],
    }
    if features["scaling"] == "whitened":
        bank = whitened_bank(length, filters)
        return STU(3, 3, num_filters=bank.count, prior=bank, **options)
    if features["banks"] == "signed":
        return STU(3, 3, num_filters=2 * filters, prior="signed", **options)
    return STU(3, 3, num_filters=filters, banks=features["banks"], **options)


def whitened_bank(length: int, filters: int, smallest: float = 1e-6) -> Any:
    """Both banks as filters whose outputs for white input are uncorrelated, on average over the steps 1..L of a sequence.

    The SVD W P = U S Vᵀ of the scaled filters P of both banks, row i weighted by √(1 - i/L), the share of steps that lag i
    reaches, gives the filters P V S⁻¹. Directions below ``smallest`` of the largest are left out: the banks hold them twice.
    """
    import numpy as np

    from torchstu.spectral.filters import FilterBank, filter_bank

    scaled = filter_bank(length, filters).scaled_filters
    sign = np.where(np.arange(length) % 2, -1.0, 1.0)[:, None]
    both = np.concatenate([scaled, sign * scaled], axis=1)
    weight = np.sqrt(1 - np.arange(length) / length)[:, None]
    _, values, right = np.linalg.svd(weight * both, full_matrices=False)
    kept = values > smallest * values[0]
    return FilterBank(np.ones(int(kept.sum())), both @ (right[kept] / values[kept, None]).T)


def convolved_sequences(lds: Any, count: int, length: int, generator: Any) -> tuple[Any, Any]:
    """White inputs and noiseless outputs (count, length, 3), float64, by convolution with the impulse response."""
    import torch

    u = torch.randn(count, length, lds.d_in, generator=generator, dtype=torch.float64)
    response = torch.fft.rfft(lds.impulse_response(length), n=2 * length, dim=0)
    parts = [
        torch.fft.irfft(torch.einsum("foi,bfi->bfo", response, torch.fft.rfft(x, n=2 * length, dim=1)), n=2 * length, dim=1)
        for x in u.split(256)
    ]
    return u, torch.cat([part[:, :length] for part in parts])


def _closed_form(trial: Trial, data: tuple[Any, Any], fresh: tuple[Any, Any]) -> tuple[Result, Measured]:
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.diagnostics import relative_error

    features, filters = trial["features"], trial["filters"]
    signed = features["banks"] == "signed"
    learned = features["y_term"] == "learned"
    fit = SpectralRegressor(
        2 * filters if signed else filters,
        prior="signed" if signed else "positive",
        banks=None if signed else features["banks"],
        autoregression=None if features["y_term"] == "none" else features["y_term"],
        input_lags=features["input_lags"],
        objective="next" if learned else "rollout",
        tail_penalty=0.0,
    ).fit(*data)
    return {"error": relative_error(fit.predict(fresh[0]), fresh[1])}, {}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """The long runs, then one section a part."""
    return [_long(rows, settings), *(_part(rows, settings, part) for part in settings["parts"])]


def _last(row: Row) -> float:
    return math.inf if row.result["diverged"] else float(row.result["errors"][-1])


def _of(rows: Sequence[Row], kind: str, features: Mapping[str, Any]) -> list[Row]:
    return [row for row in rows if row.trial["kind"] == kind and row.trial["features"] == features]


def best_rate(rows: Sequence[Row], features: Mapping[str, Any]) -> tuple[list[Row], float]:
    """A variant's runs at the rate with the lowest median error, and that of the worst rate; no runs and nan without any."""
    from torchstu.experiments.reproduce.systems import grouped, median

    groups = list(grouped(_of(rows, DESCENT, features), "rate").values())
    if not groups:
        return [], math.nan
    ordered = sorted(groups, key=lambda group: median([_last(row) for row in group]))
    return ordered[0], median([_last(row) for row in ordered[-1]])


def _picture(groups: Mapping[str, list[Row]]) -> dict[str, Any]:
    from torchstu.experiments.reproduce.systems import envelope

    lines = {name: envelope([(row.result["samples"], row.result["errors"]) for row in group]) for name, group in groups.items()}
    return figure_or_note(
        series={name: (x, middle) for name, (x, middle, _, _) in lines.items()},
        bands={name: (x, low, high) for name, (x, _, low, high) in lines.items()},
        xlabel="sequences seen",
        ylabel="relative error of the roll-out",
        logy=True,
    )


def _part(rows: Sequence[Row], settings: Settings, part: Mapping[str, Any]) -> Section:
    """Table and picture of the variants of one part, each at its best rate."""
    from torchstu.experiments.reproduce.systems import median, spread

    cells, groups = [], {}
    for variant in part["variants"]:
        features = _features(variant)
        group, worst = best_rate(rows, features)
        closed = [row.result["error"] for row in _of(rows, CLOSED, features | {"scaling": "stored", "objective": "next"})]
        if group:
            errors = spread([_last(row) for row in group], lambda v: f"{v:.1e}")
            solved = spread(closed, lambda v: f"{v:.0e}") if closed else ""
            cells.append([variant["name"], errors, f"{group[0].trial['rate']:g}", worst, solved])
            groups[variant["name"]] = group
    finals = {name: median([_last(row) for row in group]) for name, group in groups.items()}
    header = ("variant", "by descent: median (range)", "best rate", "at its worst rate", "in closed form")
    text = f"{PARTS[part['name']]}\n\n{_setting(settings)}\n\n{_verdict(finals)}"
    return Section(part["title"], text, Table(header, cells), **(_picture(groups) if groups else {}))


def _setting(settings: Settings) -> str:
    system = settings["system"]
    return (
        f"Variants learn a system of {system['states']} states with eigenvalues of magnitude {system['low']:g} to "
        f"{system['high']:g}, 3 inputs and 3 outputs, without noise, from "
        f"{settings['steps']} steps of gradient descent with {settings['batch']} fresh sequences of "
        f"{settings['length']} steps each, {settings['filters']} filters a bank; "
        f"each at the best of the rates {', '.join(f'{rate:g}' for rate in settings['rates'])}. The closed form "
        f"solves for the weights from {settings['fitted']} sequences instead. The error is that "
        "of outputs computed from inputs alone, on fresh data; 1 is what predicting zero gets."
    )


def _verdict(finals: Mapping[str, float]) -> str:
    if len(finals) < 2:
        return "There is nothing to compare yet."
    order = sorted(finals, key=lambda name: finals[name])
    best, worst = order[0], order[-1]
    ratio = finals[worst] / finals[best] if finals[best] > 0 else math.inf
    if ratio < 3:
        return (
            f"It hardly matters: all variants are within a factor of {ratio:.1f} of the best, {best}, with {finals[best]:.1e}."
        )
    tail = f"{ratio:.0f} times more" if math.isfinite(ratio) else "it diverged"
    return f"The best variant is {best} with {finals[best]:.1e}; the worst, {worst}, has {finals[worst]:.1e}, {tail}."


def _long(rows: Sequence[Row], settings: Settings) -> Section:
    """The recommended settings and others, for as many steps as the target allows."""
    from torchstu.experiments.reproduce.systems import first_below, spread

    long, cells, groups = settings["long"], [], {}
    for wanted in long["runs"]:
        group = [row for row in _of(rows, LONG, _features(wanted)) if row.trial["rate"] == wanted["rate"]]
        if group:
            reached = [first_below(row.result["samples"], row.result["errors"], long["target"]) for row in group]
            steps = spread([None if count is None else count / settings["batch"] for count in reached], lambda v: f"{v:.0f}")
            cells.append([wanted["name"], spread([_last(row) for row in group], lambda v: f"{v:.1e}"), steps])
            groups[wanted["name"]] = group
    words = []
    for wanted in (wanted for wanted in long["runs"] if wanted["name"] in groups):
        errors = [_last(row) for row in groups[wanted["name"]]]
        count = sum(error <= long["target"] for error in errors)
        words.append(f"{wanted['name']}: {count} of {len(errors)} runs end at {long['target']:g} or below.")
    text = (
        f"How well can gradient descent do in {long['steps']} steps? The target is a relative error of "
        f"{long['target']:g}. The runs differ in the "
        f"y-term and in the coordinates in which the optimizer steps: those of the stored weights, beside small "
        f"filters, or those of filters of norm 1.\n\n{' '.join(words)}"
    )
    header = ("run", "error at the end: median (range)", f"steps to {long['target']:g}")
    return Section("With the recommended settings", text, Table(header, cells), **(_picture(groups) if groups else {}))


EXPERIMENT = Experiment(
    name="features",
    question="What is each part of the layer worth: y-term, input lags, scaling of filters, second bank?",
    trials=trials,
    run=run,
    sections=sections,
)
