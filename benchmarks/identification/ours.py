"""Ours: entries of the same form as the peers', ``fit(U, Y) -> Model``. One procedure for every cell; swap entries here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from identification.gradient import gradient_lds
from identification.models import Model


class Fitted:
    """A `SpectralRegressor`, or what has its ``predict`` and ``predict_next``."""

    def __init__(self, regressor: Any, choice: str) -> None:
        self.regressor, self.choice = regressor, choice

    def rollout(self, u: np.ndarray) -> np.ndarray:
        return self.regressor.predict(u)

    def one_step(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.regressor.predict_next(u, y)

    def radius(self) -> float | None:
        import torchstu

        layer = getattr(self.regressor, "layer", None)
        return None if layer is None else torchstu.feedback_radius(layer)


def spectral(**options: Any) -> Callable[[np.ndarray, np.ndarray], Model]:
    """`SpectralRegressor` with these options, the same for every cell."""

    def fit(U: np.ndarray, Y: np.ndarray) -> Model:
        import torchstu

        regressor = torchstu.SpectralRegressor(**options).fit(U, Y)
        return Fitted(regressor, f"{regressor.layer.num_filters} filters")

    return fit


class Identified:
    """What `torchstu.identify` found."""

    def __init__(self, found: Any) -> None:
        self.found = found
        states = "" if found.system is None else f" of {found.refined.order} states"
        self.choice = f"{found.best}{states if found.best == 'system' else ''}"

    def rollout(self, u: np.ndarray) -> np.ndarray:
        return self.found.predict(u)

    def one_step(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.found.predict_next(u, y)

    def radius(self) -> float | None:
        import torchstu

        if self.found.best == "system":
            eigenvalues = self.found.system.eigenvalues()
            return float(eigenvalues.abs().max()) if len(eigenvalues) else 0.0
        return torchstu.feedback_radius(self.found.regressor.layer)


def identified(U: np.ndarray, Y: np.ndarray) -> Model:
    """`torchstu.identify` as it comes."""
    import torchstu

    return Identified(torchstu.identify(U, Y))


AUTOMATIC: dict[str, Any] = {"num_filters": "auto", "ridge": "auto"}
OURS: dict[str, Callable[[np.ndarray, np.ndarray], Model]] = {
    "torchstu": identified,
    "torchstu regressor": spectral(**AUTOMATIC),
    "torchstu learned AR": spectral(**AUTOMATIC, objective="next", autoregression="learned", output_lags=8, input_lags=9),
    "gradient LDS": gradient_lds,
}
