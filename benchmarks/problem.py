"""The arrays all implementations of a shape get: float32, weights in torchstu's layout."""

from __future__ import annotations

from typing import Any

from registry import Shape


def make_problem(shape: Shape, *, signals: bool = True) -> dict[str, Any]:
    """Input, output gradient, filters and weights; without ``signals`` no input and no gradient."""
    import numpy as np

    import torchstu

    batch, length, channels, count = shape
    bank, random = torchstu.filter_bank(length, count), np.random.default_rng(0)

    def normal(*size: int, scale: float = 1.0) -> Any:
        return np.float32(scale) * random.standard_normal(size, dtype=np.float32)

    feedback = [0.3 * np.linalg.qr(normal(channels, channels))[0] for _ in range(2)]  # stable: 0.3 + 0.3 < 1
    spectral = (count * channels) ** -0.5
    problem = {
        "shape": np.array(shape), "filters": bank.scaled_filters.astype(np.float32),
        "eigenvalues": bank.eigenvalues.astype(np.float32), "eigenvectors": bank.filters.astype(np.float32),
        "M_phi_plus": normal(count, channels, channels, scale=spectral),
        "M_phi_minus": normal(count, channels, channels, scale=spectral),
        "M_u": normal(3, channels, channels, scale=channels**-0.5), "M_y": np.stack(feedback).astype(np.float32),
        "M_inputs": normal(channels, channels, scale=channels**-0.5), "M_filters": normal(count, channels, scale=count**-0.5),
    }  # fmt: skip
    if signals:
        problem |= {"u": normal(batch, length, channels), "grad": normal(batch, length, channels)}
    return problem
