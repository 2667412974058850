"""What the experiment on asymmetric systems found, in words, tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchstu.experiments.reproduce.experiment import Row, Settings
from torchstu.report.page import Section, Table

CHANNELS = 2
"""Inputs and outputs of every system; of the chain the two ends."""
STU, TOLD, SUGGESTED, CHEBYSHEV, LRU = "STU", "STU, told angle", "STU, suggested", "STU, degree 5", "LRU"
LEARNED = "AR-STU, {} lags"
REAL = 0.0
"""The largest angle of a system whose poles are real."""
_SMALL = 1e-6
"""Relative error at which a learner counts as holding a system."""
_LARGE = 1e-2


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """Priors and the LRU, then feedback by its lags, then what was suggested."""
    return [_priors(rows, settings), _feedback(rows, settings), _suggestions(rows)]


Errors = dict[str, dict[str, list[float]]]


def _errors(rows: Sequence[Row]) -> Errors:
    """Errors over seeds by system and learner; of the LRU those at the rate with the least median on that system."""
    from torchstu.experiments.reproduce.systems import median

    groups: dict[tuple[str, str, float], list[float]] = {}
    for row in rows:
        key = row.trial["system"]["name"], row.trial["learner"], row.trial.get("rate", 0.0)
        groups.setdefault(key, []).append(float(row.result["error"]))
    found: Errors = {}
    for (system, learner, _), errors in groups.items():
        known = found.setdefault(system, {}).get(learner)
        if known is None or median(errors) < median(known):
            found[system][learner] = errors
    return found


def _table(rows: Sequence[Row], errors: Errors, learners: Sequence[str]) -> Table:
    """Systems by learners: median and range."""
    from torchstu.experiments.reproduce.comparison import cell
    from torchstu.experiments.reproduce.systems import median

    departures: dict[str, list[float]] = {}
    for row in rows:
        departures.setdefault(row.trial["system"]["name"], []).append(float(row.result["departure"]))
    cells = [
        [name, f"{median(departures[name]):.2f}", *(cell(found.get(learner, [])) for learner in learners)]
        for name, found in errors.items()
    ]
    return Table(["system", "departure", *learners], cells)


def _medians(errors: Errors, learner: str) -> dict[str, float]:
    """A learner's median error by system, where it was fitted."""
    from torchstu.experiments.reproduce.systems import median

    return {name: median(found[learner]) for name, found in errors.items() if learner in found}


def _named(names: Sequence[str]) -> str:
    return "none of them" if not names else "; ".join(names)


def _by_angle(rows: Sequence[Row], errors: Errors) -> dict[str, dict[float, list[float]]]:
    """Errors by learner and largest angle, of the noiseless systems whose poles have all angles from 0 up to it."""
    angles = {
        row.trial["system"]["name"]: max(row.trial["system"]["angle"])
        for row in rows
        if row.trial["system"]["kind"] == "rotations"
        and not (row.trial["system"]["angle"][0] or row.trial["system"].get("noise"))
    }
    found: dict[str, dict[float, list[float]]] = {}
    for name, angle in angles.items():
        for learner, values in errors[name].items():
            found.setdefault(learner, {})[angle] = values
    return found


def _priors(rows: Sequence[Row], settings: Settings) -> Section:
    """What the filters must know: the plain STU, priors for rotations, and the LRU."""
    from torchstu.experiments.reproduce.comparison import picture

    errors = _errors(rows)
    learners = [STU, CHEBYSHEV, TOLD, SUGGESTED, LRU]
    by_angle = _by_angle(rows, errors)
    shown = [*learners, *(LEARNED.format(lags) for lags in settings["output_lags"][-1:])]
    figure = picture(
        {name: by_angle[name] for name in shown if name in by_angle},
        xlabel="largest angle of the poles, radians a step",
        ylabel="relative error of the roll-out",
        logx=True,
    )
    words = "\n\n".join((_asked(settings), _came_out(rows, errors)))
    note = "Departure: Henrici's departure from normality, 0 for a normal matrix, 1 for a nilpotent one. Median (range)."
    return Section("What a prior must know of rotations", words, _table(rows, errors, learners), **({"note": note} | figure))


def _asked(settings: Settings) -> str:
    lru = settings["lru"]
    return (
        "The filters of the STU are made for systems with real poles: each mode grows, shrinks or flips its sign. The paper "
        "leaves open what happens when modes turn, as in anything that swings. Here random systems of that kind and others "
        f"that are not symmetric are learned from {settings['training']} sequences of {settings['length']} steps of random "
        f"input, and judged by the outputs predicted from inputs alone on {settings['fresh']} fresh ones (relative squared "
        f'error; 1 is what predicting zero gets).\n\nThe STU has {settings["filters"]} filters in two banks; with "degree '
        '5" it feeds back a fixed polynomial of five past outputs. "Told angle" has filters for rotations up to the '
        'largest angle, which it is told; "suggested" finds filters from the data. All these solve one least-squares '
        f"problem. The LRU has {lru['states']} complex modes by design, is told the angle too and learns by gradient "
        f"descent, {lru['steps']} steps of {lru['batch']} sequences, at the better of {len(settings['lru_rates'])} rates."
    )


def _came_out(rows: Sequence[Row], errors: Errors) -> str:
    """Verdicts from the medians: real poles, the angle at which the STU fails, who holds what."""
    real = {row.trial["system"]["name"] for row in rows if max(row.trial["system"]["angle"]) == REAL}
    plain = _medians(errors, STU)
    parts = []
    if real:
        values = [plain[name] for name in plain if name in real]
        verdict = "so real filters suffice" if max(values) < _SMALL else "so real filters do not suffice there"
        parts.append(
            f"Where all poles are real, Jordan blocks and non-normal systems included, the plain STU's largest median "
            f"error is {max(values):.0e}: {verdict}."
        )
    angles = _by_angle(rows, errors).get(STU, {})
    failing = [angle for angle in sorted(angles) if sorted(angles[angle])[len(angles[angle]) // 2] > _LARGE]
    if failing:
        parts.append(f"With rotations it is above {_LARGE:.0%} from a largest angle of {failing[0]:g} on.")
    elif angles:
        parts.append(f"It stays below {_LARGE:.0%} at all angles tried.")
    turning = [name for name in plain if name not in real]
    for learner, what in ((TOLD, "Told the angle, it"), (SUGGESTED, "With the suggested prior it"), (LRU, "The LRU")):
        found = _medians(errors, learner)
        held = [name for name in turning if found.get(name, math.inf) < _SMALL]
        if found and turning:
            parts.append(f"{what} is below {_SMALL:g} on {len(held)} of {len(turning)} systems that turn.")
    rival, suggested = _medians(errors, LRU), _medians(errors, SUGGESTED)
    if rival and turning:
        better = [name for name in turning if rival.get(name, math.inf) < plain[name]]
        parts.append(f"The LRU beats the plain STU on {len(better)} of those {len(turning)}, and the suggested prior on: ")
        parts[-1] += _named([name for name in turning if rival.get(name, math.inf) < suggested.get(name, 0.0)]) + "."
    return " ".join(parts)


def _feedback(rows: Sequence[Row], settings: Settings) -> Section:
    """The learned y-term, by its number of lags."""
    from torchstu.experiments.reproduce.comparison import picture

    errors, lags = _errors(rows), list(settings["output_lags"])
    learners = [LEARNED.format(count) for count in lags]
    by_lags = {
        name: {n: errors[name][learner] for n, learner in zip(lags, learners, strict=True) if learner in errors[name]}
        for name in settings["pictured"]
        if name in errors
    }
    figure = picture(by_lags, xlabel="past outputs in the learned feedback", ylabel="relative error of the roll-out")
    outside = [row for row in rows if float(row.result.get("feedback", 0.0)) > 1]
    fits = [row for row in rows if "feedback" in row.result]
    held = {learner: [n for n, e in _medians(errors, learner).items() if e < _SMALL] for learner in learners}
    words = (
        f"The other way to hold rotations is to learn the feedback of past outputs (AR-STU). {CHANNELS} outputs and n lags "
        f"can hold any system of {CHANNELS} n states exactly, if the outputs are free of noise; the filters add what is "
        "left. The fit is least squares on the next step; the error is again that of the roll-out from inputs alone.\n\n"
        + " ".join(f"{learner}: below {_SMALL:g} on {len(names)} of {len(errors)} systems." for learner, names in held.items())
        + f" In {len(outside)} of {len(fits)} fits the learned feedback has a pole outside the unit circle, so that its "
        "roll-out grows without bound on inputs that are long enough." + _noisy(rows, errors, learners)
    )
    return Section("Learned feedback of past outputs", words, _table(rows, errors, learners), **figure)


def _noisy(rows: Sequence[Row], errors: Errors, learners: Sequence[str]) -> str:
    """What noise in the outputs leaves of it."""
    noisy = {row.trial["system"]["name"]: row.trial["system"]["noise"] for row in rows if row.trial["system"].get("noise")}
    told, suggested = _medians(errors, TOLD), _medians(errors, SUGGESTED)
    parts = []
    for name, level in noisy.items():
        best = min((_medians(errors, learner).get(name, math.inf), learner) for learner in learners)
        parts.append(
            f"\n\nWith noise of {level:.0%} of the outputs' scale on the data ({name}) the best of them, {best[1]}, leaves "
            f"{best[0]:.0e}; told the angle the STU leaves {told.get(name, math.nan):.0e}, with the suggested prior "
            f"{suggested.get(name, math.nan):.0e}."
        )
    return "".join(parts)


def _suggestions(rows: Sequence[Row]) -> Section:
    """What the suggestion came to, seed by seed."""
    from torchstu.experiments.reproduce.systems import median

    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.trial["learner"] == SUGGESTED:
            found.setdefault(row.trial["system"]["name"], []).append(row)
    cells = []
    for name, group in found.items():
        counts = [row.result["filters"] for row in group]
        names = dict.fromkeys(_shortened(row.result["prior"]) for row in group)
        cells.append([name, "; ".join(names), f"{median(counts):g} ({min(counts)} … {max(counts)})"])
    seconds = [float(row.measured["seconds"]) for group in found.values() for row in group if "seconds" in row.measured]
    words = (
        "The suggestion fits a long autoregression, reads off where the poles lie and tries the priors that these call for "
        "on data held out from the training. It is told nothing."
    )
    note = f"Median time of a suggestion and its fit: {median(seconds):.2g} s." if seconds else None
    return Section("What was suggested", words, Table(["system", "priors over seeds", "filters"], cells), note=note)


def _shortened(name: str, longest: int = 60) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
