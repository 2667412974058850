"""Small sequence tasks, every mixer at equal parameters, through `torchstu train`: errors on test data over seeds.

    python benchmarks/small_tasks.py [--only TASK,TASK] [--mixers NAME,NAME] [--seeds N] [--processes N] [--quick]

Each run is a process with what `torchstu train` would be given: a shipped task recipe, a shipped mixer recipe over it, the
width at which the model comes closest to the task's number of parameters, a learning rate, a dropout, and a seed. The rate is
the one of three that has the smallest validation error after a third of the steps, and then the dropout that of two, with a
seed that is not used again: alike for every mixer. Runs are kept in the work folder: one that was stopped goes on, a finished
one is not repeated. Nothing depends on test data.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from machine import MIB, ROOT, describe, environment_line, markdown_table, save

RATES = (3e-3, 1e-2, 3e-2)
DROPOUTS = (0.0, 0.1)


class Task(NamedTuple):
    """A task, and what is alike for all its mixers.

    About 2.25 log L filters, and twice as many with twice as many heads for images: 15 filters with 4 heads had 19 % wrong of
    the validation digits where 32 with 8 had 12 %, after a third of the steps.
    """

    recipe: str
    parameters: int
    """About how many every model has."""
    filters: int
    """Of STU, AR-STU and TensordotSTU."""
    heads: int
    """Of STU and AR-STU."""
    steps: int | None = None
    """Where not the recipe's."""
    rates: tuple[float, ...] = RATES
    """Of one there is no choice."""
    dropouts: tuple[float, ...] = DROPOUTS


TASKS = {
    "MNIST-1D": Task("mnist-1d-small", 45_000, 8, 4),
    "ListOps-small": Task("listops-small", 60_000, 11, 4),
    "sequential MNIST": Task("sequential-mnist-small", 45_000, 32, 8),
    "Pathfinder-32-small": Task("pathfinder-small", 60_000, 32, 8, steps=400, rates=(4e-3,), dropouts=(0.0,)),
}
MIXERS = {
    "STU": "mixers/stu-small", "AR-STU": "mixers/ar-stu-small", "TensordotSTU": "mixers/tensordot-stu-small",
    "S4D": "mixers/s4d-small", "LRU": "mixers/lru-small", "Attention": "mixers/attention-small",
}  # fmt: skip
TRAIN = """
import json, sys
from torchstu.training.recipe_file import read_recipe
from torchstu.training.run import train
train(read_recipe(json.loads(sys.argv[1]), json.loads(sys.argv[2])), sys.argv[3], resume=True)
"""
KEYS = {"width": "model.d_model", "rate": "optimizer.learning_rate", "dropout": "model.dropout"}
CHOOSING_SEED = 100
QUICK = {"training.steps": 6, "training.validate_every": 2, "training.batch_size": 4}
Job = tuple[str, str]
"""Task and mixer."""


def filters(job: Job) -> dict[str, int]:
    """The number of filters of a task, and of heads, for mixers that have them."""
    task, mixer = job
    keys = {"model.mixer_options.num_filters": TASKS[task].filters} if mixer.endswith("STU") else {}
    return keys | ({"model.mixer_options.num_heads": TASKS[task].heads} if mixer in ("STU", "AR-STU") else {})


def matched_width(task: str, mixer: str) -> int:
    """The width at which the model of a recipe comes closest to the task's number of parameters."""
    from torchstu.experiments.reproduce.systems import nearest_size
    from torchstu.training.build import build_model
    from torchstu.training.cost import count_parameters, data_for_cost
    from torchstu.training.recipe_file import read_recipe

    recipe, target, heads = TASKS[task].recipe, TASKS[task].parameters, TASKS[task].heads if mixer in ("STU", "AR-STU") else 1
    data = data_for_cost(read_recipe([recipe, MIXERS[mixer]]))

    def count(width_of_head: int) -> int:
        sized = read_recipe([recipe, MIXERS[mixer]], {"model.d_model": width_of_head * heads} | filters((task, mixer)))
        return sum(count_parameters(build_model(sized.model, data, sized.pooling, device="meta")).values())

    return heads * nearest_size(count, target, 256 // heads)[0]


class Runs:
    """Runs of the command in a folder, some at once."""

    def __init__(self, folder: Path, processes: int, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.pool = ThreadPoolExecutor(processes)

    def submit(self, job: Job, sizes: dict[str, Any], seed: int, share: int = 1) -> Future[dict[str, Any]]:
        """A run, or its results if it was there; ``share`` divides the steps."""
        from torchstu.training.recipe_file import read_recipe

        task, mixer = job
        keys = QUICK if self.quick else {"training.steps": TASKS[task].steps} if TASKS[task].steps else {}
        recipe = read_recipe([TASKS[task].recipe, MIXERS[mixer]], keys)
        keys = keys | {"training.steps": recipe.training.steps // share}
        keys |= filters(job) | {KEYS[name]: value for name, value in sizes.items()} | {"seed": seed}
        name = f"{task}, {mixer}, rate {sizes['rate']}, dropout {sizes['dropout']}, seed {seed}"
        return self.pool.submit(self._run, job, keys, self.folder / name)

    def _run(self, job: Job, keys: dict[str, Any], folder: Path) -> dict[str, Any]:
        command = [
            sys.executable,
            "-c",
            TRAIN,
            json.dumps([TASKS[job[0]].recipe, MIXERS[job[1]]]),
            json.dumps(keys),
            str(folder),
        ]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{folder.name}: {done.stderr.strip().splitlines()[-1:]}")
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        print(f"{folder.name}: validation {best(results):.3f}, test {results['test']['error']:.3f}", flush=True)
        return results


def best(results: dict[str, Any]) -> float:
    """The smallest validation error of a run; inf without one."""
    return min((row["error"] for row in results["validation"] if row["error"] is not None), default=math.inf)


def choose(runs: Runs, task: str, sizes: dict[str, dict[str, Any]], name: str, values: tuple[float, ...]) -> None:
    """Set one number of every mixer to the value with the smallest validation error."""
    if len(values) == 1:
        for own in sizes.values():
            own[name] = values[0]
        return
    tried = {
        (mixer, value): runs.submit((task, mixer), own | {name: value}, CHOOSING_SEED, 3)
        for mixer, own in sizes.items()
        for value in values
    }
    errors = {key: best(run.result()) for key, run in tried.items()}
    for mixer, own in sizes.items():
        own[name] = min(values, key=lambda value, mixer=mixer: errors[mixer, value])


def measure(runs: Runs, task: str, mixers: list[str], seeds: int) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The rows of a task, and the environment of its runs: first rate and dropout of each mixer, then all seeds with them."""
    from torchstu.training.recipe_file import read_recipe

    dropout = read_recipe([TASKS[task].recipe]).model.dropout
    sizes: dict[str, dict[str, Any]] = {mixer: {"width": matched_width(task, mixer), "dropout": dropout} for mixer in mixers}
    choose(runs, task, sizes, "rate", TASKS[task].rates)
    choose(runs, task, sizes, "dropout", TASKS[task].dropouts)
    started = {mixer: [runs.submit((task, mixer), sizes[mixer], seed) for seed in range(seeds)] for mixer in mixers}
    results = {mixer: [run.result() for run in of_mixer] for mixer, of_mixer in started.items()}
    return {mixer: row(own, sizes[mixer]) for mixer, own in results.items()}, results[mixers[0]][0]["environment"]


def row(results: list[dict[str, Any]], sizes: dict[str, Any]) -> dict[str, Any]:
    """Runs of all seeds as one row."""
    errors = [result["test"]["error"] for result in results]
    return {
        "width": sizes["width"],
        "learning_rate": sizes["rate"],
        "dropout": sizes["dropout"],
        "parameters": results[0]["parameters"],
        "test_errors": errors,
        "validation_errors": [best(result) for result in results],
        "seconds": [result["seconds"] for result in results],
        "sequences_per_second": statistics.median(result["sequences_per_second"] for result in results),
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
        "steps": results[0]["steps"],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Best first."""
    lines = []
    for name, entry in sorted(rows.items(), key=lambda item: statistics.fmean(item[1]["test_errors"])):
        accuracies = sorted(100 * (1 - error) for error in entry["test_errors"])
        lines.append([
            name, f"{entry['parameters']:,}", str(entry["width"]), f"{entry['learning_rate']:g}", f"{entry['dropout']:g}",
            f"{statistics.fmean(accuracies):.1f}", f"{accuracies[0]:.1f}-{accuracies[-1]:.1f}",
            f"{statistics.median(entry['seconds']) / 60:.1f}",
            f"{entry['sequences_per_second']:.0f}", f"{entry['peak_memory_bytes'] / MIB:.0f}",
        ])  # fmt: skip
    header = ["mixer", "parameters", "width", "rate", "dropout", "accuracy, %", "range", "minutes", "sequences/s", "peak MiB"]
    return markdown_table(header, lines)


def report(found: dict[str, dict[str, Any]]) -> str:
    """The page."""
    parts = [
        "## Small tasks at equal parameters\n\n    python benchmarks/small_tasks.py\n\n"
        "Accuracy on the test part of the model that was best on the validation part: mean and range over seeds; the rate of "
        f"each is the best of {len(RATES)}, then the dropout of {len(DROPOUTS)}, by validation, unless it says otherwise. "
        "Every run on one thread; the minutes are those of a run, with its validations."
    ]
    for task, entry in found.items():
        rows = entry["mixers"]
        steps, machine = next(iter(rows.values()))["steps"], entry["machine"]
        environment = environment_line(machine, {"torch": machine["torch"]})
        parts.append(
            f"### {task}\n\nRecipe `{TASKS[task].recipe}`, {steps} steps, {entry['seeds']} seeds, {entry['processes']} runs at "
            f"a time{'' if len(TASKS[task].rates) > 1 else ', one rate for all'}. {environment}\n\n{table(rows)}"
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, with commas between")
    parser.add_argument("--mixers", default=",".join(MIXERS), help="mixers, with commas between")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="runs at once")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "small_tasks", help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="a few steps each, into the work folder: does everything run?")
    options = parser.parse_args()
    tasks, mixers = options.only.split(","), options.mixers.split(",")
    work = options.work / "quick" if options.quick else options.work
    machine = describe()
    runs = Runs(work, options.processes, options.quick)
    path = (work if options.quick else ROOT / "benchmarks" / "results") / "small_tasks.json"
    found = json.loads(path.read_text())["tasks"] if path.exists() else {}
    for task in tasks:
        rows, used = measure(runs, task, mixers, options.seeds)
        found[task] = {
            "machine": machine | {"torch": used["torch"]},
            "seeds": options.seeds,
            "processes": options.processes,
            "mixers": rows,
        }
        found = {name: found[name] for name in TASKS if name in found}
        save(path, {"tasks": found}, report(found))


if __name__ == "__main__":
    main()
