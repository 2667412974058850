"""Recipes: the frozen settings of an experiment, ``recipes/<name>.toml`` beside its module."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from torchstu.experiments.reproduce.experiment import Experiment, Trial
from torchstu.experiments.reproduce.jsonlines import from_json, to_json

SCALES = ("quick", "full")


def read_recipe(module: str, name: str) -> dict[str, dict[str, Any]]:
    """Both tables of a recipe, in values that JSON has.

    Raises:
        ValueError: no such file, not TOML, a table or its ``seeds`` is missing.
    """
    home = import_module(module).__file__
    path = Path(home or ".").parent / "recipes" / f"{name}.toml"
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"recipe: there is no {path}; it must hold the tables quick and full") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe: {path} is not TOML: {error}") from error
    if set(recipe) != set(SCALES):
        raise ValueError(f"recipe: {path} has {', '.join(sorted(recipe)) or 'nothing'}; it must hold the tables quick and full")
    for scale, settings in recipe.items():
        _check_count(settings.get("seeds") if isinstance(settings, dict) else None, f"recipe: seeds of [{scale}] in {path}", 1)
        recipe[scale] = from_json(to_json(settings, f"{path.name}: {scale}"))
    return recipe


def choose_settings(recipe: dict[str, dict[str, Any]], scale: str, seeds: int | None = None) -> dict[str, Any]:
    """The table of a scale; ``seeds`` repetitions instead of its own.

    Raises:
        ValueError: another scale, or fewer than one repetition.
        TypeError: seeds that are no integer.
    """
    if scale not in SCALES:
        raise ValueError(f"scale: {scale!r}; it must be quick or full")
    if seeds is None:
        return dict(recipe[scale])
    return {**recipe[scale], "seeds": _check_count(seeds, "seeds", 1)}


def make_trials(experiment: Experiment, settings: dict[str, Any], seed: int) -> list[Trial]:
    """The trials, as they are after a round through JSON.

    Raises:
        ValueError: a negative seed, no trials, or one twice.
        TypeError: a seed that is no integer, values that JSON does not have.
    """
    _check_count(seed, "seed", 0)
    lines = [to_json(trial, f"{experiment.name}: trial") for trial in experiment.trials(settings, seed)]
    if not lines:
        raise ValueError(f"{experiment.name}: no trials; there must be one")
    if len(set(lines)) < len(lines):
        raise ValueError(f"{experiment.name}: the trial {max(lines, key=lines.count)} occurs twice; it must occur once")
    return [from_json(line) for line in lines]


def _check_count(value: Any, name: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: {value!r}; it must be an integer of at least {least}")
    if value < least:
        raise ValueError(f"{name}: {value}; it must be at least {least}")
    return value
