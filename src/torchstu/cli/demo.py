"""``torchstu demo``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "demo",
        help="learn a marginally stable system and a year of weather; writes one report",
        description="Learn a marginally stable system to the last digits, beside an LRU that fails, and a year of hourly\n"
        "weather beside three baselines. Takes a few minutes on two cores; the last line printed is the path of the report.",
        epilog="example:  torchstu demo --output my-demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", metavar="FOLDER", default="torchstu-demo", help="where the report goes (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the demo and print the path of its report."""
    from torchstu.experiments.demo import run as run_demo

    print(run_demo(Path(arguments.output), progress=True))
