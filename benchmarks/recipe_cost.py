"""Hours and memory of every published recipe with every mixer, from one measured step on this machine.

python benchmarks/recipe_cost.py [--quick]

Forward and backward pass are measured on one, two, four, ... sequences of full length, until a minute is over or the batch
whole, and continued along a line to the batch; the optimizer's step is added; validations are left out. Data are drawn at
random in the shape of the task's. Results are written as they are measured: a run that was stopped goes on when the same
command is given again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, describe, environment_line, limit_threads, markdown_table

TASKS = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
MIXERS = ("ar-stu", "stu", "tensordot-stu", "s4d", "lru", "attention")
SHAPES = {  # inputs, d_in, d_out, task, steps
    "listops": ("tokens", 16, 10, "classification", 1999),
    "text": ("tokens", 257, 2, "classification", 4000),
    "retrieval": ("tokens", 257, 2, "pair classification", 4000),
    "image": ("pixels", 1, 10, "classification", 1024),
    "pathfinder": ("pixels", 1, 2, "classification", 1024),
    "pathx": ("pixels", 1, 2, "classification", 16384),
}
RESULTS = ROOT / "benchmarks" / "results" / "recipe_cost.json"


class Drawn:
    """Examples of one shape, drawn by index."""

    def __init__(self, task: str, size: int, shortened: int | None) -> None:
        self.shape, self.size, self.shortened = SHAPES[task], size, shortened

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        import torch

        kind, channels, classes, task, steps = self.shape
        generator = torch.Generator().manual_seed(index)
        steps = self.shortened or steps

        def sequence() -> Any:
            if kind == "tokens":
                return torch.randint(channels, (steps,), generator=generator)
            return torch.randint(256, (steps, channels), generator=generator, dtype=torch.uint8)

        inputs = (sequence(), sequence()) if task == "pair classification" else sequence()
        return inputs, torch.randint(classes, (), generator=generator)


def measure(task: str, mixer: str, quick: bool) -> dict[str, Any]:
    """Cost of one recipe, in this process."""
    import torch

    from torchstu.data.sequences import SequenceData
    from torchstu.training.cost import recipe_cost
    from torchstu.training.recipe_file import read_recipe

    overlay = f"{mixer}-{task}" if mixer in ("s4d", "lru") else mixer
    small = {"data.options.folder": "drawn"} if task in ("text", "retrieval", "image") else {}
    recipe = read_recipe([task, f"mixers/{overlay}"], small | {"training.accelerator": "cpu"})
    inputs, d_in, d_out, kind, _ = SHAPES[task]
    examples = Drawn(task, recipe.training.batch_size, 32 if quick else None)
    data = SequenceData(task, kind, inputs, d_in, d_out, examples, examples, examples, "drawn at random")
    cost = recipe_cost(recipe, data, seconds=0.0 if quick else 60.0)
    return {
        "task": task,
        "mixer": mixer,
        "parameters": sum(cost.parameters.values()),
        "batch": cost.sequences,
        "steps": cost.steps,
        "measured": cost.measured_sequences,
        "step_seconds": cost.step_seconds,
        "hours": cost.hours,
        "memory_gib": cost.memory_bytes / 2**30,
        "versions": {"torch": torch.__version__},
    }


def measured_apart(task: str, mixer: str, quick: bool) -> dict[str, Any]:
    """`measure` in a process of its own; what failed says why."""
    command = [sys.executable, __file__, "--one", task, mixer, *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}, killed for memory perhaps"])[-1]
        return {"task": task, "mixer": mixer, "failed": reason}
    return json.loads(done.stdout.splitlines()[-1])


def tables(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    rows = report["rows"]
    done = [row for row in rows if "failed" not in row]
    lines = [
        "# What the published recipes cost on this machine",
        "",
        "Forward and backward pass, measured on one and on the number of sequences in the column and continued along a line to "
        "the batch, and a step of the optimizer; days without validations. Memory by the rule of `torchstu.training.cost`.",
        "",
        environment_line(report["machine"], done[0]["versions"] if done else {}),
        "",
        markdown_table(
            ["recipe", "parameters", "batch", "measured up to", "s a step", "steps", "days", "GiB"],
            [
                [f"{row['task']}, {row['mixer']}", f"{row['parameters']:,}", str(row["batch"]), str(row["measured"]),
                 f"{row['step_seconds']:.3g}", f"{row['steps']:,}", f"{row['hours'] / 24:.3g}", f"{row['memory_gib']:.2g}"]
                for row in done
            ],
        ),
    ]  # fmt: skip
    return "\n".join(lines + [f"\n{row['task']}, {row['mixer']}: {row['failed']}" for row in rows if "failed" in row]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 steps of one sequence: whether everything runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("TASK", "MIXER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit_threads(options.threads)
    if options.one:
        print(json.dumps(measure(*options.one, options.quick)))
        return
    report: dict[str, Any] = {"machine": describe(), "quick": options.quick, "rows": []}
    if options.output.exists():
        before = json.loads(options.output.read_text())
        if (before["machine"]["revision"], before["quick"]) == (report["machine"]["revision"], options.quick):
            report = before
    known = {(row["task"], row["mixer"]) for row in report["rows"] if "failed" not in row}
    for task in TASKS:
        for mixer in MIXERS:
            if (task, mixer) in known:
                continue
            row = measured_apart(task, mixer, options.quick)
            print(row, flush=True)
            report["rows"] = [old for old in report["rows"] if (old["task"], old["mixer"]) != (task, mixer)] + [row]
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(report, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(tables(report))


if __name__ == "__main__":
    main()
