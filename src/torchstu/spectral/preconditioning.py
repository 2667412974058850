"""Fixed polynomial y-terms, design (9): y_t + Σ_j c_j y_{t-j} has a response of p(A), small where A has its eigenvalues."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly

from torchstu.spectral.priors import positive_int

HIGHEST_DEGREE = 32
"""Σ|c_j| grows as 1.2^n and the gain on noise with it; degree 5 to 10 is what serves."""


def chebyshev_coefficients(degree: int) -> tuple[float, ...]:
    """c_1..c_n of the monic Chebyshev polynomial p(z) = z^n + Σ_j c_j z^{n-j} = 2^{1-n} T_n(z), design (9).

    Of all monic polynomials of its degree p is the smallest on [-1, 1], |p| <= 2^{1-n}. Its zeros lie inside (-1, 1), so
    y_t = x_t - Σ_j c_j y_{t-j} is stable. Degree 5: (0, -5/4, 0, 5/16, 0).

    Args:
        degree: n, from 1 to 32.

    Raises:
        ValueError: a degree out of range. TypeError: no integer.

    Source: arXiv 2502.06545.
    """
    if positive_int("preconditioning", degree) > HIGHEST_DEGREE:
        raise ValueError(f"preconditioning: {degree}; it must be a degree from 1 to {HIGHEST_DEGREE}")
    powers = cheb2poly(np.eye(1, degree + 1, degree)[0]) / 2.0 ** (degree - 1)  # lowest power first
    return tuple(float(c) for c in powers[-2::-1])


def feedback_coefficients(autoregression: str | None, preconditioning: int | None) -> tuple[float, ...] | None:
    """a of a "fixed" y-term y_t = Σ_j a_j y_{t-j} + …: (0, 1) for p(A) = A² - I, or -c of a degree; None if not "fixed".

    Raises:
        ValueError: a degree with another y-term, or out of range.
    """
    if autoregression == "fixed":
        return (0.0, 1.0) if preconditioning is None else tuple(0.0 - c for c in chebyshev_coefficients(preconditioning))
    if preconditioning is not None:
        raise ValueError(f"preconditioning: {preconditioning!r} with autoregression={autoregression!r}; that must be 'fixed'")
    return None
