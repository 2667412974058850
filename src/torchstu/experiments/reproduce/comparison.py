"""Shared by the experiments that set learners beside each other: the rival learned by gradient, cells and curves over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchstu.experiments.reproduce.systems import median, number
from torchstu.report.figures import figure_or_note

if TYPE_CHECKING:
    from torch import Tensor


def learned_lru(
    U: Tensor, Y: Tensor, options: Mapping[str, Any], *, rate: float, max_phase: float, seed: int
) -> Callable[[Tensor], Tensor]:
    """The roll-out of an LRU in float32, trained on it by AdamW with a cosine schedule, outputs scaled to unit variance.

    Args:
        U, Y: sequences (N, L, D_in) and (N, L, D_out), passed again until the steps are done.
        options: "states", "radii" [r_min, r_max] of the ring it starts on, "steps", "batch".
        rate: learning rate.
        max_phase: largest phase at the start, radians.
        seed: of the weights and the order of the data.

    Returns:
        Inputs (B, L, D_in) to outputs (B, L, D_out), float64.
    """
    import torch

    from torchstu.layers.lru import LRU
    from torchstu.learn.gradient import fit_gradient

    low, high = options["radii"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lru = LRU(U.shape[2], Y.shape[2], state_dim=options["states"], r_min=low, r_max=high, max_phase=max_phase)
    scale = float(Y.std())
    fit_gradient(
        lru, U, Y / scale, steps=options["steps"], batch_size=options["batch"], learning_rate=rate, objective="rollout",
        seed=seed, progress=False,
    )  # fmt: skip

    def rollout(u: Tensor) -> Tensor:
        with torch.no_grad():
            return scale * lru(u.float())[0].double()

    return rollout


def short(value: float) -> str:
    """An error with one digit: 2e-3; "diverged" where it is not finite."""
    if not math.isfinite(value):
        return "diverged"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def cell(errors: Sequence[Any]) -> str:
    """Median and range over seeds: "2e-3 (1e-3 … 4e-3)"; nothing where there are no errors, one number for one."""
    if not errors:
        return ""
    values = [_known(error) for error in errors]
    if len(values) == 1:
        return short(values[0])
    return f"{short(median(values))} ({short(min(values))} … {short(max(values))})"


def curve(errors: Mapping[float, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points by rising x, with median, smallest and largest error there; where the median is not finite, nothing is drawn."""
    points = []
    for x in sorted(errors):
        values = [_known(error) for error in errors[x]]
        points.append([x, median(values), min(values), max(values)])
    table = np.array(points, dtype=float).reshape(-1, 4)
    table[~np.isfinite(table)] = np.nan
    x, middle, low, high = table[~np.isnan(table[:, 1])].T
    return x, middle, low, np.where(np.isnan(high), middle, high)


def picture(
    errors: Mapping[str, Mapping[float, Sequence[Any]]],
    *,
    dashed: Sequence[str] = (),
    xlabel: str,
    ylabel: str,
    logx: bool = False,
) -> dict[str, Any]:
    """Medians with bands from the smallest to the largest error, as keyword arguments of a `Section`; none without a number.

    Args:
        errors: name of a line to x to errors over seeds.
        dashed: names drawn dashed and without a band.
        xlabel, ylabel: words.
        logx: whether x is logarithmic, as the errors are.
    """
    drawn = {name: curve(found) for name, found in errors.items()}
    drawn = {name: values for name, values in drawn.items() if len(values[0])}
    if not drawn:
        return {}
    return figure_or_note(
        series={name: (x, middle) for name, (x, middle, _, _) in drawn.items() if name not in dashed},
        bands={name: (x, low, high) for name, (x, _, low, high) in drawn.items() if name not in dashed},
        references={name: (x, middle) for name, (x, middle, _, _) in drawn.items() if name in dashed},
        xlabel=xlabel,
        ylabel=ylabel,
        logx=logx,
        logy=True,
    )


def _known(error: Any) -> float:
    """A stored error, inf for nan."""
    value = number(error)
    return math.inf if math.isnan(value) else value
