"""Runs experiments: resumable, the same results on any number of processes or machines, one report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torchstu.experiments.reproduce import identity
from torchstu.experiments.reproduce.engines import Engine, Outcomes, TrialError, in_processes, on_ray
from torchstu.experiments.reproduce.experiment import Trial
from torchstu.experiments.reproduce.lock import locked
from torchstu.experiments.reproduce.pages import write_pages
from torchstu.experiments.reproduce.progress import shown
from torchstu.experiments.reproduce.recipes import choose_settings, make_trials, read_recipe
from torchstu.experiments.reproduce.registry import load, resolve
from torchstu.experiments.reproduce.store import Manifest, Store, digest_of
from torchstu.extras import MissingExtraError

_NEEDED = {"tqdm": "train", "pytorch_lightning": "train", "jinja2": "report", "matplotlib": "report"}


@dataclass(frozen=True)
class Plan:
    """An experiment about to be run: what, and every trial."""

    manifest: Manifest
    trials: list[Trial]


def reproduce(
    names: str | Iterable[str],
    *,
    scale: str = "quick",
    output: str | Path,
    processes: int | None = None,
    ray: str | None = None,
    seed: int = 0,
    seeds: int | None = None,
    progress: bool = True,
) -> Path:
    """Run experiments, or go on where an earlier call with the same arguments stopped; returns the path of the report.

    The results of a finished trial are on disk before the next one is awaited: a kill loses what is under way, nothing else.

    Args:
        names: of the registry, ``all``, or modules of your own with an ``EXPERIMENT`` and a recipe beside them.
        scale: ``quick`` or ``full``, a table of the recipe.
        output: the folder; one of another scale, seed or recipe is refused.
        processes: at once; None is as many as cores. With ``ray="local"``: cores of the cluster.
        ray: ``local``, or the address of a Ray cluster, instead of processes.
        seed: the base seed; repetition i draws from seed + i.
        seeds: repetitions; None is what the recipe says.
        progress: on standard error.

    Raises:
        ValueError: an unknown name, a folder of another run or in use, a count below 1.
        TypeError: a count that is no integer.
        MissingExtraError: without the extras ``train`` and ``report``, or with ray without ``distributed``.
        TrialError: a trial failed; what was finished is kept.
        OSError: the folder cannot be written.
    """
    _check_extras()
    engine = _choose_engine(processes, ray)
    modules = resolve([names] if isinstance(names, str) else names)
    plans = [make_plan(module, scale, seed, seeds) for module in modules]
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        stores = [Store(output / plan.manifest.name) for plan in plans]
        for store, plan in zip(stores, plans, strict=True):
            store.check(plan.manifest)
        for store, plan in zip(stores, plans, strict=True):
            run_plan(store, plan, engine, progress)
        return write_pages(output)


def make_plan(module: str, scale: str = "quick", seed: int = 0, seeds: int | None = None) -> Plan:
    """The trials of an experiment and the manifest of their results.

    Raises:
        ValueError: no experiment, no recipe, or values that cannot be; see `registry.load`, `recipes`.
        TypeError: counts that are no integers, values that JSON does not have.
    """
    experiment = load(module)
    settings = choose_settings(read_recipe(module, experiment.name), scale, seeds)
    trials = make_trials(experiment, settings, seed)
    manifest = Manifest(
        name=experiment.name,
        module=module,
        scale=scale,
        seed=seed,
        settings=settings,
        trials=len(trials),
        digest=digest_of(settings, trials),
        versions=identity.versions(),
        code=[identity.code()],
        machines=[identity.machine()],
    )
    return Plan(manifest, trials)


def run_plan(store: Store, plan: Plan, engine: Engine, progress: bool) -> None:
    """Run what is not there yet.

    Raises:
        TrialError: a trial failed.
    """
    if store.finished:
        return
    store.begin(plan.manifest)
    outcomes = store.partial()
    todo = [(i, trial) for i, trial in enumerate(plan.trials) if i not in outcomes]
    with (
        closing(_outcomes(engine, plan.manifest, todo)) as found,
        shown(plan.manifest.name, len(plan.trials), len(outcomes), progress) as advance,
    ):
        for index, result, measured in found:
            store.append(index, result, measured)
            outcomes[index] = result, measured
            advance(index, plan.trials[index], measured["trial_seconds"])
    store.finish(plan.trials, outcomes)


def _outcomes(engine: Engine, manifest: Manifest, todo: Sequence[tuple[int, Trial]]) -> Outcomes:
    if not todo:
        return
    with closing(engine(manifest.module, todo)) as found:
        try:
            yield from found
        except TrialError as error:
            words = f"{manifest.name}: {error}. What was finished is kept; the same command goes on from there"
            raise TrialError(words) from error


def _choose_engine(processes: int | None, ray: str | None) -> Engine:
    if processes is not None and (not isinstance(processes, int) or isinstance(processes, bool)):
        raise TypeError(f"processes: {processes!r}; it must be an integer of at least 1")
    if processes is not None and processes < 1:
        raise ValueError(f"processes: {processes}; it must be at least 1")
    if ray is not None:
        return on_ray(ray, processes)
    return in_processes(processes or os.cpu_count() or 1)


def _check_extras() -> None:
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} is not installed: pip install 'torchstu[{extra}]'")
