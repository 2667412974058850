"""The tables of `identify.py`: what was asked, a row a method, a row a cell, what failed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from identification import cells
from identification.cells import Cell
from identification.registry import METHODS, ONE_STEP, ROLLOUT
from identification.worker import FIT_SECONDS
from machine import MIB, environment_line, markdown_table

ROUNDING = 1e-20
"""Relative errors below it count as equal."""
DIVERGED = 1e3
"""A relative error over 16 L above it is a divergence."""
CLOSE = 1.5
Line = dict[str, Any]


class Row(NamedTuple):
    """One cell with the results of all methods."""

    cell: Cell
    lines: dict[str, Line]
    floor: float
    """One-step error of the Kalman filter told the truth."""

    def error(self, method: str, key: str = "short") -> float:
        """Infinite for a failure; not below `ROUNDING`."""
        line = self.lines.get(method, {})
        return max(line[key], ROUNDING) if "failure" not in line and key in line else float("inf")

    def within(self, factor: float, method: str, others: Sequence[str], key: str = "short") -> bool:
        """Whether a method's error is at most so many times the best of others; a failure's is not."""
        return self.error(method, key) < float("inf") and self.error(method, key) <= factor * self.best(others, key)[0]

    def best(self, methods: Sequence[str], key: str = "short") -> tuple[float, str]:
        return min((self.error(name, key), name) for name in methods)


def rows_of(report: dict[str, Any]) -> list[Row]:
    by_cell: dict[str, dict[str, Line]] = {}
    for line in report["results"]:
        by_cell.setdefault(line["cell"], {})[line["method"]] = line
    rows = []
    for entry in report["cells"]:
        cell = Cell(**{name: entry[name] for name in Cell._fields})
        if cell.name in by_cell:
            rows.append(Row(cell, by_cell[cell.name], entry["floor"]))
    return rows


def present(rows: list[Row]) -> list[str]:
    return [method.name for method in METHODS if any(method.name in row.lines for row in rows)]


def rivals(rows: list[Row], structured: bool = False) -> list[str]:
    ours = {method.name for method in METHODS if method.name.startswith("torchstu")}
    return [m.name for m in METHODS if m.name in present(rows) and m.name not in ours and (m.structured or not structured)]


def share(rows: list[Row], holds: Callable[[Row], bool]) -> str:
    count = sum(holds(row) for row in rows)
    return f"{count} of {len(rows)}" + (f" ({100 * count / len(rows):.0f} %)" if rows else "")


def diverged(line: Line) -> bool:
    return "failure" not in line and not line["long"] <= DIVERGED


def unstable(line: Line) -> bool:
    return "failure" not in line and line["radius"] is not None and line["radius"] > 1 + 1e-9


def asked(rows: list[Row]) -> str:
    """What the benchmark is there to answer."""
    clean = [row for row in rows if row.cell.noise == 0]
    noisy = [row for row in rows if row.cell.noise > 0]
    even = [row for row in noisy if row.cell.symmetric]
    others, structured = rivals(rows), rivals(rows, structured=True)
    if not others or not any(ROLLOUT in row.lines for row in rows):
        return "Nothing to compare: ours or the peers were left out."
    rollouts = [row.lines[ROLLOUT] for row in rows if ROLLOUT in row.lines]

    def first(row: Row, key: str = "short") -> bool:
        return row.within(1.0, ROLLOUT, others, key)

    def close(row: Row, key: str = "short") -> bool:
        return row.within(CLOSE, ROLLOUT, structured, key)

    table = [
        ["noiseless: first in error, L", share(clean, first)],
        ["noiseless: first in error, 16 L", share(clean, lambda row: first(row, "long"))],
        ["10 % noise, symmetric: within 1.5 times the best structured rival, L", share(even, close)],
        ["10 % noise, symmetric: the same, 16 L", share(even, lambda row: close(row, "long"))],
        ["10 % noise: the same, all cells, L", share(noisy, close)],
        ["10 % noise: one step with learned AR within 1.5 times the Kalman filter's", share(noisy, near_floor)],
        ["roll-outs that failed or diverged by 16 L, of all cells", str(sum("failure" in x or diverged(x) for x in rollouts))],
    ]
    return markdown_table(["torchstu", "cells"], table)


def near_floor(row: Row) -> bool:
    return row.error(ONE_STEP, "one_step") <= CLOSE * row.floor


def number(value: float | None) -> str:
    if value is None or value == float("inf"):
        return "-"
    return "≤1e-20" if value <= ROUNDING else ">1e9" if value > 1e9 else f"{value:.1e}"


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def middle_and_most(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})" if values else "-"


def method_table(rows: list[Row]) -> str:
    """A row a method; the median counts a failure as infinite."""
    names, table = present(rows), []
    for name in names:
        lines = [row.lines[name] for row in rows if name in row.lines]
        fitted = [line for line in lines if "failure" not in line]
        applicable = [line for line in lines if not line.get("failure", "").startswith("not applicable")]
        if not applicable:
            continue
        applied = [row for row in rows if name in row.lines and row.lines[name] in applicable]
        late = sum(line.get("failure", "").startswith("fit: over") for line in lines)
        ratios = [row.error(name, "one_step") / row.floor for row in applied] if rows[0].cell.noise else []
        table.append(
            [
                name, str(len(applicable)), number(median([row.error(name) for row in applied])),
                number(median([row.error(name, "long") for row in applied])),
                str(sum(row.within(1.0, name, names) for row in applied)),
                str(sum(row.within(CLOSE, name, names) for row in applied)),
                f"{median(ratios):.2f}" if ratios else "-",
                str(len(applicable) - len(fitted) - late), str(late), str(sum(map(diverged, fitted))),
                str(sum(map(unstable, fitted))),
                middle_and_most([line["seconds"] for line in fitted], 2),
                middle_and_most([line["peak_bytes"] / MIB for line in fitted], 0),
            ]
        )  # fmt: skip
    header = ["", "cells", "error, L", "16 L", "first", "≤ 1.5 best", "one step / floor", "failed", f"> {FIT_SECONDS} s",
              "diverged", "radius > 1", "s", "MiB"]  # fmt: skip
    return markdown_table(header, table)


def cell_table(rows: list[Row]) -> str:
    """A row a cell: ours, the best of all others, the best structured one, one step ahead."""
    everyone, structured = rivals(rows), rivals(rows, structured=True)
    table = []
    for row in rows:
        best, name = row.best(everyone)
        good, which = row.best(structured)
        far, farthest = row.best(everyone, "long")
        shown = [number(row.error(ROLLOUT)), f"{number(best)} {name}", f"{number(good)} {which}"]
        shown += [number(row.error(ROLLOUT, "long")), f"{number(far)} {farthest}"]
        if row.cell.noise:
            step, stepper = row.best(everyone, "one_step")
            shown += [f"{row.error(ONE_STEP, 'one_step') / row.floor:.2f}", f"{step / row.floor:.2f} {stepper}"]
        table.append([row.cell.name, *shown])
    header = ["cell", "torchstu, L", "best rival, L", "best structured, L", "torchstu, 16 L", "best rival, 16 L"]
    header += ["torchstu learned AR, one step / floor", "best rival, one step / floor"] if rows[0].cell.noise else []
    return markdown_table(header, table)


def won_by_others(rows: list[Row]) -> str:
    """Which peers have a smaller error over L steps than ours, and where."""
    wins: dict[tuple[str, float], dict[str, int]] = {}
    for row in rows:
        least, name = row.best(rivals(rows))
        if least < row.error(ROLLOUT):
            counts = wins.setdefault((row.cell.family, row.cell.noise), {})
            counts[name] = counts.get(name, 0) + 1
    lines = []
    for (family, noise), counts in sorted(wins.items()):
        total = sum(row.cell.family == family and row.cell.noise == noise for row in rows)
        names = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda entry: -entry[1]))
        lines.append(f"- {family}, {100 * noise:.0f} % noise: {sum(counts.values())} of {total}: {names}")
    return "\n".join(lines) or "Nowhere."


def failures(rows: list[Row]) -> str:
    why: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, line in row.lines.items():
            if "failure" in line:
                why.setdefault((name, line["failure"]), []).append(row.cell.name)
            elif diverged(line):
                why.setdefault((name, "diverged by 16 L"), []).append(row.cell.name)
    lines = [f"- {name}: {text}: {len(where)} cells, first {where[0]}" for (name, text), where in sorted(why.items())]
    return "\n".join(lines) or "None."


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    rows = rows_of(report)
    families = "; ".join(f"{name}: {text}" for name, text in cells.FAMILIES.items())
    direct, noise = f"{100 * cells.DIRECT_SHARE:.0f} %", f"{100 * cells.NOISE:.0f} %"
    notes = [
        "Training: one recording of L steps from rest, inputs white and Gaussian, observation noise of "
        f"0 or {noise} of the clean output's root mean square.",
        f"Systems: {families}; the largest |λ| is 1-δ; residues Gaussian; the direct term has {direct} of the output's power.",
        "Errors: mean square over that of the target, of the roll-out from rest on fresh inputs against the clean output, "
        f"over L steps ({cells.FRESH_SEQUENCES} sequences) and {cells.LONG} L (one). Below {ROUNDING:.0e} counts as equal, at "
        "rounding, so several methods can be first.",
        "One step: the error of ŷ_t from u up to t and noisy y up to t-1, against the noisy output, over the same of a Kalman "
        "filter told the true system: from rest and without process noise its gain is zero, so that is the noise itself.",
        f"A fit has one core and {FIT_SECONDS} s of processor time; time and memory (peak above what was resident before) "
        "include the choice of orders: median (most).",
        f"Diverged: over 16 L not finite or above {DIVERGED:.0e}. Radius > 1: the spectral radius of the fitted recurrence; "
        "the fixed y-term's is 1.",
        "Every peer is used as its documentation says; `benchmarks/identification/peers.py` tells how orders were chosen.",
    ]
    title = f"## System identification side by side\n\n{environment_line(report['machine'], report['versions'])}"
    listed = "\n".join(f"- {note}" for note in notes)
    parts = [f"{title}\n\n    {report['command']}\n\n{listed}", f"### What was asked\n\n{asked(rows)}"]
    if rivals(rows):
        parts.append(f"### Where a peer's roll-out over L steps is better\n\n{won_by_others(rows)}")
    for title, noisy in (("Noiseless", False), ("10 % observation noise", True)):
        part = [row for row in rows if bool(row.cell.noise) is noisy]
        if part:
            parts += [f"### {title}\n\n{method_table(part)}", f"#### {title}, every cell\n\n{cell_table(part)}"]
    return "\n\n".join([*parts, f"### Failures\n\n{failures(rows)}"])
