"""Five memory tasks: which layers can keep what they saw, choose what to keep, and look up what belongs to a key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

CLOSE = 0.04
"""A sum is right if it is off by less: the criterion of Hochreiter and Schmidhuber for the adding problem."""
MEANING = {
    "copying": "say the first symbols again after a wait",
    "selective copying": "the same, with the symbols scattered among blanks",
    "adding": "add the two numbers that are marked",
    "induction heads": "say what followed the special token when it came before",
    "associative recall": "say which value belongs to a key",
}


def trials(settings: Settings, seed: int) -> list[Trial]:
    """Every task, mixer, rate and seed; all mixers have about the same number of parameters on a task."""
    names = ("samples", "validation", "batch", "steps", "layers")
    common = {name: settings[name] for name in names}
    planned: list[Trial] = []
    for task in settings["tasks"]:
        options = dict(task.get("options", {}))
        for mixer in settings["mixers"]:
            learner = {"mixer": mixer["name"], "mixer_options": dict(mixer.get("options", {}))}
            base = common | {"task": task["name"], "length": task["length"], "options": options} | learner
            width = matched_width(base, settings["parameters"])
            planned += [
                base | {"width": width, "rate": rate, "seed": seed + i}
                for rate in mixer["rates"]
                for i in range(settings["seeds"])
            ]
    return planned


def _draw(trial: Mapping[str, Any], count: int, generator: Any) -> Any:
    from torchstu.data.tasks import TASKS

    return TASKS[trial["task"]](count, trial["length"], generator, **trial["options"])


def _model(trial: Mapping[str, Any], d_in: int, d_out: int, device: str | None = None) -> Any:
    from torchstu.models.ssm import SpectralSSM

    return SpectralSSM(
        d_in, d_out, d_model=trial["width"], num_layers=trial["layers"], length=trial["length"], mixer=trial["mixer"],
        mixer_options=trial["mixer_options"], device=device,
    )  # fmt: skip


def matched_width(trial: Mapping[str, Any], target: int) -> int:
    """The width at which a model has closest to ``target`` parameters."""
    import torch

    from torchstu.experiments.reproduce.systems import nearest_size, parameters

    example = _draw(trial, 1, torch.Generator().manual_seed(0))

    def count(width: int) -> int:
        return parameters(_model({**trial, "width": width}, example.inputs.shape[2], example.d_out, device="meta"))

    return nearest_size(count, target)[0]


def run(trial: Trial) -> tuple[Result, Measured]:
    """Train on sequences drawn once, and count right answers on fresh ones."""
    import torch

    from torchstu.experiments.reproduce.systems import parameters
    from torchstu.learn.gradient import fit_gradient

    generator = torch.Generator().manual_seed(trial["seed"])
    data, fresh = _draw(trial, trial["samples"], generator), _draw(trial, trial["validation"], generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial["seed"])
        model = _model(trial, data.inputs.shape[2], data.d_out)
    history = fit_gradient(
        model, data.inputs, data.targets, steps=trial["steps"], batch_size=trial["batch"], learning_rate=trial["rate"],
        objective="rollout", loss=data.loss, clip=1.0, seed=trial["seed"], progress=False,
    )  # fmt: skip
    with torch.no_grad():
        share = accuracy(model.eval()(fresh.inputs)[0], fresh.targets)
    result = {"accuracy": share, "parameters": parameters(model), "diverged": history.diverged}
    return result, {"seconds": history.seconds}


def accuracy(outputs: Any, targets: Any) -> float:
    """Share of right answers: labels at the steps asked, or last-step sums off by less than `CLOSE`."""
    from torchstu.data.sequences import IGNORED

    if targets.is_floating_point():
        return float(((outputs - targets)[:, -1].abs() < CLOSE).double().mean())
    asked = targets != IGNORED
    return float((outputs.argmax(-1)[asked] == targets[asked]).double().mean())


def chance(task: Mapping[str, Any]) -> float:
    """What a guess gets that knows the task and not the sequence; for sums, the best single guess, 1."""
    options = task.get("options", {})
    if task["name"] == "adding":
        return 1 - (1 - CLOSE) ** 2  # the density of a sum of two uniforms is 1 - |s - 1|
    defaults = {"copying": ("symbols", 8), "selective copying": ("symbols", 8), "induction heads": ("symbols", 19)}
    name, default = defaults.get(task["name"], ("values", 5))
    return 1 / options.get(name, default)


def best_rates(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """By task and mixer: the runs at the rate with the highest median accuracy."""
    from torchstu.experiments.reproduce.systems import grouped

    found: dict[tuple[str, str], list[Row]] = {}
    for (task, mixer, _), group in grouped(rows, "task", "mixer", "rate").items():
        if (task, mixer) not in found or _middle(group) > _middle(found[task, mixer]):
            found[task, mixer] = group
    return found


def _middle(group: Sequence[Row]) -> float:
    from torchstu.experiments.reproduce.systems import median

    return median([row.result["accuracy"] for row in group])


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """One table of all tasks and mixers, and the picture of it."""
    from torchstu.experiments.reproduce.systems import spread

    runs = best_rates(rows)
    tasks = [task for task in settings["tasks"] if any(key[0] == task["name"] for key in runs)]
    mixers = list(dict.fromkeys(mixer for _, mixer in runs))
    cells = []
    for mixer in mixers:
        groups = [runs.get((task["name"], mixer), []) for task in tasks]
        shares = [spread([row.result["accuracy"] for row in group], lambda v: f"{v:.0%}") for group in groups]
        counts = [row.result["parameters"] for group in groups for row in group]
        cells.append([mixer, f"{min(counts)} to {max(counts)}", *shares])
    cells.append(["a guess", "", *(f"{chance(task):.0%}" for task in tasks)])
    table = Table(("mixer", "parameters", *(task["name"] for task in tasks)), cells)
    places = list(range(1, len(tasks) + 1))
    lines = {
        mixer: (places, [_middle(runs[task["name"], mixer]) if (task["name"], mixer) in runs else math.nan for task in tasks])
        for mixer in mixers
    }
    picture = figure_or_note(
        series=lines, references={"a guess": (places, [chance(task) for task in tasks])}, ylabel="share of right answers",
        xlabel="task: " + ", ".join(f"{i} {task['name']}" for i, task in zip(places, tasks, strict=True)),
    )  # fmt: skip
    return [Section("What the layers remember", _words(runs, tasks, settings), table, **picture)]


def _words(runs: Mapping[tuple[str, str], list[Row]], tasks: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    from torchstu.experiments.reproduce.systems import rate_words

    asked = "Can a layer keep what it saw, choose what to keep, and look up what belongs to a key? " + "; ".join(
        f"{task['name']} ({task['length']} steps): {MEANING[task['name']]}" for task in tasks
    )
    done = (
        f"Models of {settings['layers']} layers, the same but for the mixer inside and near {settings['parameters']} "
        f"parameters each, were trained for {settings['steps']} steps of {settings['batch']} sequences out of "
        f"{settings['samples']} and asked about {settings['validation']} fresh ones. A sum in the adding task is right if it "
        f"is off by less than {CLOSE}. Shown are median and range over seeds, at {rate_words(settings)}."
    )
    came = []
    for task in tasks:
        shares = {mixer: _middle(group) for (name, mixer), group in runs.items() if name == task["name"]}
        best = max(shares, key=shares.__getitem__)
        idle = [mixer for mixer, share in shares.items() if share < 1.5 * chance(task)]
        none = f"; near guessing: {', '.join(idle)}" if idle else ""
        came.append(f"{task['name'].capitalize()}: {best} is best with {shares[best]:.0%}{none}.")
    return "\n\n".join((f"{asked}.", done, " ".join(came)))


EXPERIMENT = Experiment(
    name="memory",
    question="Which layers can copy, choose what to copy, add, and recall by key, at equal parameters?",
    trials=trials,
    run=run,
    sections=sections,
)
