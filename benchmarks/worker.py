"""One implementation in a process of its own; `harness.py` starts it and asks line by line, in JSON.

The arguments are an operation, an implementation and the problem: a file of arrays for `train` and `prefill`, a shape for
`curves`, a length of caches for `generate`. The first answer are the versions; then one answer a request.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import ROOT, limit_threads, peak_memory, resident_memory
from registry import GENERATE, Implementation, layer

TIMED_SECONDS = 0.3
"""A timed repeat makes as many steps as fit this many seconds, at least one, and reports their mean."""
LONG_STEP = 1.0
"""A step of this many seconds needs no untimed one before it."""
CURVE_SECONDS, CURVE_REPEATS = 2.0, 5
Answers = dict[str, Callable[[dict[str, Any]], Any]]


def timed(step: Callable[[], Any], warm: bool) -> float:
    """Mean seconds of a step."""
    if warm:
        step()
    steps, start = 0, time.perf_counter()
    while True:
        step()
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed >= TIMED_SECONDS:
            return elapsed / steps


def calibrate() -> dict[str, float]:
    """What this process reaches with its threads: a product of 1024 x 1024 matrices, a copy of 256 MB (read and written)."""
    import torch

    a, b = torch.randn(2, 1024, 1024)
    source = torch.ones(2**26)
    target = torch.empty_like(source).copy_(source)

    def best(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    product, copy = best(lambda: a @ b), best(lambda: target.copy_(source))
    return {"gflops": 2 * 1024**3 / product / 1e9, "gigabytes": 2 * 2**28 / copy / 1e9}


def build_layer(entry: Implementation, problem: dict[str, Any], train: bool, folder: Path | None) -> Any:
    import other_layers
    import spectral_layers

    builders = spectral_layers.LAYERS | other_layers.LAYERS
    return builders[entry.builder](problem, train, folder, **entry.options)


def layer_answers(entry: Implementation, options: argparse.Namespace) -> tuple[Any, Answers]:
    """`train` and `prefill`: "memory" makes the first step and writes its results; "time" follows."""
    import numpy as np

    built = build_layer(entry, dict(np.load(options.problem)), options.operation == "train", options.folder)
    last = 0.0

    def memory(request: dict[str, Any]) -> int:
        done: list[Any] = []
        used = peak_memory(lambda: done.append(built.step()))
        np.savez(request["save"], **{name: np.asarray(value) for name, value in built.results(done[0]).items()})
        return used

    def seconds(request: dict[str, Any]) -> float:
        nonlocal last
        last = timed(built.step, warm=last < LONG_STEP)
        return last

    about = {"versions": {"numpy": np.__version__} | built.versions, "parameters": built.parameters}
    return about, {"memory": memory, "time": seconds}


def curve_answers(entry: Implementation, options: argparse.Namespace) -> tuple[Any, Answers]:
    """`curves`: peak memory of one step, then seconds of as many as fit, for prefill and for train."""
    import torch

    from problem import make_problem

    shape = tuple(json.loads(options.problem))
    small = make_problem((1, 64, *shape[2:]))
    build_layer(entry, small, True, None).step()  # what libraries allocate once
    problem = make_problem(shape)

    def measure(request: dict[str, Any]) -> dict[str, Any]:
        step = build_layer(entry, problem, request["do"] == "train", None).step
        start = time.perf_counter()
        used = peak_memory(step)
        times = [timed(step, warm=False)]
        while len(times) < CURVE_REPEATS and time.perf_counter() - start < CURVE_SECONDS:
            times.append(timed(step, warm=False))
        return {"peak_bytes": used, "seconds": times}

    return {"versions": {"torch": torch.__version__}, "parameters": None}, {"prefill": measure, "train": measure}


def generate_answers(entry: Implementation, options: argparse.Namespace) -> tuple[Any, Answers]:
    """`generate`: "reach" a position, then "steps" there, each timed; "memory" of the process and of what is carried."""
    import torch

    from steppers import STEPPERS, touch_libraries

    torch.set_grad_enabled(False)
    touch_libraries(ours=entry.project == "torchstu")
    before = resident_memory()
    arguments = {"length": int(options.problem)} if entry.builder in ("CachedSTU", "CachedTensordot", "attention") else {}
    stepper = STEPPERS[entry.builder](**entry.options, **arguments)

    def reach(request: dict[str, Any]) -> float:
        start = time.perf_counter()
        stepper.reach(request["position"])
        return time.perf_counter() - start

    def steps(request: dict[str, Any]) -> list[float]:
        for _ in range(2):
            stepper.step()
        times = []
        for _ in range(request["count"]):
            start = time.perf_counter()
            stepper.step()
            times.append(time.perf_counter() - start)
        return times

    def turns(request: dict[str, Any]) -> list[list[float]]:
        """Rounds of steps at every position reached, which take turns: no drift of the machine looks like a slope."""
        assert stepper.resume is not None
        rounds: list[list[float]] = []
        for _ in range(request["rounds"]):
            rounds.append([])
            for position in request["positions"]:
                stepper.resume(position)
                rounds[-1].append(statistics.median(steps(request)))
        return rounds

    def memory(request: dict[str, Any]) -> dict[str, int]:
        carried = sum(tensor.numel() * tensor.element_size() for tensor in stepper.carried())
        return {"resident": resident_memory() - before, "carried": carried, "read": stepper.read(request["position"])}

    about = {"versions": {"torch": torch.__version__}, "differs": stepper.check()}
    return about, {"reach": reach, "steps": steps, "turns": turns, "memory": memory}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=["train", "prefill", "curves", "generate"])
    parser.add_argument("implementation")
    parser.add_argument("problem")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--memory-limit", type=int, required=True, help="bytes")
    return parser.parse_args()


def main() -> None:
    options = parse()
    limit_threads(options.threads)
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory_limit, options.memory_limit))
    sys.path.insert(0, str(ROOT / "src"))
    if options.operation == "generate":
        entry = next(entry for entry, _ in GENERATE if entry.name == options.implementation)
        about, answers = generate_answers(entry, options)
    else:
        make = curve_answers if options.operation == "curves" else layer_answers
        about, answers = make(layer(options.implementation), options)
    answers["calibrate"] = lambda _: calibrate()
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answers[request["do"]](request)), flush=True)


if __name__ == "__main__":
    main()
