"""Fits by request, JSON line by line; every fit in a child of its own, so that memory, time and crashes are the fit's alone.

The process imports a method's packages once and forks; the child answers twice, after the fit and after the evaluation.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from machine import MIB, highest_memory, peak_memory

FIT_SECONDS, EVALUATION_SECONDS = 60, 180
"""Of processor time, which does not depend on who else uses the machine."""
PATIENCE = 10
"""Times the sum of both, on the clock: then a child counts as hanging."""
MEMORY_LIMIT = 8 * 2**30
LARGEST = 1e300
"""Stands for errors that are not finite."""


def prepare(kind: str) -> dict[str, Any]:
    """Import and compile: one fit of each to a short recording, whose outcome does not matter."""
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    if kind == "torchstu":
        import torch

        torch.set_num_threads(1)
        methods = importlib.import_module("identification.ours").OURS
        names = [name for name in methods if name.startswith("torchstu")]  # gradients before a fork are refused by torch
    else:
        methods = importlib.import_module("identification.peers").PEERS
        names = list(methods)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(200, 1))
    for name in names:
        with contextlib.suppress(Exception, SystemExit):
            methods[name](u, 0.5 * u + np.vstack([[[0.0]], 0.5 * u[:-1]]) + 0.1 * rng.normal(size=u.shape))
    return methods


def allow(seconds: int) -> None:
    """The system ends this process after so many more seconds of processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, resource.RLIM_INFINITY))


def measure(fit: Any, path: str, answer: Any) -> None:
    """In the child: fit, tell time and memory, evaluate, tell errors."""
    import numpy as np

    from identification.models import relative_error

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    data, done = dict(np.load(path)), []
    allow(FIT_SECONDS)
    start = time.process_time()
    peak = peak_memory(lambda: done.append(fit(data["U"], data["Y"])))
    seconds, model = time.process_time() - start, done[0]
    allow(EVALUATION_SECONDS)
    answer({"seconds": seconds, "peak_bytes": peak, "choice": model.choice})

    def error(predictions: Any, targets: Any) -> float:
        errors = [relative_error(prediction, target) for prediction, target in zip(predictions, targets, strict=True)]
        return min(float(np.mean(errors)), LARGEST)

    pairs = list(zip(data["fresh_U"], data["observed_Y"], strict=True))
    answer(
        {
            "short": error((model.rollout(u) for u in data["fresh_U"]), data["fresh_Y"]),
            "long": error([model.rollout(data["long_U"])], [data["long_Y"]]),
            "one_step": error((model.one_step(u, y) for u, y in pairs), data["observed_Y"]),
            "radius": model.radius(),
        }
    )


def in_child(fit: Any, path: str) -> dict[str, Any]:
    """Everything about one fit, or ``failure``: what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)

        def answer(found: dict[str, Any]) -> None:
            os.write(write, (json.dumps(found) + "\n").encode())

        try:
            measure(fit, path, answer)
        except MemoryError:
            answer({"failure": "over the memory limit"})
        except NotImplementedError as why:
            answer({"failure": f"not applicable: {why}"})
        except (Exception, SystemExit) as why:
            answer({"failure": f"{type(why).__name__}: {why}"[:160].replace("\n", " ").replace("|", "/")})
        os._exit(0)
    os.close(write)
    try:
        return collect(read, child)
    finally:
        os.close(read)


def collect(read: int, child: int) -> dict[str, Any]:
    """The child's answers, merged, and how it ended if not by itself."""
    said, until = b"", time.monotonic() + PATIENCE * (FIT_SECONDS + EVALUATION_SECONDS)
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, until - time.monotonic()))
        part = os.read(read, 65536) if ready else b""
        said += part
        if not part:
            break
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    result: dict[str, Any] = {}
    for line in said.decode().splitlines():
        result |= json.loads(line)
    if status:
        stage, limit = ("evaluation", EVALUATION_SECONDS) if "seconds" in result else ("fit", FIT_SECONDS)
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        result["failure"] = f"{stage}: over {limit} s" if late else f"{stage}: died, status {status}"
    return result


def versions(names: list[str]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    kind, core = sys.argv[1], int(sys.argv[2])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    answers, sys.stdout = sys.stdout, sys.stderr  # packages print
    methods = prepare(kind)
    packages = ["numpy", "scipy", "torch"]
    packages += [] if kind == "torchstu" else ["nfoursid", "sippy_unipi", "llsi", "sysidentpy", "statsmodels"]
    print(json.dumps({"versions": versions(packages), "imports_mib": highest_memory() // MIB}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(in_child(methods[request["method"]], request["file"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
