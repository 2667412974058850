"""`torchstu stream` on a long file: rows a second, latency of a row, memory while it runs, and the step of the model alone.

    python benchmarks/stream.py [--rows N]

A model of 8 inputs and 8 outputs (L = 1024, 24 filters, a y-term over two lags) reads rows with all 16 columns, so that it
predicts one step ahead, with intervals; from file to file with a state saved every second, and through pipes. One core.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import MIB, ROOT, describe, environment_line, limit_threads, markdown_table, save

CHANNELS, LENGTH, FILTERS = 8, 1024, 24
COMMAND = "import sys; from torchstu.cli.main import main; sys.exit(main(sys.argv[1:]))"
EARLY = 0.2
"""Share of the rows after which memory is read first."""


def make_model(folder: Path) -> None:
    """A model with random weights, which cost what others do."""
    import numpy as np
    import torch

    from torchstu.data.scaling import Scaler
    from torchstu.experiments.series import HeldOutErrors, SeriesModel
    from torchstu.layers.stu import STU
    from torchstu.learn.estimator import LayerRegressor
    from torchstu.models.store import write_model

    torch.manual_seed(0)
    layer = STU(CHANNELS, CHANNELS, length=LENGTH, num_filters=FILTERS, autoregression="learned", dtype=torch.float64)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(std=0.02)
    errors = np.random.default_rng(0).normal(size=(1000, CHANNELS))
    held_out = HeldOutErrors.of(np.zeros_like(errors), {"one_step": errors, "rollout": 2 * errors})
    unit = Scaler(np.zeros(CHANNELS), np.ones(CHANNELS))
    names = [tuple(f"{kind}{i}" for i in range(CHANNELS)) for kind in "uy"]
    model = SeriesModel(LayerRegressor(layer), *names, unit, unit, held_out)
    folder.mkdir()
    write_model(folder, layer, {"series": model.to_dict(), "settings": {"time": None}})


def make_rows(path: Path, rows: int) -> None:
    """A file of random numbers of six digits."""
    import numpy as np

    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(",".join(f"{kind}{i}" for kind in "uy" for i in range(CHANNELS)) + "\n")
        for start in range(0, rows, 10_000):
            np.savetxt(file, rng.normal(size=(min(10_000, rows - start), 2 * CHANNELS)), fmt="%.5f", delimiter=",")


def own_step(folder: Path, steps: int = 20_000) -> dict[str, float]:
    """Microseconds of `SeriesStream.step`, and of the filter inside, at the median."""
    import numpy as np

    from torchstu.experiments.series import load_series_model
    from torchstu.experiments.series_stream import SeriesStream

    stream, rng = SeriesStream(load_series_model(folder)[0], level=0.9), np.random.default_rng(0)
    u, y = rng.normal(size=(2, steps, CHANNELS))
    found: dict[str, list[float]] = {"whole": [], "model": []}
    for a, b in zip(u, y, strict=True):
        began = time.perf_counter()
        stream.step(a, b)
        found["whole"].append(time.perf_counter() - began)
    for a, b in zip(u, y, strict=True):
        began = time.perf_counter()
        stream._filter.predict(a)
        stream._filter.update(b)
        found["model"].append(time.perf_counter() - began)
    return {name: 1e6 * statistics.median(times) for name, times in found.items()}


def resident(pid: int) -> int:
    """Bytes that a process has in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


def run(folder: Path, rows: Path, count: int, piped: bool) -> dict[str, Any]:
    """The command over all rows; memory is read while it runs."""
    out, state = rows.with_suffix(".out"), rows.with_suffix(".state")
    words = ["stream", str(folder), "--state", str(state), "--save-every", "1"]
    words += [] if piped else ["--input", str(rows), "--output", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    began = time.perf_counter()
    with rows.open("rb") as given, out.open("wb") as taken:
        reader = subprocess.Popen(["cat"], stdin=given, stdout=subprocess.PIPE) if piped else None
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], stdin=reader.stdout if reader else subprocess.DEVNULL,
            stdout=taken if piped else None, stderr=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        if reader is not None and reader.stdout is not None:
            reader.stdout.close()
        early, last, size = 0, 0, rows.stat().st_size
        while process.poll() is None:
            time.sleep(0.2)
            try:
                last = resident(process.pid)
            except (OSError, TypeError):
                break
            if not early and out.stat().st_size > EARLY * 1.5 * size:
                early = last
        said = process.communicate()[1]
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(said)
    middle, most = map(int, re.search(r"half of them took (\d+) µs at most, 99 % took (\d+)", said).groups())  # type: ignore[union-attr]
    lines = sum(1 for _ in out.open("rb"))
    out.unlink()
    for path in rows.parent.glob(f"{state.name}*"):
        path.unlink()
    if lines != count + 1:
        raise RuntimeError(f"{lines} lines for {count} rows")
    return {"seconds": seconds, "rows_per_second": count / seconds, "median_us": middle, "most_us": most, "early": early,
            "last": last}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    limit_threads(1)
    sys.path.insert(0, str(ROOT / "src"))
    machine = describe()
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name) / "model", Path(name) / "rows.csv"
        make_model(folder)
        make_rows(rows, options.rows)
        step = own_step(folder)
        found = {words: run(folder, rows, options.rows, piped) for words, piped in (("file to file", False), ("pipes", True))}
    lines = [
        [words, f"{own['rows_per_second']:,.0f}", str(own["median_us"]), str(own["most_us"]), f"{own['early'] / MIB:.0f}",
         f"{own['last'] / MIB:.0f}"]
        for words, own in found.items()
    ]  # fmt: skip
    header = ["", "rows/s", "half take µs", "99 % take µs", f"MiB after {EARLY:.0%}", "MiB at the end"]
    environment = environment_line(machine, {"torch": version("torch")})
    text = (
        f"## A stream of {options.rows:,} rows\n\n    python benchmarks/stream.py\n\n{CHANNELS} inputs and {CHANNELS} outputs, "
        f"L = {LENGTH}, {FILTERS} filters and two banks, a y-term; one core. {environment}\n\n"
        f"{markdown_table(header, lines)}\n\nIn Python `SeriesStream.step` takes {step['whole']:.0f} µs (median), of which the "
        f"model's own prediction and update are {step['model']:.0f}. Rows/s count the start of Python and torch."
    )
    print(text)
    save(
        ROOT / "benchmarks" / "results" / "stream.json", {"machine": machine, "rows": options.rows, "step": step} | found, text
    )


if __name__ == "__main__":
    main()
