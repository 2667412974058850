"""``torchstu sweep``."""

from __future__ import annotations

import argparse
from typing import Any

from torchstu.cli.train import add_recipe, listing, output_of, overrides_of

EXAMPLE = """\
example:
  torchstu sweep mnist-1d-small --search search.yaml --trials 20 --output my-sweep

search.yaml says what is tried, by key of the recipe:
  optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}
  model.num_layers: [2, 4]

The same command given several times, also on machines that share the folder, works on one study; what was killed is taken
up again. The validation error decides, and ends hopeless trials early. FOLDER gets a run in each trial-0000, and best.yaml,
a recipe for torchstu train."""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "sweep",
        help="search for a better recipe, on any number of processes and machines",
        description="Search over keys of a recipe with Optuna: trials until the study has enough, pruned by validation error.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe(parser)
    parser.add_argument("--search", metavar="SEARCH.yaml", help="what is tried; needed but for --list")
    parser.add_argument("--trials", metavar="N", type=int, default=20, help="that the study shall have (default: %(default)s)")
    parser.add_argument("--sampler-seed", metavar="S", type=int, default=0, help="of what is tried (default: %(default)s)")
    parser.add_argument("--study", metavar="FILE", help="Optuna's journal file (default: study.journal in FOLDER)")
    parser.add_argument(
        "--output", metavar="FOLDER", help="of the trials (default: torchstu-sweep- and the names of the recipes)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """List recipes, or search and print the best trials."""
    if arguments.list:
        print(listing())
        return
    from torchstu.report.page import format_table
    from torchstu.training.sweep import read_search, sweep

    if arguments.search is None:
        raise ValueError("--search: missing; it must be a YAML file that says what is tried")
    output = output_of(arguments, "torchstu-sweep")
    results = sweep(
        arguments.recipes,
        read_search(arguments.search),
        output,
        trials=arguments.trials,
        overrides=overrides_of(arguments),
        study=arguments.study,
        seed=arguments.sampler_seed,
        progress=lambda line: print(line, flush=True),
    )
    keys = list(results[0].values)
    rows = [
        (
            f"trial-{r.number:04d}",
            r.state,
            "" if r.error is None else f"{r.error:.6g}",
            *(r.values.get(key, "") for key in keys),
        )
        for r in results[:10]
    ]
    print("\n" + format_table(("trial", "state", "validation error", *keys), rows))
    print(f"\n{output / 'best.yaml'}" if results[0].error is not None else "\nno trial has a validation error")
