"""What the experiment on banks of filters found, in words, tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchstu.experiments.reproduce.experiment import Row, Settings
from torchstu.report.page import Section, Table

POSITIVE, SIGNED, SECTOR, RANDOM, FOURIER, LEGENDRE = "positive", "signed", "sector", "random", "Fourier", "Legendre"
LEARNED = "learned"
HANKEL = (POSITIVE, SIGNED, SECTOR)
OTHERS = (RANDOM, FOURIER, LEGENDRE, LEARNED)
_SMALL = 1e-6
"""Relative error at which a bank counts as spanning the responses."""


Errors = dict[str, dict[int, list[float]]]
"""Errors over seeds by bank and number of filters."""


def sections(rows: Sequence[Row], settings: Settings) -> list[Section]:
    """What was asked and found, then every case by itself."""
    cases = {case["name"]: _errors(rows, case["name"]) for case in settings["cases"]}
    cases = {name: errors for name, errors in cases.items() if errors}
    return [_summary(rows, cases, settings), *(_case(name, errors, settings) for name, errors in cases.items())]


def _errors(rows: Sequence[Row], case: str) -> Errors:
    """Of one case; of the learned filters those at the rate with the least median."""
    from torchstu.experiments.reproduce.systems import median

    groups: dict[tuple[str, int, float], list[float]] = {}
    for row in rows:
        if row.trial["case"]["name"] == case:
            key = row.trial["bank"], row.trial["count"], row.trial.get("rate", 0.0)
            groups.setdefault(key, []).append(float(row.result["error"]))
    found: Errors = {}
    for (bank, count, _), errors in groups.items():
        known = found.setdefault(bank, {}).get(count)
        if known is None or median(errors) < median(known):
            found[bank][count] = errors
    return found


def _medians(errors: Errors, bank: str) -> dict[int, float]:
    from torchstu.experiments.reproduce.systems import median

    return {count: median(values) for count, values in errors.get(bank, {}).items()}


def _needed(errors: Errors, bank: str) -> int | None:
    """The fewest filters with a median error below the mark."""
    return min((count for count, error in _medians(errors, bank).items() if error < _SMALL), default=None)


def _best(errors: Errors, banks: Sequence[str]) -> tuple[str, float]:
    """The bank with the least median error at any K, and that error."""
    found = [(min(medians.values()), bank) for bank in banks if (medians := _medians(errors, bank))]
    return (min(found)[1], min(found)[0]) if found else ("none", math.inf)


def _summary(rows: Sequence[Row], cases: Mapping[str, Errors], settings: Settings) -> Section:
    """Filters needed by case and bank, and the verdict."""
    asked = (
        "The STU convolves its input with fixed filters, the leading eigenvectors of a Hankel matrix, and learns only how "
        "to add them up. Would other filters do as well? Every bank here has K responses an input and sees the same "
        f"{settings['training']} sequences of {settings['length']} steps; fixed banks go through the same least squares. "
        "There are the paper's filters (positive), its other Hankel matrix (signed), filters for rotations (sector, up to "
        f"{settings['sector']:g} radians a step), a random orthonormal basis, sines and cosines (Fourier), polynomials "
        "(Legendre), and filters learned from a random start together with their read-out, by gradient descent in single "
        "precision: what such training gives, not the best that such filters could be. Where modes flip "
        "their signs, banks of slow functions have K/2 filters and their mirror images (-1)^i φ(i)."
    )
    cells = [[name, *(_word(errors, bank) for bank in (*HANKEL, *OTHERS))] for name, errors in cases.items()]
    note = (
        f"Fewest responses of those tried with a median error below {_SMALL:g}; in brackets the least median error if none is."
    )
    table = Table(["system", *HANKEL, *OTHERS], cells)
    return Section(
        "What the Hankel filters buy",
        "\n\n".join((asked, _verdict(cases), _worst(cases, settings), _sizes(rows))),
        table,
        note=note,
    )


def _word(errors: Errors, bank: str) -> str:
    from torchstu.experiments.reproduce.comparison import short

    needed = _needed(errors, bank)
    if needed is not None:
        return str(needed)
    return f"({short(_best(errors, [bank])[1])})" if bank in errors else ""


def _verdict(cases: Mapping[str, Errors]) -> str:
    """Per case the best Hankel bank against the best of the others, at the best K of each."""
    from torchstu.experiments.reproduce.comparison import short

    parts, wins = [], 0
    for name, errors in cases.items():
        ours, theirs = _best(errors, HANKEL), _best(errors, OTHERS)
        wins += ours[1] < theirs[1]
        parts.append(f"{name}: {ours[0]} {short(ours[1])}, the best of the others {theirs[0]} {short(theirs[1])}")
    return (
        f"Filters of a prior leave less than all others on {wins} of {len(cases)} systems. At the best K of each: "
        + "; ".join(parts)
        + "."
    )


def _worst(cases: Mapping[str, Errors], settings: Settings) -> str:
    """Every fixed bank by its worst case over the noiseless systems with real modes, at the largest K."""
    from torchstu.experiments.reproduce.comparison import short

    real = [
        case["name"] for case in settings["cases"] if not case.get("noise") and "angle" not in case and case["name"] in cases
    ]
    most = max(settings["counts"])
    worst: dict[str, float] = {}
    for bank in (*HANKEL, RANDOM, FOURIER, LEGENDRE):
        errors = [_medians(cases[name], bank).get(most) for name in real]
        if errors and None not in errors:
            worst[bank] = max(error for error in errors if error is not None)
    order = sorted(worst, key=lambda bank: worst[bank])
    if not order:
        return ""
    return (
        "A bank is chosen before the system is known, so its worst case counts. "
        f"The largest median error at K = {most} over the {len(real)} noiseless systems with real modes, best bank first: "
        + ", ".join(f"{bank} {short(worst[bank])}" for bank in order)
        + "."
    )


def _sizes(rows: Sequence[Row]) -> str:
    """How many numbers the learned filters have beside the fixed ones."""
    counts = {row.trial["count"] for row in rows if row.trial["bank"] == LEARNED}
    if not counts:
        return ""
    most = max(counts)
    weights = {row.trial["bank"]: row.result["weights"] for row in rows if row.trial["count"] == most}
    fixed = max((value for bank, value in weights.items() if bank != LEARNED), default=0)
    return (
        f"Learned filters could be any of the fixed ones: at K = {most} they have {weights[LEARNED]} weights to learn, fixed "
        f"filters {fixed}. What they lack is the knowledge beforehand, and the convex problem."
    )


def _case(name: str, errors: Errors, settings: Settings) -> Section:
    """Error against K."""
    from torchstu.experiments.reproduce.comparison import cell, picture, short

    case = next(case for case in settings["cases"] if case["name"] == name)
    if "decays" in case:
        magnitudes = "decays 1 - |λ| spread evenly over the powers of ten from {:g} to {:g}".format(*case["decays"])
    else:
        magnitudes = "magnitudes {:g} to {:g}".format(*case["radius"])
    kind = f"turning by up to {case['angle']:g} radians a step" if "angle" in case else "of either sign"
    noise = f", learned with noise of {case['noise']:.0%} of the output's scale on the outputs" if case.get("noise") else ""
    with_feedback = (
        "and feeds back ŷ at two steps before, as in the paper's Eq. 4" if case["feedback"] else "and feeds nothing back"
    )
    banks = [bank for bank in (*HANKEL, *OTHERS) if bank in errors]
    figure = picture(
        {bank: {float(count): found for count, found in errors[bank].items()} for bank in banks},
        dashed=[LEARNED],
        xlabel="K, responses an input",
        ylabel="relative error of the roll-out",
    )
    counts = sorted({count for found in errors.values() for count in found})
    best = _best(errors, (*HANKEL, *OTHERS))
    words = (
        f"{case['states']} modes with {magnitudes}, {kind}{noise}; the layer adds up K responses {with_feedback}. "
        f'The least median error is {short(best[1])}, with the bank "{best[0]}".'
    )
    cells = [[count, *(cell(errors.get(bank, {}).get(count, [])) for bank in banks)] for count in counts]
    return Section(name, words, Table(["K", *banks], cells), **figure)
