"""The least-squares problem behind the closed form, design (10), and the tail Gramian of (8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstu.layers.stu import STU
from torchstu.learn.accumulation import Triangles
from torchstu.learn.rows import NUMBERS_AT_ONCE, Past, RowMaker, unit_filters
from torchstu.ops.autoregression import fixed_feedback

SMALLEST = 1e-11
"""Directions of normed columns below this share of the largest are left out: rounding, bought with weights of 1e6 and more."""
LEVEL = 1e-4
"""Least singular value of I - Σ M_y with which a level of the output is told from its drift."""
TAIL_FACTOR = 16
"""The penalized tail is the response at steps L..16 L."""


class NoLevelError(ValueError):
    """A constant was to be fitted to an output that drifts."""


def sequence(name: str, value: Any, *, missing: bool = False) -> Tensor:
    """An array or tensor as (N, L, D) float64 on the CPU; (L, D) is one sequence.

    Args:
        name: of the argument, for errors.
        value: the numbers.
        missing: whether NaN stands for a missing value; else it is refused.

    Raises:
        TypeError: not numbers. ValueError: not two or three dimensions, empty, or not finite.
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}: dtype {array.dtype}; it must be real numbers")
        value = torch.as_tensor(np.array(array, dtype=np.float64, order="C"))
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: dtype {value.dtype}; it must be real numbers")
    value = value.detach().double().cpu()
    if value.ndim == 2:
        value = value[None]
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(f"{name}: shape {tuple(value.shape)}; it must be (N, L, D) or (L, D), none of them 0")
    bad = torch.isinf(value) if missing else ~torch.isfinite(value)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name}: has a value that is not finite, first at (sequence, step, channel) = {where}")
    return value


def accumulate(
    maker: RowMaker,
    folds: list[Triangles],
    u: Tensor,
    y: Tensor,
    weights: Tensor | None,
    past: Past | None = None,
    turn: int | None = None,
) -> tuple[list[Triangles], Past]:
    """The triangles with all rows of some sequences, and the past that goes on from them.

    With several folds every sequence goes to one of them in turn; where there are fewer sequences than folds, they are cut into
    blocks of time instead, so that errors that hang together stay together.

    Args:
        maker: how rows are made.
        folds: of the rows so far, one or more triangles.
        u, y: (N, T, D_in) and (N, T, D_out), NaN in y where an output is missing.
        weights: (N, T), at least 0; None means 1.
        past: of the same sequences; None means at rest, and then not all are worked on at once.
        turn: of the first sequence among the folds; None: see above.
    """
    folds, ends, count, steps = list(folds), [], *u.shape[:2]
    by_sequence = count >= len(folds) or turn is not None
    block = steps if by_sequence else max(-(-steps // len(folds)), 1)
    for n in _groups(maker, count, steps, apart=past is None, most=1 if by_sequence and len(folds) > 1 else None):
        state = maker.start(n.stop - n.start) if past is None else past
        for start, stop in maker.pieces(n.stop - n.start, steps, state.seen):
            rows, state = maker.rows(u[n, start:stop], y[n, start:stop], state)
            if rows is None:
                continue
            weight = rows.observed.double()
            if weights is not None:
                weight = weight * weights[n, start:stop, None]
            for first in range(start, stop, block) if not by_sequence else [start]:
                part = slice(first - start, stop - start if by_sequence else min(first + block, stop) - start)
                at = (n.start + (turn or 0) if by_sequence else first // block) % len(folds)
                folds[at] = folds[at].add(*(x[:, part].flatten(0, 1) for x in (rows.F, rows.target, weight)))
        ends.append(state)
    return folds, Past.together(ends)


def _groups(maker: RowMaker, count: int, steps: int, *, apart: bool, most: int | None) -> list[slice]:
    size = min(count, most or count, max(1, NUMBERS_AT_ONCE // (steps * maker.width))) if apart else count
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def solve(triangles: Triangles, penalty: Tensor) -> Tensor:
    """m (P, D_out) that minimizes Σ w (f m - y)² + ‖penalty m‖², by a minimum-norm solver: too little data is no accident."""
    solutions = []
    for R, Q, _ in triangles.problems():
        left = torch.cat([R, penalty])
        right = torch.cat([Q, Q.new_zeros(len(penalty), Q.shape[1])])
        norms = left.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
        solution = torch.linalg.lstsq(left / norms, right, rcond=SMALLEST, driver="gelsd").solution
        solutions.append(solution / norms[:, None])
    return torch.cat(solutions, dim=1)


def spread(triangles: Triangles, penalty: Tensor) -> list[Tensor]:
    """S (P, r) of each group of outputs with S Sᵀ = (RᵀR + penaltyᵀ penalty)⁻¹: times s², the covariance of m.

    Directions that neither data nor penalty fix, where `solve` takes the smallest solution, count as known.
    """
    factors = []
    for R, _, _ in triangles.problems():
        left = torch.cat([R, penalty])
        norms = left.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
        _, s, right = torch.linalg.svd(torch.linalg.qr(left / norms, mode="r").R, full_matrices=False)
        kept = s > SMALLEST * s[0]
        factors.append(right[kept].T / s[kept] / norms[:, None])
    return factors


def ridge_penalty(maker: RowMaker, ridge: float, power: float) -> Tensor:
    """Rows of ridge·Σ_k m_k² / (σ_k/σ_1)^power; lags count with weight 1, an intercept with none."""
    if not ridge:
        return torch.zeros(0, maker.width, dtype=torch.float64)
    weights = ridge**0.5 * ridge_shape(maker, power)
    return torch.diag(weights)[maker.groups["intercept"].stop :]


def ridge_shape(maker: RowMaker, power: float) -> Tensor:
    """(σ_k/σ_1)^{-power/2} on columns of filters, 1 on lags, 0 on an intercept; (P,)."""
    layer = maker.layer
    relative = layer.bank.eigenvalues / layer.bank.eigenvalues[0]
    filters = torch.as_tensor(relative ** (-power / 2)).repeat(len(layer.signs)).repeat_interleave(layer.d_in)
    shape = torch.ones(maker.width, dtype=torch.float64)
    shape[maker.groups["intercept"]] = 0.0
    shape[maker.groups["kernel"]][: len(filters)] = filters
    return shape


def tail_penalty(maker: RowMaker, factor: Tensor, weight: float) -> Tensor:
    """Rows of weight·‖response‖² over the steps of a `response_factor`."""
    kernel, d_in = maker.groups["kernel"], maker.layer.d_in
    penalty = torch.zeros(len(factor) * d_in if weight else 0, maker.width, dtype=torch.float64)
    if weight:
        penalty[:, kernel] = torch.kron(factor.contiguous(), torch.eye(d_in, dtype=torch.float64)) * weight**0.5
    return penalty


def responses(maker: RowMaker, steps: int) -> Tensor:
    """Impulse responses of the roll-out to unit weights of one input channel, (steps, J): filters delayed, then input lags."""
    layer = maker.layer
    delayed = torch.nn.functional.pad(unit_filters(layer, steps), (0, 0, layer.delay, 0))[:steps]
    response = torch.cat([delayed, torch.eye(steps, layer.input_lags, dtype=torch.float64)], dim=1)
    return fixed_feedback(response[None], maker.coefficients)[0] if maker.coefficients else response


def triangle_of(response: Tensor) -> Tensor:
    """The triangular factor of a Gram matrix of responses (steps, J)."""
    return torch.linalg.qr(response, mode="r").R


def energy(maker: RowMaker, factor: Tensor, m: Tensor) -> float:
    """‖response‖² over the steps of a factor, summed over channels; m (P, D_out)."""
    return float((factor @ m[maker.groups["kernel"]].reshape(factor.shape[1], -1)).square().sum())


def write_weights(maker: RowMaker, layer: STU, m: Tensor) -> Tensor:
    """Copy a solution into a layer of the same shape; returns the intercept, (D_out,)."""
    named = maker.named(m / maker.scale[:, None])
    intercept = named.pop("intercept", torch.zeros(layer.d_out, dtype=torch.float64))
    with torch.no_grad():
        for name, value in named.items():
            getattr(layer, name).copy_(value)
    if "M_y" not in named or not maker.intercept:
        return intercept.clone()
    through = torch.eye(layer.d_out, dtype=torch.float64) - named["M_y"].sum(0)
    if float(torch.linalg.svdvals(through)[-1]) < LEVEL:
        raise NoLevelError(
            "fit_intercept: True; the learned y-term integrates, so the output has no level; use fit_intercept=False"
        )
    return torch.linalg.lstsq(through.T, intercept[:, None]).solution[:, 0]  # c with c (I - Σ M_y) = intercept
