"""Writing an STU's weights down from the matrices of a system, design (7)."""

from __future__ import annotations

import numpy as np
import torch

from torchstu.layers.stu import STU
from torchstu.systems.lds import LDS

_IMAGINARY = 1e-9


def system_to_stu(lds: LDS, length: int, num_filters: int = 24, preconditioning: int | None = None) -> STU:
    """The STU that imitates a system with real eigenvalues in [-1, 1], design (7), in float64: nothing is fitted.

    With p(A) = A² - I or the monic Chebyshev polynomial of degree n (9), c_0 = 1 and c_1..c_n its coefficients,
    M^u_{i+1} = Σ_{j<=i} c_j C A^{i-j} B + c_i D for i < n and M^u_{n+1} = c_n D: for A² - I these are CB+D, CAB and -D. Each
    eigenvalue α >= 0 adds p(α) α^i to the + bank, each α < 0 the same with |α|^i to the - bank, as its projections on the
    filters: M_k = σ_k^{-1/4} Σ_j p(α_j) <φ_k, |α_j|^i> (w_jᵀB) (C w_j). The error falls as e^{-cK/log L}.

    Args:
        lds: A symmetric, or with a basis of real eigenvectors.
        length, num_filters, preconditioning: L, K and n of the STU.

    Raises:
        ValueError: eigenvalues that are complex or outside [-1, 1]; no basis of eigenvectors; numbers out of range.

    Source: arXiv 2312.06837, theorem 3.1 and appendix A; arXiv 2502.06545 for the polynomial.
    """
    A = lds.A.numpy()
    if np.allclose(A, A.T, rtol=0, atol=1e-12 * max(1.0, np.abs(A).max())):
        values, basis = np.linalg.eigh((A + A.T) / 2)
        inverse = basis.T
    else:
        values, basis = np.linalg.eig(A)
        if np.abs(values.imag).max(initial=0) > _IMAGINARY:
            raise ValueError("lds: A has complex eigenvalues; (7) needs real ones (fit such a system instead)")
        if np.linalg.cond(basis) > 1e10:
            raise ValueError("lds: A has no usable basis of eigenvectors; (7) needs one")
        values, basis = values.real, basis.real
        inverse = np.linalg.inv(basis)
    if np.abs(values).max() > 1 + 1e-12:
        raise ValueError(f"lds: A has an eigenvalue of magnitude {np.abs(values).max():.6g}; it must be at most 1")
    layer = STU(
        lds.d_in, lds.d_out, length=length, num_filters=num_filters, preconditioning=preconditioning, dtype=torch.float64
    )
    bank, B, C, D = layer.bank, inverse @ lds.B.numpy(), lds.C.numpy() @ basis, lds.D.numpy()
    c = np.array([1.0, *(-a for a in layer.fixed_coefficients or ())])
    powers = np.abs(values) ** np.arange(length)[:, None]  # (L, N); 0^0 is 1
    projections = bank.filters.T @ (powers * np.polyval(c, values)) / bank.eigenvalues[:, None] ** 0.25  # (K, N)
    weights = {
        "M_u": _input_lags(c, values, B, C, D),
        "M_phi_plus": np.einsum("kn,nd,on->kdo", projections * (values >= 0), B, C),
        "M_phi_minus": np.einsum("kn,nd,on->kdo", projections * np.where(values < 0, 1.0, 0.0), B, C),
    }
    # A negative α contributes α^i = (-1)^i |α|^i: the - bank's filters carry the sign.
    with torch.no_grad():
        for name, value in weights.items():
            getattr(layer, name).copy_(torch.as_tensor(value))
    return layer


def _input_lags(c: np.ndarray, values: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray) -> np.ndarray:
    """M^u_1..M^u_{n+1} for A = diag(values), (n+1, D_in, D_out)."""
    degree = len(c) - 1
    lags = [(C * np.polyval(c[: i + 1], values)) @ B + c[i] * D for i in range(degree)]  # Horner's partial sums
    return np.stack([lag.T for lag in [*lags, c[degree] * D]])
