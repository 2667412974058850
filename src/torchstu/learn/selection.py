"""Ridge strength and number of filters by cross-validation over folds that were kept apart, design (10)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.learn.accumulation import Triangles

FOLDS = 5
DECADES = (-26.0, 2.0)
"""Ridges tried, in powers of ten of the largest squared singular value."""
PER_DECADE = 3


class RidgePath(NamedTuple):
    """Cross-validation along a path of ridges."""

    ridges: np.ndarray  # (r,)
    scores: np.ndarray  # (r,) squared error of every fold under the weights that the other folds give, summed

    @property
    def best(self) -> int:
        """Index of the smallest score."""
        return int(np.argmin(self.scores))


def ridge_path(folds: list[Triangles], shape: Tensor, ridges: np.ndarray | None = None) -> RidgePath:
    """The error on data left out, of min Σ w (f m - y)² + λ Σ (shape_p m_p)², for many λ at once.

    For every fold one singular value decomposition of all others gives the weights for all λ; the fold's own triangle gives
    their error on it. No data are seen again.

    Args:
        folds: problems of the same columns; columns that are not penalized come first.
        shape: (P,), 0 on the columns that are not penalized.
        ridges: λ; None means `DECADES` around the size of the data.
    """
    free, scores = int((shape == 0).sum()), np.zeros(1)
    for i, fold in enumerate(folds):
        others = Triangles.together([other for j, other in enumerate(folds) if j != i])
        for (R, Q, _), (R_fold, Q_fold, rest) in zip(*_alike(others, fold), strict=True):
            if not R.any() or (free and float(R[:free, :free].diagonal().abs().min()) == 0):
                continue  # the other folds say nothing on this output
            left, s, right = torch.linalg.svd(R[free:, free:] / shape[free:], full_matrices=False)
            if ridges is None:
                low, high = DECADES
                ridges = (float(s[0]) ** 2 or 1.0) * 10 ** np.linspace(low, high, int((high - low) * PER_DECADE) + 1)
            directions, drive = right.T / shape[free:, None], left.T @ Q[free:]
            seen, ahead = R_fold[:, free:] @ directions, R[:free, free:] @ directions
            strengths = torch.from_numpy(np.maximum(ridges, torch.finfo(torch.float64).tiny))
            z = (s[:, None] / (s.square()[:, None] + strengths))[..., None] * drive[:, None]  # (P, r, D), all ridges at once
            z = z.flatten(1)
            error = seen @ z - Q_fold.repeat(1, len(ridges))
            if free:
                unpenalized = Q[:free].repeat(1, len(ridges)) - ahead @ z
                error = error + R_fold[:, :free] @ torch.linalg.solve_triangular(R[:free, :free], unpenalized, upper=True)
            squares = error.square().sum(0).view(len(ridges), -1).sum(1)
            scores = scores + (squares + rest.sum()).numpy()
    if ridges is None:  # inputs that are zero, or outputs seen in one fold alone: any ridge is as good
        return RidgePath(np.ones(1), np.zeros(1))
    return RidgePath(np.asarray(ridges), np.nan_to_num(scores, nan=np.inf))


def _alike(a: Triangles, b: Triangles) -> tuple[list, list]:
    """The problems of both, one an output if either has that."""
    if len(a.factor) == len(b.factor):
        return a.problems(), b.problems()
    return a.apart().problems(), b.apart().problems()
