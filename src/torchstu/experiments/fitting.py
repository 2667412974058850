"""From a recording to a fitted STU and an honest table: the pipeline behind ``torchstu fit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from torchstu.data.scaling import Scaler
from torchstu.experiments.candidates import Y_TERMS, Candidate, baselines, closed_form_candidates, gradient_candidates
from torchstu.experiments.series import ErrorRow, FitResult, SeriesModel, error_about_mean
from torchstu.extras import MissingExtraError, require
from torchstu.learn.least_squares import sequence
from torchstu.spectral.priors import positive_int


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
    others: dict[str, list[Candidate]] | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit an STU to one recording and measure it, beside three baselines, on its last rows.

    The rows are split by time: training | validation | test. Scalers see training rows only. Settings are chosen by the
    roll-out error on the validation rows, after the known past; then everything is fitted again on training and validation
    rows, and measured once on the test rows. Baselines are tuned alike, over as many settings. Where the best one-step error
    on the validation rows has other settings, those are one more line of the table; the model kept is the one of the
    roll-out. A recording begins in the middle of things: the closed form takes the first memory of rows (at most a quarter)
    as past.

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
        others: further models for the table, name to candidates, tuned alike; their data are scaled.
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
    options = {"num_filters": num_filters, "length": length}
    if method == "gradient":
        candidates = gradient_candidates(Y_TERMS[autoregression], options, steps, seed)
    else:
        candidates = closed_form_candidates(Y_TERMS[autoregression], options)
    names = _names("input", input_names, u.shape[1]), _names("output", output_names, y.shape[1])
    scalers = Scaler.fit(u[:train_stop]), Scaler.fit(y[:train_stop])
    u, y = scalers[0].transform(u), scalers[1].transform(y)
    families = {"STU": candidates, **(others or {}), **baselines(train_stop)}
    rows, tried, chosen, stu = _compare(families, u, y, train_stop, test_start, progress)
    parts = {"training": train_stop, "validation": test_start - train_stop, "test": len(u) - test_start}
    return FitResult(
        model=SeriesModel(stu.model, *names, *scalers),
        errors=rows,
        validation=tried,
        settings={"method": method, **options, **chosen.settings, "rows": parts},
        test_start=test_start,
        target=scalers[1].inverse(y[test_start:]),
        rollout=scalers[1].inverse(stu.rollout),
        one_step=scalers[1].inverse(stu.one_step),
    )


def _compare(
    families: dict[str, list[Candidate]], u: np.ndarray, y: np.ndarray, train_stop: int, test_start: int, progress: bool
) -> tuple[list[ErrorRow], list[ErrorRow], Candidate, _Measured]:
    """Tune every family on the validation rows, measure it on the test rows: the table, what was tried, what is kept."""
    bar = _Bar(sum(map(len, families.values())), progress)
    rows: list[ErrorRow] = []
    kept: list[tuple[Candidate, _Measured]] = []
    tried: list[ErrorRow] = []
    for name, family in families.items():
        measured = [_measure(c.make(), u[:test_start], y[:test_start], train_stop) for c in bar.over(family)]
        for candidate, m in zip(family, measured, strict=True):
            tried.append(ErrorRow(name, m.one_step_error, m.rollout_error, candidate.label))
        best = [int(np.argmin([m.rollout_error for m in measured])), int(np.argmin([m.one_step_error for m in measured]))]
        for index, suffix in zip(dict.fromkeys(best), ("", ", tuned for one step"), strict=False):
            final = _measure(family[index].make(), u, y, test_start)
            rows.append(ErrorRow(name + suffix, final.one_step_error, final.rollout_error, family[index].label))
            kept.append((family[index], final))
    return rows, tried, *kept[0]


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

    def over(self, items: list[Candidate]) -> Iterator[Candidate]:
        for item in items:
            yield item
            if self.bar is not None:
                self.bar.update()
                if self.bar.n >= self.bar.total:
                    self.bar.close()
