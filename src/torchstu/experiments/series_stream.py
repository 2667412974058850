"""A model of a recording on a stream: a row in, its outputs predicted, in constant memory, for as long as it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstu.experiments.series import SeriesModel
from torchstu.learn.online import OnlineSpectralFilter
from torchstu.learn.online_input import check_state


class RowPrediction(NamedTuple):
    """Of one row, in the units of the data; (D_out,) each.

    ``low`` and ``high`` are None without a level.
    """

    values: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


class SeriesStream:
    """What ``torchstu fit`` found, row by row.

    Outputs of a row are predicted from its inputs and all rows before. Where true outputs are given they are what the next
    rows go on from, so predictions are one step ahead; where they are not the predictions themselves take their place, and
    predictions are the roll-out. The numbers are those of `SeriesModel.predict_next` and `SeriesModel.predict`, to rounding.

    Args:
        model: of `load_series_model` or `fit_series`.
        level: share of outputs that intervals shall hold, by the model's errors on rows it has not seen: one step ahead, or of
            the roll-out where the last outputs are missing and for a memory of rows after `skip`; None: no intervals.
        adapt: whether weights go on learning from true outputs, by recursive least squares (`OnlineSpectralFilter`).
        forgetting: γ in (0, 1] of that, the weight of a row against the next; None: 1.
        rows: that the model was fitted to: they hold the weights as much as rows on the stream do, or 1 / (1 - γ) of them.
        limit: standard deviations from the mean of the fit's rows beyond which an input is refused and an output is missing:
            one sentinel of 1e30 would be remembered for as long as the model's memory lasts.

    Raises:
        ValueError: a level that the model's errors cannot tell, ``forgetting`` without ``adapt``, numbers out of range, a model
            whose bank has no recurrence.
    """

    def __init__(
        self, model: SeriesModel, *, level: float | None = None, adapt: bool = False, forgetting: float | None = None,
        rows: int = 1000, limit: float = 1e4,
    ) -> None:  # fmt: skip
        held: dict[str, np.ndarray] = {}
        if level is not None:
            if model.held_out is None:
                raise ValueError(f"level: {level!r}; the model has no errors of held-out rows, fit it again, or give None")
            held = {name: model.held_out.half_width(name, level) for name in ("one_step", "rollout")}
        if forgetting is not None and not adapt:
            raise ValueError(f"forgetting: {forgetting!r}; weights that do not adapt forget nothing, it must be None")
        if isinstance(limit, bool) or not limit > 0:
            raise ValueError(f"limit: {limit!r}; it must be above 0")
        self.model, self.level, self.limit, self._half = model, level, limit, held
        options: dict[str, Any] = {"method": "none"}
        if adapt:
            remembered = rows if forgetting is None or not 0 < forgetting < 1 else min(rows, 1 / (1 - forgetting))
            options = {"method": "rls", "ridge": float(remembered), "forgetting": forgetting}
        self._filter = OnlineSpectralFilter.from_layer(model.regressor.layer, **options)
        scaler, intercept = model.output_scaler, model.regressor.intercept.numpy()
        self._mean, self._std = scaler.mean + scaler.std * intercept, scaler.std
        self._missing = np.full(len(self._std), np.nan)
        self._last = np.zeros(len(model.input_names))
        self._unsure = 0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._filter.steps

    def step(self, inputs: Sequence[float] | np.ndarray, outputs: Sequence[float] | np.ndarray | None = None) -> RowPrediction:
        """Predict the outputs of a row, then take in the true ones.

        Args:
            inputs: (D_in,) of this row.
            outputs: (D_out,) of this row, seen after the prediction is made; NaN or None where they are not known.

        Raises:
            ValueError: values of another number, inputs that are not finite or beyond ``limit``; nothing is changed then. A
                prediction that overflows, as that of an unstable y-term may: the model is at rest again then.
        """
        scaled = self.scaled(inputs)
        true = self._missing
        if outputs is not None:
            true = (_row("outputs", outputs, len(self._std)) - self._mean) / self._std
            true = np.where(np.abs(true) <= self.limit, true, np.nan)
        prediction = self._filter.predict(scaled)
        values = prediction * self._std + self._mean
        if not np.isfinite(values).all():
            self._filter.rest()
            raise ValueError("the prediction overflows; the model begins again at rest")
        half = self._half and self._half["rollout" if self._filter.gap or self._unsure else "one_step"]
        self._filter.update(true)
        self._last, self._unsure = scaled, max(0, self._unsure - 1)
        return RowPrediction(values, values - half, values + half) if self._half else RowPrediction(values, None, None)

    def scaled(self, inputs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Inputs (D_in,) in standard deviations from the mean of the fit's rows.

        Raises:
            ValueError: values of another number, not finite or beyond ``limit``.
        """
        scaler = self.model.input_scaler
        scaled = (_row("inputs", inputs, len(scaler.mean)) - scaler.mean) / scaler.std
        if not (np.abs(scaled) <= self.limit).all():
            place = int(np.argmin(np.abs(scaled) <= self.limit))
            name, given = self.model.input_names[place], float(np.asarray(inputs)[place])
            raise ValueError(f"column {name!r} is {given}, more than {self.limit:g} standard deviations from the fit's mean")
        return scaled

    def skip(self, steps: int = 1) -> None:
        """Rows that are missing: time goes on, with the inputs of the last row and without outputs.

        As many as the memory L of the model at most are gone through; after more it is at rest.

        Args:
            steps: how many, at least 1.

        Raises:
            ValueError: fewer.
        """
        if isinstance(steps, bool) or steps < 1:
            raise ValueError(f"steps: {steps!r}; it must be at least 1")
        memory = self.model.regressor.layer.length
        if steps > memory:
            self._filter.rest()
        for _ in range(steps if steps <= memory else 0):
            self._filter.predict(self._last)
            self._filter.update(self._missing)
        self._unsure = memory

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as tensors and numbers: constant in size."""
        return self._filter.state_dict() | {"last": torch.from_numpy(self._last.copy()), "unsure": self._unsure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a stream of the same model and options, to the last digit.

        Raises:
            ValueError: names, shapes or numbers that do not fit; nothing is changed then.
        """
        arrays = check_state(state, self.state_dict())
        self._filter.load_state_dict({name: value for name, value in state.items() if name not in ("last", "unsure")})
        self._last, self._unsure = arrays["last"], arrays["unsure"]


def _row(name: str, values: Sequence[float] | np.ndarray, width: int) -> np.ndarray:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (width,):
        raise ValueError(f"{name}: shape {row.shape}; it must be ({width},)")
    return row
