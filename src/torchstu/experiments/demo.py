"""The tour behind ``torchstu demo``: a system that others cannot learn, then a year of weather, in one report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from torchstu.data.files import weather
from torchstu.experiments.candidates import deep_candidates
from torchstu.experiments.fitting import fit_series
from torchstu.experiments.paper import Setting, error_against_filters, learning_curve
from torchstu.experiments.series import FitResult
from torchstu.extras import MissingExtraError, require
from torchstu.report.figures import figure_or_note
from torchstu.report.page import Section, Table, format_table, write_report
from torchstu.spectral.bounds import eigenvalue_decay
from torchstu.systems.random import Signs, Spectrum, Uniform

COUNTS = (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)
SYSTEMS: dict[str, tuple[Spectrum, int]] = {
    "the paper's system: 4 states, ±0.9999": (Signs(), 4),
    "256 states, ±[0.999, 1]": (Uniform(0.999, 1.0), 256),
}
CURVES = (Setting("STU", 0.2), Setting("LRU", 1e-2, 1e-2))
"""The best settings of the grids in `torchstu.experiments.paper`."""
SAMPLES = 600
INPUTS = ("global_irradiance", "direct_irradiance", "wind_speed", "pressure")


def run(folder: Path, progress: bool = True) -> Path:
    """Run everything, print each table, write ``folder/report.html``; returns its path.

    What needs an extra that is not installed is left out, and said so.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    for title, part in PARTS.items():
        try:
            section = part(title, progress)
        except MissingExtraError as error:
            section = Section(title, note=f"Left out: {error}")
        sections.append(section)
        print(f"\n{section.title}\n")
        if section.table is not None:
            print(format_table(section.table.header, section.table.rows))
        if section.note:
            print(section.note)
    lead = "What fixed spectral filters learn, next to what others do. Every figure was measured while this page was made."
    return write_report(folder / "report.html", "torchstu: the tour", lead, sections).resolve()


def filters_section(title: str, progress: bool) -> Section:
    """Part (a), first half: error of the closed form against the number of filters, beside the theorem's slope."""
    series, rows = {}, []
    for name, (spectrum, states) in SYSTEMS.items():
        errors = error_against_filters(spectrum, states, COUNTS)
        series[name] = (COUNTS, errors)
        rows.append([name, *(float(errors[COUNTS.index(count)]) for count in (8, 12, 16, 20, 24))])
    bound = eigenvalue_decay(1024, COUNTS[-1] + 1)[list(COUNTS)]
    text = (
        "Marginally stable systems, 3 inputs and 3 outputs, learned in closed form from 16 sequences of 1024 steps. The error "
        "is that of the whole roll-out on fresh sequences, over the mean square of the target. Each filter divides it by a "
        "constant; the theorem promises the dashed slope (of an upper bound)."
    )
    figure = figure_or_note(
        series=series,
        references={"the theorem's slope, e^(-π²K / 4 log L)": (COUNTS, bound)},
        xlabel="number of filters K",
        ylabel="relative error of the roll-out",
        logy=True,
    )
    return Section(
        "Error against the number of filters",
        text,
        Table(("system", *(f"K = {k}" for k in (8, 12, 16, 20, 24))), rows),
        **figure,
    )


def learning_section(title: str, progress: bool) -> Section:
    """Part (a), second half: gradient descent on the paper's system and on the larger one, STU beside LRU."""
    require("train", "pytorch_lightning")
    series, rows = {}, []
    for name, (spectrum, states) in SYSTEMS.items():
        for setting in CURVES:
            history = learning_curve(setting, 0, SAMPLES, spectrum, states, progress)
            series[f"{setting.mixer}, {states} states"] = (history.samples, history.errors)
            rows.append([name, setting.mixer, history.errors[-1], f"{setting.learning_rate:g}", round(history.seconds, 1)])
    text = (
        f"The same systems by stochastic gradient descent: {SAMPLES} sequences, each seen once, in float32. STU: 25 filters. "
        "LRU: 64 states on the ring [0.9, 0.999], exponential parameterization, normalization, a smaller rate for its "
        "eigenvalues. Learning rates are the best of six settings each."
    )
    figure = figure_or_note(series=series, xlabel="sequences seen", ylabel="relative error of the roll-out", logy=True)
    header = ("system", "mixer", "error after the last sequence", "learning rate", "seconds")
    return Section(title, text, Table(header, rows), **figure)


def weather_section(title: str, progress: bool) -> Section:
    """Part (b): temperature from irradiance, wind and pressure, on the last 30 % of a year."""
    year = weather()
    inputs, outputs = year.select(list(INPUTS)), year.select(["temperature"])
    try:
        require("train", "pytorch_lightning")
        others = {"SpectralSSM, 2 layers": deep_candidates(steps=150)}
        note = None
    except MissingExtraError as error:
        others, note = {}, f"The two-layer SpectralSSM was left out: {error}."
    result = fit_series(inputs, outputs, validation=0.15, test=0.3, others=others, progress=progress)
    rows = [[row.model, row.one_step, row.rollout, row.settings] for row in result.errors]
    text = (
        "A year of hourly weather at Greensboro, North Carolina (typical meteorological year, NREL). Temperature from "
        "irradiance, direct irradiance, wind speed and pressure on the last 30 % of the year: mean squared error over the "
        "variance there. Roll-out: from those inputs alone after the known past; one step ahead: with true temperatures up to "
        "the hour before (the lagged regression and the deep model do not see them). All were tuned alike on the 30 % of the "
        "year before, in two blocks, over 45 settings each; the deep model over three learning rates."
    )
    picture = _weather_picture(result)
    notes = [words for words in (note, picture.pop("note", None)) if words]
    table = Table(("model", "one step ahead", "roll-out", "settings"), rows)
    return Section(title, text, table, note=" ".join(notes) or None, **picture)


def _weather_picture(result: FitResult) -> dict[str, Any]:
    days = np.arange(len(result.target)) / 24
    lines = {"measured": (days, result.target[:, 0]), "STU, roll-out": (days, result.rollout[:, 0])}
    return figure_or_note(series=lines, xlabel="days into the test part", ylabel="temperature, °C")


PARTS: dict[str, Callable[[str, bool], Section]] = {
    "Error against the number of filters": filters_section,
    "Learning by gradient descent": learning_section,
    "A year of weather": weather_section,
}
