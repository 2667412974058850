"""Systems of mechanics with parameters in SI units, discretized exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchstu.spectral.priors import positive_int
from torchstu.systems.lds import LDS


def mass_spring_chain(
    masses: int | Sequence[float],
    *,
    stiffness: float = 100.0,
    damping: float = 0.1,
    step: float = 0.02,
    forced: Sequence[int] = (0,),
    observed: Sequence[int] | None = None,
) -> LDS:
    """A chain wall - m_1 - … - m_n - wall of equal springs, each with a weak damper beside it: forces in, positions out.

    m_i q̈_i = k (q_{i-1} - 2 q_i + q_{i+1}) + c (q̇_{i-1} - 2 q̇_i + q̇_{i+1}) + f_i,  q_0 = q_{n+1} = 0.

    Forces are constant over a step (zero-order hold) and y_t are positions at its end, so x_t = A x_{t-1} + B u_t with A, B
    from the matrix exponential is exact; D = 0. The modes are n rotations: with equal masses and little damping at
    θ_j = 2 Δ √(k/m) sin(π j / (2 (n+1))) radians a step, |λ_j| = exp(-c θ_j² / (2 k Δ)).

    Args:
        masses: kg, one by one, or their number, each then of 1 kg.
        stiffness: k, N/m, of each of the n + 1 springs.
        damping: c, N·s/m, of each damper; 0 for none.
        step: Δ, s.
        forced: which masses (from 0) the inputs push, N.
        observed: whose positions the outputs are, m; None for all.

    Raises:
        ValueError: numbers that are not positive (damping: negative) or not finite, masses out of range.

    Source: Newton's law; C. Van Loan, IEEE Trans. Automatic Control 23(3), 1978, for the discretization.
    """
    weights = [1.0] * positive_int("masses", masses) if isinstance(masses, int) else [float(m) for m in masses]
    if not weights or not all(0 < m < math.inf for m in weights):
        raise ValueError(f"masses: {masses!r}; they must be positive and finite (kg), at least one")
    for name, value in {"stiffness": stiffness, "step": step}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: {value!r}; it must be positive and finite")
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping: {damping!r}; it must be at least 0 and finite")
    n = len(weights)
    inputs, outputs = _rows("forced", forced, n), _rows("observed", range(n) if observed is None else observed, n)
    ones = torch.ones(n - 1, dtype=torch.float64)
    laplacian = 2 * torch.eye(n, dtype=torch.float64) - torch.diag(ones, 1) - torch.diag(ones, -1)
    inverse = 1 / torch.tensor(weights, dtype=torch.float64)[:, None]
    rates = torch.zeros(2 * n + len(inputs), 2 * n + len(inputs), dtype=torch.float64)  # of positions, velocities, held forces
    rates[:n, n : 2 * n] = torch.eye(n)
    rates[n : 2 * n, :n], rates[n : 2 * n, n : 2 * n] = -stiffness * inverse * laplacian, -damping * inverse * laplacian
    rates[n : 2 * n, 2 * n :] = (inverse * torch.eye(n))[:, inputs]
    flow = torch.linalg.matrix_exp(rates * step)
    C = torch.eye(n, 2 * n, dtype=torch.float64)[outputs]
    return LDS(flow[: 2 * n, : 2 * n], flow[: 2 * n, 2 * n :], C, torch.zeros(len(outputs), len(inputs)))


def _rows(name: str, indices: Sequence[int], count: int) -> Tensor:
    rows = [positive_int(name, i, minimum=0) for i in indices]
    if not rows or max(rows) >= count:
        raise ValueError(f"{name}: {rows}; it must be one or more of 0..{count - 1}")
    return torch.tensor(rows)
