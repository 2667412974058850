"""The paper's comparison on a marginally stable system, with more rivals, at equal parameters and at sizes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Measured, Result, Row, Settings, Trial
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

EQUAL, OWN = "equal parameters", "own size"
COMPARISONS = (EQUAL, OWN)


def trials(settings: Settings, seed: int) -> list[Trial]:
    """One training run for each mixer, size, rate and seed; a size that serves both comparisons runs once."""
    from torchstu.experiments.reproduce.systems import make, matched_size, parameters

    length, common = settings["length"], {name: settings[name] for name in ("system", "length", "samples", "batch")}
    target = parameters(make("STU", settings["filters"], length, device="meta"))
    planned: list[Trial] = []
    for mixer in settings["mixers"]:
        own = dict(mixer.get("options", {}))
        equal = own | mixer.get("equal", {})
        chosen = [(matched_size(mixer["name"], target, length, equal), equal, [EQUAL]), (mixer["size"], own, [OWN])]
        if chosen[0][:2] == chosen[1][:2]:
            chosen = [(mixer["size"], own, list(COMPARISONS))]
        planned += [
            common
            | {"mixer": mixer["name"], "size": size, "options": options, "comparisons": comparisons, "rate": rate}
            | {"decay": mixer.get("decay", 0.0), "validation": settings["validation"], "seed": seed + i}
            for size, options, comparisons in chosen
            for rate in mixer["rates"]
            for i in range(min(mixer.get("seeds", math.inf), settings["seeds"]))
        ]
    return planned


def run(trial: Trial) -> tuple[Result, Measured]:
    """The learning curve of one training run."""
    from torchstu.experiments.reproduce.systems import parameters, train

    history, mixer = train(trial)
    result = {
        "parameters": parameters(mixer),
        "samples": history.samples,
        "errors": history.errors,
        "diverged": history.diverged,
    }
    return result, {"seconds": history.seconds}


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """Two comparisons, then how many times fewer samples the STU needs."""
    return [*(_comparison(rows, settings, which) for which in COMPARISONS), _ratio(rows, settings)]


def _last(row: Row) -> float:
    """The error at the end of the budget; inf after a divergence."""
    return math.inf if row.result["diverged"] else float(row.result["errors"][-1])


def _best(rows: Sequence[Row], mixer: str, which: Sequence[str] = COMPARISONS) -> list[Row]:
    """A mixer's runs at the size and rate with the lowest median error at the end."""
    from torchstu.experiments.reproduce.systems import chosen, grouped, median

    own = chosen(rows, lambda row: row.trial["mixer"] == mixer and bool(set(which) & set(row.trial["comparisons"])))
    groups = grouped(own, "size", "rate").values()
    return min(groups, key=lambda group: median([_last(row) for row in group]), default=[])


def _curve(group: Sequence[Row]) -> dict[str, Any]:
    from torchstu.experiments.reproduce.systems import envelope

    x, middle, low, high = envelope([(row.result["samples"], row.result["errors"]) for row in group])
    return {"line": (x, middle), "band": (x, low, high)}


def _comparison(rows: Sequence[Row], settings: Settings, which: str) -> Section:
    """A table and a picture of every mixer at its best rate."""
    from torchstu.experiments.reproduce.systems import spread

    groups = {mixer["name"]: _best(rows, mixer["name"], (which,)) for mixer in settings["mixers"]}
    groups = {name: group for name, group in groups.items() if group}
    tried = {name: sorted({row.trial["rate"] for row in rows if row.trial["mixer"] == name}) for name in groups}
    cells = [
        [
            name,
            group[0].trial["size"],
            group[0].result["parameters"],
            f"{group[0].trial['rate']:g}",
            ", ".join(f"{rate:g}" for rate in tried[name]),
            len(group),
            spread([_last(row) for row in group], lambda v: f"{v:.1e}"),
        ]
        for name, group in groups.items()
    ]
    drawn = {name: _curve(group) for name, group in groups.items()}
    figure = figure_or_note(
        series={name: curve["line"] for name, curve in drawn.items()},
        bands={name: curve["band"] for name, curve in drawn.items()},
        xlabel="sequences seen",
        ylabel="relative error of the roll-out",
        logy=True,
    )
    header = ("layer", "size", "parameters", "rate", "rates tried", "seeds", "error at the end: median (range)")
    figure["note"] = " ".join(words for words in (figure.get("note"), _edges(groups, tried)) if words) or None
    return Section(_title(which), _words(groups, settings, which), Table(header, cells), **figure)


def _edges(groups: Mapping[str, list[Row]], tried: Mapping[str, list[float]]) -> str:
    """Which layers might do better at a rate that was not tried."""
    edge = [name for name, group in groups.items() if group[0].trial["rate"] in (tried[name][0], tried[name][-1])]
    words = "might do better at others; the recipe says which rates were tried before"
    return f"At the smallest or largest of the rates tried here, so {words}: {', '.join(edge)}." if edge else ""


def _title(which: str) -> str:
    return "At equal numbers of parameters" if which == EQUAL else "Each layer at a size of its own"


def _words(groups: Mapping[str, list[Row]], settings: Settings, which: str) -> str:
    from torchstu.experiments.reproduce.systems import median

    system, finals = settings["system"], {name: median([_last(row) for row in group]) for name, group in groups.items()}
    order = sorted(finals, key=lambda name: finals[name])
    asked = (
        f"Can a layer learn a system that almost never forgets? The system has {system['states']} states that keep "
        f"{100 * system['radius']:g} % of themselves each step, some changing sign, 3 inputs and 3 outputs, and no noise. "
        "Each layer sees "
        f"{settings['samples']} sequences of {settings['length']} steps of random input with the outputs, "
        f"{settings['batch']} at a time, each once, and learns by gradient descent. The error is that of the outputs "
        "computed from inputs alone "
        f"(1 is what predicting zero gets), on {settings['validation']} fresh sequences."
    )
    sizes = "as many parameters as the STU, within 10 %" if which == EQUAL else "a size often used for it, whatever that costs"
    done = f"Here every layer has {sizes}; learning rates are each layer's best of those tried, by the median over seeds."
    came = "Best first: " + ", ".join(f"{name} {finals[name]:.1e}" for name in order) + "." if order else ""
    return "\n\n".join((asked, f"{done} {came}", _paper_claims(groups)))


def _paper_claims(groups: Mapping[str, list[Row]]) -> str:
    """The paper's two remarks on the curves, judged on the medians."""
    claims = []
    if "STU" in groups:
        _, middle = _curve(groups["STU"])["line"]
        falling = sum(b <= a for a, b in pairwise(middle))
        claims.append(f"The STU's median error falls in {falling} of {max(len(middle) - 1, 0)} steps between measurements.")
    if "LRU" in groups:
        x, middle = _curve(groups["LRU"])["line"]
        half = float(middle[x <= x[-1] / 2][-1])
        claims.append(
            f"The LRU's is {half:.2g} after the first half of the training and {float(middle[-1]):.2g} at the end "
            f"(it started at {float(middle[0]):.2g})."
        )
    return "The paper says that the STU's loss falls steadily and that the LRU's is flat for the first half. " + " ".join(
        claims
    )


def sample_ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each seed: the error of the best LRU at its end, when it and the STU first reached that, and the ratio.

    The best LRU is that of the lowest median error at the end over all its sizes and rates, and so the STU's. A ratio is None
    where the STU never reaches the LRU's error.
    """
    from torchstu.experiments.reproduce.systems import first_below

    rivals = {row.trial["seed"]: row for row in _best(rows, "LRU")}
    found = []
    for row in _best(rows, "STU"):
        rival = rivals.get(row.trial["seed"])
        if rival is None or not math.isfinite(_last(rival)):
            continue
        target = _last(rival)
        samples, errors = (list(map(float, row.result[name])) for name in ("samples", "errors"))
        theirs = first_below(list(map(float, rival.result["samples"])), list(map(float, rival.result["errors"])), target)
        ours = first_below(samples, errors, target)
        ratio = None if not ours or theirs is None else theirs / ours
        found.append({"seed": row.trial["seed"], "error": target, "LRU": theirs, "STU": ours, "ratio": ratio})
    return found


def _ratio(rows: Sequence[Row], settings: Settings) -> Section:
    from torchstu.experiments.reproduce.systems import median

    found = sample_ratios(rows)
    ratios = [entry["ratio"] for entry in found]
    if not found or any(ratio is None for ratio in ratios):
        verdict = "No figure: a pair of runs with one seed is missing, or an STU run never reached the error of its LRU."
    else:
        middle, low, high = median(ratios), min(ratios), max(ratios)
        holds = "holds for every seed" if low >= 8 else "holds for the median" if middle >= 8 else "does not hold here"
        verdict = (
            f"The STU needs {middle:.0f} times fewer sequences (median of {len(ratios)} seeds; {low:.0f} to {high:.0f}). "
            f"The paper's claim, about 8 times fewer, {holds}."
        )
    text = (
        "How many sequences does the STU need for the error that the best LRU has at the end of its budget? For each seed (a "
        "system, its data and the start of the weights), the error of the LRU after its last sequence is the goal; counted "
        "are the "
        "sequences until each layer was first measured at or below it, of measurements after 1, 2, 3, 4, 6, 8, 12, … "
        "sequences. The best LRU is that of the sizes and rates tried; its ring and its weight decay are the recipe's. Seeds "
        "whose LRU diverged are left out."
        f"\n\n{verdict}"
    )
    header = ("seed", "goal: the LRU's last error", "sequences, LRU", "sequences, STU", "times fewer")
    cells = [[e["seed"], e["error"], e["LRU"], e["STU"], e["ratio"]] for e in found]
    return Section("How many times fewer sequences", text, Table(header, cells))


EXPERIMENT = Experiment(
    name="paper-lds",
    question="On the paper's system, how fast do spectral layers learn beside LRU, S4, S4D, DSS, attention and GRU?",
    trials=trials,
    run=run,
    sections=sections,
)
