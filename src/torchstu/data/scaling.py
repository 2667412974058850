"""Scaling to mean 0 and standard deviation 1, by what the training rows say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Scaler:
    """(x - mean) / std, channel by channel; a constant channel has std 1.

    Attributes:
        mean, std: (D,) float64.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, name: str = "values") -> Scaler:
        """The scaler of rows (L, D): pass the training rows only.

        Raises:
            ValueError: squares that float64 cannot hold; ``name`` and the number of the column, from 1, are in the message.
        """
        with np.errstate(all="ignore"):
            mean, std = values.mean(axis=0), values.std(axis=0)
        overflown = np.flatnonzero(~np.isfinite(mean + std))
        if len(overflown):
            raise ValueError(f"{name} column {overflown[0] + 1}: values too large; take another unit, such as thousands")
        return cls(mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """To mean 0, standard deviation 1; (..., D)."""
        return (values - self.mean) / self.std

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """Back to the units of the data; (..., D)."""
        return values * self.std + self.mean

    def to_dict(self) -> dict[str, list[float]]:
        """For JSON."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Scaler:
        """What `to_dict` gave."""
        return cls(np.array(stored["mean"], dtype=np.float64), np.array(stored["std"], dtype=np.float64))
