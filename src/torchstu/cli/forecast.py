"""``torchstu forecast``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstu.cli.fit import _names
from torchstu.cli.outputs import check_new

if TYPE_CHECKING:
    from torchstu.integrations.sktime.backtest import ForecastResult
    from torchstu.report.page import Section

EXAMPLE = """\
example:
  torchstu forecast load.csv --target load --time hour --horizon 48 --output tomorrow
  torchstu forecast load.csv --target load --time hour --inputs heat --horizon 24 --peer "ThetaForecaster(sp=24)" --output next

The frequency is found in the time column; times that are left out are gaps. Inputs are known ahead: rows after the last
value of the target have them, and no target."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "forecast",
        help="forecast a column of a file, with intervals, and test that on its end",
        description="Forecast a column with SpectralForecaster, after a back-test by rolling origin beside other forecasters.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="CSV (.csv, .csv.gz) or Parquet file with a header")
    parser.add_argument("--target", required=True, metavar="NAME", help="column to forecast; empty cells are missing")
    parser.add_argument("--horizon", required=True, type=int, metavar="STEPS", help="how far")
    parser.add_argument("--time", metavar="NAME", help="column of times; without it rows follow each other")
    parser.add_argument("--inputs", default="", metavar="A,B", help="columns that are known ahead")
    parser.add_argument("--origins", type=int, default=10, metavar="N", help="of the back-test (default: 10)")
    parser.add_argument("--level", type=float, default=0.9, metavar="P", help="share that intervals hold (default: 0.9)")
    parser.add_argument("--peer", action="append", default=[], metavar="WORDS", help="a forecaster of sktime; may be repeated")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="new folder for forecast.csv and report.html")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read, test, forecast, write."""
    folder = check_new(arguments.output)
    inputs = _names("--inputs", arguments.inputs) if arguments.inputs else ()
    from torchstu.data.files import read_table
    from torchstu.extras import require

    require("forecast", "sktime")
    from torchstu.integrations.sktime.backtest import forecast_series, on_grid, times_of
    from torchstu.models.store import new_folder
    from torchstu.report.page import Section, Table, format_table, write_report

    columns = [arguments.target, *inputs]
    table = read_table(arguments.data, columns, arguments.time, missing=columns)
    frame = on_grid(table)
    if gaps := len(frame) - len(table.values):
        print(f"{gaps} of {len(frame)} times are not in the file: taken as missing", file=sys.stderr)
    found = forecast_series(
        frame, arguments.target, arguments.horizon, inputs=inputs, origins=arguments.origins, level=arguments.level,
        peers=arguments.peer, say=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    rows = [(row.model, f"{row.mae:.4g}", f"{row.mase:.3f}", f"{row.seconds:.1f}") for row in found.rows]
    errors = Table(("model", "mean absolute error", "MASE", "seconds"), rows)
    seasons = ", ".join(f"{period:g}" for period in found.periods) or "none"
    lead = (
        f"{Path(arguments.data).name}: {len(found.y)} steps, seasons of {seasons} steps; back-test from {found.origins} "
        f"origins, each {arguments.horizon} steps ahead, fitted once."
    )
    with new_folder(folder) as draft:
        when = times_of(table, found.forecast.index)
        found.forecast.set_axis(when, axis=0).rename_axis("time").to_csv(draft / "forecast.csv")
        pictures = report_sections(found, arguments.target, arguments.time or "row", arguments.level)
        write_report(
            draft / "report.html", f"Forecast of {arguments.target}", lead, [Section("Back-test", table=errors), *pictures]
        )
    print(lead + "\n")
    print(format_table(errors.header, errors.rows))
    print(f"\n{folder / 'report.html'}")


def report_sections(found: ForecastResult, target: str, time: str, level: float) -> list[Section]:
    """The last of the series and its forecast, with intervals."""
    from torchstu.report.figures import figure_or_note
    from torchstu.report.page import Section

    past, ahead = found.y[-4 * len(found.forecast) :], found.forecast
    when = ahead.index.to_numpy()
    figure = figure_or_note(
        series={target: (past.index.to_numpy(), past.to_numpy()), "forecast": (when, ahead["forecast"].to_numpy())},
        bands={"forecast": (when, ahead["lower"].to_numpy(), ahead["upper"].to_numpy())}, xlabel=time, ylabel=target,
    )  # fmt: skip
    return [Section("Forecast", f"With intervals that hold {100 * level:g} % of what comes.", **figure)]
