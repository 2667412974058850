"""The closed form at size: ten million steps from a file in one pass, and marginally stable systems of a thousand states.

    python benchmarks/closed_form.py [--only file|systems] [--steps STEPS] [--work FOLDER]

The file is written first (0.5 GB). Every fit is a process of its own; its memory is what it held at most, imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import MIB, ROOT, describe, environment_line, highest_memory, limit_threads, markdown_table, save

CHANNELS, STATES, LENGTH, FILTERS, NOISE = 3, 64, 1024, 24, 0.1
PIECE = 500_000
INPUTS, OUTPUTS = [[f"{kind}{i}" for i in range(CHANNELS)] for kind in "uy"]
OPTIONS: dict[str, Any] = {"num_filters": FILTERS, "length": LENGTH, "ridge": 1.0}
SYSTEMS = {"±[0, 1-1e-7]": 0.0, "±[0.999, 1-1e-7]": 0.999}


def write_file(path: Path, steps: int) -> None:
    """White inputs through a symmetric system of 64 states, |λ| in [0.9, 0.999], with 10 % observation noise."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy.signal import lfilter

    rng = np.random.default_rng(0)
    poles = rng.uniform(0.9, 0.999, STATES) * rng.choice([-1.0, 1.0], STATES)
    B, C = rng.normal(size=(STATES, CHANNELS)), rng.normal(size=(CHANNELS, STATES)) / STATES
    states, spread = np.zeros((STATES, 1)), None
    partial, writer = path.with_suffix(".partial"), None
    for first in range(0, steps, PIECE):
        u = rng.normal(size=(min(PIECE, steps - first), CHANNELS))
        x = np.empty((len(u), STATES))
        for j, pole in enumerate(poles):
            x[:, j], states[j] = lfilter([1.0], [1.0, -pole], u @ B[j], zi=states[j])
        y = x @ C.T
        spread = y.std() if spread is None else spread
        y += NOISE * spread * rng.normal(size=y.shape)
        table = pa.table(dict(zip([*INPUTS, *OUTPUTS], [*u.T, *y.T], strict=True)))
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    partial.rename(path)


def fit_file(path: Path, in_memory: bool, output: Path) -> dict[str, Any]:
    """One fit; its roll-out over fresh inputs goes to a file."""
    limit_threads(2)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np
    import pyarrow.parquet as pq

    import torchstu
    from torchstu.data.batches import read_batches

    model = torchstu.SpectralRegressor(**OPTIONS)
    prepared, start = highest_memory(), time.perf_counter()
    if in_memory:
        values = pq.read_table(path).to_pandas().to_numpy()
        model.fit(values[:, :CHANNELS], values[:, CHANNELS:])
    else:
        model.fit(read_batches(path, INPUTS, OUTPUTS), continues=True)
    seconds = time.perf_counter() - start
    np.save(output, model.predict(np.random.default_rng(1).normal(size=(8 * LENGTH, CHANNELS))))
    rows = pq.ParquetFile(path).metadata.num_rows
    return {"how": "in memory" if in_memory else "from the file", "seconds": seconds, "rows": rows, "residual": model.residual,
            "memory": highest_memory(), "prepared": prepared}  # fmt: skip


def fit_system(low: float, seed: int) -> dict[str, Any]:
    """A thousand states, ten inputs and outputs, 8 sequences of 8192 steps; error of the roll-out on 4 fresh ones."""
    limit_threads(2)
    sys.path.insert(0, str(ROOT / "src"))
    import torch

    import torchstu

    generator = torch.Generator().manual_seed(seed)
    lds = torchstu.random_lds(1000, 10, 10, torchstu.Uniform(low, 1 - 1e-7, dense=False), generator)
    u, fresh = (torch.randn(n, 8192, 10, generator=generator, dtype=torch.float64) for n in (8, 4))
    y, truth = lds.simulate(u), lds.simulate(fresh)
    start = time.perf_counter()
    model = torchstu.SpectralRegressor(48, tail_penalty=0.0).fit(u, y)
    seconds = time.perf_counter() - start
    error = torchstu.relative_error(model.predict(fresh), truth)
    return {"low": low, "seed": seed, "seconds": seconds, "error": error, "memory": highest_memory()}


def child(*arguments: str) -> dict[str, Any]:
    """A measurement of this script in a fresh process."""
    print(*arguments, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def file_part(work: Path, steps: int) -> dict[str, Any]:
    import numpy as np

    path = work / f"steps-{steps}.parquet"
    if not path.exists():
        write_file(path, steps)
    fits = [child("file", str(path), how, str(work / f"{how}.npy")) for how in ("stream", "memory")]
    a, b = (np.load(work / f"{how}.npy") for how in ("stream", "memory"))
    return {"fits": fits, "difference": float(np.abs(a - b).max() / np.abs(b).max()), "megabytes": path.stat().st_size / 1e6}


def render(report: dict[str, Any]) -> str:
    parts = [
        f"# The closed form at size\n\n{environment_line(report['machine'], report['versions'])}\n\n    {report['command']}"
    ]
    if "file" in report:
        part = report["file"]
        rows = [
            [f["how"], f"{f['rows']:,}", f"{f['seconds']:.0f}", f"{f['rows'] / f['seconds']:,.0f}", f"{f['memory'] / MIB:.0f}",
             f"{f['prepared'] / MIB:.0f}"] for f in part["fits"]
        ]  # fmt: skip
        parts.append(
            f"## One recording in one pass\n\n{CHANNELS} inputs, {CHANNELS} outputs, K = {FILTERS}, L = {LENGTH}, ridge 1, "
            f"roll-out objective, 10 % noise, a Parquet file of {part['megabytes']:.0f} MB.\n\n"
            + markdown_table(["fit", "steps", "s", "steps a second", "peak MiB", "of it imports"], rows)
            + f"\n\nLargest difference of the two roll-outs over {8 * LENGTH} fresh steps, over the largest output: "
            f"{part['difference']:.1e}."
        )
    if "systems" in report:
        names = {low: name for name, low in SYSTEMS.items()}
        rows = [[names[f["low"]], str(f["seed"]), f"{f['error']:.1e}", f"{f['seconds']:.0f}", f"{f['memory'] / MIB:.0f}"]
                for f in report["systems"]]  # fmt: skip
        parts.append(
            "## A thousand states\n\n10 inputs, 10 outputs, L = 8192, K = 48, 8 training sequences, no noise, no tail penalty; "
            "relative error of the roll-out on 4 fresh sequences.\n\n"
            + markdown_table(["spectrum", "seed", "error", "s", "peak MiB"], rows)
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, *rest = sys.argv[2:]
        result = (
            fit_file(Path(rest[0]), rest[1] == "memory", Path(rest[2]))
            if kind == "file"
            else fit_system(float(rest[0]), int(rest[1]))
        )
        print(json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["file", "systems"])
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, help="where the file is kept; a temporary folder if not given")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "closed_form.json")
    options = parser.parse_args()
    report: dict[str, Any] = {"command": "python benchmarks/closed_form.py", "machine": describe(),
                              "versions": {name: version(name) for name in ("torch", "numpy", "pyarrow")}}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if options.only != "systems":
            report["file"] = file_part(work, options.steps)
    if options.only != "file":
        report["systems"] = [child("system", str(low), str(seed)) for low in SYSTEMS.values() for seed in (0, 1)]
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
