"""One sequence of 65,536 steps on one, two and four processes: memory of each, error, time.

python benchmarks/sequence_parallel.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import (
    MEMORY_METHOD,
    MIB,
    ROOT,
    describe,
    environment_line,
    limit_threads,
    markdown_table,
    peak_memory,
    save,
)

STEPS, WIDTH, LENGTH, COUNT = 65_536, 64, 4096, 24
SIZES = (1, 2, 4)
PLAIN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024)}
"""For glibc: give every large block back at once. It keeps them otherwise, and the peak then varies by a third between runs."""
MODELS = ("STU", "ARSTU", "TensordotSTU", "LRU", "SpectralSSM, 2 × STU")
REPEATS = 3


def build(name: str, dtype: Any) -> Any:
    """A model with random weights, the same in every process."""
    import torch

    import torchstu

    torch.manual_seed(0)
    bank = {"length": LENGTH, "num_filters": COUNT}
    if name == "SpectralSSM, 2 × STU":
        options = {"num_filters": COUNT}
        sizes = {"d_model": WIDTH, "num_layers": 2, "length": LENGTH}
        model = torchstu.SpectralSSM(WIDTH, WIDTH, mixer="STU", mixer_options=options, **sizes)
    elif name == "LRU":
        model = torchstu.LRU(WIDTH, WIDTH, state_dim=WIDTH, r_min=0.9, r_max=0.999)
    elif name == "TensordotSTU":
        model = torchstu.TensordotSTU(WIDTH, banks="both", **bank)
    else:
        model = getattr(torchstu, name)(WIDTH, WIDTH, **bank)
    spectral = [p for label, p in model.named_parameters() if label.split(".")[-1] in ("M_u", "M_phi_plus", "M_phi_minus")]
    for weight in spectral:  # zero at the start
        torch.nn.init.normal_(weight, std=0.02 / WIDTH)
    for label, weight in model.named_parameters():
        if label.split(".")[-1] == "M_y":  # inside the stability limit
            weight.data.mul_(0.9)
    return model.to(dtype)


def step(model: Any, u: Any, mesh: Any) -> Any:
    """Loss and gradients of the whole sequence: the mean square of all outputs."""
    import torch.distributed as dist

    from torchstu.layers.sequence_parallel import sum_gradients

    model.zero_grad()
    u.grad = None
    loss = model(u)[0].square().sum() / (STEPS * WIDTH)
    loss.backward()
    total = loss.detach()
    if mesh is not None:
        sum_gradients(model, mesh)
        dist.all_reduce(total, group=mesh.get_group())
    return total


def work(options: argparse.Namespace) -> None:
    """One process of one row: measure, and write gradients and figures."""
    import torch

    rank, size, folder = options.rank, options.size, options.folder
    dtype = getattr(torch, options.dtype)
    mesh = None
    model = build(options.model, dtype)
    if size > 1:
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        from torchstu.layers.sequence_parallel import sequence_parallel

        dist.init_process_group("gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size)
        mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("sequence",))
        model = sequence_parallel(model, mesh)
    u = torch.randn(1, STEPS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = u.to(dtype).tensor_split(size, dim=1)[rank].clone().requires_grad_()
    if options.task == "time":
        step(model, u, mesh)
        figures = {"seconds": [timed(lambda: step(model, u, mesh)) for _ in range(REPEATS)]}
        print(json.dumps(figures | (shares(model, u) if rank == size - 1 else {})))
        return
    losses: list[Any] = []
    memory = peak_memory(lambda: losses.append(step(model, u, mesh)))
    weights = [p.grad.double() for p in model.parameters()] if rank == 0 else None
    torch.save({"loss": losses[0], "weights": weights, "u": u.grad.double()}, folder / f"{options.dtype}-{size}-{rank}.pt")
    print(json.dumps({"memory": memory}))


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def shares(model: Any, u: Any) -> dict[str, Any]:
    """What a mixer's carry costs: bytes, and the time of its free response, forward and backward, beside that of the mixer."""
    from torchstu.layers.base import Mixer, map_state
    from torchstu.layers.sequence_parallel import SequenceParallel

    parallel = [module for module in model.modules() if isinstance(module, SequenceParallel)]
    if not parallel:
        return {}
    layer: Mixer = parallel[0].layer
    _, state = layer(u.detach())
    leaves: list[Any] = []
    state = map_state(lambda x: leaves.append(x.detach().requires_grad_()) or leaves[-1], state)

    def local() -> None:
        layer(u)[0].sum().backward()

    def free() -> None:
        layer.free_response(state, u.shape[1])[0].sum().backward()

    seconds = {name: min(timed(call) for _ in range(REPEATS)) for name, call in (("local", local), ("free", free))}
    size = sum(x.numel() * x.element_size() for x in leaves)
    return {"carry_bytes": size, "carries": len(parallel), "free_share": seconds["free"] / seconds["local"]}


def launch(task: str, model: str, size: int, folder: Path, dtype: str = "float32") -> list[dict[str, Any]]:
    """Start the processes of a row, each on a core of its own while there are enough; their figures."""
    cores = sorted(os.sched_getaffinity(0))
    environment = os.environ | (PLAIN_MEMORY if task == "memory" else {})
    processes = []
    for rank in range(size):
        command = [sys.executable, __file__, "--rank", str(rank), "--size", str(size), "--folder", str(folder)]
        command += ["--task", task, "--model", model, "--dtype", dtype, "--core", str(cores[rank % len(cores)])]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    outputs = [process.communicate()[0] for process in processes]
    (folder / f"store{size}").unlink(missing_ok=True)
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{model}: a process of {size} failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def largest_error(folder: Path, first: tuple[str, int], second: tuple[str, int]) -> dict[str, float]:
    """Relative errors (Euclidean norm) of the loss and, the largest, of the gradients of inputs and weights."""
    import torch

    def read(dtype: str, size: int) -> dict[str, Any]:
        parts = [torch.load(folder / f"{dtype}-{size}-{rank}.pt", weights_only=True) for rank in range(size)]
        u = torch.cat([part["u"] for part in parts], dim=1)
        return {"loss": [parts[0]["loss"].double()], "weights": parts[0]["weights"], "u": [u]}

    actual, expected = read(*first), read(*second)
    return {
        key: max(float((a - b).norm() / b.norm()) for a, b in zip(actual[key], expected[key], strict=True)) for key in expected
    }


def measure(model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory = {size: [process["memory"] for process in launch("memory", model, size, folder)] for size in SIZES}
        launch("memory", model, 1, folder, "float64")
        errors = {size: largest_error(folder, ("float32", size), ("float32", 1)) for size in SIZES[1:]}
        rounding = largest_error(folder, ("float32", 1), ("float64", 1))
        times = {size: launch("time", model, size, folder) for size in SIZES[:2]}
    return {
        "memory": memory,
        "seconds": {size: max(statistics.median(p["seconds"]) for p in processes) for size, processes in times.items()},
        "error": errors,
        "float32_against_float64": rounding,
        **{key: times[2][-1][key] for key in ("carry_bytes", "carries", "free_share")},
    }


def render(report: dict[str, Any]) -> str:
    rows = []
    for name, result in report["models"].items():
        one = max(result["memory"][1])
        rows.append(
            [
                name,
                f"{one / MIB:.0f} MiB",
                *(f"{max(result['memory'][size]) / one:.2f}" for size in SIZES[1:]),
                *(f"{max(result['error'][size].values()):.0e}" for size in SIZES[1:]),
                f"{max(result['float32_against_float64'].values()):.0e}",
                f"{result['seconds'][1]:.2f} s",
                f"{result['seconds'][2]:.2f} s",
                f"{result['free_share']:.2f}",
                f"{result['carries']} × {result['carry_bytes'] / 1024:.1f} KiB",
            ]
        )
    header = ["", "memory, 1", "2", "4", "error, 2", "4", "rounding", "time, 1", "2", "free response", "a step sends"]
    return (
        f"## A sequence of {STEPS:,} steps on several processes\n\n"
        f"{environment_line(report['machine'], report['versions'])}\n\n"
        f"Forward, backward and the sum of gradients; batch 1, {WIDTH} channels, L = {LENGTH}, K = {COUNT}, float32, gloo, one "
        "thread a process, a core each (four share two cores, so they have no time). Memory: the largest of the "
        f"processes; {MEMORY_METHOD}, where glibc gives blocks above 256 KiB back at once; for 2 and 4 processes over that "
        "of one. Error: the largest of loss, gradient of the "
        "input and gradient of every weight, relative, Euclidean norm, against one process; rounding: the same of one process "
        "in float32 against float64. Free response: its time over that of the layer on the same piece, forward and backward. "
        "A step sends that much to each neighbour, forward and again backward.\n\n" + markdown_table(header, rows)
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=";".join(MODELS), help="names, separated by ';'")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "sequence_parallel.json")
    worker = parser.add_argument_group("one process, started by the benchmark itself")
    worker.add_argument("--rank", type=int)
    worker.add_argument("--size", type=int)
    worker.add_argument("--core", type=int)
    worker.add_argument("--folder", type=Path)
    worker.add_argument("--task", choices=["memory", "time"])
    worker.add_argument("--model")
    worker.add_argument("--dtype")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
        limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    if options.rank is not None:
        work(options)
        return
    import torch

    report: dict[str, Any] = {
        "command": "python benchmarks/sequence_parallel.py", "machine": describe(), "versions": {"torch": torch.__version__},
        "steps": STEPS, "width": WIDTH, "length": LENGTH, "count": COUNT, "models": {},
    }  # fmt: skip
    for name in options.models.split(";"):
        print(f"{name} ...", file=sys.stderr, flush=True)
        report["models"][name] = measure(name)
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
