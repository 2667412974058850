"""Recipes as YAML files: read, laid over one another, checked, written; those that ship with the package by name.

A recipe may be one file or several, later ones over earlier; single keys go over them all. A layer that names another mixer
or data set drops the options of the one before. Only plain values are read: nothing in a file names code to be run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchstu.data.registry import DATASETS, dataset_function
from torchstu.data.tasks import TASKS
from torchstu.extras import require
from torchstu.layers.registry import MIXERS, make_mixer
from torchstu.training.recipe import DataConfig, Recipe
from torchstu.training.typed import arguments_of, build, check_arguments, join
from torchstu.whole_file import whole_file

RECIPES = Path(__file__).parent / "recipes"
OPTIONS = {"data": ("name", "options"), "model": ("mixer", "mixer_options")}
"""In these parts the first key says what the second one's options are for."""
FROM_MODEL = ("d_in", "d_out", "d_model", "length", "device", "dtype")
"""Arguments of mixers that the model gives."""
FROM_DATA_SET = ("count", "generator")
"""Arguments of memory tasks that `torchstu.data.memory.memory_task` gives."""


def read_recipe(paths: str | Path | Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and check all of it that can be checked without the data.

    Args:
        paths: YAML files, or names of shipped recipes (see `shipped_recipes`); later ones go over earlier ones.
        overrides: values by dotted key, such as ``{"model.d_model": 64, "data.options.length": 128}``; over all files.

    Raises:
        ValueError: one line with the key's path, what it was and what it may be: no YAML, an unknown or missing key, a value
            of another type, a mixer or a data set that there is not, options that it does not have.
        FileNotFoundError: no such file or recipe.
        MissingExtraError: without the extra ``train``.
    """
    return recipe_from(merged(paths, overrides))


def merged(paths: str | Path | Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The files and overrides laid over one another, unchecked; see `read_recipe`."""
    names = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not names:
        raise ValueError("recipe: none; it must be one YAML file or more, or names of shipped recipes")
    values: dict[str, Any] = {}
    for name in names:
        values = overlaid(values, read_yaml(find_recipe(name)))
    return overlaid(values, nested(overrides or {}))


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A checked recipe from nested plain values; errors as of `read_recipe`."""
    recipe = build(Recipe, values)
    check_mixers(recipe)
    check_data(recipe.data)
    return recipe


def check_data(config: DataConfig) -> None:
    """Refuse a data set that there is not, and options that it does not have.

    Raises:
        ValueError: see above.
    """
    if config.name not in DATASETS:
        raise ValueError(f"data.name: {config.name!r}; it must be one of {', '.join(DATASETS)}")
    task = TASKS.get(str(config.options.get("task"))) if config.name == "memory_task" else None
    check_arguments(dataset_function(config.name), config.options, "data.options", FROM_DATA_SET, task)


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, every key in full.

    Raises:
        ValueError: it holds values that YAML does not give back as they are.
    """
    yaml = require("train", "yaml")
    try:
        text = yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True, width=120)
        same = build(Recipe, parse_yaml(text, "recipe")) == recipe
    except yaml.YAMLError as error:
        raise ValueError(f"recipe: {_first_line(error)}; its options must be plain values") from error
    if not same:
        raise ValueError("recipe: YAML changes its values; options must be texts, numbers, lists and mappings of these")
    return text


def write_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write a recipe, whole or not at all; `read_recipe` gives an equal one.

    Raises:
        ValueError: as `recipe_text`. OSError: it cannot be written.
    """
    text = recipe_text(recipe)
    with whole_file(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8")


def shipped_recipes() -> dict[str, str]:
    """Names of the recipes of the package, and the first comment line of each."""
    found = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path.stem))
    return {
        path.relative_to(RECIPES).with_suffix("").as_posix(): path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for path in found
    }


def find_recipe(name: str | Path) -> Path:
    """The file of that name, or the shipped recipe.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in shipped_recipes():
        return RECIPES / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise FileNotFoundError(f"recipe: {str(name)!r}; there is no such file")
    raise FileNotFoundError(f"recipe: {str(name)!r}; it must be a YAML file or one of {', '.join(shipped_recipes())}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: it is no YAML, holds no mapping, or names a key twice. OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text; it must be YAML") from error
    values = parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds {values!r}; it must hold a mapping, key: value")
    return values


def parse_yaml(text: str, name: str) -> Any:
    """Plain values of a YAML text; ``1e-3`` is a number, as in YAML 1.2.

    Raises:
        ValueError: it is no YAML of plain values, or names a key twice; with ``name`` and the line.
    """
    yaml = require("train", "yaml")
    try:
        return yaml.load(text, Loader=_loader(yaml))  # a safe loader: plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{name}{where}: {getattr(error, 'problem', None) or _first_line(error)}; it must be YAML") from error


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings laid over one another; where the upper names another mixer or data set, old options go."""
    result = dict(below)
    if path in OPTIONS:
        what, options = OPTIONS[path]
        if what in above and above[what] != below.get(what):
            result.pop(options, None)
    for name, value in above.items():
        old = result.get(name)
        result[name] = (
            overlaid(old, value, join(path, str(name))) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return result


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``.

    Raises:
        ValueError: an empty part of a key, or a key within another that has a value.
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        if not all([*parents, last]):
            raise ValueError(f"{key}: no key; it must be names with dots between, such as model.d_model")
        inner = result
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{key}: {parent} is given a value too; it must be given once")
        inner[last] = value
    return result


def check_mixers(recipe: Recipe) -> None:
    """Refuse mixers that cannot be made, by the path of their options.

    Raises:
        ValueError: see above.
    """
    model = recipe.model
    for i, name in enumerate(model.mixers):
        options, path = model.layer(i)[1], "model.mixer_options"
        path = path if isinstance(model.mixer, str) else join(path, name)
        check_arguments(MIXERS[name], options, path, FROM_MODEL)
        try:
            with torch.random.fork_rng(devices=[]):
                make_mixer(name, model.d_model, model.length, **options, device="meta")
        except (TypeError, ValueError) as error:
            of_options = str(error).split(":")[0].split(",")[0] in arguments_of(MIXERS[name]).keys() - FROM_MODEL
            raise ValueError(f"{path if of_options else 'model'}.{error}") from error


def _loader(yaml: Any) -> Any:
    """PyYAML's safe loader with YAML 1.2's numbers, and an error for a key that is there twice."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for item, _ in node.value:
                if str(item.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{item.value!r} is there twice", item.start_mark)
                seen.add(str(item.value))
            return super().construct_mapping(node, deep)

    number = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:float"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{number.pattern})$"), list("-+0123456789."))
    return Loader


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
