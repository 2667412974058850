"""Draw the pictures of the pages into docs/images: python docs/pictures.py."""

import json
from pathlib import Path

from torchstu import FilterBank, filter_bank
from torchstu.report.figures import curves, standalone
from torchstu.report.page import write_text

DOCS = Path(__file__).parent
LENGTH, COUNT = 8192, 24
PEER = "flash-stu-2 `phi_lds.pt`"


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


if __name__ == "__main__":
    path = DOCS / "images" / "realization-error.svg"
    path.parent.mkdir(exist_ok=True)
    write_text(path, standalone(realization_error()))
    print(path)
