"""From a recording to a fitted STU and an honest table: the pipeline behind ``torchstu fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from torchstu.data.scaling import Scaler
from torchstu.extras import MissingExtraError, require
from torchstu.layers.stu import STU, Autoregression
from torchstu.learn.baselines import LaggedRegression, Persistence, PlainAutoregression
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.gradient import fit_gradient
from torchstu.learn.least_squares import sequence
from torchstu.models.store import load_model
from torchstu.spectral.priors import positive_int

RIDGES = (0.0, 1.0, 1e2, 1e4, 1e5)
LAGS = (8, 24, 168)
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
Y_TERMS: dict[str, tuple[Autoregression | None, ...]] = {
    "auto": (None, "fixed", "learned"),
    "fixed": ("fixed",),
    "learned": ("learned",),
    "none": (None,),
}


@dataclass(frozen=True, eq=False)
class SeriesModel:
    """A fitted STU with the scaling around it: arrays in the units of the data.

    Attributes:
        regressor: holds ``layer`` and ``intercept``, both in scaled units.
        input_names, output_names: of the columns.
        input_scaler, output_scaler: fitted on the training rows.
    """

    regressor: SpectralRegressor
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
        validation: the STU's settings that were tried, with their errors on the validation rows.
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
        FileNotFoundError, ValueError: as `load_model`; also a folder of another kind of model.
    """
    layer, extra = load_model(folder)
    try:
        if not isinstance(layer, STU):
            raise TypeError(f"a {type(layer).__name__}")
        stored = extra["series"]
        regressor = SpectralRegressor()
        regressor.layer, regressor.intercept = layer, torch.tensor(stored["intercept"], dtype=torch.float64)
        scalers = Scaler.from_dict(stored["input_scaler"]), Scaler.from_dict(stored["output_scaler"])
        return SeriesModel(regressor, tuple(stored["inputs"]), tuple(stored["outputs"]), *scalers), extra["settings"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: holds no model of `torchstu fit` ({type(error).__name__}: {error})") from error


def error_about_mean(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error over the variance of the target, (L, D): 1 is what the target's own mean gets; inf if not finite.

    Raises:
        ValueError: a target that is constant.
    """
    spread = np.mean((target - target.mean(axis=0)) ** 2)
    if not spread > 0:
        raise ValueError(f"outputs: constant over {len(target)} rows that errors are measured on; they must vary there")
    with np.errstate(all="ignore"):
        error = float(np.mean((prediction - target) ** 2) / spread)
    return error if np.isfinite(error) else np.inf


def fit_series(
    inputs: Any,
    outputs: Any,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    method: Literal["closed-form", "gradient"] = "closed-form",
    length: int | None = None,
    num_filters: int = 24,
    autoregression: str = "auto",
    validation: float = 0.15,
    test: float = 0.15,
    steps: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> FitResult:
    """Fit an STU to one recording and measure it, beside three baselines, on its last rows.

    The rows are split by time: training | validation | test. Scalers see training rows only. Settings are chosen by the
    roll-out error on the validation rows, after the known past; then everything is fitted again on training and validation rows,
    and measured once on the test rows. Baselines are tuned alike, over as many settings. Where the best one-step error on the
    validation rows has other settings, those are one more line of the table; the model kept is the one of the roll-out. A
    recording begins in the middle of things: the closed form takes the first memory of rows (at most a quarter) as past.

    ``method="gradient"`` trains the same layer on overlapping windows (two memories long, a quarter apart) by
    `fit_gradient`, and chooses the learning rate instead of the ridge.

    Args:
        inputs, outputs: (L, D_in) and (L, D_out), rows in time order.
        input_names, output_names: of the columns.
        method: "closed-form" or "gradient".
        length: the memory; None means a quarter of the training rows, at most 2048.
        num_filters: K.
        autoregression: "auto" chooses among "fixed", "learned" and "none".
        validation, test: shares of the rows, in (0, 1), together at most 0.9.
        steps: optimizer steps of a gradient fit.
        seed: of the gradient fit.
        progress: whether a progress bar is drawn.

    Raises:
        ValueError: options out of range, too few rows, values not finite, outputs constant where errors are measured.
        TypeError: values that are not numbers.
        MissingExtraError: ``method="gradient"`` without the extra ``train``.
    """
    u, y = sequence("inputs", inputs)[0].numpy(), sequence("outputs", outputs)[0].numpy()
    if len(u) != len(y):
        raise ValueError(f"outputs: {len(y)} rows; inputs have {len(u)}")
    num_filters, steps = positive_int("num_filters", num_filters), positive_int("steps", steps)
    _check_options(method, autoregression, validation, test)
    train_stop, test_start = _split(len(u), validation, test, num_filters)
    length = _default_length(train_stop, num_filters) if length is None else positive_int("length", length)
    scalers = Scaler.fit(u[:train_stop]), Scaler.fit(y[:train_stop])
    u, y = scalers[0].transform(u), scalers[1].transform(y)

    options = {"num_filters": num_filters, "length": length}
    y_terms = Y_TERMS[autoregression]
    if method == "gradient":
        candidates = _gradient_candidates(y_terms, options, steps, seed)
    else:
        candidates = _closed_form_candidates(y_terms, options)
    families = {"STU": candidates, **_baselines(train_stop)}
    bar = _Bar(sum(map(len, families.values())), progress)
    tried = {
        name: [_measure(c.make(), u[:test_start], y[:test_start], train_stop) for c in bar.over(family)]
        for name, family in families.items()
    }
    rows: list[ErrorRow] = []
    chosen: list[tuple[_Candidate, _Measured]] = []
    for name, family in families.items():
        best = [int(np.argmin([getattr(m, error) for m in tried[name]])) for error in ("rollout_error", "one_step_error")]
        for index, suffix in zip(dict.fromkeys(best), ("", ", tuned for one step"), strict=False):
            measured = _measure(family[index].make(), u, y, test_start)
            rows.append(ErrorRow(name + suffix, measured.one_step_error, measured.rollout_error, family[index].label))
            chosen.append((family[index], measured))
    setting, stu = chosen[0]
    names = _names("input", input_names, u.shape[1]), _names("output", output_names, y.shape[1])
    return FitResult(
        model=SeriesModel(stu.model, *names, *scalers),
        errors=rows,
        validation=[
            ErrorRow("STU", m.one_step_error, m.rollout_error, c.label) for c, m in zip(candidates, tried["STU"], strict=True)
        ],
        settings={"method": method, **options, **setting.settings}
        | {"rows": {"training": train_stop, "validation": test_start - train_stop, "test": len(u) - test_start}},
        test_start=test_start,
        target=scalers[1].inverse(y[test_start:]),
        rollout=scalers[1].inverse(stu.rollout),
        one_step=scalers[1].inverse(stu.one_step),
    )


class _Candidate(NamedTuple):
    settings: dict[str, Any]
    make: Callable[[], Any]

    @property
    def label(self) -> str:
        words = {name: "none" if value is None else value for name, value in self.settings.items()}
        return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in words.items())


class _Measured(NamedTuple):
    model: Any
    one_step: np.ndarray
    rollout: np.ndarray
    one_step_error: float
    rollout_error: float


def _measure(model: Any, u: np.ndarray, y: np.ndarray, start: int) -> _Measured:
    """Fit on the rows before ``start``, predict the rest."""
    model.fit(u[:start], y[:start])
    rollout = model.predict(u[start:], past=(u[:start], y[:start]))
    one_step = model.predict_next(u, y)[start:]
    return _Measured(model, one_step, rollout, error_about_mean(one_step, y[start:]), error_about_mean(rollout, y[start:]))


def _closed_form_candidates(y_terms: Iterable[Autoregression | None], options: dict[str, int]) -> list[_Candidate]:
    candidates = []
    for term in y_terms:
        # a learned y-term is convex for the next step only; with a y-term the level comes from the past
        kind: dict[str, Any] = {"autoregression": term, "objective": "next" if term == "learned" else "rollout"}
        kind["fit_intercept"] = term is None
        for ridge in RIDGES:
            make = partial(_WarmRegressor, ridge=ridge, **(kind | options))
            candidates.append(_Candidate({"autoregression": term, "ridge": ridge}, make))
    return candidates


class _WarmRegressor(SpectralRegressor):
    """A `SpectralRegressor` that takes the start of a recording as its past."""

    def fit(self, U: Any, Y: Any, *, warmup: int | None = None) -> SpectralRegressor:
        rows = len(U)
        return super().fit(U, Y, warmup=min(self.length or rows, rows // 4) if warmup is None else warmup)


class _GradientRegressor(SpectralRegressor):
    """A `SpectralRegressor` whose ``fit`` is gradient descent on windows of one long sequence."""

    def __init__(self, *, steps: int, seed: int, learning_rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.steps, self.seed, self.learning_rate = steps, seed, learning_rate

    def fit(self, U: Any, Y: Any, *, warmup: int = 0) -> SpectralRegressor:
        u, y = sequence("U", U), sequence("Y", Y)
        length = self.length or u.shape[1]
        self.layer = STU(
            u.shape[2],
            y.shape[2],
            length=length,
            num_filters=self.num_filters,
            autoregression=self.autoregression,
            dtype=torch.float64,
        )
        size = min(2 * length, u.shape[1])
        windows = [x[0].unfold(0, size, max(1, size // 4)).transpose(1, 2) for x in (u, y)]
        fit_gradient(
            self.layer, *windows, steps=self.steps, learning_rate=self.learning_rate, clip=1.0, seed=self.seed, progress=False
        )
        self.intercept = torch.zeros(y.shape[2], dtype=torch.float64)
        return self


def _gradient_candidates(
    y_terms: Iterable[Autoregression | None], options: dict[str, int], steps: int, seed: int
) -> list[_Candidate]:
    candidates = []
    for term in y_terms:
        for rate in LEARNING_RATES:
            make = partial(_GradientRegressor, steps=steps, seed=seed, learning_rate=rate, autoregression=term, **options)
            candidates.append(_Candidate({"autoregression": term, "learning rate": rate, "steps": steps}, make))
    return candidates


def _baselines(rows: int) -> dict[str, list[_Candidate]]:
    lags = sorted({min(n, max(1, rows // 4)) for n in LAGS})
    grid = [{"lags": n, "ridge": ridge} for n in lags for ridge in RIDGES]
    return {
        "persistence": [_Candidate({}, Persistence)],
        "plain autoregression": [_Candidate(s, partial(PlainAutoregression, **s)) for s in grid],  # type: ignore[arg-type]
        "lagged linear regression": [_Candidate(s, partial(LaggedRegression, **s)) for s in grid],  # type: ignore[arg-type]
    }


def _check_options(method: str, autoregression: str, validation: float, test: float) -> None:
    if method not in ("closed-form", "gradient"):
        raise ValueError(f"method: {method!r}; it must be 'closed-form' or 'gradient'")
    if autoregression not in Y_TERMS:
        raise ValueError(f"autoregression: {autoregression!r}; it must be one of {', '.join(Y_TERMS)}")
    if not (0 < validation < 1 and 0 < test < 1 and validation + test <= 0.9):
        raise ValueError(f"validation, test: {validation}, {test}; shares in (0, 1), together at most 0.9")


def _split(rows: int, validation: float, test: float, num_filters: int) -> tuple[int, int]:
    """Where training and validation end."""
    train_stop, test_start = round(rows * (1 - validation - test)), round(rows * (1 - test))
    if train_stop < 2 * num_filters or test_start - train_stop < 2 or rows - test_start < 2:
        needed = int(np.ceil(max(2 * num_filters / (1 - validation - test), 3 / min(validation, test))))
        raise ValueError(f"data: {rows} rows; {num_filters} filters need at least {needed} (or take fewer filters)")
    return train_stop, test_start


def _default_length(train_rows: int, num_filters: int) -> int:
    return max(num_filters, min(2048, train_rows // 4))


def _names(kind: str, names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"{kind} {i + 1}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"{kind}_names: {len(names)}; there are {count} columns")
    return tuple(names)


class _Bar:
    """A progress bar over several lists, or none (also where tqdm is not installed)."""

    def __init__(self, total: int, show: bool) -> None:
        self.bar = None
        if show:
            try:
                self.bar = require("train", "tqdm").tqdm(total=total, desc="fitting", leave=False, disable=None)
            except MissingExtraError:
                self.bar = None

    def over(self, items: list[_Candidate]) -> Iterator[_Candidate]:
        for item in items:
            yield item
            if self.bar is not None:
                self.bar.update()
                if self.bar.n >= self.bar.total:
                    self.bar.close()
