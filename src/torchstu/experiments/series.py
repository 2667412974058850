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

RANKS = 256
"""Of the errors of a model on rows it has not seen, so many are kept."""


@dataclass(frozen=True, eq=False)
class SeriesModel:
    """A fitted STU with the scaling around it: arrays in the units of the data.

    Attributes:
        regressor: holds ``layer`` and ``intercept``, both in scaled units.
        input_names, output_names: of the columns.
        input_scaler, output_scaler: fitted on the training rows.
        held_out: its errors on rows it has not seen, if they are known.
    """

    regressor: SequenceRegressor
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_scaler: Scaler
    output_scaler: Scaler
    held_out: HeldOutErrors | None = None

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
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class HeldOutErrors:
    """Sizes of a model's errors on rows it has not seen, thinned: what intervals on a stream are made from.

    Attributes:
        count: n, of the rows.
        ranks: (R,) increasing, from 1 to n.
        sizes: by prediction, "one_step" and "rollout": (R, D_out), the |error| of these ranks, in the units of the data.
    """

    count: int
    ranks: np.ndarray
    sizes: dict[str, np.ndarray]

    @classmethod
    def of(cls, target: np.ndarray, predictions: dict[str, np.ndarray]) -> HeldOutErrors:
        """Of predictions (n, D_out) of a target."""
        ranks = np.unique(np.ceil(np.linspace(1, len(target), RANKS)).astype(int))
        with np.errstate(all="ignore"):
            errors = {name: np.nan_to_num(np.abs(own - target), nan=np.inf) for name, own in predictions.items()}
        return cls(len(target), ranks, {name: np.sort(own, axis=0)[ranks - 1] for name, own in errors.items()})

    def half_width(self, kind: str, level: float) -> np.ndarray:
        """Half of the interval that holds a share ``level`` of what comes, (D_out,): the ⌈level (n+1)⌉-th smallest |error|.

        Exact where rows are exchangeable (split conformal prediction); the next rank above where that one was not kept.

        Raises:
            ValueError: a level not between 0 and 1, or above what n rows can tell.
        """
        most = self.count / (self.count + 1)
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level <= most:
            raise ValueError(f"level: {level!r}; it must be above 0 and at most {most:.6g}, which {self.count} rows tell")
        return self.sizes[kind][np.searchsorted(self.ranks, np.ceil(level * (self.count + 1) - 1e-9))]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: null."""
        sizes = {
            name: [[x if np.isfinite(x) else None for x in row] for row in own.tolist()] for name, own in self.sizes.items()
        }
        return {"count": self.count, "ranks": self.ranks.tolist(), "sizes": sizes}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> HeldOutErrors:
        """What `to_dict` gave."""
        sizes = {name: np.array(own, dtype=np.float64) for name, own in stored["sizes"].items()}
        sizes = {name: np.where(np.isnan(own), np.inf, own) for name, own in sizes.items()}
        return cls(int(stored["count"]), np.array(stored["ranks"]), sizes)


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
        held_out = HeldOutErrors.from_dict(stored["held_out"]) if stored.get("held_out") else None
        if held_out is not None and any(own.shape != (len(held_out.ranks), layer.d_out) for own in held_out.sizes.values()):
            raise ValueError(f"held_out: errors that are not of {layer.d_out} outputs")
        return SeriesModel(regressor, *names, *scalers, held_out), settings
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
