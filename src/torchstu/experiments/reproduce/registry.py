"""The experiments by name; a module is imported when its experiment is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from torchstu.experiments.reproduce.experiment import Experiment

_ROOM = "torchstu.experiments.reproduce"
MODULES = {
    "paper-lds": f"{_ROOM}.paper_lds",
    "paper-filters": f"{_ROOM}.paper_filters",
    "sample-complexity": f"{_ROOM}.sample_complexity",
    "cost": f"{_ROOM}.cost",
    "stability": f"{_ROOM}.stability",
    "asymmetric": f"{_ROOM}.asymmetric",
    "noise": f"{_ROOM}.noise",
    "priors": f"{_ROOM}.priors",
    "length": f"{_ROOM}.length",
    "depth": f"{_ROOM}.depth",
    "features": f"{_ROOM}.features",
    "memory": f"{_ROOM}.memory",
}
"""Name to module, in the order of the report."""


def resolve(names: Iterable[str]) -> list[str]:
    """Modules of names, each once; ``all`` is every one, and a name with a dot is the module of an experiment of one's own.

    Raises:
        ValueError: none, or an unknown name; the message lists the names.
    """
    modules: dict[str, None] = {}
    for name in names:
        if name == "all":
            modules |= dict.fromkeys(MODULES.values())
        elif name in MODULES:
            modules[MODULES[name]] = None
        elif "." in name:
            modules[name] = None
        else:
            raise ValueError(f"name: {name!r}; it must be one of {', '.join(MODULES)}, or all")
    if not modules:
        raise ValueError(f"name: none; it must be one of {', '.join(MODULES)}, or all")
    return list(modules)


def load(module: str) -> Experiment:
    """The ``EXPERIMENT`` of a module.

    Raises:
        ValueError: there is no such module, or it has none.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise ValueError(f"name: {module!r} is no module; it must be one with an EXPERIMENT") from error
        raise
    experiment = getattr(found, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"name: the module {module!r} has no EXPERIMENT; it must have one")
    return experiment
