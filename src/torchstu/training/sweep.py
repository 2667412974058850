"""Search over recipes with Optuna: several processes, also on several machines, work on one study in a file they all see.

A trial is a run in a folder of its own, ``trial-0007``. It is pruned where its validation error lies above the median of the
others at the same step. A trial whose process was killed is taken up again by the next process that joins the study, from its
last checkpoint. Test data decide nothing here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from torchstu.extras import require
from torchstu.spectral.priors import positive_int
from torchstu.training.checks import check_recipe
from torchstu.training.loaders import derived_seed
from torchstu.training.module import WATCHER_ENDED
from torchstu.training.recipe_file import merged, nested, overlaid, parse_yaml, recipe_from, write_recipe
from torchstu.training.run import train
from torchstu.training.typed import build, check_names


@dataclass(frozen=True)
class Range:
    """Numbers between two.

    Attributes:
        low, high: the ends, both included; integers give integers.
        log: whether the logarithm is what is drawn evenly.
    """

    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


Search = dict[str, Range | Choice]
"""By dotted key of the recipe."""


@dataclass(frozen=True)
class TrialResult:
    """A trial of a study.

    Attributes:
        number: of the trial, and of its folder.
        state: "complete", "pruned", "fail" or "running".
        error: the smallest validation error; None without one.
        values: what was tried, by key.
    """

    number: int
    state: str
    error: float | None
    values: dict[str, Any]


def read_search(path: str | Path) -> Search:
    """A search space from YAML: ``KEY: {low: 1e-4, high: 1e-2, log: true}`` or ``KEY: [2, 4]``, keys with dots.

    Raises:
        ValueError: another form, or ends that are no range. OSError: it cannot be read.
    """
    values = parse_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{path}: {values!r}; it must hold a mapping of keys, such as optimizer.learning_rate, to values")
    return {str(key): _dimension(str(key), value) for key, value in values.items()}


def _dimension(key: str, value: Any) -> Range | Choice:
    if isinstance(value, list) and value:
        return Choice(tuple(value))
    if not isinstance(value, dict):
        raise ValueError(f"{key}: {value!r}; it must be a list of values, or low, high and perhaps log")
    check_names(value, ("low", "high", "log"), key)
    made = build(Range, {**value, **{end: _number(value.get(end), f"{key}.{end}") for end in ("low", "high")}}, key)
    if not made.low < made.high or (made.log and made.low <= 0):
        raise ValueError(f"{key}: {made.low} to {made.high}; low must be below high{', and above 0 with log' * made.log}")
    return made


def _number(value: Any, key: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{key}: {value!r}; it must be a finite number")
    return value


def sweep(
    recipes: Sequence[str | Path],
    search: Search,
    output: str | Path,
    *,
    trials: int,
    overrides: Mapping[str, Any] | None = None,
    study: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = print,
) -> list[TrialResult]:
    """Run trials until the study has enough, and write the best recipe as ``best.yaml``.

    Args:
        recipes: as of `torchstu.training.recipe_file.read_recipe`.
        search: values that are tried, by key; they go over the recipe and over ``overrides``.
        output: folder of the trials' runs.
        trials: how many the study shall have in the end, those of all processes and of earlier calls together.
        overrides: as of ``read_recipe``.
        study: file of the study, Optuna's journal; None: ``study.journal`` in ``output``.
        seed: of what is tried; that of the runs is the recipe's.
        progress: gets a line at the end of each trial.

    Returns:
        All trials, best first.

    Raises:
        ValueError: a recipe that cannot be run, at an end of the space; a study that was begun with another.
        MissingExtraError: without the extra ``sweep``.
    """
    trials, seed = positive_int("trials", trials), positive_int("seed", seed, minimum=0)
    optuna = require("sweep", "optuna")
    base, folder = overlaid(merged(recipes), nested(overrides or {})), Path(output)
    steps = check_search(base, search)
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet(optuna):
        opened = _open_study(optuna, Path(study) if study else folder / "study.journal", search, base)
        opened.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=steps // 4)
        while trial := _next_trial(optuna, opened, folder, trials):
            with trial.lock:
                opened.sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, trial.number) % 2**32, constant_liar=True)
                ended = _run(optuna, opened, trial, base, search)
            progress(f"trial {trial.number}: {ended}")
        results = trial_results(opened)
    if results[0].error is not None:
        write_recipe(folder / "best.yaml", recipe_from(overlaid(base, nested(results[0].values))))
    return results


def check_search(base: Mapping[str, Any], search: Search) -> int:
    """Check the recipes at the ends of a search space, each key's ends and choices once; returns the most steps of one.

    Raises:
        ValueError: a recipe that cannot be run, or that needs several processes.
    """
    ends = {key: (item.low, item.high) if isinstance(item, Range) else item.values for key, item in search.items()}
    first, steps = {key: values[0] for key, values in ends.items()}, 1
    for key, values in ends.items():
        for value in values:
            recipe = recipe_from(overlaid(base, nested(first | {key: value})))
            check_recipe(recipe)
            if recipe.training.devices * recipe.training.nodes > 1:
                raise ValueError(
                    f"training.devices: {recipe.training.devices} on {recipe.training.nodes} machines; it must be 1 on 1 in a "
                    "sweep: give the command several times instead"
                )
            steps = max(steps, recipe.training.steps)
    return steps


def trial_results(study: Any) -> list[TrialResult]:
    """The trials of a study, best first, those without an error last."""
    found = [
        TrialResult(trial.number, trial.state.name.lower(), _smallest(trial), _decoded(trial.params)) for trial in study.trials
    ]
    return sorted(found, key=lambda result: (result.error is None, result.error or 0.0, result.number))


@dataclass
class _Taken:
    """A trial that this process works on."""

    trial: Any
    number: int
    home: Path
    lock: IO[bytes]
    """Locked while it is open; the system gives it free when the process ends, however it does."""


def _next_trial(optuna: Any, study: Any, folder: Path, trials: int) -> _Taken | None:
    """One whose process is gone, or a new one; None if there are enough."""
    for found in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        taken = _take(optuna.trial.Trial(study, found._trial_id), folder)
        if taken and study.trials[found.number].state.name == "RUNNING":
            return taken
    while len(study.trials) < trials:
        if taken := _take(study.ask(), folder):
            return taken
    return None


def _take(trial: Any, folder: Path) -> _Taken | None:
    """Lock a trial's folder; None if another process has it."""
    import fcntl

    home = folder / f"trial-{trial.number:04d}"
    home.mkdir(exist_ok=True)
    lock = (home / ".lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return _Taken(trial, trial.number, home, lock)


def _run(optuna: Any, study: Any, taken: _Taken, base: Mapping[str, Any], search: Search) -> str:
    """Train one trial, or go on with it, and tell the study; returns how it ended."""
    states, trial = optuna.trial.TrialState, taken.trial
    values = {key: _drawn(trial, key, item) for key, item in search.items()}

    def watch(row: Mapping[str, Any]) -> bool:
        if not math.isfinite(row["validation_error"]):
            return False
        trial.report(row["validation_error"], row["step"])
        return trial.should_prune()

    try:
        recipe = recipe_from(overlaid(base, nested(values)))
        result = train(recipe, taken.home, resume=True, progress=False, watch=watch)
    except ValueError as error:
        trial.set_user_attr("failure", str(error))
        study.tell(trial, state=states.FAIL)
        return f"failed, {error}"
    if result.validation_error is None:
        study.tell(trial, state=states.FAIL)
        return f"failed, {result.ended}"
    if result.ended == WATCHER_ENDED:
        study.tell(trial, state=states.PRUNED)
        return f"pruned, validation error {result.validation_error:.6g}"
    study.tell(trial, result.validation_error)
    return f"validation error {result.validation_error:.6g}"


def _drawn(trial: Any, key: str, item: Range | Choice) -> Any:
    if isinstance(item, Choice):
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in item.values]))
    whole = isinstance(item.low, int) and isinstance(item.high, int)
    return (trial.suggest_int if whole else trial.suggest_float)(key, item.low, item.high, log=item.log)


def _decoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in values.items()}


def _smallest(trial: Any) -> float | None:
    return min([*trial.intermediate_values.values(), *([] if trial.values is None else trial.values)], default=None)


def _open_study(optuna: Any, path: Path, search: Search, base: Mapping[str, Any]) -> Any:
    journal: Any = require("sweep", "optuna.storages.journal")
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), journal.JournalFileOpenLock(str(path))))
    study = optuna.create_study(storage=storage, study_name="torchstu", load_if_exists=True)
    asked = json.loads(json.dumps({"search": {key: repr(item) for key, item in search.items()}, "recipe": base}))
    known = study.user_attrs.get("asked")
    if known is None:
        study.set_user_attr("asked", asked)
    elif known != asked:
        part = "search" if known["search"] != asked["search"] else "recipe"
        raise ValueError(f"study: {path} was begun with another {part}; give the same, or another study and output")
    return study


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna's log at WARNING while in the block; a line a trial is said anyway."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
