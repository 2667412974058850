"""An experiment of hardly any work that fails on demand: the environment variable TOY_FAULT says how trial `step = 1` ends."""

import os
import random
import signal
import time

from torchstu.experiments.reproduce.experiment import Experiment
from torchstu.report.figures import curves
from torchstu.report.page import Section, Table


def trials(settings, seed):
    steps = range(settings["steps"])
    return [{"seed": seed + i, "step": s, "nap": settings["nap"]} for i in range(settings["seeds"]) for s in steps]


def run(trial):
    time.sleep(trial["nap"])
    fault = os.environ.get("TOY_FAULT") if trial["step"] == 1 else None
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "raise":
        raise ArithmeticError("it is odd\nand goes on")
    if fault == "set":
        return {"draw": {1, 2}}, {}
    draw = random.Random(f"{trial['seed']} {trial['step']}").gauss(0, 1)
    threads = [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "OPENBLAS", "MKL")]
    return {"draw": draw, "worst": float("nan") if trial["step"] == 2 else draw}, {"pid": os.getpid(), "threads": threads}


def sections(rows, settings):
    draws = [row.result["draw"] for row in rows]
    table = Table(("step", "draw"), [(row.trial["step"], row.result["worst"]) for row in rows])
    return [Section("Draws", f"{len(rows)} of {settings['seeds']} seeds.", table, curves({"draw": (range(len(rows)), draws)}))]


EXPERIMENT = Experiment("counting", "What does a <draw> give?", trials, run, sections)
