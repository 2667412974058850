"""``torchstu stream``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXAMPLE = """\
example:
  sensor | torchstu stream model --state pump.state | dashboard
  torchstu stream model --input log.csv --follow --output predicted.csv --state log.state

Rows are CSV with a header: the model's input columns, its output columns where they are measured (empty cells are missing),
in any order. Outputs are predicted from the inputs of the row and all rows before: one step ahead where outputs are given,
the roll-out where they are not. With --state a run that was stopped, by SIGTERM or by force, goes on where it was: a FILE
written by --output is then the same as without the stop; on standard output rows that may have been written before have 1 in
the column "repeat"."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "stream",
        help="predict rows as they come",
        description="Predict the outputs of every row with a model that `torchstu fit` wrote, as rows come.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder that `torchstu fit` wrote")
    parser.add_argument("--input", metavar="FILE", help="CSV to read (default: standard input)")
    parser.add_argument("--follow", action="store_true", help="wait for more where FILE ends, until stopped")
    parser.add_argument("--output", metavar="FILE.csv", help="where predictions go (default: standard output)")
    parser.add_argument("--level", type=float, metavar="P", help="share of outputs that intervals hold (default: 0.9; 0: none)")
    parser.add_argument("--state", metavar="FILE", help="where all that is needed to go on is kept")
    parser.add_argument("--save-every", type=float, default=10.0, metavar="SECONDS", help="between two saves (default: 10)")
    parser.add_argument("--on-bad", choices=("skip", "stop"), default="skip", help="rows that cannot be read (default: skip)")
    parser.add_argument("--adapt", action="store_true", help="let weights follow the true outputs, by recursive least squares")
    parser.add_argument(
        "--forgetting", type=float, metavar="G", help="of --adapt: weight of a row against the next (default: 1)"
    )
    parser.add_argument(
        "--report", type=float, metavar="SECONDS", help="say rows, rows/s and latency so often on standard error"
    )
    parser.add_argument(
        "--limit", type=float, default=1e4, metavar="X",
        help="standard deviations from the fit's mean beyond which inputs are malformed and outputs missing (default: 1e4)",
    )  # fmt: skip
    parser.add_argument("--fill-gaps", action="store_true", help="go through rows that are missing by the time column")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run until the input ends or a signal comes."""
    from torchstu.experiments.stream_run import StreamOptions, stream_rows

    if arguments.follow and arguments.input in (None, "-"):
        raise ValueError("--follow: with standard input, which is waited for anyway; it needs --input FILE")
    options = StreamOptions(
        model=arguments.model, input=arguments.input, output=arguments.output, follow=arguments.follow,
        state=arguments.state, level="auto" if arguments.level is None else arguments.level or None, adapt=arguments.adapt,
        forgetting=arguments.forgetting, save_every=arguments.save_every, skip_bad=arguments.on_bad == "skip",
        report_every=arguments.report, limit=arguments.limit, fill_gaps=arguments.fill_gaps,
    )  # fmt: skip
    with _signals() as stopped:
        stream_rows(options, stopped=lambda: bool(stopped), say=lambda line: print(line, file=sys.stderr, flush=True))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and Ctrl-C as numbers in a list, for the loop to end by itself."""
    came: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)

    def note(number: int, _: Any) -> None:
        came.append(number)
        if len(came) > 1:  # who asks twice does not want to wait
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = [signal.signal(kind, note) for kind in kinds]
    try:
        yield came
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
