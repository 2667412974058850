"""Measured error of an STU against the number of filters, beside the bounds of `torchstu.spectral.bounds` and their rates.

    python benchmarks/theory.py

The systems have 64 states, eigenvalues ±(1 - s) with s log-uniform in [1/(10 L), 1], one input, one output and
‖B‖ = ‖C‖ = 1, so that the error is in units of the bounds' gain. Per L and K:

- worst input: max over the systems of Σ_i |h_i - ĥ_i|, i < L, the largest error that any input with |u_t| ≤ 1 can cause;
- worst mode: the same for a single eigenvalue, the worst of 200;
- roll-out: the largest error on random inputs ±1;
- fit: the same for weights fitted by least squares (no penalty) on other sequences of ±1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from machine import ROOT, describe, environment_line, limit_threads, markdown_table, save

LENGTHS = {
    2**8: range(2, 33, 2),
    2**10: range(2, 41, 2),
    2**12: range(4, 49, 4),
    2**14: range(4, 49, 4),
    2**16: (8, 16, 24, 32, 40),
}
QUICK = {2**8: range(4, 25, 4)}
STATES, SYSTEMS, TRAINING, FRESH = 64, 3, 6, 2
FITTED_COUNTS = 24  # filters up to which weights are fitted at the longest two lengths: least squares is the slow part
TARGETS = (1e-2, 1e-4)


def system(length: int, seed: int) -> Any:
    """A random symmetric system whose slowest modes are slower than L."""
    import numpy as np

    from torchstu import LDS

    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 1.0], STATES) * (1 - np.exp(rng.uniform(-np.log(10 * length), 0, STATES)))
    B, C = rng.normal(size=(STATES, 1)), rng.normal(size=(1, STATES))
    return LDS(np.diag(values), B / np.linalg.norm(B), C / np.linalg.norm(C), rng.normal(size=(1, 1)))


def response(lds: Any, length: int) -> Any:
    """h_i of a diagonal system, (L,)."""
    import torch

    values = lds.A.diagonal()
    sign = torch.where(torch.arange(length)[:, None] % 2 == 0, 1.0, torch.sign(values))
    powers = torch.exp(torch.arange(length, dtype=torch.float64)[:, None] * values.abs().log()) * sign
    h = powers @ (lds.C[0] * lds.B[:, 0])
    h[0] += lds.D[0, 0]
    return h


def signs(count: int, length: int, seed: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, length, 1, generator=generator) < 0.5).double() * 2 - 1


def outputs(h: Any, u: Any) -> Any:
    """y = h * u by one transform, (B, L, 1)."""
    import torch

    size = 2 * len(h)
    return torch.fft.irfft(torch.fft.rfft(u[..., 0], n=size) * torch.fft.rfft(h, n=size), n=size)[:, : len(h), None]


def worst_mode(length: int, count: int) -> float:
    """max over eigenvalues of Σ_i |h_i - ĥ_i|."""
    import numpy as np

    from torchstu import filter_bank
    from torchstu.spectral.bounds import _residual_sums

    filters = filter_bank(length, count).filters
    summed = filters[: length - 2].copy()
    for start in (0, 1):
        summed[start::2] = np.cumsum(summed[start::2], axis=0)
    parts = np.array_split(np.logspace(-1.5 - np.log10(length), -1e-9, 200), max(1, length // 4096))
    return max(float(np.abs(_residual_sums(s, filters, summed)).sum(0).max()) for s in parts)


def measure(length: int, count: int, fitted: bool) -> dict[str, Any]:
    """All errors and bounds of one L and K."""
    import numpy as np
    import torch

    from torchstu import SpectralRegressor, filter_bank, system_to_stu
    from torchstu.spectral.bounds import error_bound

    worst, rollout, fit = 0.0, 0.0, 0.0
    pulse = torch.zeros(1, length, 1, dtype=torch.float64)
    pulse[0, 0] = 1
    for seed in range(SYSTEMS):
        lds = system(length, seed)
        h, u = response(lds, length), signs(FRESH, length, 100 + seed)
        y = outputs(h, u)
        layer = system_to_stu(lds, length, count)
        with torch.no_grad():
            worst = max(worst, float((layer(pulse)[0][0, :, 0] - h).abs().sum()))
            rollout = max(rollout, float((layer(u)[0] - y).abs().max()))
        if fitted:
            known = signs(TRAINING, length, seed)
            model = SpectralRegressor(count, tail_penalty=0.0).fit(known, outputs(h, known))
            fit = max(fit, float((model.predict(u) - y).abs().max()))
    bound = error_bound(length, count)
    sigma = filter_bank(length, count).eigenvalues
    return {
        "length": length, "count": count, "worst_input": worst, "worst_mode": worst_mode(length, count), "rollout": rollout,
        "fit": fit if fitted else None, **bound._asdict(), "eigenvalue": float(sigma[-1] / sigma[0]),
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
    }  # fmt: skip


def slope(rows: list[dict[str, Any]], key: str, floor: float) -> float | None:
    """-d ln(error²)/dK over the rows from K = 6 on that lie a thousand times above rounding; None for fewer than three."""
    import numpy as np

    points = [(row["count"], row[key]) for row in rows if row["count"] >= 6 and row[key] and row[key] > floor * row["rounding"]]
    if len(points) < 3:
        return None
    x, y = zip(*points, strict=True)
    return float(-2 * np.polyfit(x, np.log(y), 1)[0])


def rates(length: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Exponents per filter of the squared error: measured, and what each theory says."""
    import numpy as np

    from torchstu.spectral.bounds import eigenvalue_bound, eigenvalue_law

    used = [row for row in rows if row["count"] >= 6 and row["computed"] > 1e3 * row["rounding"]]
    low, high = used[0]["count"], used[-1]["count"]
    law, proven = (
        np.log(eigenvalue_law(length, high)),
        np.log(eigenvalue_bound(length, 141)[[100, 140]]),
    )
    return {
        "length": length, "from": low, "to": high,
        **{key: slope(rows, key, 1e3) for key in ("worst_input", "worst_mode", "fit", "computed")},
        "eigenvalues": float(np.log(used[0]["eigenvalue"] / used[-1]["eigenvalue"]) / (high - low)),
        "law": float((law[low - 1] - law[high - 1]) / (high - low)), "law_limit": float(np.pi**2 / np.log(length)),
        "proven": float((proven[0] - proven[1]) / 40), "theorem": float(np.pi**2 / (4 * np.log(length))),
    }  # fmt: skip


def needed(length: int, rows: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """K at which the worst mode (of those K that were measured) and the bounds reach an error."""
    from torchstu.spectral.bounds import filters_needed

    reached = [row["count"] for row in rows if row["worst_mode"] <= target]
    found = filters_needed(target, length)._asdict()
    return {"length": length, "error": target, "measured": min(reached, default=None), **found}


def render(report: dict[str, Any]) -> str:
    number = lambda x: "-" if x is None else f"{x:.1e}"  # noqa: E731
    keys = ["fit", "rollout", "worst_input", "worst_mode", "computed", "spectral", "theorem", "rounding"]
    rows = [[f"{r['length']:,}", str(r["count"]), *(number(r[key]) for key in keys)] for r in report["errors"]]
    first = markdown_table(["L", "K", "fit", "roll-out", "worst input", "worst mode", *keys[4:]], rows)
    keys = ["worst_mode", "worst_input", "fit", "computed", "eigenvalues", "law", "law_limit", "proven", "theorem"]
    short = lambda x: "-" if x is None else f"{x:.2f}"  # noqa: E731
    rows = [[f"{r['length']:,}", f"{r['from']}..{r['to']}", *(short(r[key]) for key in keys)] for r in report["rates"]]
    names = ["L", "K", "worst mode", "worst input", "fit", "computed", "σ_k", "law (2b)"]
    head = [*names, "π²/log L", "proven (2a)", "theorem π²/(4 log L)"]
    second = markdown_table(head, rows)
    keys = ["measured", "computed", "spectral", "theorem"]
    rows = [[f"{r['length']:,}", f"{r['error']:.0e}", *(str(r[key] or "-") for key in keys)] for r in report["needed"]]
    third = markdown_table(["L", "error", *keys], rows)
    grown = "".join(
        f"At K = {p['count']}, from L = {p['from']:,} to {p['to']:,}, the computed bound over √Σ_(k>K) σ_k grows as "
        f"L^{p['power']:.2f}.\n\n"
        for p in report["powers"]
    )
    sentence = __doc__.split("\n\n", 2)[2].strip() if __doc__ else ""
    return (
        f"## Error of an STU beside its bounds\n\n{environment_line(report['machine'], report['errors'][0]['versions'])}\n\n"
        f"    {report['command']}\n\n{sentence}\n\nAll are absolute errors of the output for a gain of 1. {SYSTEMS} systems, "
        f"{FRESH} inputs each, {TRAINING} training sequences. {report['seconds']:.0f} s of one core in all.\n\n{first}\n\n"
        "### Rates\n\nExponent of the squared error per filter, fitted by least squares over the K given where errors lie 1000 "
        "times above rounding.\n\n"
        f"{second}\n\n{grown}"
        "### Filters needed\n\nmeasured: the fewest of the K above (steps of 2 to 8) whose worst mode stays below the error."
        f"\n\n{third}"
    )


def growth(errors: list[dict[str, Any]], count: int, shortest: int) -> list[dict[str, Any]]:
    """The power of L by which the computed bound grows beside the root of the eigenvalues left out; empty for one L."""
    import numpy as np

    from torchstu.spectral.bounds import _tail
    from torchstu.spectral.priors import POSITIVE

    rows = [row for row in errors if row["count"] == count and row["length"] >= shortest]
    if len(rows) < 2:
        return []
    ratio = [row["computed"] / np.sqrt(_tail(row["length"], count, POSITIVE)) for row in rows]
    power = float(np.polyfit(np.log([row["length"] for row in rows]), np.log(ratio), 1)[0])
    return [{"count": count, "from": rows[0]["length"], "to": rows[-1]["length"], "power": power}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="L = 256 alone")
    parser.add_argument("--threads", type=int, default=1, help="cores (default 1)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "theory.json")
    options = parser.parse_args()
    limit_threads(options.threads)
    sys.path.insert(0, str(ROOT / "src"))
    start, errors = time.process_time(), []
    report: dict[str, Any] = {"rates": [], "needed": []}
    for length, counts in (QUICK if options.quick else LENGTHS).items():
        rows = [measure(length, k, length < 2**14 or k <= FITTED_COUNTS) for k in counts]
        errors += rows
        report["rates"].append(rates(length, rows))
        report["needed"] += [needed(length, rows, target) for target in TARGETS]
        print(f"L = {length:,}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    report |= {
        "command": f"python benchmarks/theory.py --threads {options.threads}" + " --quick" * options.quick,
        "machine": describe(), "seconds": time.process_time() - start, "errors": errors,
        "powers": growth(errors, 24, 0) + growth(errors, 16, 2**14),
    }  # fmt: skip
    text = render(report)
    print(text)
    save(options.output, report, text)


if __name__ == "__main__":
    main()
