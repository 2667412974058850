"""The models that a fit chooses among, each with the settings that are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstu.layers.stu import STU, Autoregression
from torchstu.learn.baselines import LaggedRegression, Persistence, PlainAutoregression
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.estimator import SequenceRegressor
from torchstu.learn.gradient import fit_gradient
from torchstu.learn.least_squares import sequence
from torchstu.models.ssm import SpectralSSM

RIDGES = (0.0, 10.0, 1e2, 1e3, 1e4)
LAGS = (1, 2, 3, 6, 12, 24, 48, 96, 168)
"""With `RIDGES`, as many settings as three sizes of bank with three y-terms."""
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
Y_TERMS: dict[str, tuple[Autoregression | None, ...]] = {
    "auto": (None, "fixed", "learned"),
    "fixed": ("fixed",),
    "learned": ("learned",),
    "none": (None,),
}


class Candidate(NamedTuple):
    """Settings, and how to make an unfitted model with them."""

    settings: dict[str, Any]
    make: Callable[[], Any]

    @property
    def label(self) -> str:
        """The settings in words."""
        return ", ".join(f"{name} {in_words(value)}" for name, value in self.settings.items())


def in_words(value: Any) -> str:
    """A setting as the tables show it."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def closed_form_candidates(y_terms: Iterable[Autoregression | None], sizes: Sequence[tuple[int, int]]) -> list[Candidate]:
    """Every size (K, L) with every y-term and every ridge."""
    candidates = []
    for (count, length), term, ridge in product(sizes, y_terms, RIDGES):
        # a learned y-term is convex for the next step only; with the fixed one the level comes from the past
        kind: dict[str, Any] = {"autoregression": term, "objective": "next" if term == "learned" else "rollout"}
        kind["fit_intercept"] = term != "fixed"
        settings = {"filters": count, "length": length, "autoregression": term, "ridge": ridge}
        candidates.append(Candidate(settings, partial(_WarmRegressor, num_filters=count, length=length, ridge=ridge, **kind)))
    return candidates


class _WarmRegressor(SpectralRegressor):
    """A `SpectralRegressor` that takes the start of a recording as its past."""

    def fit(self, U: Any, Y: Any = None, **options: Any) -> SpectralRegressor:
        rows = len(U)
        return super().fit(U, Y, **({"warmup": min(self.length or rows, rows // 4)} | options))


class _GradientRegressor(SequenceRegressor):
    """A regressor whose ``fit`` is gradient descent on windows of one long sequence."""

    def __init__(self, *, steps: int, seed: int, learning_rate: float, length: int | None = None, **options: Any) -> None:
        self.length, self.options = length, options
        self.training = {"steps": steps, "learning_rate": learning_rate, "seed": seed}

    @property
    def layer(self) -> STU:
        return self._layer

    @property
    def intercept(self) -> torch.Tensor:
        return torch.zeros(self._layer.d_out, dtype=torch.float64)

    def fit(self, U: Any, Y: Any) -> _GradientRegressor:
        u, y = sequence("U", U), sequence("Y", Y)
        length = self.length or u.shape[1]
        self._layer = STU(u.shape[2], y.shape[2], length=length, dtype=torch.float64, **self.options)
        training: dict[str, Any] = self.training
        fit_gradient(self._layer, *windows(u, y, 2 * length), clip=1.0, progress=False, **training)
        return self


def gradient_candidates(
    y_terms: Iterable[Autoregression | None], size: tuple[int, int], steps: int, seed: int
) -> list[Candidate]:
    """One size (K, L), every y-term with every learning rate."""
    candidates = []
    for term, rate in product(y_terms, LEARNING_RATES):
        settings = {"filters": size[0], "length": size[1], "autoregression": term, "learning rate": rate, "steps": steps}
        options: dict[str, Any] = {"num_filters": size[0], "length": size[1], "autoregression": term}
        make = partial(_GradientRegressor, steps=steps, seed=seed, learning_rate=rate, **options)
        candidates.append(Candidate(settings, make))
    return candidates


class DeepRegressor:
    """A `SpectralSSM` of two layers trained on windows, with the interface of a `SpectralRegressor`; it sees inputs alone."""

    def __init__(self, *, length: int, learning_rate: float, steps: int, seed: int = 0, **options: Any) -> None:
        self.length, self.learning_rate, self.steps, self.seed, self.options = length, learning_rate, steps, seed, options

    def fit(self, U: Any, Y: Any) -> DeepRegressor:
        """Train on windows of two memories, a quarter apart."""
        u, y = sequence("U", U), sequence("Y", Y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.layer = SpectralSSM(u.shape[2], y.shape[2], length=self.length, num_layers=2, **self.options)
        training: dict[str, Any] = {
            "steps": self.steps,
            "batch_size": 4,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }
        fit_gradient(self.layer, *windows(u, y, 2 * self.length), clip=1.0, objective="rollout", progress=False, **training)
        return self

    def predict(self, U: Any, past: tuple[Any, Any] | None = None) -> np.ndarray:
        """The roll-out (L, D_out), after the inputs of a known past if given."""
        with torch.no_grad():
            state = None if past is None else self.layer(sequence("past[0]", past[0]).float())[1]
            return self.layer(sequence("U", U).float(), state)[0][0].double().numpy()

    def predict_next(self, U: Any, Y: Any) -> np.ndarray:
        """The roll-out: past outputs are not among the inputs."""
        return self.predict(U)


def windows(u: torch.Tensor, y: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping windows of one sequence, (1, L, D) to (N, size, D), a quarter of their size apart."""
    size = min(size, u.shape[1])
    u, y = (x[0].unfold(0, size, max(1, size // 4)).transpose(1, 2) for x in (u, y))
    return u, y


def deep_candidates(steps: int) -> list[Candidate]:
    """Two layers of 16 STUs with 8 filters of length 512, without a y-term, at every learning rate."""
    options: dict[str, Any] = {"d_model": 16, "mixer": "STU", "length": 512, "steps": steps}
    options["mixer_options"] = {"autoregression": None, "num_filters": 8}
    shown = {"width": 16, "filters": 8, "length": 512, "steps": steps}
    return [
        Candidate(shown | {"learning rate": rate}, partial(DeepRegressor, learning_rate=rate, **options))
        for rate in LEARNING_RATES
    ]


def baselines(rows: int) -> dict[str, list[Candidate]]:
    """What an STU is compared with; lags at most a quarter of the training rows."""
    lags = sorted({min(n, max(1, rows // 4)) for n in LAGS})
    grid = [{"lags": n, "ridge": ridge} for n in lags for ridge in RIDGES]
    return {
        "persistence": [Candidate({}, Persistence)],
        "plain autoregression": [Candidate(s, partial(PlainAutoregression, **s)) for s in grid],  # type: ignore[arg-type]
        "lagged linear regression": [Candidate(s, partial(LaggedRegression, **s)) for s in grid],  # type: ignore[arg-type]
    }
