"""HiPPO-LegS, the matrix that S4 and its relatives start from, and its normal plus low-rank form.

A_nk = -√((2n+1)(2k+1)) for n > k, -(n+1) for n = k, 0 above, and b_n = √(2n+1): the coefficients of a function in scaled
Legendre polynomials follow x' = A x + b u. With p_n = √(n + 1/2), A + p pᵀ = -I/2 + S, S skew: its eigenvalues are
-1/2 ± i ω_n and its eigenvectors unitary, so A is a diagonal matrix minus a rank-one one in their basis.

Source: Gu et al., HiPPO, arXiv 2008.07669; Gu, Goel and Ré, arXiv 2111.00396, appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor


def legs(states: int) -> tuple[Tensor, Tensor]:
    """A (N, N) and b (N,) of HiPPO-LegS, float64 on the CPU."""
    n = torch.arange(states, dtype=torch.float64, device="cpu")
    root = torch.sqrt(2 * n + 1)
    return -(torch.outer(root, root).tril(-1) + torch.diag(n + 1)), root


def legs_normal(states: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues Λ (N,) and unitary eigenvectors V (N, N) of A + p pᵀ, by imaginary part, smallest first; on the CPU.

    Eigenvectors have a free phase; here it makes every component of V* p, and so of V* b, real and positive.
    """
    A, b = legs(states)
    p = b / 2**0.5
    skew = A + torch.outer(p, p) + 0.5 * torch.eye(states, dtype=A.dtype, device="cpu")
    frequencies, vectors = torch.linalg.eigh(skew * -1j)
    components = vectors.mH @ p.to(vectors.dtype)
    return torch.complex(torch.full_like(frequencies, -0.5), frequencies), vectors * torch.sgn(components)


def legs_nplr(states: int) -> tuple[Tensor, Tensor, Tensor]:
    """Λ, p and b of A = V (Λ - p p*) V*, those of positive imaginary part, smallest first; N even, float64 on the CPU.

    Returns:
        Λ, p, b, each (N/2,) complex; p and b = √2 p are real and positive.
    """
    Lambda, vectors = legs_normal(states)
    kept = Lambda.imag > 0
    p = vectors[:, kept].mH @ (legs(states)[1] / 2**0.5).to(vectors.dtype)
    return Lambda[kept], p, 2**0.5 * p
