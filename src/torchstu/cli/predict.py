"""``torchstu predict``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchstu.cli.outputs import check_file

if TYPE_CHECKING:
    import numpy as np

    from torchstu.data.files import Table
    from torchstu.experiments.series import SeriesModel

EXAMPLE = """\
example:
  torchstu predict weather-model next-year.csv --output predicted.csv

The roll-out uses the input columns alone and starts from a state of rest. Where DATA has the output columns too, predictions
one step ahead from true past outputs are added, and both errors are printed (0 is perfect, 1 is what the rows' mean gets);
where values of them are missing, the roll-out alone is written."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "predict",
        help="predict with a fitted model",
        description="Predict the outputs of a model that `torchstu fit` wrote, for every row of DATA.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder that `torchstu fit` wrote")
    parser.add_argument("data", metavar="DATA", help="CSV or Parquet file with the model's input columns, rows in time order")
    parser.add_argument("--output", metavar="FILE.csv", help="where the predictions go (default: standard output)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Load, predict, write."""
    if arguments.output is not None:
        check_file(arguments.output, ".csv")
        target, data = Path(arguments.output), Path(arguments.data)
        if target.exists() and data.exists() and target.samefile(data):
            raise ValueError(f"{arguments.output}: is DATA itself; give another file for the predictions")
    from torchstu.experiments.series import load_series_model
    from torchstu.report.page import write_text

    model, settings = load_series_model(arguments.model)
    table, unknown = _read(arguments.data, model, settings.get("time"))
    inputs = table.select(model.input_names)
    predictions, words = {"rollout": model.predict(inputs)}, unknown
    if unknown is None:
        outputs = table.select(model.output_names)
        predictions["one_step"] = model.predict_next(inputs, outputs)
        words = _errors(model, predictions, outputs)
    text = _csv(table, settings.get("time"), model.output_names, predictions)
    if arguments.output is not None:
        write_text(arguments.output, text)
    else:
        sys.stdout.write(text)
    if words:
        print(words, file=sys.stdout if arguments.output else sys.stderr)


def _read(path: str, model: SeriesModel, time: str | None) -> tuple[Table, str | None]:
    """The columns of the model, and None; or those of the inputs, and what to say of the outputs that are not known."""
    from torchstu.data.files import MissingValueError, column_names, read_table

    present = column_names(path)
    time = time if time in present else None
    absent = [name for name in model.output_names if name not in present]
    if absent:
        words = "" if len(absent) == len(model.output_names) else f"no errors: column {absent[0]!r} is not known"
        return read_table(path, model.input_names, time), words
    try:
        return read_table(path, [*model.input_names, *model.output_names], time), None
    except MissingValueError as error:
        if error.column not in model.output_names:
            raise
        return read_table(path, model.input_names, time), f"no errors: column {error.column!r} is not known in all rows"


def _errors(model: SeriesModel, predictions: dict[str, np.ndarray], outputs: np.ndarray) -> str:
    """The table of errors, or why there is none."""
    from torchstu.experiments.series import constant_columns, error_about_mean
    from torchstu.report.page import format_table

    for name, constant in zip(model.output_names, constant_columns(outputs), strict=True):
        if constant:
            return f"no errors: column {name!r} is constant"
    scale, labels = model.output_scaler.std, {"one_step": "one step ahead", "rollout": "roll-out"}
    errors = [(words, error_about_mean(predictions[kind] / scale, outputs / scale)) for kind, words in labels.items()]
    return format_table(("prediction", "error"), errors)


def _csv(table: Table, time: str | None, names: tuple[str, ...], predictions: dict[str, np.ndarray]) -> str:
    import csv
    import io

    import numpy as np

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = [f"{name}_{kind}" for kind in predictions for name in names]
    columns = np.concatenate(list(predictions.values()), axis=1).tolist()
    if table.time is None:
        writer.writerow(header)
        writer.writerows(columns)
        return buffer.getvalue()
    dates = table.time.dtype.kind == "M"
    times = np.datetime_as_string(table.time, unit="auto").tolist() if dates else table.time.tolist()
    writer.writerow([time, *header])
    writer.writerows([when, *row] for when, row in zip(times, columns, strict=True))
    return buffer.getvalue()
