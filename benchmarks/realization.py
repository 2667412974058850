"""The realization of a filter bank beside exponentials fitted to it by least squares.

    python benchmarks/realization.py --peer flash-stu-2=DIR

flash-stu-2 ships one system of 160 exponentials (``mini_stu/phi_lds.pt``) for the 24 filters of L = 8192 and their (-1)^i
twins; each of the two banks reads 80 of them. Every row below makes the same 24 features σ_k^{1/4} (φ_k * u).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, revision, save

LENGTH, COUNT = 8192, 24
SHOWN = (1, 12, 24)
WINDOWS, STEPS, DRAWS = 12, 100_000, 4
FILE = "mini_stu/phi_lds.pt"


class System(NamedTuple):
    """features = C x, x_t = A x_{t-1} + b u_t; A is (R, R), or (R,) where it is diagonal; C is (K, R)."""

    name: str
    A: Any
    b: Any
    C: Any


def our_systems() -> list[System]:
    import numpy as np

    import torchstu

    bank = torchstu.filter_bank(LENGTH, COUNT)
    own = torchstu.FilterBank(bank.eigenvalues, bank.filters)
    spaces = {
        "realization(order=32)": bank.realization(order=32),
        "realization(tolerance=1e-10)": bank.realization(tolerance=1e-10),
        "realization()": bank.realization(),
        "realization() of the arrays alone": own.realization(),
    }
    scale = bank.eigenvalues**0.25
    return [System(name, s.A, s.b, np.eye(COUNT, s.order) * scale[:, None]) for name, s in spaces.items()]


def peer_system(folder: Path, scaled: Any) -> System:
    """The peer's exponentials of the + bank, its filters put in our order and signs."""
    import numpy as np
    import torch

    # weights_only: tensors are read, nothing that the file may hold is executed
    weights = torch.load(folder / FILE, map_location="cpu", weights_only=True)["model_state_dict"]
    A, b, C = (weights[name].double().numpy() for name in "ABC")
    read = C[:, :COUNT].T[::-1]  # ascending there
    used = np.abs(read).max(axis=0) > 0
    A, b, read = A[used], b[0, used], read[:, used]
    response = (read * b) @ A[:, None] ** np.arange(LENGTH)
    signs = np.sign((response * scaled.T).sum(axis=1))
    return System(f"flash-stu-2 `{Path(FILE).name}`", A, b, read * signs[:, None])


def impulse_response(system: System, length: int) -> Any:
    """C A^i b in float64, (length, K)."""
    import numpy as np

    rows, x = [], system.b
    for _ in range(length):
        rows.append(system.C @ x)
        x = system.A * x if system.A.ndim == 1 else system.A @ x
    return np.stack(rows)


def features(system: System, u: Any, dtype: str, increments: bool) -> Any:
    """The features (K, S) of the inputs u (T, S) step by step in one precision: x = A x + b u, or x = x + ((A - I) x + b u)."""
    import numpy as np

    A = system.A - (np.eye(len(system.b)) if system.A.ndim == 2 else 1.0) * increments
    A, b, C = (np.ascontiguousarray(array, dtype=dtype) for array in (A, system.b[:, None], system.C))
    u, x = u.astype(dtype), np.zeros((len(b), u.shape[1]), dtype=dtype)
    diagonal = A.ndim == 1
    A = A[:, None] if diagonal else A
    for u_t in u:
        moved = (A * x if diagonal else A @ x) + b * u_t
        x = x + moved if increments else moved
        yield C @ x


def largest_difference(first: Any, second: Any) -> float:
    return max(float(abs(x - y).max()) for x, y in zip(first, second, strict=True))


def true_features(scaled: Any, u: Any) -> Any:
    """σ^{1/4} (φ_k * u) in float64 by transforms, (T, K, S), for T <= L."""
    import numpy as np

    size = 2 * len(u)
    product = np.fft.rfft(scaled, size, axis=0)[:, :, None] * np.fft.rfft(u, size, axis=0)[:, None, :]
    return np.fft.irfft(product, size, axis=0)[: len(u)]


def measure(system: System, scaled: Any) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    short = rng.normal(size=(LENGTH, WINDOWS)).astype(np.float32)
    long = rng.normal(size=(STEPS, DRAWS)).astype(np.float32)
    error, truth = impulse_response(system, LENGTH) - scaled, true_features(scaled, short.astype(np.float64))
    relative = np.linalg.norm(error, axis=0) / np.linalg.norm(scaled, axis=0)
    forms = {"A x": False, "x + (A - I) x": True}
    return {
        "states": len(system.b),
        "relative_error_of_filter": {str(k): float(relative[k - 1]) for k in range(1, COUNT + 1)},
        "largest_scaled_error": float(np.abs(error).max()),
        "float64_against_filters": largest_difference(features(system, short, "f8", False), truth),
        "float32_against_filters": {
            form: largest_difference(features(system, short, "f4", x), truth) for form, x in forms.items()
        },
        "float32_against_float64": {
            form: largest_difference(features(system, long, "f4", x), features(system, long, "f8", False))
            for form, x in forms.items()
        },
    }


def render(report: dict[str, Any]) -> str:
    rows = []
    for name, result in report["systems"].items():
        if "skipped" in result:
            rows.append([name, f"skipped: {result['skipped']}", *["-"] * 8])
            continue
        shown = [result["relative_error_of_filter"][str(k)] for k in SHOWN] + [result["largest_scaled_error"]]
        shown += [result[key][form] for key in ("float32_against_filters", "float32_against_float64")
                  for form in ("A x", "x + (A - I) x")]  # fmt: skip
        rows.append([name, str(result["states"]), *(f"{x:.0e}" for x in shown)])
    header = ["", "states", *(f"φ_{k}" for k in SHOWN), "scaled", "A x", "x + (A-I) x", "A x, long", "x + (A-I) x, long"]
    peers = "; ".join(f"{name} at {commit[:12]}" for name, commit in report["peers"].items()) or "none given"
    return (
        f"## {COUNT} filters of L = {LENGTH} as a recurrence\n\n{environment_line(report['machine'], report['versions'])} "
        f"Peers: {peers}.\n\n"
        "φ_k: error of the impulse response in float64, relative, Euclidean norm over the lags below L. Scaled: the largest "
        "error of σ_k^{1/4} φ_k(i) over k and i. The others are features in float32, stepped as x = A x + b u or as "
        f"x = x + ((A - I) x + b u), on white noise of unit variance, largest absolute error: over {WINDOWS} sequences of "
        f"{LENGTH} steps against the true filters in float64, and (long) over {DRAWS} sequences of {STEPS:,} steps against "
        "the same recurrence in float64. The largest feature has 0.8 root mean square.\n\n" + markdown_table(header, rows)
    )


def parse() -> argparse.Namespace:
    def assignment(text: str) -> tuple[str, Path]:
        name, equals, value = text.partition("=")
        if name != "flash-stu-2" or not equals or not Path(value).is_dir():
            raise argparse.ArgumentTypeError(f"{text!r}; it must be flash-stu-2=DIR, DIR a checkout")
        return name, Path(value).resolve()

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], type=assignment, help="NAME=checkout of a peer")
    parser.add_argument("--threads", type=int, default=1, help="cores (default 1)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "realization.json")
    options = parser.parse_args()
    options.peer = dict(options.peer)
    return options


def main() -> None:
    options = parse()
    limit_threads(options.threads)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np

    import torchstu

    scaled = torchstu.filter_bank(LENGTH, COUNT).scaled_filters
    systems = our_systems()
    skipped = {}
    folder = options.peer.get("flash-stu-2")
    if folder is None or not (folder / FILE).is_file():
        skipped["flash-stu-2"] = {"skipped": "not given" if folder is None else f"no {FILE}"}
    else:
        systems.append(peer_system(folder, scaled))
    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/realization.py", *(f"--peer {name}=DIR" for name in options.peer)]),
        "machine": describe(), "peers": {name: revision(path) for name, path in options.peer.items()},
        "versions": {"numpy": np.__version__}, "length": LENGTH, "count": COUNT, "systems": {},
    }  # fmt: skip
    for system in systems:
        print(f"{system.name} ...", file=sys.stderr, flush=True)
        report["systems"][system.name] = measure(system, scaled)
    report["systems"] |= skipped
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
