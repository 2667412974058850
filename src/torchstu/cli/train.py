"""``torchstu train``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchstu.training.recipe import Recipe

EXAMPLE = """\
example:
  torchstu train mnist-1d-small mixers/lru-small --output my-run --training.steps 500 --seed 1

A RECIPE is a YAML file or the name of one that ships with the package (--list). Later ones go over earlier ones, and every
key can be given by its path, as --model.d_model 64, --data.options.folder FOLDER or --pooling last. FOLDER gets recipe.yaml
(everything written out), checkpoints/, metrics.csv, tensorboard/, model/, results.json and card.md. A run that was stopped
goes on with the same command and --resume. On several machines: torchrun --nnodes N --nproc-per-node P
-m torchstu.cli.main train ..., with --training.nodes N --training.devices P."""


def join_overrides(argv: Sequence[str]) -> list[str]:
    """``--KEY.KEY VALUE`` as ``--set=KEY.KEY=VALUE`` in the command lines of train, sweep and lm; others as they are."""
    if not argv or argv[0] not in ("train", "sweep", "lm"):
        return list(argv)
    joined, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        match = re.fullmatch(r"--([A-Za-z_]+(?:\.[^.=\s]+)+)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            joined.append(word)
        elif match[2] is not None or not rest or rest[0].startswith("--"):
            joined.append(f"--set={match[1]}" + ("" if match[2] is None else f"={match[2]}"))
        else:
            joined.append(f"--set={match[1]}={rest.pop(0)}")
    return joined


def add_recipe(parser: Any) -> None:
    """The arguments that say what is to be trained."""
    parser.add_argument(
        "recipes", metavar="RECIPE", nargs="*", help="YAML files, or names of shipped recipes; --list names them"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a key of the recipe; --KEY.KEY VALUE is the same"
    )
    parser.add_argument("--pooling", metavar="WORD", help="the recipe's pooling: mean, last or attention")
    parser.add_argument("--seed", metavar="S", help="the recipe's seed")
    parser.add_argument("--list", action="store_true", help="print the shipped recipes and leave")


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "train",
        help="train a deep model from a recipe, with checkpoints, logs and a model card",
        description="Train a deep model from a recipe: data, model, optimizer and trainer in one YAML file. What that will\n"
        "cost is printed first.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe(parser)
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder of the run (default: torchstu- and the names of the recipes)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER, if there is one")
    parser.add_argument("--dry-run", action="store_true", help="check the recipe, print what it will cost, and leave")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """List recipes, or say what one costs and train it."""
    if arguments.list:
        print(listing())
        return
    from torchstu.training.checkpoints import RunFolder
    from torchstu.training.checks import check_fit, check_recipe
    from torchstu.training.cost import recipe_cost, recipe_for_cost
    from torchstu.training.loaders import load_data
    from torchstu.training.run import train
    from torchstu.training.strategies import is_first_process

    recipe = recipe_of(arguments)
    output = output_of(arguments, "torchstu")
    check_recipe(recipe)
    first, whole = is_first_process(), None
    if first and not arguments.dry_run:
        RunFolder(output).check(recipe, arguments.resume)
    if first and not (output / "results.json").exists():
        measured = recipe_for_cost(recipe)
        data = load_data(measured)
        check_fit(recipe, data)
        print(recipe_cost(recipe, data), flush=True)
        whole = data if measured == recipe else None
    if arguments.dry_run:
        return
    result = train(recipe, output, data=whole, resume=arguments.resume)
    if first:
        if result.finished_before:
            print("finished already")
        if result.ended:
            print(result.ended)
        print(f"test error  {'not finite' if result.test_error is None else f'{result.test_error:.6g}'}")
        print(output / "card.md")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe of a command line.

    Raises:
        ValueError, FileNotFoundError: as `torchstu.training.recipe_file.read_recipe`; an override without a value.
    """
    from torchstu.training.recipe_file import read_recipe

    return read_recipe(arguments.recipes, overrides_of(arguments))


def overrides_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys given on a command line; values are read as YAML."""
    from torchstu.training.recipe_file import parse_yaml

    values: dict[str, Any] = {}
    top = [f"{key}={getattr(arguments, key)}" for key in ("pooling", "seed") if getattr(arguments, key) is not None]
    for word in [*arguments.set, *top]:
        key, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{key}: no value; it must be given one, as --{key} VALUE")
        if key in values:
            raise ValueError(f"{key}: is given twice; it must be given once")
        values[key] = parse_yaml(text, key)
    return values


def output_of(arguments: argparse.Namespace, prefix: str) -> Path:
    """The folder asked for, or one named after the recipes.

    Raises:
        ValueError: an empty name, or something there that is no folder.
    """
    if arguments.output == "":
        raise ValueError("--output: '' is no name; give a folder")
    output = Path(arguments.output or "-".join([prefix, *(Path(name).stem for name in arguments.recipes)]))
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {str(output)!r} is a file; it must be a folder, or nothing yet")
    return output


def listing() -> str:
    """The shipped recipes with a line on each."""
    from torchstu.report.page import format_table
    from torchstu.training.recipe_file import shipped_recipes

    return format_table(("recipe", "what it is"), list(shipped_recipes().items()))
