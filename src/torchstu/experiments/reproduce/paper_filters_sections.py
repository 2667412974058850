"""The page of `paper-filters`: the fall, the bound, the flattening, all computed from the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from torchstu.experiments.reproduce.experiment import Row, Settings
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table

CLOSED, BOUND, GRADIENT = "closed form", "bound", "gradient"
COORDINATES = {"adamw": "stored weights", "unit": "norm 1"}
"""What an `optimizer` of `fit_gradient` steps, in words; with the y-term "spectral" is "adamw"."""
BANKS = {"quadrature": "these filters, float64", "eigh float64": "eigh, float64", "eigh float32": "eigh, float32"}
"""Where filters come from, and the words for it."""
_MORE = 4
"""So many filters more divide the eigenvalue by a hundred or more: an error that falls with it cannot look flat."""


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """The fall, the bound, the flattening."""
    names = [name for name in settings["systems"] if any(row.trial["name"] == name for row in rows)]
    return [
        _fall(rows, names),
        *(section for name in names if (section := _bounds(rows, name)) is not None),
        *(_flattening(rows, name) for name in names),
    ]


def _medians(rows: Sequence[Row], name: str, kind: str, key: str, **trial: Any) -> tuple[list[int], np.ndarray]:
    """K and the median over seeds of a list that every row of a kind has."""
    own = [
        row
        for row in rows
        if row.trial["name"] == name and row.trial["kind"] == kind and all(row.trial[k] == v for k, v in trial.items())
    ]
    if not own:
        return [], np.array([])
    return own[0].trial["counts"], np.median([[float(v) for v in row.result[key]] for row in own], axis=0)


def falling_range(counts: Sequence[int], errors: np.ndarray) -> slice:
    """From K = 4 to the last K before rounding may matter: with an error above a hundred times the least."""
    kept = [i for i, count in enumerate(counts) if count >= 4 and errors[i] > 100 * errors.min()]
    return slice(kept[0], kept[-1] + 1) if kept else slice(0, 0)


def fitted_slope(counts: Sequence[int], values: np.ndarray) -> float:
    """The least-squares slope of ln(values) per filter."""
    return float(np.polyfit(np.asarray(counts, dtype=float), np.log(values), 1)[0]) if len(counts) > 1 else math.nan


def slopes(rows: Sequence[Row], name: str) -> dict[str, Any] | None:
    """How far and how fast the error of the closed form falls, beside the eigenvalues σ_{K+1} over the same K."""
    counts, errors = _medians(rows, name, CLOSED, "errors", bank="quadrature")
    _, sigma = _medians(rows, name, BOUND, "next eigenvalues")
    if not counts or not len(sigma):
        return None
    span = falling_range(counts, errors)
    ours, theirs = fitted_slope(counts[span], errors[span]), fitted_slope(counts[span], sigma[span])
    orders = math.log10(errors[0] / errors.min())
    return (
        {"orders": orders, "from": counts[span][0], "to": counts[span][-1], "error": ours, "sigma": theirs}
        if counts[span]
        else None
    )


def _fall(rows: Sequence[Row], names: Sequence[str]) -> Section:
    series, cells, words = {}, [], []
    for name in names:
        counts, errors = _medians(rows, name, CLOSED, "errors", bank="quadrature")
        if counts:
            series[name] = (counts, errors)
        found = slopes(rows, name)
        if found is None:
            continue
        ratio = found["error"] / found["sigma"]
        near = "within 30 % of it" if abs(ratio - 1) <= 0.3 else f"{abs(ratio - 1):.0%} {'steeper' if ratio > 1 else 'flatter'}"
        span = f"{found['from']}…{found['to']}"
        cells.append([name, round(found["orders"], 1), span, found["error"], found["sigma"], round(ratio, 2)])
        words.append(
            f"{name}: the error falls by {found['orders']:.0f} orders of magnitude, by e^{found['error']:.2f} a filter "
            f"over K = {span}; "
            f"the eigenvalue of the first filter left out by e^{found['sigma']:.2f}: {near}."
        )
    text = (
        "How much does one more filter buy? Weights are fitted in closed form, in float64, without any optimizer, and the "
        "error is that of the outputs "
        "computed from inputs alone on fresh sequences: mean square of the difference over mean square of the output. "
        "Theory says that the squared "
        "error goes with the eigenvalues σ of the filters left out, so both should fall at one rate.\n\n" + "\n\n".join(words)
    )
    header = ("system", "orders of magnitude", "K of the slope", "ln error a filter", "ln σ a filter", "ratio")
    figure = figure_or_note(
        series=series, xlabel="number of filters K", ylabel="relative squared error", logy=True,
        references=_eigenvalue_line(rows, names),
    )  # fmt: skip
    return Section("Error against the number of filters", text, Table(header, cells), **figure)


def _eigenvalue_line(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        counts, sigma = _medians(rows, name, BOUND, "next eigenvalues")
        if counts:
            return {"σ of the first filter left out": (counts, sigma)}
    return {}


def _bounds(rows: Sequence[Row], name: str) -> Section | None:
    """The written weights' largest error beside the bounds, over all seeds."""
    own = [row for row in rows if row.trial["name"] == name and row.trial["kind"] == BOUND]
    if not own:
        return None
    counts = own[0].trial["counts"]
    lists = {k: np.array([row.result[k] for row in own], dtype=float) for k in ("written", "fitted", "computed", "theorem")}
    slack = np.array([float(row.result["rounding"]) for row in own])[:, None]
    held = {k: int((lists["written"] <= lists[k] + slack).sum()) for k in ("computed", "theorem")}
    least = float((lists["computed"] / lists["written"]).min())
    text = (
        "The theorem promises that weights exist whose outputs are never further than a bound from those of the system "
        f"({name}), for every input of size at "
        "most 1. Here such weights are written down from the system, nothing is fitted, and the largest error over all "
        "steps of random "
        "inputs of size 1 is compared with the bound in the theorem's form, and with the one computed from the filters "
        "themselves "
        f"(torchstu.bounds; docs/theory.md has the proofs).\n\nThe error is under the theorem's bound in {held['theorem']} "
        f"of {lists['written'].size} cases "
        f"(K × seed) and under the computed one in {held['computed']}; the closest it comes to the latter is a factor of "
        f"{least:.3g}."
    )
    shown = [i for i, count in enumerate(counts) if count in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32)]
    largest = {k: v.max(axis=0) for k, v in lists.items()}
    cells = [[counts[i], *(float(largest[k][i]) for k in ("written", "fitted", "computed", "theorem"))] for i in shown]
    header = ("K", "largest error, written weights", "fitted weights", "computed bound", "theorem's bound")
    series = {"written weights": (counts, largest["written"]), "fitted weights": (counts, largest["fitted"])}
    references = {"computed bound": (counts, largest["computed"]), "theorem's form": (counts, largest["theorem"])}
    figure = figure_or_note(
        series=series, references=references, xlabel="number of filters K", ylabel="largest error", logy=True
    )
    return Section(f"Under the bound: {name}", text, Table(header, cells), **figure)


def flattening(rows: Sequence[Row], name: str) -> dict[str, tuple[list[int], np.ndarray]]:
    """Median error against K for each way to compute: name of the way to (K, errors)."""
    found = {words: _medians(rows, name, CLOSED, "errors", bank=bank) for bank, words in BANKS.items()}
    found["these filters, weights run in float32"] = _medians(rows, name, CLOSED, "float32 errors", bank="quadrature")
    trained = [row for row in rows if row.trial["name"] == name and row.trial["kind"] == GRADIENT]
    for optimizer in dict.fromkeys(row.trial["optimizer"] for row in trained):
        by_setting: dict[tuple[int, float], list[float]] = {}
        for row in trained:
            if row.trial["optimizer"] == optimizer:
                by_setting.setdefault((row.trial["count"], row.trial["rate"]), []).append(float(row.result["error"]))
        best: dict[int, float] = {}
        for (count, _), errors in sorted(by_setting.items()):
            best[count] = min(best.get(count, np.inf), float(np.median(errors)))
        found[f"gradient descent, {COORDINATES[optimizer]}"] = list(best), np.array(list(best.values()))
    return {words: line for words, line in found.items() if len(line[0])}


def flat_from(counts: Sequence[int], errors: np.ndarray) -> int | None:
    """The smallest K, with four more filters or more to come, whose error none of them divides by ten; None: it still "
    "falls."""
    for i, count in enumerate(counts):
        if counts[-1] - count >= _MORE and errors[i] <= 10 * errors[i:].min():
            return count
    return None


def _flattening(rows: Sequence[Row], name: str) -> Section:
    lines = flattening(rows, name)
    cells = []
    for words, (counts, errors) in lines.items():
        flat = flat_from(counts, errors)
        cells.append(
            [words, "still falls" if flat is None else f"K = {flat}", float(errors.min()), counts[int(errors.argmin())]]
        )
    text = (
        "The paper's curve stops falling at about 15 filters. Is that the arithmetic, the optimizer, or the filters? On "
        f"{name}, four things are changed one by one: the filters "
        "come from this library's quadrature or from a dense eigenvalue solver in double or single precision; the fitted "
        "weights run in single precision; the weights are learned by gradient "
        "descent (AdamW on the next-step loss) in single precision instead of solved for, stepping the weights as they are "
        "stored, beside filters of norm σ^(1/4), or as if filters had norm 1, each at the best of "
        f"{len({row.trial['rate'] for row in rows if row.trial['kind'] == GRADIENT})} rates for each K. "
        "An error counts as flat from the K on where four more filters or more gain less than a factor of "
        f"ten.\n\n{_verdict(lines)}"
    )
    figure = figure_or_note(series=lines, xlabel="number of filters K", ylabel="relative squared error", logy=True, title=name)
    header = ("way", "flat from", "least error", "at K")
    return Section(f"Why it flattens: {name}", text, Table(header, cells), **figure)


def _verdict(lines: Mapping[str, tuple[list[int], np.ndarray]]) -> str:
    """Which of the changes flatten the curve above the others, by the least error that each reaches."""
    floors = {words: float(errors.min()) for words, (_, errors) in lines.items()}
    best = floors.get(BANKS["quadrature"])
    if best is None:
        return "No verdict: the closed form in float64 is not among the results."
    parts = []

    def compare(words: str, what: str, form: Callable[[float], str]) -> None:
        if words in floors:
            parts.append(f"{what} {form(floors[words])}")

    compare(BANKS["quadrature"], "Solved for in double precision the error reaches", lambda v: f"{v:.0e}.")
    compare(BANKS["eigh float64"], "Filters of a dense solver in double precision:", lambda v: _effect(v, best))
    compare(BANKS["eigh float32"], "Filters of a dense solver in single precision:", lambda v: _effect(v, best))
    compare("these filters, weights run in float32", "The same weights run in single precision:", lambda v: _effect(v, best))
    for words in floors:
        if words.startswith(GRADIENT):
            compare(words, f"{words[0].upper() + words[1:]}, in single precision:", lambda v: _effect(v, best))
    single = floors.get("these filters, weights run in float32")
    trained = [value for words, value in floors.items() if words.startswith(GRADIENT)]
    if single is not None and trained:
        above = min(trained) / single
        parts.append(
            f"So the floor that training shows is {'mostly the optimizer' if above > 100 else 'that of single precision'}: "
            f"the best training ends {above:.0e} times above what single precision allows"
            f", and single precision alone stops {single / best:.0e} times above double."
        )
    return " ".join(parts)


def _effect(value: float, best: float) -> str:
    return f"{value:.0e}, about as low." if value < 100 * best else f"{value:.0e}, {value / best:.0e} times as much."
