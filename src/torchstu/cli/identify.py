"""``torchstu identify``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torchstu.cli.fit import _names
from torchstu.cli.outputs import add_recording, check_file, check_new

EXAMPLE = """\
example:
  torchstu identify plant.csv --inputs valve,heater --outputs temperature --sample-time 0.1 --output plant-model

Prior, number of filters, ridge and y-term are chosen by validation inside the first 75 % of the rows; the last 25 % are seen
once, for the fit in percent and the residual tests. FOLDER appears only on success and holds the STU (model.safetensors,
model.json), system.npz with A, B, C, D of x[t+1] = A x[t] + B u[t], y[t] = C x[t] + D u[t] in the units of the data, and
report.html: fit, residual tests, impulse and frequency response with intervals, poles."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "identify",
        help="identify a linear system from a recording: fit, residual tests, responses, export",
        description="Identify a linear system that gives output columns from input columns, and say how good it is.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recording(parser, "model, system and report")
    parser.add_argument(
        "--sample-time", metavar="SECONDS", type=float, help="between rows (default: unknown, everything is told in steps)"
    )
    parser.add_argument(
        "--length", metavar="L", type=int, help="memory in rows (default: a quarter of those before the test, at most 2048)"
    )
    parser.add_argument(
        "--prior",
        choices=("auto", "positive", "signed"),
        default="auto",
        help="where poles may lie; auto also tries sectors for systems that oscillate (default: %(default)s)",
    )
    parser.add_argument("--order", metavar="N", default="auto", help="states of the exported system, or auto (default: auto)")
    parser.add_argument(
        "--test", metavar="SHARE", type=float, default=0.25, help="of the rows, the last (default: %(default)s)"
    )
    parser.add_argument(
        "--level", type=float, default=0.9, help="probability of the intervals of the responses (default: %(default)s)"
    )
    parser.add_argument(
        "--export", metavar="FILE", help="write the system there too: .npz, .json, or .mat (with the extra control)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read, identify, write the folder, print the fit."""
    folder, order = check_new(arguments.output), _order(arguments.order)
    inputs, outputs = _names("--inputs", arguments.inputs), _names("--outputs", arguments.outputs)
    if arguments.export is not None:
        _check_export(arguments.export)
    sample_time = True if arguments.sample_time is None else arguments.sample_time
    from torchstu.convert.control import check_sample_time
    from torchstu.data.files import read_table

    check_sample_time(sample_time)
    table = read_table(arguments.data, [*inputs, *outputs], arguments.time)

    from torchstu.experiments.identify_report import fit_table, in_plain_words, verdicts
    from torchstu.experiments.identify_series import identify_series
    from torchstu.report.page import format_table

    result = identify_series(
        table.select(inputs),
        table.select(outputs),
        input_names=inputs,
        output_names=outputs,
        order=order,
        prior=arguments.prior,
        length=arguments.length,
        sample_time=sample_time,
        test=arguments.test,
        level=arguments.level,
    )
    write_identified(folder, result, Path(arguments.data).name, arguments.time, table.time, arguments.export)
    fits, tests = fit_table(result), verdicts(result)
    print(f"{in_plain_words(result)}\n\nfit on the last {len(result.target)} rows\n")
    print(format_table(fits.header, fits.rows))
    print("\nresiduals on them\n")
    print(format_table(tests.header, tests.rows))
    if arguments.export is not None:
        print(f"\n{arguments.export}")
    print(f"\n{folder / 'report.html'}")


def write_identified(folder: Path, result: Any, data: str, time_name: str | None, time: Any, export: str | None) -> None:
    """The folder, and the system once more where it was asked for; nothing of both if something fails."""
    from torchstu.convert.system_files import write_system
    from torchstu.experiments.identify_report import report_sections
    from torchstu.models.store import new_folder, write_model
    from torchstu.report.page import write_report

    names = result.model
    facts = {
        "sample_time": result.sample_time,
        "input_names": names.input_names,
        "output_names": names.output_names,
        "input_level": result.input_level,
        "output_level": result.output_level,
    }
    settings = result.settings | {"time": time_name, "sample_time": result.sample_time}
    title = f"{', '.join(names.output_names)} from {', '.join(names.input_names)}"
    rows = f"{result.test_start} rows, measured on the {len(result.target)} rows after them"
    lead = f"{data}: a linear system identified from {rows}."
    fits = [
        {"model": row.model, "output": row.output, "rollout": _json(row.rollout), "one_step": _json(row.one_step)}
        for row in result.fits
    ]
    with new_folder(folder) as draft:
        write_model(draft, names.regressor.layer, {"series": names.to_dict(), "settings": settings, "fit_percent": fits})
        write_system(draft / "system.npz", result.system, **facts)
        write_report(draft / "report.html", title, lead, report_sections(result, time_name, time))
        if export is not None:
            write_system(export, result.system, **facts)


def _json(value: float | None) -> float | None:
    import math

    return value if value is not None and math.isfinite(value) else None


def _order(value: str) -> Any:
    if value == "auto":
        return value
    try:
        order = int(value)
    except ValueError:
        order = 0
    if not 1 <= order <= 200:
        raise ValueError(f"--order: {value!r}; it must be auto or a number from 1 to 200")
    return order


def _check_export(path: str) -> None:
    if not path.lower().endswith((".npz", ".json", ".mat")):
        raise ValueError(f"--export: {path!r}; it must end in .npz, .json or .mat")
    check_file(path, "")
    if path.lower().endswith(".mat"):
        from torchstu.extras import require

        require("control", "scipy.io")
