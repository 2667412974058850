"""The paper's synthetic experiment: a marginally stable system learned by gradient descent and in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchstu.layers.base import Mixer
from torchstu.layers.lru import LRU
from torchstu.layers.stu import STU
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.diagnostics import relative_error
from torchstu.learn.gradient import TrainingHistory, fit_gradient
from torchstu.systems.lds import LDS
from torchstu.systems.random import Spectrum, random_lds

LENGTH = 1024
CHANNELS = 3


@dataclass(frozen=True)
class Setting:
    """One cell of a grid: which mixer, and how its optimizer is set."""

    mixer: str
    learning_rate: float
    weight_decay: float = 0.0

    def make(self) -> Mixer:
        """The mixer in float32: an STU of 25 filters, or an LRU of 64 states started on the ring [0.9, 0.999]."""
        if self.mixer == "STU":
            return STU(CHANNELS, CHANNELS, length=LENGTH, num_filters=25)
        return LRU(CHANNELS, CHANNELS, state_dim=64, r_min=0.9, r_max=0.999)


GRIDS: dict[str, list[Setting]] = {
    "STU": [Setting("STU", rate, decay) for rate in (0.05, 0.1, 0.2) for decay in (0.0, 1e-4)],
    "LRU": [Setting("LRU", rate, decay) for rate in (3e-3, 1e-2, 3e-2) for decay in (0.0, 1e-2)],
}
"""Six settings each."""


def sample(lds: LDS, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """White unit-variance inputs and noiseless outputs, (count, 1024, 3) each, float64."""
    u = torch.randn(count, LENGTH, lds.d_in, generator=generator, dtype=torch.float64)
    return u, lds.simulate(u)


def learning_curve(
    setting: Setting, seed: int, samples: int, spectrum: str | Spectrum = "paper", state_dim: int = 4, progress: bool = False
) -> TrainingHistory:
    """Batch 1, every sequence seen once, next-step loss, AdamW with cosine; roll-out error on 16 fresh sequences.

    The seed draws the system, the data and the start of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(state_dim, CHANNELS, CHANNELS, spectrum, generator)
    fresh, data = sample(lds, 16, generator), sample(lds, samples, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixer = setting.make()
    options = {"learning_rate": setting.learning_rate, "weight_decay": setting.weight_decay}
    return fit_gradient(mixer, *data, steps=samples, validation=fresh, seed=seed, progress=progress, **options)  # type: ignore[arg-type]


def error_against_filters(spectrum: str | Spectrum, state_dim: int, counts: Sequence[int], seed: int = 0) -> np.ndarray:
    """Relative roll-out error on fresh sequences of closed-form fits to 16 sequences, for each K; no tail penalty.

    Returns:
        (len(counts),)
    """
    generator = torch.Generator().manual_seed(seed)
    lds = random_lds(state_dim, CHANNELS, CHANNELS, spectrum, generator)
    data, (u, y) = sample(lds, 16, generator), sample(lds, 8, generator)
    fits = (SpectralRegressor(count, tail_penalty=0.0).fit(*data) for count in counts)
    return np.array([relative_error(fit.predict(u), y) for fit in fits])
