"""Runs that are killed and resumed beside the same run left alone: python killed_runs.py FOLDER KILLS SEED.

Writes FOLDER/report.json: for each recipe how many kills hit, at which steps, and what then differs in the end.
"""

import json
import multiprocessing
import random
import sys
import time
from pathlib import Path

import torch
import toy_runs

import torchstu.training.card
from torchstu.training.checkpoints import RunFolder
from torchstu.training.run import train

SHAPE = {"steps": 24, "validate_every": 4}
RECIPES = {
    "dropout": toy_runs.recipe(model={"dropout": 0.3, "mixer": "AR-STU"}, **SHAPE),
    "accumulated": toy_runs.recipe("step regression", model={"dropout": 0.1}, accumulate=2, checkpoint_every=3, **SHAPE),
    "stopped early": toy_runs.recipe("step classification", optimizer={"learning_rate": 0.3}, patience=1, checkpoint_every=2,
                                     model={"norm": "batch"}, data={"size": 8, "held_out": 8}, **SHAPE),
}  # fmt: skip


def run(name, folder, resume):
    train(RECIPES[name], folder, resume=resume, progress=False)


def start(name, folder):
    process = multiprocessing.get_context("fork").Process(target=run, args=(name, folder, True))
    process.start()
    return process


def steps_done(folder):
    last = RunFolder(folder).last
    return torch.load(last, weights_only=True)["global_step"] if last.exists() else 0


def kill_and_resume(name, folder, kills, seconds, dice):
    """Kill until ``kills`` have hit a run at work, then let it end; the steps at which each was resumed."""
    at = []
    while len(at) < kills:
        process = start(name, folder)
        time.sleep(dice.uniform(0, seconds))
        if not process.is_alive():  # it was through: from the start again
            process.join()
            folder = folder.with_name(f"{folder.name}+")
            continue
        process.kill()
        process.join()
        at.append(steps_done(folder))
    process = start(name, folder)
    process.join()
    assert process.exitcode == 0, "the resumed run failed"
    return folder, at


def differences(one, other):
    """Names of what is not the same to the last bit."""
    found = []
    for checkpoint in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(folder / "checkpoints" / checkpoint, weights_only=True) for folder in (one, other))
        for each in (a, b):
            for measured in ("training_seconds", "other_seconds", "peak_memory"):
                each["history"].pop(measured)
        found += [f"{checkpoint}: {key}" for key in a.keys() | b.keys() if not same(a.get(key), b.get(key))]
    names = ("metrics.csv", "model/model.safetensors", "recipe.yaml")
    found += [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    a, b = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    found += [key for key in ("test", "validation", "best_step", "ended", "steps", "confusion") if a[key] != b[key]]
    left = [path.name for path in other.rglob(".*")]
    return found + left


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def main():
    folder, kills, dice = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    torchstu.training.card.write_card = toy_runs.plain_card
    report = {}
    train(toy_runs.recipe(steps=4), folder / "first")  # what is imported late is there before the forks
    for name in RECIPES:
        whole, began = folder / f"{name} whole", time.perf_counter()
        run(name, whole, False)
        seconds = time.perf_counter() - began
        end, at = kill_and_resume(name, folder / f"{name} killed", kills, seconds, dice)
        results = json.loads((whole / "results.json").read_text())
        report[name] = {
            "differences": differences(whole, end),
            "resumed_at": at,
            "steps": results["steps"],
            "ended": results["ended"],
        }
    (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
