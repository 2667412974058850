"""One layer or eight, with and without nonlinearity: what stacking buys, and what it costs the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

ACTIVATIONS = {"linear stack": None, "with nonlinearity": "glu"}
"""The kinds of stack and their ``activation``."""
SYSTEMS = {
    "linear": "a linear system",
    "wiener": "a linear system with its outputs put through tanh (a Wiener system)",
    "hammerstein": "a linear system with its inputs put through tanh (a Hammerstein system)",
}
LEARNED = 0.1
"""The relative error below which something was learned."""
REFERENCE = "one linear layer in closed form"


def trials(settings: Settings, seed: int) -> list[Trial]:
    """Every system, mixer, stack, depth, rate and seed, and for each system and seed one linear layer in closed form."""
    common = {name: settings[name] for name in ("states", "radii", "length", "samples", "validation", "batch", "steps")}
    repetitions = [seed + i for i in range(settings["seeds"])]
    planned: list[Trial] = []
    for system in settings["systems"]:
        for mixer in settings["mixers"]:
            options = dict(mixer.get("options", {}))
            options |= {} if mixer.get("y_term", True) else {"autoregression": None}  # TOML has no null
            label = mixer.get("label", mixer["name"])
            for stack in ACTIVATIONS:
                for layers in settings["layers"]:
                    width = matched_width(mixer["name"], layers, ACTIVATIONS[stack], options, settings)
                    model = {
                        "label": label,
                        "mixer": mixer["name"],
                        "stack": stack,
                        "layers": layers,
                        "width": width,
                        "options": options,
                    }
                    planned += [
                        common | {"system": system, "rate": rate, "seed": s} | model
                        for rate in mixer["rates"]
                        for s in repetitions
                    ]
        fit = {
            "system": system,
            "label": None,
            "mixer": None,
            "stack": REFERENCE,
            "layers": 1,
            "rate": None,
            "filters": settings["filters"],
        }
        planned += [common | fit | {"seed": s} for s in repetitions]
    return planned


def _model(trial: Mapping[str, Any], device: str | None = None) -> Any:
    from torchstu.models.ssm import SpectralSSM

    activation = ACTIVATIONS[trial["stack"]]
    return SpectralSSM(
        1, 1, d_model=trial["width"], num_layers=trial["layers"], length=trial["length"], mixer=trial["mixer"],
        activation=activation, norm="layer" if activation else None,  # type: ignore[arg-type]
        mixer_options=trial["options"], device=device,
    )  # fmt: skip


def matched_width(mixer: str, layers: int, activation: str | None, options: Mapping[str, Any], settings: Settings) -> int:
    """The width at which a stack has closest to ``settings["parameters"]`` parameters."""
    from torchstu.experiments.reproduce.systems import nearest_size, parameters

    stack = next(name for name, value in ACTIVATIONS.items() if value == activation)
    trial = {"mixer": mixer, "layers": layers, "stack": stack, "options": options, "length": settings["length"]}
    return nearest_size(lambda width: parameters(_model(trial | {"width": width}, device="meta")), settings["parameters"])[0]


def data(trial: Trial) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Training and fresh sequences, (N, L, 1) float64: white inputs, outputs of mean square 1 before any output tanh."""
    import torch

    from torchstu.systems.random import Uniform, random_lds

    generator = torch.Generator().manual_seed(trial["seed"])
    lds = random_lds(trial["states"], 1, 1, Uniform(*trial["radii"]), generator)
    u = torch.randn(trial["samples"] + trial["validation"], trial["length"], 1, generator=generator, dtype=torch.float64)
    y = lds.simulate(u.tanh() if trial["system"] == "hammerstein" else u)
    y = y / y.square().mean().sqrt()
    if trial["system"] == "wiener":
        y = y.tanh()
    count = trial["samples"]
    return (u[:count], y[:count]), (u[count:], y[count:])


def run(trial: Trial) -> tuple[Result, Measured]:
    """The learning curve of one stack, or the error of the closed form."""
    import torch

    from torchstu.experiments.reproduce.systems import measuring_points, parameters
    from torchstu.learn.closed_form import SpectralRegressor
    from torchstu.learn.diagnostics import relative_error
    from torchstu.learn.gradient import fit_gradient

    training, fresh = data(trial)
    if trial["mixer"] is None:
        fit = SpectralRegressor(trial["filters"], ridge="auto").fit(*training)
        error = relative_error(fit.predict(fresh[0]), fresh[1])
        return {"samples": [], "errors": [error], "parameters": parameters(fit.layer), "diverged": False}, {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial["seed"])
        model = _model(trial)
    history = fit_gradient(
        model, *training, steps=trial["steps"], batch_size=trial["batch"], learning_rate=trial["rate"], objective="rollout",
        clip=1.0, validation=fresh, validate_every=measuring_points(trial["steps"]), seed=trial["seed"], progress=False,
    )  # fmt: skip
    result = {
        "samples": history.samples,
        "errors": history.errors,
        "parameters": parameters(model),
        "diverged": history.diverged,
    }
    return result, {"seconds": history.seconds, "seconds a step": history.seconds / max(len(history.losses), 1)}


def final(row: Row) -> float:
    """The error after the last step; inf if training diverged."""
    return math.inf if row.result["diverged"] else float(row.result["errors"][-1])


def best_rates(rows: Sequence[Row]) -> dict[tuple[str, str, str | None, int], list[Row]]:
    """By system, stack, mixer and depth: the runs at the rate with the lowest median error at the end."""
    from torchstu.experiments.reproduce.systems import grouped, median

    found: dict[tuple[str, str, str | None, int], tuple[float, list[Row]]] = {}
    for (system, stack, label, layers, _), group in grouped(rows, "system", "stack", "label", "layers", "rate").items():
        error, key = median([final(row) for row in group]), (system, stack, label, layers)
        if key not in found or error < found[key][0]:
            found[key] = (error, group)
    return {key: group for key, (_, group) in found.items()}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """One section for each system, then the cost."""
    from torchstu.experiments.reproduce.systems import grouped

    parts = [_system_section(system, best_rates(group), settings) for (system,), group in grouped(rows, "system").items()]
    return [*parts, _cost_section(best_rates(rows), rows)]


def _name(stack: str, label: str | None) -> str:
    return stack if label is None else f"{label}, {stack}"


def _system_section(system: str, runs: Mapping[tuple[str, str, str | None, int], list[Row]], settings: Settings) -> Section:
    from torchstu.experiments.reproduce.comparison import cell, curve
    from torchstu.experiments.reproduce.systems import median

    cells: list[list[Any]] = []
    by_stack: dict[str, dict[float, list[float]]] = {}
    for (_, stack, label, layers), group in runs.items():
        errors, first = [final(row) for row in group], group[0]
        width, rate = first.trial.get("width"), first.trial["rate"]
        cells.append(
            [_name(stack, label), layers, width, first.result["parameters"], "" if rate is None else f"{rate:g}", cell(errors)]
        )
        by_stack.setdefault(_name(stack, label), {})[float(layers)] = errors
    reference = by_stack.pop(REFERENCE, None)
    drawn = {name: curve(errors) for name, errors in by_stack.items()}
    level = median(reference[1.0]) if reference else math.inf
    line = {} if not math.isfinite(level) else {REFERENCE: (settings["layers"], [level] * len(settings["layers"]))}
    picture: dict[str, Any] = {"note": "No picture: no run ended with a finite error."}
    if any(len(x) for x, *_ in drawn.values()):
        picture = figure_or_note(
            series={name: (x, middle) for name, (x, middle, _, _) in drawn.items()},
            bands={name: (x, low, high) for name, (x, _, low, high) in drawn.items()},
            references=line, xlabel="layers, at equal parameters", ylabel="relative error after training", logx=True, logy=True,
        )  # fmt: skip
    table = Table(("model", "layers", "width", "parameters", "rate", "relative error"), cells)
    return Section(f"Depth on {SYSTEMS[system].split(' (')[0]}", _words(system, runs, settings), table, **picture)


def _words(system: str, runs: Mapping[tuple[str, str, str | None, int], list[Row]], settings: Settings) -> str:
    from torchstu.experiments.reproduce.systems import median, rate_words

    asked = f"What does a stack learn that one layer of as many parameters does not? The data come from {SYSTEMS[system]}."
    low, high = settings["radii"]
    done = (
        f"The linear part has {settings['states']} modes with magnitudes in [{low}, {high}]. Stacks of "
        f"{_listed(settings['layers'])} layers, narrower as they get deeper so that each has about {settings['parameters']} "
        f"parameters, were trained for {settings['steps']} steps of {settings['batch']} sequences with gradients clipped to "
        f"norm 1, at {rate_words(settings)}; once as a linear map (x + W mixer(x) in each layer), once with norm, GELU and "
        "gate. "
        "Shown are median and range over seeds."
    )
    came = []
    medians = {key: median([final(row) for row in group]) for key, group in runs.items()}
    for stack in ACTIVATIONS:
        for label in dict.fromkeys(key[2] for key in runs if key[1] == stack):
            errors = {key[3]: error for key, error in medians.items() if key[1] == stack and key[2] == label}
            came.append(_verdict(_name(stack, label), errors))
    fit = next((error for key, error in medians.items() if key[1] == REFERENCE), None)
    if fit is not None:
        came.append(f"One linear layer fitted in closed form reaches {fit:.2g}.")
    return "\n\n".join((asked, done, " ".join(came)))


def _verdict(name: str, errors: Mapping[int, float]) -> str:
    best, one = min(errors, key=errors.__getitem__), errors.get(1, math.inf)
    if not math.isfinite(errors[best]):
        return f"{name}: no depth was trained without diverging."
    if best == 1 or not math.isfinite(one):
        return f"{name}: {best} layer{'s' if best > 1 else ''} did best, {errors[best]:.2g}."
    gain = one / errors[best]
    return f"{name}: {best} layers did best, {errors[best]:.2g}, {gain:.2g} times less than one layer's {one:.2g}."


def _cost_section(runs: Mapping[tuple[str, str, str | None, int], list[Row]], rows: Sequence[Row]) -> Section:
    from torchstu.experiments.reproduce.systems import first_below, grouped, median, spread

    everything = grouped(rows, "system", "stack", "label", "layers")
    cells = []
    for key, group in runs.items():
        system, stack, label, layers = key
        if label is None:
            continue
        reached = [first_below(row.result["samples"], list(map(float, row.result["errors"])), LEARNED) for row in group]
        useless = sum(not final(row) < 1 for row in everything[key]) / len(everything[key])
        seconds = median([row.measured.get("seconds a step", math.nan) for row in group])
        worst = max(float(error) for row in group for error in row.result["errors"])
        cells.append(
            [
                system,
                _name(stack, label),
                layers,
                spread(reached, lambda v: f"{v:.0f}"),
                worst,
                f"{useless:.0%}",
                1000 * seconds,
            ]
        )
    text = (
        "What does depth cost the optimizer? Counted are the sequences seen until the error on fresh data first fell below "
        f"{LEARNED}, and the largest error on the way, at the rate that ended best; the share of runs, over all rates and "
        "seeds, that ended no better than predicting zero; and the time of a step."
    )
    header = (
        "system", "model", "layers", f"sequences to error {LEARNED}", "largest error on the way", "runs no better than zero",
        "milliseconds a step",
    )  # fmt: skip
    return Section("What depth costs the optimizer", f"{text}\n\n{_cost_verdict(runs)}", Table(header, cells))


def _cost_verdict(runs: Mapping[tuple[str, str, str | None, int], list[Row]]) -> str:
    from torchstu.experiments.reproduce.systems import median

    seconds: dict[int, list[float]] = {}
    for (_, _, label, layers), group in runs.items():
        if label is not None:
            seconds.setdefault(layers, []).extend(row.measured.get("seconds a step", math.nan) for row in group)
    if len(seconds) < 2:
        return ""
    low, high = min(seconds), max(seconds)
    ratio = median(seconds[high]) / median(seconds[low])
    return f"A step of {high} layers took {ratio:.2g} times as long as one of {low}, at the same number of parameters."


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:-1])) + f" and {values[-1]}" if len(values) > 1 else str(values[0])


EXPERIMENT = Experiment(
    name="depth",
    question="At equal parameters, what do 2, 4 or 8 layers learn that one does not, and what does it cost the optimizer?",
    trials=trials,
    run=run,
    sections=sections,
)
