"""Kernels, free responses and final states of state-space systems, without a loop over time and without a matrix of all times.

A diagonal system needs products with the Vandermonde matrix V_{nl} = a_n^l. Writing l = q C + r with C near √L makes it the
product of two small ones, a^{qC} and a^r: O(√L) exponentials a mode instead of O(L), and a real matrix product for the rest.
A dense system needs the Krylov matrix [v, A v, A² v, …], made by doubling. A diagonal plus low-rank system needs, for its
kernel, products with a Cauchy matrix 1 / (z - w).

Shapes: B batch, H channels, L steps, M modes (complex), N states (real).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad


def powers(log_a: Tensor, count: int, stride: int = 1) -> Tensor:
    """a^{stride k}, k = 0 … count - 1; log_a (…, M) complex -> (…, M, count)."""
    return torch.exp(log_a[..., None] * (stride * torch.arange(count, device=log_a.device)))


def vandermonde(v: Tensor, log_a: Tensor, steps: int) -> Tensor:
    """Re Σ_n v_n a_n^l, l = 0 … steps - 1: the kernel of a diagonal system.

    Args:
        v: (…, H, M) complex.
        log_a: log a, (H, M) complex.
        steps: L.

    Returns:
        (…, H, L) real.
    """
    block, blocks = _two_levels(steps)
    outer = v[..., None] * powers(log_a, blocks, block)  # (…, H, M, Q)
    inner = powers(log_a, block)  # (H, M, C)
    left, right = torch.cat([outer.real, -outer.imag], dim=-2), torch.cat([inner.real, inner.imag], dim=-2)
    return torch.einsum("...hmq,hmc->...hqc", left, right).flatten(-2)[..., :steps]


def vandermonde_state(u: Tensor, log_a: Tensor) -> Tensor:
    """Σ_i a^{L-1-i} u_i: the state of x_t = a x_{t-1} + u_t, x_0 = 0, after L steps.

    Args:
        u: (B, L, H) real.
        log_a: log a, (H, M) complex.

    Returns:
        (B, H, M) complex.
    """
    batch, steps, channels = u.shape
    block, blocks = _two_levels(steps)
    latest_first = pad(u.flip(1), (0, 0, 0, block * blocks - steps)).view(batch, blocks, block, channels)
    inner = powers(log_a, block)
    inner = torch.cat([inner.real, inner.imag], dim=-2)  # (H, 2M, C)
    partial = torch.einsum("bqch,hmc->bhqm", latest_first, inner)  # (B, H, Q, 2M)
    real, imag = partial.chunk(2, dim=-1)
    return (torch.complex(real, imag) * powers(log_a, blocks, block).mT).sum(dim=2)


def _two_levels(steps: int) -> tuple[int, int]:
    """C and Q with C Q >= steps, both near the square root."""
    block = math.isqrt(steps - 1) + 1
    return block, -(-steps // block)


def krylov(A: Tensor, v: Tensor, count: int) -> Tensor:
    """[v, A v, …, A^{count-1} v] by doubling; A (H, N, N), v (…, H, N) -> (…, H, N, count)."""
    columns, power = v[..., None], A
    while columns.shape[-1] < count:
        columns = torch.cat([columns, power @ columns], dim=-1)
        power = power @ power if columns.shape[-1] < count else power
    return columns[..., :count]


def matrix_power(A: Tensor, exponent: int) -> Tensor:
    """A^exponent by repeated squaring, exponent at least 1; A (H, N, N)."""
    result = None
    while True:
        if exponent % 2:
            result = A if result is None else result @ A
        exponent //= 2
        if not exponent:
            return A if result is None else result
        A = A @ A


def dense_response(A: Tensor, c: Tensor, x: Tensor, steps: int) -> Tensor:
    """c A^t x, t = 1 … steps: what a state still brings; A (H, N, N), c (H, N), x (B, H, N) -> (B, H, L)."""
    block, blocks = _two_levels(steps)
    rows = krylov(A.mT, torch.einsum("hn,hnm->hm", c, A), block)  # (H, N, C): c A^{1+r}
    starts = krylov(matrix_power(A, block), x, blocks)  # (B, H, N, Q): A^{qC} x
    return torch.einsum("bhnq,hnc->bhqc", starts, rows).flatten(-2)[..., :steps]


def dense_state(A: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """Σ_i A^{L-1-i} b u_i: the state after L steps from zero; A (H, N, N), b (H, N), u (B, L, H) -> (B, H, N)."""
    batch, steps, channels = u.shape
    block, blocks = _two_levels(steps)
    latest_first = pad(u.flip(1), (0, 0, 0, block * blocks - steps)).view(batch, blocks, block, channels)
    sums = torch.einsum("bqch,hnc->bhnq", latest_first, krylov(A, b, block))  # (B, H, N, Q)
    power = matrix_power(A, block)
    while sums.shape[-1] > 1:  # Σ_q G^q s_q, neighbours in pairs
        sums = pad(sums, (0, sums.shape[-1] % 2))
        sums = sums[..., 0::2] + power @ sums[..., 1::2]
        power = power @ power
    return sums[..., 0]


def dplr_kernel(log_dt: Tensor, a: Tensor, p: Tensor, b: Tensor, c: Tensor, steps: int) -> Tensor:
    """The first L values of the kernel of x' = (Λ - p p*) x + b u, y = C x, discretized by the bilinear rule.

    They come from the generating function. With ω the roots of unity, z = 2 (1 - ω) / (1 + ω) and R = diag(1 / (z - Δ Λ)), the
    transform of the kernel is
    K̂(ω) = 2 Δ / (1 + ω) · [c̃ᵀ R b - (c̃ᵀ R p) (1 + Δ p* R p)^{-1} Δ (p* R b)],
    Woodbury's formula, with c̃ᵀ = Cᵀ (I - Āᴸ), which cuts the kernel after L steps. Every product is one with a Cauchy matrix
    over the modes and their conjugates. The factor 2 / (1 + ω) is taken into R, so that ω = -1 needs no exception.

    Args:
        log_dt: log Δ, (H,) real.
        a, p, b, c: Λ, p, b and c̃, (H, M) complex, one of each conjugate pair.
        steps: L.

    Returns:
        (H, L) real.

    Source: Gu, Goel and Ré, arXiv 2111.00396, algorithm 1.
    """
    dt = torch.exp(log_dt)[:, None]  # (H, 1)
    count = steps // 2 + 1
    angle = torch.arange(count, dtype=log_dt.dtype, device=log_dt.device) * (-2 * math.pi / steps)
    omega = torch.polar(torch.ones_like(angle), angle)  # (F,)
    half = (1 + omega) / 2
    columns = torch.stack([b * c, p * c, b * p.conj(), p * p.conj()], dim=-2) * dt[..., None]  # (H, 4, M)
    resolvent = 1 / (1 - omega - (dt * a)[..., None] * half)  # (H, M, F): 2 / (1 + ω) R
    mirrored = 1 / (1 - omega - (dt * a.conj())[..., None] * half)
    products = columns @ resolvent + columns.conj() @ mirrored  # (H, 4, F)
    cb, cp, pb, pp = products.unbind(dim=-2)
    return torch.fft.irfft(cb - half * cp * pb / (1 + half * pp), n=steps)
