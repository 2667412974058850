"""``torchstu fit``."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstu.cli.outputs import add_recording, check_new

if TYPE_CHECKING:
    from torchstu.experiments.series import FitResult
    from torchstu.report.page import Section, Table

EXAMPLE = """\
example:
  torchstu fit weather.csv --inputs global_irradiance,wind_speed --outputs temperature \\
      --time time --output weather-model

The rows are split by time: 70 % training, 15 % validation, 15 % test. Settings are chosen on the validation rows and as many
before them, each block predicted from the rows before it; the table is measured on the test rows. FOLDER appears only on
success and holds model.safetensors, model.json and report.html.
An error of 1 is what the mean of the test rows gets, 0 is perfect."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "fit",
        help="fit an STU to a CSV or Parquet file, beside three baselines",
        description="Fit a spectral transform unit that predicts output columns from input columns, and compare it with\n"
        "persistence, a plain autoregression and a linear regression on input lags.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recording(parser, "model and report")
    parser.add_argument(
        "--length", metavar="L", type=int, help="memory in rows (default: a quarter of the training rows, at most 2048)"
    )
    parser.add_argument("--filters", metavar="K", type=int, help="number of filters (default: chosen among 8, 16 and 24)")
    parser.add_argument("--method", choices=("closed-form", "gradient"), default="closed-form", help="(default: %(default)s)")
    parser.add_argument(
        "--autoregression",
        choices=("auto", "fixed", "learned", "none"),
        default="auto",
        help="the y-term; auto chooses on the validation rows (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of --method gradient (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of --method gradient (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read, fit, print the table, write the folder."""
    folder = check_new(arguments.output)
    inputs, outputs = _names("--inputs", arguments.inputs), _names("--outputs", arguments.outputs)
    from torchstu.data.files import read_table

    table = read_table(arguments.data, [*inputs, *outputs], arguments.time)

    from torchstu.experiments.fitting import fit_series
    from torchstu.models.store import new_folder, write_model
    from torchstu.report.page import format_table, write_report

    result = fit_series(
        table.select(inputs),
        table.select(outputs),
        input_names=inputs,
        output_names=outputs,
        method=arguments.method,
        length=arguments.length,
        num_filters=arguments.filters,
        autoregression=arguments.autoregression,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    settings = result.settings | {"time": arguments.time}
    title = f"{', '.join(outputs)} from {', '.join(inputs)}"
    lead = (
        f"{Path(arguments.data).name}: a spectral transform unit fitted to {result.test_start} rows, "
        f"measured on the {len(result.target)} rows after them."
    )
    with new_folder(folder) as draft:
        write_model(draft, result.model.regressor.layer, result.extra() | {"settings": settings})
        write_report(draft / "report.html", title, lead, report_sections(result, arguments.time, table.time))
    errors = error_table(result)
    print(f"error on the last {len(result.target)} rows, relative to their variance\n")
    print(format_table(errors.header, errors.rows))
    print(f"\n{folder / 'report.html'}")


def error_table(result: FitResult) -> Table:
    """The errors on the test rows."""
    from torchstu.report.page import Table

    return Table(("model", "one step ahead", "roll-out", "settings"), result.errors)


def report_sections(result: FitResult, time_name: str | None, time: Any) -> list[Section]:
    """The report of a fit: errors, pictures of the test rows, the response, what was tried."""
    from torchstu.experiments.candidates import in_words
    from torchstu.learn.diagnostics import feedback_radius
    from torchstu.report.page import Section, Table

    tried = Table(("model", "one step ahead", "roll-out", "settings"), result.validation)
    facts = [(name, in_words(value)) for name, value in result.settings.items() if name != "rows"]
    if result.model.regressor.layer.M_y is not None:
        facts.append(
            ("spectral radius of the y-term (above 1 a roll-out grows)", f"{feedback_radius(result.model.regressor.layer):.6f}")
        )
    facts += [(f"{part} rows", str(count)) for part, count in result.settings["rows"].items()]
    return [
        Section(
            "Errors on the test rows",
            "Mean squared error over the variance of the test rows: 0 is perfect, 1 is what their mean gets. One step ahead: "
            "with the true outputs up to the row before. Roll-out: from the inputs alone, after the rows before the test part.",
            table=error_table(result),
        ),
        *_pictures(result, time_name or "row", time),
        Section("Settings", table=Table(("setting", "value"), facts)),
        Section(
            "What was tried",
            "Errors on the validation rows and as many before them, each block predicted from the rows before it: geometric "
            "means. The smallest product of both decided.",
            table=tried,
        ),
    ]


def _pictures(result: FitResult, xlabel: str, time: Any) -> list[Section]:
    import numpy as np

    from torchstu.learn.diagnostics import impulse_response
    from torchstu.report.figures import figure_or_note
    from torchstu.report.page import Section

    x = np.arange(result.test_start, result.test_start + len(result.target)) if time is None else time[result.test_start :]
    sections, close = [], slice(0, 200)
    for i, name in enumerate(result.model.output_names):
        measured, rollout, one_step = (a[:, i] for a in (result.target, result.rollout, result.one_step))
        whole = {"measured": (x, measured), "roll-out": (x, _drawable(rollout))}
        near = {"measured": (x[close], measured[close]), "roll-out": (x[close], _drawable(rollout)[close])}
        (near if len(x) > close.stop else whole)["one step ahead"] = (x[close], one_step[close])
        sections.append(Section(f"{name}, the test rows", **figure_or_note(series=whole, xlabel=xlabel, ylabel=name)))
        if len(x) > close.stop:
            title = f"{name}, the first {close.stop} test rows"
            sections.append(Section(title, **figure_or_note(series=near, xlabel=xlabel, ylabel=name)))
    layer = result.model.regressor.layer
    response = impulse_response(layer, layer.length).numpy()  # (L, D_out, D_in)
    lines = {
        f"{source} to {target}": (np.arange(1, len(response) + 1), _drawable(response[:, o, i]))
        for o, target in enumerate(result.model.output_names)
        for i, source in enumerate(result.model.input_names)
    }
    text = "What one pulse at an input does to an output, in standard deviations of each, over the memory of the model."
    figure = figure_or_note(series=lines, xlabel="rows, the pulse at 1", ylabel="response", logx=True)
    return [*sections, Section("Impulse response", text, **figure)]


def _drawable(values: Any) -> Any:
    """A diverging line, without the part that would flatten everything else."""
    import numpy as np

    return np.where(np.abs(values) < 1e12, values, np.nan)


def _names(option: str, value: str) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader([value], skipinitialspace=True, strict=True), [])]
    except csv.Error:
        names = []
    if not names or not all(names):
        raise ValueError(f"{option}: {value!r}; it must be column names with commas between, such as a,b")
    for position, name in enumerate(names):
        if names.index(name) != position:
            raise ValueError(f"{option}: {value!r}; column {name!r} is there twice")
    return names
