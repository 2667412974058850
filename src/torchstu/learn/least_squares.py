"""The least-squares problem behind the closed form, design (10), and the tail Gramian of (8)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torchstu.layers.stu import STU
from torchstu.ops.autoregression import lag2_cumsum, lag2_difference
from torchstu.ops.convolution import features

TAIL_FACTOR = 16
"""The penalized tail is the response at steps L..16 L."""
_NUMBERS_AT_ONCE = 2**23
"""Numbers of feature matrix held at a time; more is reduced by QR."""


def sequence(name: str, value: Any) -> Tensor:
    """An array or tensor as (N, L, D) float64 on the CPU.

    Raises:
        TypeError: not numbers. ValueError: not two or three dimensions, empty, or not finite.
    """
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}: dtype {array.dtype}; it must be real numbers")
        value = torch.as_tensor(np.ascontiguousarray(array))
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: dtype {value.dtype}; it must be real numbers")
    value = value.detach().double().cpu()
    if value.ndim == 2:
        value = value[None]
    if value.ndim != 3 or 0 in value.shape:
        raise ValueError(f"{name}: shape {tuple(value.shape)}; it must be (N, L, D) or (L, D), none of them 0")
    if not torch.isfinite(value).all():
        bad = (~torch.isfinite(value)).nonzero()[0].tolist()
        raise ValueError(f"{name}: has a value that is not finite, first at (sequence, step, channel) = {tuple(bad)}")
    return value


class Problem(NamedTuple):
    """min ‖R m - Q‖² + rest, the triangular reduction of min ‖F m - Y‖²."""

    R: Tensor  # (P, P)
    Q: Tensor  # (P, D_out)
    rest: float
    scale: Tensor  # (P,) σ^{1/4} on spectral columns: m = scale · M
    groups: dict[str, slice]


class Solution(NamedTuple):
    """Weights in coordinates of unit-norm filters."""

    m: Tensor  # (P, D_out) coordinates of unit-norm filters
    scale: Tensor
    groups: dict[str, slice]


def _basis(layer: STU, steps: int) -> Tensor:
    """Impulse responses (steps, J) of unit weights: delayed unit-norm filters (±), then input lags."""
    filters = torch.as_tensor(layer.bank.continued(steps).copy())
    sign = (-1.0) ** torch.arange(steps, dtype=torch.float64)[:, None]
    banks = torch.cat([filters if s > 0 else sign * filters for s in layer.signs], dim=1)
    banks = pad(banks, (0, 0, layer.delay, 0))[:steps]
    return torch.cat([banks, torch.eye(steps, layer.input_lags, dtype=torch.float64)], dim=1)


def normal_problem(layer: STU, U: Tensor, Y: Tensor, *, rollout: bool, intercept: bool, warmup: int) -> Problem:
    """Features of all sequences, reduced by QR as they come."""
    steps = U.shape[1]
    basis = _basis(layer, steps)
    scale = torch.as_tensor(layer.bank.eigenvalues**0.25).repeat(len(layer.signs))
    scale = torch.cat([scale, torch.ones(layer.input_lags, dtype=torch.float64)]).repeat_interleave(layer.d_in)
    groups = {"kernel": slice(0, len(scale))}
    width = len(scale)
    if layer.autoregression == "learned":
        groups["outputs"] = slice(width, width + layer.output_lags * layer.d_out)
        width = groups["outputs"].stop
    if intercept:
        groups["intercept"] = slice(width, width + 1)
        width += 1
    R, Q, rest = torch.zeros(0, width, dtype=torch.float64), torch.zeros(0, Y.shape[2], dtype=torch.float64), 0.0
    batch = max(1, _NUMBERS_AT_ONCE // (steps * width))
    for first in range(0, len(U), batch):
        u, y = U[first : first + batch], Y[first : first + batch]
        F, y = _design_matrix(layer, features(u, basis).flatten(2), y, warmup, rollout, intercept)
        stacked = torch.cat([torch.cat([R, Q], 1), torch.cat([F, y], 2).flatten(0, 1)])
        triangle = torch.linalg.qr(stacked, mode="r").R
        R, Q = triangle[:width, :width], triangle[:width, width:]
        rest += float(triangle[width:, width:].square().sum())
    full = torch.cat([scale, torch.ones(width - len(scale), dtype=torch.float64)])
    return Problem(R, Q, rest, full, groups)


def _design_matrix(layer: STU, F: Tensor, y: Tensor, warmup: int, rollout: bool, intercept: bool) -> tuple[Tensor, Tensor]:
    """Rows after the warm-up: features (n, L, P) as the objective combines them, and what they are to explain."""
    steps = y.shape[1]
    ones = torch.ones(len(y), steps, 1, dtype=torch.float64)
    F, target = F[:, warmup:], y
    if layer.autoregression == "learned":
        lags = [pad(y, (0, 0, i, 0))[:, :steps] for i in range(1, layer.output_lags + 1)]
        F = torch.cat([F, *(lag[:, warmup:] for lag in lags)], dim=2)
    elif rollout:  # ŷ = S F M from the outputs known at the end of the warm-up
        known = pad(torch.cat([y, ones], 2)[:, max(0, warmup - 2) : warmup], (0, 0, max(0, 2 - warmup), 0))
        held = lag2_cumsum(torch.zeros(len(y), steps - warmup, y.shape[2] + 1, dtype=torch.float64), known.flip(1))
        F = lag2_cumsum(F)
        return (torch.cat([F, ones[:, warmup:] - held[..., -1:]], 2) if intercept else F), y[:, warmup:] - held[..., :-1]
    elif layer.autoregression == "fixed":
        target, ones = lag2_difference(y), lag2_difference(ones)
    return (torch.cat([F, ones[:, warmup:]], 2) if intercept else F), target[:, warmup:]


def solve(problem: Problem, ridge: float, tail: Tensor | None, tail_weight: float) -> Solution:
    """The stacked least-squares problem, by a minimum-norm solver: too little data is no accident."""
    kernel = problem.groups["kernel"]
    rows = [problem.R]
    if ridge:
        identity = torch.eye(problem.R.shape[1], dtype=torch.float64)
        rows.append(ridge**0.5 * identity[: problem.groups.get("intercept", slice(None)).start])
    if tail is not None and tail_weight:
        d_in = kernel.stop // tail.shape[1]
        penalty = torch.zeros(len(tail) * d_in, problem.R.shape[1], dtype=torch.float64)
        penalty[:, kernel] = torch.kron(tail.contiguous(), torch.eye(d_in, dtype=torch.float64)) * tail_weight**0.5
        rows.append(penalty)
    left = torch.cat(rows)
    if not torch.isfinite(left).all() or not torch.isfinite(problem.Q).all():
        raise ValueError("U, Y: values so large that their squares overflow; scale them")
    right = pad(problem.Q, (0, 0, 0, len(left) - len(problem.R)))
    norms = left.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    solution = torch.linalg.lstsq(left / norms, right, rcond=1e-15, driver="gelsd").solution
    return Solution(solution / norms[:, None], problem.scale, problem.groups)


def squared_error(problem: Problem, solution: Solution) -> float:
    """‖F m - Y‖² of a solution."""
    return float((problem.R @ solution.m - problem.Q).square().sum()) + problem.rest


def squared_target(problem: Problem) -> float:
    """‖Y‖² of what the objective explains: outputs, or their differences."""
    return float(problem.Q.square().sum()) + problem.rest


def response_factors(layer: STU, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Triangular factors of the Gram matrices of the roll-out's impulse responses, on 0..start and on start..stop."""
    response = _basis(layer, stop)
    if layer.autoregression == "fixed":
        response = lag2_cumsum(response[None])[0]
    return torch.linalg.qr(response[:start], mode="r").R, torch.linalg.qr(response[start:], mode="r").R


def energy(factor: Tensor, solution: Solution) -> float:
    """‖response‖² over the steps of a factor."""
    m = solution.m[solution.groups["kernel"]]
    return float((factor @ m.reshape(factor.shape[1], -1)).square().sum())


def write_weights(layer: STU, solution: Solution) -> Tensor:
    """Copy a solution into a layer; returns the intercept, (D_out,)."""
    M = solution.m / solution.scale[:, None]
    kernel = M[solution.groups["kernel"]].view(-1, layer.d_in, layer.d_out)
    parts = kernel.split([layer.num_filters] * len(layer.signs) + [layer.input_lags])
    with torch.no_grad():
        layer.M_phi_plus.copy_(parts[0])
        if layer.M_phi_minus is not None:
            layer.M_phi_minus.copy_(parts[1])
        layer.M_u.copy_(parts[-1])
        if "outputs" in solution.groups:
            outputs = M[solution.groups["outputs"]]
            layer.M_y.copy_(outputs.view(layer.output_lags, layer.d_out, layer.d_out))  # type: ignore[union-attr]
    if "intercept" in solution.groups:
        constant = M[solution.groups["intercept"]][0]
        if "outputs" not in solution.groups:
            return constant
        through = torch.eye(layer.d_out, dtype=torch.float64) - layer.M_y.detach().sum(0)  # type: ignore[union-attr]
        return torch.linalg.lstsq(through.T, constant[:, None]).solution[:, 0]  # c with c (I - Σ M_y) = constant
    return torch.zeros(layer.d_out, dtype=torch.float64)
