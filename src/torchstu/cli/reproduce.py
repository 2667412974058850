"""``torchstu reproduce``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLE = """\
example:
  torchstu reproduce paper-lds paper-filters --quick --output my-results

A run that was stopped, even by a kill, goes on when the same command is given again. FOLDER/NAME/results.jsonl has one line a
trial: two runs with one seed on one machine write the same bytes, on any number of processes or Ray workers. FOLDER/report.html
shows everything in FOLDER; its path is the last line printed."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "reproduce",
        help="run the named experiments: STU beside S4, S4D, DSS, LRU and others; resumable; one report",
        description="Run named experiments with frozen settings, on all cores or a Ray cluster, and write one report.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="experiments, or all; --list names them")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", dest="scale", action="store_const", const="quick", help="minutes each (the default)")
    scale.add_argument("--full", dest="scale", action="store_const", const="full", help="hours: more seeds, longer, finer")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where results are or go (default: torchstu-reproduce-quick or -full)"
    )
    parser.add_argument("--processes", metavar="N", type=int, help="trials at once (default: one a core)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, or local for one on this machine")
    parser.add_argument("--seed", metavar="S", type=int, help="base seed (default: 0)")
    parser.add_argument("--seeds", metavar="N", type=int, help="repetitions (default: what the recipe says)")
    parser.add_argument("--list", action="store_true", help="print the experiments and leave")
    parser.add_argument("--report-only", action="store_true", help="make report and tables again from the results in FOLDER")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """List, report, or run experiments."""
    if arguments.list:
        _refuse(arguments, "--list", "names", "scale", "output", "processes", "ray", "seed", "seeds", "report_only")
        print(_listing())
        return
    from torchstu.experiments.reproduce.pages import finished_stores, tables_text, write_pages
    from torchstu.experiments.reproduce.registry import load, resolve

    scale = arguments.scale or "quick"
    if arguments.output == "":
        raise ValueError("--output: '' is no name; give a folder")
    output = Path(arguments.output or f"torchstu-reproduce-{scale}")
    if arguments.report_only:
        _refuse(arguments, "--report-only", "processes", "ray", "seed", "seeds")
        if arguments.output is not None:
            _refuse(arguments, "--report-only with --output", "scale")
        if arguments.names:
            names = [load(module).name for module in resolve(arguments.names)]
        else:
            names = [store.folder.name for store in finished_stores(output)]
        tables, report = tables_text(output, names), write_pages(output)
    else:
        from torchstu.experiments.reproduce.runner import reproduce

        options = {name: getattr(arguments, name) for name in ("processes", "ray", "seeds")}
        report = reproduce(arguments.names, scale=scale, output=output, seed=arguments.seed or 0, **options)
        tables = tables_text(output, [load(module).name for module in resolve(arguments.names)])
    print(f"{tables}\n\n{report}")


def _listing() -> str:
    from torchstu.experiments.reproduce.recipes import SCALES, read_recipe
    from torchstu.experiments.reproduce.registry import MODULES, load
    from torchstu.report.page import format_table

    rows = []
    for name, module in MODULES.items():
        recipe = read_recipe(module, name)
        rows.append((name, load(module).question, *(recipe[scale]["seeds"] for scale in SCALES)))
    return format_table(("name", "question", *(f"seeds, {scale}" for scale in SCALES)), rows)


def _refuse(arguments: argparse.Namespace, option: str, *others: str) -> None:
    for name in others:
        value = getattr(arguments, name)
        if value is not None and value is not False and value != []:
            words = {"names": "NAME", "scale": "--quick or --full"}.get(name, "--" + name.replace("_", "-"))
            raise ValueError(f"{option}: given with {words}; it must be given without")
