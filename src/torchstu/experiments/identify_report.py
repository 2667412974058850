"""The page of an identified recording: fit, residual tests, responses, poles, and what was tried, in words and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from torchstu.experiments.candidates import in_words
from torchstu.experiments.identify_series import ONE_STEP, TEST_LEVEL, IdentifiedSeries
from torchstu.extras import MissingExtraError
from torchstu.report.figures import Panel, draw, figure_or_note
from torchstu.report.page import Section, Table
from torchstu.systems.lds import LDS

MOST_PAIRS = 12
"""Input-output pairs that are drawn; the files hold all."""
MOST_POLES = 40
MOST_DRAWN = 2000  # rows of a picture


def report_sections(result: IdentifiedSeries, time_name: str | None = None, time: Any = None) -> list[Section]:
    """The report, in the order in which an engineer asks."""
    return [
        Section(
            "Fit on the test rows",
            "Fit in percent, 100 (1 - ‖y - ŷ‖ / ‖y - mean‖): 100 is perfect, 0 is what the mean of the test rows gets. "
            "Roll-out: from the inputs alone. One step ahead: with the true outputs up to the row before; where another STU "
            f"did that better on validation rows, it has a line of its own.\n\n{in_plain_words(result)}",
            table=fit_table(result),
        ),
        *_rows_pictures(result, time_name, time),
        *residual_sections(result),
        *_response_sections(result),
        poles_section(result.system, result.sample_time),
        _levels_section(result),
        Section("Settings", table=Table(("setting", "value"), _settings_rows(result))),
        Section(
            "What was tried",
            "Squared errors on validation rows inside the identification rows, over the mean square there. The smallest "
            "roll-out error decided between them; then the models were fitted again to all identification rows.",
            table=Table(("model", "roll-out", "one step ahead"), [tuple(trial) for trial in result.identification.tried]),
        ),
    ]


def fit_table(result: IdentifiedSeries) -> Table:
    """Percent by model and output."""
    cells = [(row.model, row.output, _percent(row.rollout), _percent(row.one_step)) for row in result.fits]
    return Table(("model", "output", "roll-out, %", "one step ahead, %"), cells)


def in_plain_words(result: IdentifiedSeries) -> str:
    """What was chosen."""
    chosen, ridge = result.settings, result.settings["ridge"]
    term = {None: "no y-term", "fixed": "the fixed y-term", "learned": "a learned y-term"}[chosen["autoregression"]]
    term += f" (preconditioning of degree {chosen['preconditioning']})" if chosen["preconditioning"] else ""
    better = "the STU" if result.best == "regressor" else "the system"
    states = f"{chosen['order']} state{'' if chosen['order'] == 1 else 's'}"
    how = "fitted to the roll-out" if result.origin == "refined" else "reduced from the STU's response"
    return (
        f"The STU has the prior {chosen['prior']}, {chosen['filters']} filters, a memory of {chosen['memory']} rows, {term} "
        f"and {f'a ridge of {ridge:.2g}' if ridge else 'no ridge'}. The system for export has {states}, "
        f"{how}. "
        f"On validation rows inside the identification rows {better} was the better of the two."
    )


def verdicts(result: IdentifiedSeries) -> Table:
    """One line a test: what was looked at, the p-value, what it says."""
    rows: list[tuple[Any, ...]] = []
    names = result.model
    for model, tests in result.residuals.items():
        for o, output in enumerate(names.output_names):
            for i, source in enumerate(names.input_names):
                passed = bool(tests.inputs.passed[o, i])
                words = "nothing left" if passed else "something of this input is left: the response is not all there"
                rows.append((f"{model}: roll-out of {output}", f"past of {source}", float(tests.inputs.p_value[o, i]), words))
            white = bool(tests.own_past.passed[o])
            words = (
                "white: as measurement noise alone"
                if white
                else "coloured: disturbances inside the process, or a wrong response"
            )
            rows.append((f"{model}: roll-out of {output}", "own past", float(tests.own_past.p_value[o]), words))
    predictor = ONE_STEP if any(row.model == ONE_STEP for row in result.fits) else "STU"
    for o, output in enumerate(names.output_names):
        white = bool(result.one_step_own_past.passed[o])
        words = "white: nothing more to predict from it" if white else "coloured: past outputs could tell more"
        rows.append((f"{predictor}: one step of {output}", "own past", float(result.one_step_own_past.p_value[o]), words))
    return Table(("residual", "against its", "p-value", "says"), rows)


def residual_sections(result: IdentifiedSeries) -> list[Section]:
    """Tables and pictures of the residual tests."""
    text = (
        f"If nothing is left, a p-value is below {1 - TEST_LEVEL:.2g} once in {1 / (1 - TEST_LEVEL):.0f} tests. The test that "
        "counts for a roll-out is the one against the inputs: what is left there is a wrong or too short response, or one that "
        "is not linear. Roll-out residuals that are coloured by themselves are no fault of the response where disturbances act "
        "inside the process. With many rows even a small error is found: the fit in percent says how large it is."
    )
    sections = [Section("Residual tests on the test rows", text, table=verdicts(result))]
    for model, tests in result.residuals.items():
        panels = []
        for o, output in enumerate(result.model.output_names):
            panels.append(_correlogram(f"{output}, with its own past", tests.own_past, (slice(None), o)))
            for i, source in enumerate(result.model.input_names):
                panels.append(_correlogram(f"{output}, with the past of {source}", tests.inputs, (slice(None), o, i)))
        title = f"Correlations of the roll-out's residuals: {model}"
        text = f"Shaded: the band that holds {TEST_LEVEL:.0%} of the correlations if nothing is left."
        sections.append(Section(title, text, **_drawn(panels[: 2 * MOST_PAIRS])))
    return sections


def poles_section(system: LDS, sample_time: float | bool) -> Section:
    """The eigenvalues of A as an engineer reads them."""
    return Section(
        "Poles of the system",
        "Eigenvalues λ of A, the slowest first; a pair of complex ones is one line.",
        table=Table(_POLE_HEADER[sample_time is True], list(_poles(system, sample_time))[:MOST_POLES]),
    )


_POLE_HEADER = {
    True: ("|λ|", "angle, rad", "time constant, steps", "frequency, cycles per step", "damping"),
    False: ("|λ|", "angle, rad", "time constant, s", "frequency, Hz", "damping"),
}


def _poles(system: LDS, sample_time: float | bool) -> Iterator[tuple[Any, ...]]:
    values = system.eigenvalues()
    step = 1.0 if sample_time is True else float(sample_time)
    for value in sorted(values[values.imag >= 0].tolist(), key=abs, reverse=True):
        size, angle = abs(value), math.atan2(value.imag, value.real)
        decay = -math.log(size) if size > 0 else math.inf
        constant = "none" if decay == 0 else step / decay
        damping = 1.0 if math.isinf(decay) else decay / math.hypot(decay, angle) if decay or angle else 0.0
        yield f"{size:.6f}", float(angle), constant, angle / (2 * math.pi * step), float(damping)


def _percent(value: float | None) -> str:
    """A fit in percent as text; a model that is far worse than the mean need not say by how much."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value > -1e4 else "diverged" if math.isinf(value) else "below -10000"


def _correlogram(title: str, test: Any, index: Any) -> Panel:
    lags = test.lags.numpy()
    edge = np.full(len(lags), test.band)
    return Panel(
        {"correlation": (lags, test.correlations[index].numpy())},
        xlabel="lag, rows",
        title=title,
        bands={"correlation": (lags, -edge, edge)},
    )


def _rows_pictures(result: IdentifiedSeries, time_name: str | None, time: Any) -> Iterator[Section]:
    count, start = len(result.target), result.test_start
    if time is not None:
        x, xlabel = time[start:], time_name or "time"
    elif result.sample_time is True:
        x, xlabel = np.arange(start, start + count), "row"
    else:
        x, xlabel = np.arange(start, start + count) * result.sample_time, "seconds"
    shown = slice(0, MOST_DRAWN)
    for j, name in enumerate(result.model.output_names):
        series = {"measured": (x[shown], result.target[shown, j])}
        for model, rollout in result.rollouts.items():
            values = rollout[shown, j]
            series[f"roll-out, {model}"] = (x[shown], np.where(np.abs(values) < 1e12, values, np.nan))
        which = "the test rows" if count <= MOST_DRAWN else f"the first {MOST_DRAWN} of {count} test rows"
        yield Section(f"{name}, {which}", **figure_or_note(series=series, xlabel=xlabel, ylabel=name))


def _response_sections(result: IdentifiedSeries) -> list[Section]:
    found, step = result.responses, 1.0 if result.sample_time is True else float(result.sample_time)
    unit, cycles = ("steps", "cycles per step") if result.sample_time is True else ("seconds", "Hz")
    times = np.arange(len(found.system_impulse)) * step
    impulse, gain, phase = [], [], []
    for title, o, i in _pairs(result):
        own, low, high = (part[:, o, i].numpy() for part in found.impulse)
        impulse.append(
            Panel(
                {"STU": (times, own), "system": (times, found.system_impulse[:, o, i].numpy())},
                xlabel=f"{unit} after the pulse",
                title=title,
                bands={"STU": (times, low, high)},
            )
        )
        f, spectrum = found.frequencies, found.spectrum
        size = spectrum.response[:, o, i].abs().numpy()
        low, high = spectrum.lower[:, o, i].numpy(), spectrum.upper[:, o, i].numpy()
        lines = {"STU": (f, size), "system": (f, found.system_spectrum[:, o, i].abs().numpy())}
        bands = {"STU": (f, np.maximum(low, 1e-2 * size), high)}  # a logarithmic axis has no zero
        gain.append(Panel(lines, xlabel=cycles, title=f"{title}: gain", logx=True, logy=True, bands=bands))
        angle = np.unwrap(np.angle(spectrum.response[:, o, i].numpy()))
        other = np.unwrap(np.angle(found.system_spectrum[:, o, i].numpy()))
        other += 2 * np.pi * np.round((angle[0] - other[0]) / (2 * np.pi))
        half = spectrum.phase[:, o, i].numpy()
        bands = {"STU": (f, angle - half, angle + half)}
        phase.append(
            Panel(
                {"STU": (f, angle), "system": (f, other)}, xlabel=cycles, title=f"{title}: phase, rad", logx=True, bands=bands
            )
        )
    left_out = len(result.model.input_names) * len(result.model.output_names) - len(impulse)
    note = f" Drawn for the first {MOST_PAIRS} pairs; {left_out} are left out." if left_out > 0 else ""
    shaded = f"Shaded: {found.level:.0%} intervals of the STU, point by point, for noise that is alike at all rows."
    return [
        Section(
            "Impulse response", f"Output units for a pulse of one input unit, one row long. {shaded}{note}", **_drawn(impulse)
        ),
        Section(
            "Frequency response",
            f"Output units per input unit. {shaded} Where the gain is no larger than its uncertainty, both intervals are "
            f"approximate.{note}",
            **_drawn([panel for pair in zip(gain, phase, strict=True) for panel in pair]),
        ),
    ]


def _pairs(result: IdentifiedSeries) -> list[tuple[str, int, int]]:
    names = result.model
    pairs = [
        (f"{source} to {target}", o, i)
        for o, target in enumerate(names.output_names)
        for i, source in enumerate(names.input_names)
    ]
    return pairs[:MOST_PAIRS]


def _levels_section(result: IdentifiedSeries) -> Section:
    names = result.model
    rows = [(f"input {name}", float(value)) for name, value in zip(names.input_names, result.input_level, strict=True)]
    rows += [(f"output {name}", float(value)) for name, value in zip(names.output_names, result.output_level, strict=True)]
    text = (
        "Means are not explained, only deviations: y - y_0 = G (u - u_0). u_0 is the mean of the inputs over the "
        "identification rows, y_0 the output at that input that fits those rows best. The exported system is G; its file "
        "holds both levels."
    )
    return Section("Levels", text, table=Table(("channel", "level"), rows))


def _settings_rows(result: IdentifiedSeries) -> list[tuple[str, str]]:
    rows = [(name, in_words(value)) for name, value in result.settings.items() if name != "rows"]
    return rows + [(f"{part} rows", str(count)) for part, count in result.settings["rows"].items()]


def _drawn(panels: list[Panel]) -> dict[str, Any]:
    """A figure, or without matplotlib a note."""
    try:
        return {"figure": draw(panels)}
    except MissingExtraError:
        return figure_or_note(series={})
