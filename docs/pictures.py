"""Draw the pictures of the pages into docs/images: python docs/pictures.py [NAME …]."""

import json
import sys
from pathlib import Path
from typing import Any

from torchstu import FilterBank, filter_bank
from torchstu.report.figures import Panel, curves, draw, standalone
from torchstu.report.page import write_text

DOCS = Path(__file__).parent
LENGTH, COUNT = 8192, 24
PEER = "flash-stu-2 `phi_lds.pt`"
LINES = {
    "fit": "fit", "worst input, 64 states": "worst_input", "worst mode": "worst_mode", "computed bound (7b)": "computed",
    "from the eigenvalues (7c)": "spectral", "theorem (7c), (2a)": "theorem",
}  # fmt: skip


def realization_error() -> str:
    """Error of the realization against its order, from the decomposition and from arrays, with the law it follows."""
    series, references = {}, {}
    for prior, highest in (("positive", 46), ("signed", 64)):
        bank = filter_bank(LENGTH, COUNT, prior)
        orders = list(range(COUNT, highest, 2))
        series[prior] = (orders, [bank.realization(order=order).error for order in orders])
        sigma = filter_bank(LENGTH, highest, prior).eigenvalues
        law = [0.08 * sigma[order] / sigma[COUNT - 1] ** 0.75 for order in orders]
        references[f"{prior}: 0.08 σ_(R+1) / σ_K^(3/4)"] = (orders, law)
    bank = filter_bank(LENGTH, COUNT)
    own, orders = FilterBank(bank.eigenvalues, bank.filters), list(range(COUNT, 46, 2))
    series["positive, from the arrays"] = (orders, [own.realization(order=order).error for order in orders])
    report = json.loads((DOCS.parent / "benchmarks" / "results" / "realization.json").read_text(encoding="utf-8"))
    peer = report["systems"].get(PEER)
    if peer is None:
        raise SystemExit(
            "benchmarks/results/realization.json: has no flash-stu-2; run benchmarks/realization.py with --peer first"
        )
    series["positive, least squares (flash-stu-2)"] = ([peer["states"]], [peer["largest_scaled_error"]])
    alternative = (
        "Largest error of the 24 filters of length 8192 against the number of states R, on a logarithmic axis. It falls "
        "geometrically along its law, for positive from 2e-5 at 24 states to 1e-14 at 44, for signed from 2e-3 to 4e-13 at "
        f"62. The realization of the arrays alone runs close to the first. {peer['states']} exponentials fitted by least "
        f"squares lie at {peer['largest_scaled_error']:.0e}."
    )
    return curves(
        series, "states R", "largest error, σ^(1/4)-scaled", logy=True, references=references, alternative=alternative
    )


def theory_report() -> dict[str, Any]:
    """What benchmarks/theory.py measured."""
    return json.loads((DOCS.parent / "benchmarks" / "results" / "theory.json").read_text(encoding="utf-8"))


def theory_error() -> str:
    """Measured errors of an STU and their bounds against the number of filters, a panel a length."""
    errors, panels = theory_report()["errors"], []
    for length in sorted({row["length"] for row in errors}):
        rows = [row for row in errors if row["length"] == length]
        lines = {
            name: ([row["count"] for row in rows if row[key] is not None], [row[key] for row in rows if row[key] is not None])
            for name, key in LINES.items()
        }
        series = {name: lines[name] for name in ("fit", "worst input, 64 states", "worst mode")}
        references = {name: line for name, line in lines.items() if name not in series}
        panels.append(
            Panel(series, "filters K", "largest error of an output", f"L = {length:,}", logy=True, references=references)
        )
    alternative = (
        "Error against the number of filters at L = 256 to 65,536, logarithmic, a panel each. All fall geometrically. The "
        "computed bound lies just above the worst mode and ten to fifty times above 64-state systems; the bound from the "
        "eigenvalues lies higher, and the theorem's far above, falling more slowly."
    )
    return draw(panels, alternative)


def theory_rate() -> str:
    """Exponents per filter of the squared error against L: measured, the law, what is proven, what the theorem says."""
    rates = theory_report()["rates"]
    lengths = [row["length"] for row in rates]
    series = {
        name: ([row["length"] for row in rates if row[key] is not None], [row[key] for row in rates if row[key] is not None])
        for name, key in {"worst mode": "worst_mode", "fit": "fit", "eigenvalues": "eigenvalues", "law (2b)": "law"}.items()
    }
    references = {
        name: (lengths, [row[key] for row in rates])
        for name, key in {"π² / log L": "law_limit", "proven (2a)": "proven", "theorem, π² / (4 log L)": "theorem"}.items()
    }
    alternative = (
        "Exponent of the squared error per filter against L. Measured errors, eigenvalues and the law fall together, from "
        "about 1.9 at L = 256 to about 1 at 65,536; the proven rate is below half of that, the theorem's about a quarter."
    )
    return curves(series, "L", "exponent per filter, error²", logx=True, references=references, alternative=alternative)


if __name__ == "__main__":
    pictures = {"realization-error": realization_error, "theory-error": theory_error, "theory-rate": theory_rate}
    for name in sys.argv[1:] or pictures:
        path = DOCS / "images" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        write_text(path, standalone(pictures[name]()))
        print(path)
