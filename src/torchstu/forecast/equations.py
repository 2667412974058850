"""Ridge regression of all horizons at once from sums over rows: columns and ridges are chosen after the data have been read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

MOST_PARTIAL = 2**25
"""Numbers kept of rows of which only some horizons were seen; the oldest make room."""


@dataclass(eq=False)
class NormalEquations:
    """Σ z zᵀ and Σ z y_h over rows z = (1, f), for horizons h: nothing else is kept of rows that were seen whole.

    One matrix serves all horizons while their features are the same (G = 1); with known inputs each has its own (G = H). Rows
    of which some target is missing are kept, and counted for the horizons that were seen.

    Attributes:
        gram: (G, P + 1, P + 1). cross: (P + 1, H). count: (G,), rows.
        partial: rows (n, P + 1) and targets (n, H), NaN where missing; with G = 1 only.
    """

    gram: np.ndarray
    cross: np.ndarray
    count: np.ndarray
    partial: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @classmethod
    def empty(cls, width: int, horizons: int, shared: bool) -> NormalEquations:
        """No rows yet."""
        groups = 1 if shared else horizons
        return cls(np.zeros((groups, width + 1, width + 1)), np.zeros((width + 1, horizons)), np.zeros(groups))

    def add(self, features: np.ndarray, targets: np.ndarray) -> None:
        """More rows: features (n, P), or (H, n, P) where horizons have their own; targets (n, H), NaN where missing."""
        seen = ~np.isnan(targets)
        if features.ndim == 2:
            z, whole = with_one(features), seen.all(axis=1)
            self._sum(0, z[whole], targets[whole], slice(None))
            some = seen.any(axis=1) & ~whole
            if some.any():
                self.partial.append((z[some], targets[some]))
                while len(self.partial) > 1 and sum(rows.size for rows, _ in self.partial) > MOST_PARTIAL:
                    del self.partial[0]
            return
        for h, own in enumerate(features):
            rows = seen[:, h]
            self._sum(h, with_one(own[rows]), targets[rows, h : h + 1], slice(h, h + 1))

    def _sum(self, group: int, z: np.ndarray, y: np.ndarray, horizons: slice) -> None:
        self.gram[group] += z.T @ z
        self.cross[:, horizons] += z.T @ y
        self.count[group] += len(z)

    def copy(self) -> NormalEquations:
        """That can be added to alone."""
        return NormalEquations(self.gram.copy(), self.cross.copy(), self.count.copy(), list(self.partial))

    def solve(self, columns: np.ndarray, ridges: tuple[float, ...]) -> np.ndarray:
        """Weights of centred columns in units of their deviation with a penalty of ridge·rows·‖weights‖².

        Args:
            columns: which features, (P',).
            ridges: one or more.

        Returns:
            (ridges, 1 + P', H), the constant first, for features as they are.
        """
        kept = np.concatenate([[0], columns + 1])
        gram, cross = self.gram[:, kept[:, None], kept], self.cross[kept]
        count = self.count
        if self.partial:
            gram, cross, count = self._with_partial(gram, cross, kept)
        solved = [_ridge(g, cross if len(gram) == 1 else cross[:, h : h + 1], count[h], ridges) for h, g in enumerate(gram)]
        return np.concatenate(solved, axis=2)

    def _with_partial(self, gram: np.ndarray, cross: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, ...]:
        horizons = cross.shape[1]
        z = np.concatenate([rows[:, kept] for rows, _ in self.partial])
        y = np.concatenate([targets for _, targets in self.partial])
        whole, cross, count = gram[0], cross.copy(), np.repeat(self.count, horizons)
        gram = np.empty((horizons, *whole.shape))
        for h in range(horizons):
            rows = ~np.isnan(y[:, h])
            gram[h] = whole + z[rows].T @ z[rows]
            cross[:, h] += z[rows].T @ y[rows, h]
            count[h] += rows.sum()
        return gram, cross, count


def with_one(features: np.ndarray) -> np.ndarray:
    """With a column of ones before them."""
    return np.concatenate([np.ones((len(features), 1)), features], axis=1)


def _ridge(gram: np.ndarray, cross: np.ndarray, count: float, ridges: tuple[float, ...]) -> np.ndarray:
    """(ridges, 1 + P, E) from (1 + P, 1 + P) and (1 + P, E); zero where there are no rows."""
    weights = np.zeros((len(ridges), *cross.shape))
    if not count:
        return weights
    mean, constant = gram[0, 1:] / count, cross[0] / count
    centred = gram[1:, 1:] - count * np.outer(mean, mean)
    variance = np.diag(centred) / count
    varies = variance > 1e-10 * (np.diag(gram)[1:] / count)
    deviation = np.where(varies, np.sqrt(np.where(varies, variance, 1.0)), np.inf)  # a column that does not vary has no weight
    left = torch.as_tensor(centred / (np.outer(deviation, deviation) * count))
    right = torch.as_tensor((cross[1:] - np.outer(mean, cross[0])) / (deviation[:, None] * count))
    for at, ridge in enumerate(ridges):
        factor = torch.linalg.cholesky(left + ridge * torch.eye(len(left), dtype=torch.float64))
        own = torch.cholesky_solve(right, factor).numpy() / deviation[:, None]
        weights[at, 1:], weights[at, 0] = own, constant - mean @ own
    return weights
