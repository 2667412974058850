"""From a recording to a fitted STU and an honest table: the pipeline behind ``torchstu fit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from torchstu.data.scaling import Scaler
from torchstu.experiments.candidates import Y_TERMS, Candidate, baselines, closed_form_candidates, gradient_candidates
from torchstu.experiments.series import ErrorRow, FitResult, HeldOutErrors, SeriesModel, constant_columns, error_about_mean
from torchstu.extras import MissingExtraError, require
from torchstu.learn.least_squares import sequence
from torchstu.spectral.filters import filter_bank
from torchstu.spectral.priors import positive_int


def fit_series(
    inputs: Any,
    outputs: Any,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    method: Literal["closed-form", "gradient"] = "closed-form",
    length: int | None = None,
    num_filters: int | None = None,
    autoregression: str = "auto",
    validation: float = 0.15,
    test: float = 0.15,
    steps: int = 1000,
    seed: int = 0,
    others: dict[str, list[Candidate]] | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit an STU to one recording and measure it, beside three baselines, on its last rows.

    The rows are split by time: training | validation | test. Settings are chosen from a rolling origin of two blocks, the
    validation rows and as many before them, each predicted from the rows before it: the geometric mean of the roll-out and
    the one-step errors decides, for a model is used both ways. Then everything is fitted again on training and validation
    rows, and measured once on the test rows. Scalers see only the rows before both blocks. Baselines are tuned alike, over
    as many settings. A recording begins in the middle of things: the closed form takes the first memory of rows (at most a
    quarter) as past.

    ``method="gradient"`` trains the same layer on overlapping windows (two memories long, a quarter apart) by
    `fit_gradient`, and chooses the learning rate instead of the ridge and the size.

    Args:
        inputs, outputs: (L, D_in) and (L, D_out), rows in time order.
        input_names, output_names: of the columns.
        method: "closed-form" or "gradient".
        length: the memory, at most the training rows; None means a quarter of them, at most 2048 (or shares of that).
        num_filters: K; None chooses among 8, 16 and 24 with memories of a quarter, a half and the whole of the length (fewer
            where the memory is too short for 8).
        autoregression: "auto" chooses among "fixed", "learned" and "none".
        validation, test: shares of the rows, in (0, 1); twice the first and the second together at most 0.9.
        steps: optimizer steps of a gradient fit.
        seed: of the gradient fit, from 0 to 2^32 - 1.
        others: further models for the table, name to candidates, tuned alike; their data are scaled.
        progress: whether a progress bar is drawn.

    Raises:
        ValueError: options out of range, too few rows, values not finite or too large to square, outputs constant where errors
            are measured.
        TypeError: values that are not numbers.
        MissingExtraError: ``method="gradient"`` without the extra ``train``.
    """
    u, y = sequence("inputs", inputs)[0].numpy(), sequence("outputs", outputs)[0].numpy()
    if len(u) != len(y):
        raise ValueError(f"outputs: {len(y)} rows; inputs have {len(u)}")
    steps, seed = positive_int("steps", steps), positive_int("seed", seed, minimum=0)
    if seed >= 2**32:
        raise ValueError(f"seed: {seed}; it must be at most {2**32 - 1}")
    _check_options(method, autoregression, validation, test)
    num_filters = None if num_filters is None else positive_int("num_filters", num_filters)
    train_stop, test_start = _split(len(u), validation, test, num_filters)
    sizes = _sizes(num_filters, length, train_stop)
    if method == "gradient":
        candidates = gradient_candidates(Y_TERMS[autoregression], sizes[-1], steps, seed)
    else:
        candidates = closed_form_candidates(Y_TERMS[autoregression], sizes)
    names = _names("input", input_names, u.shape[1]), _names("output", output_names, y.shape[1])
    origins = (2 * train_stop - test_start, train_stop)
    for name, values in (("inputs", u), ("outputs", y)):
        Scaler.fit(values, name)  # refuses what is too large in later rows too
    scalers = Scaler.fit(u[: origins[0]], "inputs"), Scaler.fit(y[: origins[0]], "outputs")
    u, y = scalers[0].transform(u), scalers[1].transform(y)
    _check_outputs(y, names[1], {"validation": (*origins, test_start), "test": (test_start, len(y))})
    families = {"STU": candidates, **(others or {}), **baselines(train_stop)}
    rows, tried, chosen, stu = _compare(families, u, y, (*origins, test_start), progress)
    parts = {"training": train_stop, "validation": test_start - train_stop, "test": len(u) - test_start}
    target, rollout, one_step = (scalers[1].inverse(own) for own in (y[test_start:], stu.rollout, stu.one_step))
    held_out = HeldOutErrors.of(target, {"one_step": one_step, "rollout": rollout})
    return FitResult(
        model=SeriesModel(stu.model, *names, *scalers, held_out),
        errors=rows,
        validation=tried,
        settings={"method": method, **chosen.settings, "rows": parts},
        test_start=test_start,
        target=target,
        rollout=rollout,
        one_step=one_step,
    )


def _compare(
    families: dict[str, list[Candidate]], u: np.ndarray, y: np.ndarray, origins: tuple[int, int, int], progress: bool
) -> tuple[list[ErrorRow], list[ErrorRow], Candidate, _Measured]:
    """Tune every family before the last origin, measure it after: the table, what was tried, what is kept."""
    bar = _Bar(sum(map(len, families.values())), progress)
    rows: list[ErrorRow] = []
    kept: list[tuple[Candidate, _Measured]] = []
    tried: list[ErrorRow] = []
    for name, family in families.items():
        scores = []
        for candidate in bar.over(family):
            blocks = [_measure(candidate.make(), u[:stop], y[:stop], start) for start, stop in pairwise(origins)]
            one_step = _geometric_mean([block.one_step_error for block in blocks])
            rollout = _geometric_mean([block.rollout_error for block in blocks])
            tried.append(ErrorRow(name, one_step, rollout, candidate.label))
            scores.append(_geometric_mean([one_step, rollout]))
        best = family[int(np.argmin(scores))]
        final = _measure(best.make(), u, y, origins[-1])
        rows.append(ErrorRow(name, final.one_step_error, final.rollout_error, best.label))
        kept.append((best, final))
    return rows, tried, *kept[0]


def _geometric_mean(errors: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(errors, 1e-300)))))


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
    if not (0 < validation < 1 and 0 < test < 1 and 2 * validation + test <= 0.9):
        raise ValueError(
            f"validation, test: {validation}, {test}; shares in (0, 1), twice the first and the second together at most 0.9"
        )


def _check_outputs(y: np.ndarray, names: Sequence[str], parts: dict[str, tuple[int, ...]]) -> None:
    """Refuse outputs that do not vary where errors are measured; a part is one or more blocks, by their limits."""
    for part, limits in parts.items():
        for start, stop in pairwise(limits):
            for name, constant in zip(names, constant_columns(y[start:stop]), strict=True):
                if constant:
                    where = f"rows {start + 1} to {stop}, on which {part} errors are measured"
                    raise ValueError(f"outputs: {name!r} is constant over {where}; it must vary there")


def _split(rows: int, validation: float, test: float, num_filters: int | None) -> tuple[int, int]:
    """Where training and validation end; blocks have at least 3 rows, and the rows before them two for every filter."""
    fewest = 4 if num_filters is None else num_filters
    train_stop, test_start = round(rows * (1 - validation - test)), round(rows * (1 - test))
    first = 2 * train_stop - test_start
    if first < 2 * fewest or min(test_start - train_stop, rows - test_start) < 3:
        needed = int(np.ceil(max(2 * fewest / (1 - 2 * validation - test), 3 / min(validation, test))))
        if num_filters is None:
            raise ValueError(f"data: {rows} rows; there must be at least {needed}")
        raise ValueError(f"data: {rows} rows; {num_filters} filters need at least {needed} (or take fewer filters)")
    return train_stop, test_start


def _sizes(num_filters: int | None, length: int | None, train_rows: int) -> list[tuple[int, int]]:
    """The sizes (K, L) to try, largest last."""
    longest = min(2048, train_rows // 4) if length is None else positive_int("length", length)
    if longest > train_rows:
        raise ValueError(f"length: {longest}; it must be at most the {train_rows} training rows")
    if num_filters is not None:
        return [(num_filters, max(num_filters, longest) if length is None else longest)]
    sizes = [(8, longest // 4), (16, longest // 2), (24, longest)] if length is None else [(k, longest) for k in (8, 16, 24)]
    return [(k, n) for k, n in sizes if _reliable(n) >= k] or [(min(8, _reliable(longest)), longest)]


def _reliable(length: int) -> int:
    return filter_bank(length, 1).reliable if length else 0


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
