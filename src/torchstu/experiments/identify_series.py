"""From a recording to an identified system and what an engineer asks of it: the pipeline behind ``torchstu identify``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.convert.control import check_sample_time
from torchstu.data.scaling import Scaler
from torchstu.experiments.identify_system import ChosenSystem, choose_system, in_units, one_step_ahead
from torchstu.experiments.series import HeldOutErrors, SeriesModel, constant_columns
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.identification import Identification, identify
from torchstu.learn.least_squares import sequence
from torchstu.learn.options import share
from torchstu.learn.residuals import CorrelationTest, cross_correlation, fit_percent, whiteness
from torchstu.learn.responses import (
    FrequencyInterval,
    ResponseInterval,
    frequency_response,
    frequency_response_interval,
    impulse_response_interval,
)
from torchstu.ops.autoregression import fixed_feedback
from torchstu.spectral.priors import Prior, positive_int
from torchstu.systems.lds import LDS

FEWEST_ROWS = 48
"""To identify from; a quarter of that to measure on."""
LONGEST_MEMORY = 2048
MOST_LAGS = 25
"""Of the residual tests."""
TEST_LEVEL = 0.99
ONE_STEP = "STU for one step"
"""Another STU that predicted one step ahead better on the validation rows; it is reported, not kept."""
FREQUENCIES = 160


class FitRow(NamedTuple):
    """One line of the table: fit in percent on rows the model has not seen, -inf where it diverged."""

    model: str
    output: str
    rollout: float | None
    one_step: float


class Residuals(NamedTuple):
    """The tests of a model's residuals on the rows it has not seen."""

    own_past: CorrelationTest
    inputs: CorrelationTest


class Responses(NamedTuple):
    """In the units of the data: outputs per input."""

    impulse: ResponseInterval  # (T, D_out, D_in)
    system_impulse: Tensor
    frequencies: np.ndarray  # (F,) cycles per step, or Hz
    spectrum: FrequencyInterval  # (F, D_out, D_in)
    system_spectrum: Tensor
    level: float


@dataclass(frozen=True, eq=False)
class IdentifiedSeries:
    """What `identify_series` found.

    Attributes:
        model: the STU, in the units of the data.
        system: the `LDS` in the units of the data, of deviations from the levels: y - y_0 = G (u - u_0).
        origin: whether the system was refined by the error of its roll-out, or reduced from the STU's response.
        input_level, output_level: u_0, the means of the training inputs, and y_0, fitted; (D_in,) and (D_out,).
        best: "regressor" or "system", by the validation inside the training rows.
        identification: what `identify` found, in scaled units.
        fits: percent on the test rows, output by output.
        rollouts: (T, D_out) on the test rows, by model.
        target, test_start: the test rows.
        residuals: the tests, by model.
        one_step_own_past: whiteness of the residuals of the STU that predicts one step ahead best.
        responses: with intervals.
        sample_time: seconds, or True where rows are just steps.
    """

    model: SeriesModel
    system: LDS
    origin: Literal["refined", "reduced"]
    input_level: np.ndarray
    output_level: np.ndarray
    best: Literal["regressor", "system"]
    identification: Identification
    fits: list[FitRow]
    rollouts: dict[str, np.ndarray]
    target: np.ndarray
    test_start: int
    residuals: dict[str, Residuals]
    one_step_own_past: CorrelationTest
    responses: Responses
    sample_time: float | bool

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, for a table and JSON."""
        regressor = self.identification.regressor
        layer = regressor.layer
        prior = layer.bank.prior
        return {
            "prior": "bank of one's own" if prior is None else prior.name,
            "filters": layer.num_filters,
            "memory": layer.length,
            "autoregression": layer.autoregression,
            "preconditioning": layer.preconditioning,
            "ridge": regressor.ridge_used,
            "ridge power": regressor.ridge_power_used,
            "order": self.system.state_dim,
            "system": self.origin,
            "better of both": {"regressor": "STU", "system": "system"}[self.best],
            "rows": {"identification": self.test_start, "test": len(self.target)},
        }


def identify_series(
    inputs: Any,
    outputs: Any,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    order: int | Literal["auto"] = "auto",
    sample_time: float | bool = True,
    prior: str | Prior = "auto",
    length: int | None = None,
    test: float = 0.25,
    level: float = 0.9,
) -> IdentifiedSeries:
    """Identify a linear system from one recording, and measure it on the last rows, which nothing has seen.

    Channels are scaled by mean and spread of the rows before the test part; what is identified is the response to deviations
    from the mean. `identify` chooses prior, number of filters, ridge and y-term by a validation part of its own, and a system
    of low order beside the STU. Both are rolled out over the test rows: the STU from the outputs before them, the system
    from rest at the first row, or from the state and level there that fit best. A recording begins in the middle of things:
    the first memory of rows (at most a quarter) drives the models and is not fitted.

    Args:
        inputs, outputs: (L, D_in) and (L, D_out), rows in time order.
        input_names, output_names: of the columns; None numbers them.
        order: states of the system, or "auto".
        sample_time: seconds between rows, above 0; True for steps.
        prior: a name, a `Prior`, or "auto": "positive" and what `suggest_prior` says where that is another.
        length: the memory in rows, at most half of those before the test; None means a quarter of them, at most 2048.
        test: share of the rows kept to the end, in (0, 1).
        level: of the intervals of the responses, in (0, 1).

    Raises:
        ValueError: too few rows, options out of range, values not finite, an output that is constant in a part.
        TypeError: values that are not numbers.
    """
    for name, values in (("inputs", inputs), ("outputs", outputs)):
        if np.ndim(values) != 2:
            raise ValueError(f"{name}: {np.ndim(values)} dimensions; it must be one recording, (L, D)")
    u, y = sequence("inputs", inputs)[0].numpy(), sequence("outputs", outputs)[0].numpy()
    if len(u) != len(y):
        raise ValueError(f"outputs: {len(y)} rows; inputs have {len(u)}")
    test, level, sample_time = share("test", test), share("level", level), check_sample_time(sample_time)
    if order != "auto":
        order = positive_int("order", order)
    own = [f"input {i + 1}" for i in range(u.shape[1])], [f"output {i + 1}" for i in range(y.shape[1])]
    names = tuple(input_names or own[0]), tuple(output_names or own[1])
    stop = _split(len(u), test)
    _check_outputs(y, names[1], stop)
    scalers = Scaler.fit(u[:stop], "inputs"), Scaler.fit(y[:stop], "outputs")
    scaled = scalers[0].transform(u), scalers[1].transform(y)
    memory = positive_int("length", min(LONGEST_MEMORY, stop // 4) if length is None else length)
    if memory > stop // 2:
        raise ValueError(f"length: {memory}; it must be at most half of the {stop} rows before the test")
    past = min(memory, stop // 4)
    training = scaled[0][:stop], scaled[1][:stop]
    found = identify(*training, length=memory, prior=prior, order=order, warmup=past, fit_intercept=True)
    chosen = choose_system(found, *training, order)
    return _measured(SeriesModel(found.regressor, *names, *scalers), found, chosen, scaled, stop, sample_time, level)


def _measured(
    model: SeriesModel,
    found: Identification,
    chosen: ChosenSystem,
    scaled: tuple[np.ndarray, np.ndarray],
    stop: int,
    sample_time: float | bool,
    level: float,
) -> IdentifiedSeries:
    """Both models on the test rows, in the units of the data."""
    (u, y), regressor, units = scaled, found.regressor, model.output_scaler
    whole, offset = chosen.simulate(u, y, stop)
    rollouts = {
        "STU": np.asarray(regressor.predict(u[stop:], past=(u[:stop], y[:stop]))),
        "system": whole[stop:],
    }
    predictor = found.one_step if isinstance(found.one_step, SpectralRegressor) else regressor
    ahead = {
        "STU": np.asarray(regressor.predict_next(u, y))[stop:],
        "system": one_step_ahead(whole, y, chosen.noise_lags)[stop:],
    }
    one_step = ahead["STU"]
    if predictor is not regressor:
        ahead[ONE_STEP] = one_step = np.asarray(predictor.predict_next(u, y))[stop:]
    fits = [
        FitRow(name, output, float(fit_percent(rollouts[name], y[stop:])[j]) if name in rollouts else None, float(percent[j]))
        for name, percent in ((name, fit_percent(prediction, y[stop:])) for name, prediction in ahead.items())
        for j, output in enumerate(model.output_names)
    ]
    system = in_units(chosen.system, model.input_scaler, units)
    left = {name: y[stop:] - rollout for name, rollout in rollouts.items()}
    left["STU"] = _without_start(left["STU"], regressor.layer.fixed_coefficients or ())
    lags = min(MOST_LAGS, len(u[stop:]) // 4)
    tests = {
        name: Residuals(*_tests(residual, u[stop:], lags)) for name, residual in left.items() if np.isfinite(residual).all()
    }
    held_out = {"one_step": ahead["STU"], "rollout": rollouts["STU"]}
    held_out = {name: units.inverse(prediction) for name, prediction in held_out.items()}
    return IdentifiedSeries(
        model=replace(model, held_out=HeldOutErrors.of(units.inverse(y[stop:]), held_out)),
        system=system,
        origin=chosen.origin,
        input_level=model.input_scaler.mean,
        output_level=units.inverse(offset),
        best=found.best,
        identification=found,
        fits=fits,
        rollouts={name: units.inverse(rollout) for name, rollout in rollouts.items()},
        target=units.inverse(y[stop:]),
        test_start=stop,
        residuals=tests,
        one_step_own_past=whiteness(y[stop:] - one_step, lags=lags, level=TEST_LEVEL),
        responses=_responses(found.regressor, system, model, stop, sample_time, level),
        sample_time=sample_time,
    )


def _tests(residual: np.ndarray, u: np.ndarray, lags: int) -> tuple[CorrelationTest, CorrelationTest]:
    own = whiteness(residual, lags=lags, level=TEST_LEVEL)
    return own, cross_correlation(residual, u, lags=lags, level=TEST_LEVEL)


def _without_start(residual: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """Less what errors of the outputs that a roll-out starts from leave behind through a fixed y-term, by least squares."""
    if not any(coefficients):
        return residual
    pulses = torch.eye(len(coefficients), dtype=torch.float64)[:, :, None]
    free = fixed_feedback(torch.zeros(len(coefficients), len(residual), 1, dtype=torch.float64), coefficients, pulses)
    columns = free[..., 0].T.numpy()
    return residual - columns @ np.linalg.lstsq(columns, residual, rcond=None)[0]


def _responses(
    regressor: SpectralRegressor, system: LDS, model: SeriesModel, rows: int, sample_time: float | bool, level: float
) -> Responses:
    units = torch.as_tensor(model.output_scaler.std)[:, None] / torch.as_tensor(model.input_scaler.std)
    length, step = min(regressor.layer.length, rows), 1.0 if sample_time is True else float(sample_time)
    impulse = ResponseInterval(*(part * units for part in impulse_response_interval(regressor, length, level)))
    cycles = np.geomspace(min(0.5 / length, 0.05), 0.499, FREQUENCIES)  # the fixed y-term has poles at 0 and at 1/2
    spectrum = frequency_response_interval(regressor, cycles, level)
    scaled = FrequencyInterval(spectrum.response * units, spectrum.lower * units, spectrum.upper * units, spectrum.phase)
    return Responses(
        impulse, system.impulse_response(length), cycles / step, scaled, frequency_response(system, cycles), level
    )  # fmt: skip


def _split(rows: int, test: float) -> int:
    """The first test row."""

    def enough(count: int) -> bool:
        return min(round(count * (1 - test)), 4 * (count - round(count * (1 - test)))) >= FEWEST_ROWS

    if not enough(rows):
        needed = next(count for count in itertools.count(rows) if enough(count))
        raise ValueError(f"data: {rows} rows; with {test:g} of them for the test there must be at least {needed}")
    return round(rows * (1 - test))


def _check_outputs(y: np.ndarray, names: Sequence[str], stop: int) -> None:
    for first, last, part in ((0, stop, "identified from"), (stop, len(y), "kept for the test")):
        for name, constant in zip(names, constant_columns(y[first:last]), strict=True):
            if constant:
                raise ValueError(f"outputs: {name!r} is constant over rows {first + 1} to {last}, {part}; it must vary there")
