"""What the theory promises, to be drawn beside what is measured."""

from __future__ import annotations

import numpy as np


def eigenvalue_decay(length: int, count: int) -> np.ndarray:
    """The theorem's factor exp(-π² k / (4 log L)), k = 0..count-1, design (2); shape (K,).

    The bound on σ_k holds up to a constant; so does the squared error of an STU of k filters, up to L³.

    Source: arXiv 2312.06837, Lemma A.4.
    """
    return np.exp(-(np.pi**2) * np.arange(count) / (4 * np.log(length)))
