"""``torchstu predict``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from torchstu.cli.outputs import check_writable

if TYPE_CHECKING:
    import numpy as np

    from torchstu.data.files import Table

EXAMPLE = """\
example:
  torchstu predict weather-model next-year.csv --output predicted.csv

The roll-out uses the input columns alone and starts from a state of rest. Where DATA has the output columns too, predictions
one step ahead from true past outputs are added, and both errors are printed (0 is perfect, 1 is what the rows' mean gets)."""


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
        check_writable(arguments.output)
    from torchstu.data.files import column_names, read_table
    from torchstu.experiments.series import error_about_mean, load_series_model
    from torchstu.report.page import format_table, write_text

    model, settings = load_series_model(arguments.model)
    present = column_names(arguments.data)
    known = all(name in present for name in model.output_names)
    time = settings.get("time")
    columns = [*model.input_names, *(model.output_names if known else ())]
    table = read_table(arguments.data, columns, time if time in present else None)
    inputs = table.select(model.input_names)
    predictions, errors = {"rollout": model.predict(inputs)}, []
    if known:
        outputs = table.select(model.output_names)
        predictions["one_step"] = model.predict_next(inputs, outputs)
        scale = model.output_scaler.std
        labels = {"one_step": "one step ahead", "rollout": "roll-out"}
        errors = [(labels[kind], error_about_mean(predictions[kind] / scale, outputs / scale)) for kind in labels]
    text = _csv(table, time, model.output_names, predictions)
    if arguments.output is not None:
        write_text(arguments.output, text)
    else:
        sys.stdout.write(text)
    if errors:
        print(format_table(("prediction", "error"), errors), file=sys.stdout if arguments.output else sys.stderr)


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
