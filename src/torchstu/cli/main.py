"""Entry point of the command ``torchstu``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

from torchstu import __version__
from torchstu.cli import demo, filters, fit, forecast, identify, lm, predict, reproduce, stream, sweep, train
from torchstu.cli.train import join_overrides
from torchstu.extras import MissingExtraError

COMMANDS = (demo, fit, identify, predict, stream, forecast, filters, reproduce, train, sweep, lm)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit 2."""
        sys.stderr.write(f"torchstu: error: {message} (see {self.prog} --help)\n")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="torchstu", description="Spectral state space models: fit, predict, look.")
    parser.add_argument("--version", action="version", version=f"torchstu {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for an error told in one line, 130 for Ctrl-C."""
    try:
        arguments = build_parser().parse_args(join_overrides(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            arguments.run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("torchstu: interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of the output has gone; Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError, OverflowError, MissingExtraError) as error:
        sys.stderr.write(f"torchstu: error: {_one_line(error)}\n")
        return 2
    return 0


def _one_line(error: BaseException) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return f"not enough memory ({first_line}); take a smaller length, batch or fewer filters"
    if isinstance(error, RuntimeError):  # PyTorch's go on for lines
        return first_line
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"torchstu: warning: {' '.join(str(message).split())}\n")


if __name__ == "__main__":
    sys.exit(main())
