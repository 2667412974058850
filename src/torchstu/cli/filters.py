"""``torchstu filters``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchstu.cli.outputs import check_file

if TYPE_CHECKING:
    from torchstu.report.figures import Panel
    from torchstu.spectral.filters import FilterBank

DRAWN = 6
"""Filters that the picture shows: the first ones."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "filters",
        help="look at a filter bank",
        description="Print the eigenvalues of a bank of spectral filters, and draw the bank.",
        epilog="example:  torchstu filters --length 4096 --count 32 --output bank.svg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", metavar="L", type=int, default=1024, help="steps of the filters (default: %(default)s)")
    parser.add_argument("--count", metavar="K", type=int, default=24, help="number of filters (default: %(default)s)")
    parser.add_argument("--prior", choices=("positive", "signed"), default="positive", help="(default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="draw into this .svg or .html file")
    parser.add_argument("--clear-cache", action="store_true", help="delete the filters kept on disk, and do nothing else")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print a bank, and draw it where asked."""
    if arguments.clear_cache:
        from torchstu.spectral.cache import cache_folder, clear

        print(f"{cache_folder()}: {clear() / 2**20:.1f} MB freed")
        return
    if arguments.output is not None:
        check_file(arguments.output, ".svg", ".html")
    from torchstu.report.page import format_table
    from torchstu.spectral.filters import filter_bank

    bank = filter_bank(arguments.length, arguments.count, arguments.prior)
    print(format_table(("k", "eigenvalue"), [(k, float(value)) for k, value in enumerate(bank.eigenvalues, 1)]))
    print(f"\nreliable: {bank.reliable} filters at length {bank.length} (prior {arguments.prior!r})")
    if arguments.output is not None:
        print(_draw(bank, arguments.prior, arguments.output))


def _draw(bank: FilterBank, prior: str, path: str) -> str:
    from torchstu.report.figures import draw, standalone
    from torchstu.report.page import Section, write_report, write_text

    panels = _panels(bank)
    if path.lower().endswith(".svg"):
        return str(write_text(path, standalone(draw(panels))))
    lead = f"The {bank.count} leading spectral filters of length {bank.length}, prior {prior!r}."
    sections = [Section(panel.title, figure=draw([replace(panel, title="")], panel.title)) for panel in panels]
    return str(write_report(path, "A filter bank", lead, sections))


def _panels(bank: FilterBank) -> list[Panel]:
    import numpy as np

    from torchstu.report.figures import Panel
    from torchstu.spectral.bounds import eigenvalue_decay

    time, order = np.arange(1, bank.length + 1), np.arange(1, bank.count + 1)
    lines = {f"filter {k}": (time, bank.filters[:, k - 1]) for k in order[:DRAWN]}
    bound = bank.eigenvalues[0] * eigenvalue_decay(max(bank.length, 2), bank.count)
    return [
        Panel(lines, "step (from 1)", "unit-norm filter", f"The first {min(bank.count, DRAWN)} filters", logx=True),
        Panel(
            {"eigenvalues": (order, bank.eigenvalues)},
            "k",
            "eigenvalue",
            "Spectrum",
            logy=True,
            references={"slope of the bound": (order, bound)},
        ),
    ]
