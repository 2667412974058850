"""A model of one recording in the units of its data, and how it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstu.data.scaling import Scaler
from torchstu.layers.stu import STU
from torchstu.learn.estimator import LayerRegressor, SequenceRegressor
from torchstu.models.store import load_model


@dataclass(frozen=True, eq=False)
class SeriesModel:
    """A fitted STU with the scaling around it: arrays in the units of the data.

    Attributes:
        regressor: holds ``layer`` and ``intercept``, both in scaled units.
        input_names, output_names: of the columns.
        input_scaler, output_scaler: fitted on the training rows.
    """

    regressor: SequenceRegressor
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_scaler: Scaler
    output_scaler: Scaler

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """The roll-out from inputs (L, D_in) alone: (L, D_out)."""
        return self.output_scaler.inverse(self.regressor.predict(self.input_scaler.transform(inputs)))

    def predict_next(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """One step ahead with true past outputs: (L, D_in) and (L, D_out) to (L, D_out)."""
        scaled = self.input_scaler.transform(inputs), self.output_scaler.transform(outputs)
        return self.output_scaler.inverse(self.regressor.predict_next(*scaled))

    def to_dict(self) -> dict[str, Any]:
        """All but the layer, for JSON."""
        return {
            "inputs": list(self.input_names),
            "outputs": list(self.output_names),
            "input_scaler": self.input_scaler.to_dict(),
            "output_scaler": self.output_scaler.to_dict(),
            "intercept": self.regressor.intercept.tolist(),
        }


class ErrorRow(NamedTuple):
    """One line of the table: errors on rows the model has not seen; inf where it diverged."""

    model: str
    one_step: float
    rollout: float
    settings: str


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit_series` found.

    Attributes:
        model: the STU, fitted on the training and validation rows.
        errors: on the test rows, the STU that is kept first.
        validation: every setting that was tried, with the geometric mean of its errors on the two validation blocks.
        settings: what was chosen, and where the parts end.
        test_start: first test row.
        target, rollout, one_step: (T, D_out) on the test rows, in the units of the data.
    """

    model: SeriesModel
    errors: list[ErrorRow]
    validation: list[ErrorRow]
    settings: dict[str, Any]
    test_start: int
    target: np.ndarray
    rollout: np.ndarray
    one_step: np.ndarray

    def extra(self) -> dict[str, Any]:
        """What a model folder keeps beside the layer, for JSON; an error of null means diverged."""

        def finite(row: ErrorRow) -> dict[str, Any]:
            return {k: None if v == np.inf else v for k, v in row._asdict().items()}

        tables = {"errors": self.errors, "validation": self.validation}
        return {"series": self.model.to_dict(), "settings": self.settings} | {
            name: [finite(row) for row in rows] for name, rows in tables.items()
        }


def load_series_model(folder: str | Path) -> tuple[SeriesModel, dict[str, Any]]:
    """The model that ``torchstu fit`` wrote, and its settings.

    Raises:
        FileNotFoundError, ValueError: as `load_model`; also a folder of another kind of model, or parts that do not fit.
    """
    layer, extra = load_model(folder)
    try:
        if not isinstance(layer, STU):
            raise TypeError(f"a {type(layer).__name__}")
        stored = extra["series"]
        regressor = LayerRegressor(layer, torch.tensor(stored["intercept"], dtype=torch.float64))
        scalers = Scaler.from_dict(stored["input_scaler"]), Scaler.from_dict(stored["output_scaler"])
        names, settings = (tuple(stored["inputs"]), tuple(stored["outputs"])), extra["settings"]
        for kind, width, own, scaler in zip(("input", "output"), (layer.d_in, layer.d_out), names, scalers, strict=True):
            if len(own) != width or not all(isinstance(name, str) for name in own):
                raise ValueError(f"{kind}s {list(own)}; the layer has {width}")
            if not scaler.mean.shape == scaler.std.shape == (width,) or not np.all(scaler.std > 0):
                raise ValueError(f"{kind}_scaler: it must have {width} means and positive deviations")
        if regressor.intercept.shape != (layer.d_out,):
            raise ValueError(f"intercept: shape {tuple(regressor.intercept.shape)}; it must be ({layer.d_out},)")
        if not isinstance(settings, dict) or not isinstance(settings.get("time"), str | None):
            raise TypeError("settings: no dictionary, or a time that is no name")
        return SeriesModel(regressor, *names, *scalers), settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder}: holds no model of `torchstu fit` ({type(error).__name__}: {error})") from error


def error_about_mean(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error over the variance of the target, (L, D): 1 is what the target's own mean gets; inf if not finite.

    Raises:
        ValueError: a target that is constant.
    """
    if constant_columns(target).all():
        raise ValueError(f"outputs: constant over {len(target)} rows that errors are measured on; they must vary there")
    unit = np.abs(target).max()  # squares of what float64 holds may be more than it holds
    with np.errstate(all="ignore"):
        prediction, target = prediction / unit, target / unit
        error = float(np.mean((prediction - target) ** 2) / np.mean((target - target.mean(axis=0)) ** 2))
    return error if np.isfinite(error) else np.inf


def constant_columns(values: np.ndarray) -> np.ndarray:
    """Which columns of rows (L, D) do not vary: (D,) bool."""
    return np.ptp(values, axis=0) <= 1e-10 * np.abs(values).max(axis=0)
