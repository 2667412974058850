"""The benchmarks of one layer: `train`, `prefill`, `generate` and `curves`, beside peers.

    python benchmarks/run.py --peer flash-stu-2=DIR --peer spectral_ssm=DIR --peer-python spectral_ssm=PYTHON \\
        --peer-python pip=PYTHON

Every implementation at every shape runs in a process of its own; the processes take turns, so that a drift of the machine
hits all alike. Before anything is timed, outputs and gradients of the same mathematics are compared, with the same weights.
What is measured is listed in `registry.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import operations
import pictures
import tables
from harness import say
from machine import MEMORY_METHOD, ROOT, available_memory, describe, revision, save

Measure = Callable[[argparse.Namespace], dict[str, Any]]
Render = Callable[[dict[str, Any]], str]
Draw = Callable[[dict[str, Any], Path], None]
OPERATIONS: dict[str, tuple[Measure, Render, Draw]] = {
    name: (partial(operations.layers, name), partial(tables.layers, name), partial(pictures.layers, name))
    for name in ("train", "prefill")
} | {
    "generate": (operations.generate, tables.generate, pictures.generate),
    "curves": (operations.curves, tables.curves, pictures.curves),
}
CHECKOUTS = ("flash-stu-2", "spectral_ssm")
PYTHONS = (*CHECKOUTS, "pip")


def assignment(known: tuple[str, ...]) -> Callable[[str], tuple[str, str]]:
    def read(text: str) -> tuple[str, str]:
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise argparse.ArgumentTypeError(f"{text!r}; it must be one of {', '.join(f'{name}=PATH' for name in known)}")
        return name, value

    return read


def operation_list(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in OPERATIONS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; it must be of {', '.join(OPERATIONS)}")
    return names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", action="append", default=[], type=assignment(CHECKOUTS), help="NAME=checkout of a peer")
    add(
        "--peer-python",
        action="append",
        default=[],
        type=assignment(PYTHONS),
        help='NAME=its interpreter; "pip" has all others',
    )
    add("--only", type=operation_list, default=list(OPERATIONS), help="operations, separated by commas (default all)")
    add("--axes", default="LDKB", help="which of L, D, K and B `curves` varies (default LDKB)")
    add("--repeats", type=int, default=5, help="timed repeats of each (default 5)")
    add("--threads", type=int, default=2, help="cores of each process (default 2)")
    add("--memory-limit", type=float, help="GiB that one process may take (default 0.8 of what is free)")
    add("--quick", action="store_true", help="tiny shapes: to see that everything runs")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    options = parser.parse_args()
    options.peer = {name: Path(value).resolve() for name, value in options.peer}
    options.peer_python = dict(options.peer_python)
    options.memory_limit = int(0.8 * available_memory() if options.memory_limit is None else options.memory_limit * 2**30)
    return options


def command(options: argparse.Namespace, name: str) -> str:
    """How to make this result again, without this machine's folders."""
    words = [f"--peer {peer}=DIR" for peer in options.peer]
    words += [f"--peer-python {peer}=PYTHON" for peer in options.peer_python]
    words += (
        [f"--only {name}", f"--repeats {options.repeats}", f"--threads {options.threads}"]
        + ["--quick"] * options.quick
        + [f"--axes {options.axes}"] * (name == "curves")
    )
    return " ".join(["python benchmarks/run.py", *words])


def main() -> None:
    options = parse()
    sys.path.insert(0, str(ROOT / "src"))
    for name in options.only:
        measure, render, draw = OPERATIONS[name]
        start = time.monotonic()
        report: dict[str, Any] = {
            "command": command(options, name),
            "machine": describe(),
            "peers": {peer: revision(folder) for peer, folder in options.peer.items()},
            "threads": options.threads, "repeats": options.repeats, "quick": options.quick, "memory": MEMORY_METHOD,
        }  # fmt: skip
        report |= measure(options)
        report["minutes"] = round((time.monotonic() - start) / 60, 1)
        text = render(report)
        save(options.output / f"{name}.json", report, text)
        draw(report, options.output / f"{name}.svg")
        say(f"{name}: {report['minutes']} minutes")
        print(text, end="\n\n")


if __name__ == "__main__":
    main()
