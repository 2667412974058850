"""Data sets by the name that recipes use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torchstu.data.sequences import SequenceData

DATASETS: dict[str, str] = {
    "series": "torchstu.data.series:series",
    "listops": "torchstu.data.listops:listops",
    "pathfinder": "torchstu.data.pathfinder:pathfinder",
    "sequential_mnist": "torchstu.data.images:sequential_mnist",
    "mnist1d": "torchstu.data.images:mnist1d",
    "memory_task": "torchstu.data.memory:memory_task",
    "sequential_cifar": "torchstu.data.lra_images:sequential_cifar",
    "lra_pathfinder": "torchstu.data.lra_images:lra_pathfinder",
    "lra_listops": "torchstu.data.lra_text:lra_listops",
    "lra_text": "torchstu.data.lra_text:lra_text",
    "lra_retrieval": "torchstu.data.lra_text:lra_retrieval",
}
"""Name to ``module:function``; a function takes keyword arguments and returns a `SequenceData`."""


def dataset_function(name: str) -> Callable[..., SequenceData]:
    """What makes a data set.

    Raises:
        ValueError: the name is not in ``DATASETS``.
    """
    if name not in DATASETS:
        raise ValueError(f"name: {name!r}; it must be one of {', '.join(DATASETS)}")
    module, function = DATASETS[name].split(":")
    return getattr(import_module(module), function)
