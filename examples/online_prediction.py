"""Predict a stream one step ahead while learning it; half-way the system changes, and forgetting lets the filter follow.

python examples/online_prediction.py
"""

from pathlib import Path

import torch

from torchstu import OnlineSpectralFilter, Uniform, random_lds
from torchstu.report.figures import curves, standalone

STEPS, WINDOW = 3000, 100


def main() -> None:
    """Print the relative one-step error in windows, and draw it, with and without forgetting."""
    first, second = (random_lds(32, 1, 1, Uniform(0.9, 0.999), torch.Generator().manual_seed(seed)) for seed in (0, 1))
    u = torch.randn(2 * STEPS, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.cat([first.simulate(u[:STEPS]), second.simulate(u)[STEPS:]])
    series = {}
    steps = range(WINDOW, 2 * STEPS + 1, WINDOW)
    for forgetting in (1.0, 0.99):
        model = OnlineSpectralFilter(1, 1, length=512, num_filters=16, forgetting=forgetting)
        squares = (model.run(u, y) - y).square()
        errors = squares.view(-1, WINDOW).mean(1) / y.square().mean()
        series[f"forgetting={forgetting}"] = (steps, errors.numpy())
        print(f"forgetting={forgetting}: relative error {errors[STEPS // WINDOW - 1]:.0e} before the change, ", end="")
        print(f"{errors[STEPS // WINDOW]:.0e} just after, {errors[-1]:.0e} at the end")
    figure = curves(series, "step", "relative error", "the system changes at step 3000", logy=True)
    path = Path("online-prediction.svg")
    path.write_text(standalone(figure), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
