"""From data to the best model that is known here: convex fits, priors, and low-order systems, judged on data left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.diagnostics import feedback_radius
from torchstu.learn.least_squares import NoLevelError
from torchstu.learn.options import share
from torchstu.learn.output_error import Refinement, refine
from torchstu.learn.prior_suggestion import suggest_prior
from torchstu.learn.recordings import recordings
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import Prior, positive_int
from torchstu.systems.lds import LDS

OUTPUT_LAGS = (2, 8, 32)
"""Learned y-terms that are tried, as far as the data have forty rows a lag."""
ROWS_A_LAG = 20
WIDEST = 1.0
"""Radians to which sectors are tried; faster rotations are left to learned y-terms and low-order systems."""
WORSE = 2.0
"""Standard errors by which a system of low order may do worse than the regressor on the data left out."""
LARGE, FEW_ROWS, MOST = 24, 4096, 64
"""States above which a system is fitted only to as many rows, and states above which it never is."""
CLEAN = 1e-6
"""Relative squared error on data left out up to which a convex fit tells the order, `refine`."""
UNSTABLE = 1 + 1e-9


class Trial(NamedTuple):
    """A candidate, and its errors on the data left out: squared, over the mean square of the outputs there."""

    label: str
    rollout: float
    one_step: float


@dataclass(frozen=True, eq=False)
class Identification:
    """What `identify` found; `predict` and `predict_next` use the model that was best at each.

    Attributes:
        regressor: the best of the convex fits by its roll-out, fitted to all data.
        refined: a system of low order from it, fitted to all data; None if it was not asked for.
        best: "system", unless no order has a lower BIC than the regressor or the system is clearly worse on the data left out,
            by more than the noise there explains; else "regressor".
        one_step: what predicts one step ahead best there: a `SpectralRegressor` or a `Refinement`.
        tried: every candidate.
    """

    regressor: SpectralRegressor
    refined: Refinement | None
    best: Literal["regressor", "system"]
    one_step: SpectralRegressor | Refinement
    tried: list[Trial]

    @property
    def system(self) -> LDS | None:
        """The system of low order; outputs are its own plus ``refined.intercept``."""
        return None if self.refined is None else self.refined.system

    def predict(self, U: Any) -> Any:
        """The roll-out from rest, (N, L, D_in) or (L, D_in) to outputs of that shape, tensor for tensor and array for array."""
        return _rollout(self.regressor if self.best == "regressor" else self.refined, U)

    def predict_next(self, U: Any, Y: Any) -> Any:
        """Predictions of y_t from inputs up to t and true outputs up to t-1; shapes as in `predict`."""
        result = self.one_step.predict_next(U, Y)
        return result if isinstance(U, Tensor) or not isinstance(result, Tensor) else result.numpy()


def identify(
    U: Any,
    Y: Any,
    *,
    length: int | None = None,
    prior: str | Prior | FilterBank = "auto",
    order: int | Literal["auto"] | None = "auto",
    warmup: int = 0,
    fit_intercept: bool = False,
    validation: float = 0.25,
) -> Identification:
    """Fit what may serve, measure it on data left out, and fit the best again to all data; no seed, no learning rate.

    Candidates are STUs with the fixed y-term, none, and learned ones of `OUTPUT_LAGS`, each with number of filters and ridge
    by cross-validation, design (10); and, from the best of them, the stable system of low order with the least error of its
    roll-out (`refine`). A learned y-term whose roll-out would grow is left out.

    Args:
        U: inputs, (N, L, D_in) or (L, D_in), array or tensor.
        Y: outputs, (N, L, D_out) or (L, D_out).
        length: the memory; None means the length of the sequences.
        prior: as in `SpectralRegressor`, or "auto": "positive", and what `suggest_prior` says where that is another.
        order: states of the system of low order: a number, "auto", or None for no such system.
        warmup: steps at the start that drive the models but are not fitted.
        fit_intercept: whether models have a constant added to the output.
        validation: share of the data left out for judging: the last sequences, or the last steps of fewer than four.

    Raises:
        ValueError: as `SpectralRegressor.fit`; fewer than 16 steps to fit.
        TypeError: values that are not numbers.
    """
    given = recordings(U, Y)
    if len(given) > 1:
        raise ValueError(f"U: a list of {len(given)} sequences; it must be one array, of sequences of one length")
    u, y, _ = given[0]
    validation, warmup = share("validation", validation), positive_int("warmup", warmup, minimum=0)
    split = _Split.of(u, y, validation, warmup)
    candidates = _candidates(split, length, prior, fit_intercept)
    trials = [(label, options, _judge(_fit(options, *split.training, warmup), split)) for label, options in candidates]
    tried = [Trial(label, judged.rollout, judged.one_step) for label, _, judged in trials]
    ahead = int(np.argmin([trial.one_step for trial in tried]))
    for at in np.argsort([trial.rollout for trial in tried]):  # the best whose roll-out stays within bounds with all data too
        regressor = _fit(trials[at][1], u, y, warmup)
        if _stable(regressor):
            break
    next_model: Any = regressor if ahead == at else _fit(trials[ahead][1], u, y, warmup)
    if order is None:
        return Identification(regressor, None, "regressor", next_model, tried)
    start = trials[at][2]
    few = u.shape[0] * u.shape[1] <= FEW_ROWS
    draft = refine(
        *split.training, start.model, order=order, warmup=warmup, trusted=start.rollout <= CLEAN,
        max_order=MOST if few and start.rollout <= CLEAN else LARGE,
    )  # fmt: skip
    judged = _judge(draft, split)
    tried.append(Trial(f"system of {draft.order} states", judged.rollout, judged.one_step))
    final = _final_order(draft, few)
    known = draft.system if final == draft.order and not fit_intercept else regressor
    refined = refine(u, y, known, order=final, warmup=warmup, trusted=draft.kept_start)
    everything = _Split((u, y), u, y, warmup, warmup)
    weights = sum(p.numel() for p in regressor.layer.parameters()) / y.shape[2]
    convex = (draft.kept_start and refined.order < draft.order) or judged.clearly_worse_than(start)
    convex = convex or _judge(refined, everything).clearly_worse_than(_judge(regressor, everything), weights)
    next_model = refined if judged.one_step < tried[ahead].one_step else next_model
    return Identification(regressor, refined, "regressor" if convex else "system", next_model, tried)


def _final_order(draft: Refinement, few: bool) -> int:
    """The order for all data: what was found; where the start was kept, its own if feasible, else the best lower one."""
    lower = {order: bic for order, bic in draft.criterion.items() if 0 < order <= LARGE}
    if draft.order <= LARGE or not lower or (few and draft.order <= MOST):
        return max(draft.order, 1)
    return min(lower, key=lambda order: lower[order])


class _Split(NamedTuple):
    training: tuple[Tensor, Tensor]
    u: Tensor  # sequences to judge by, from their start
    y: Tensor
    start: int  # step from which they are judged
    warmup: int

    @classmethod
    def of(cls, u: Tensor, y: Tensor, validation: float, warmup: int) -> _Split:
        count, steps = u.shape[:2]
        if count >= 4:
            kept = count - max(1, round(validation * count))
            return cls((u[:kept], y[:kept]), u[kept:], y[kept:], warmup, warmup)
        cut = round((1 - validation) * steps)
        if cut - warmup < 16 or steps - cut < 4:
            given = f"warmup={warmup} and validation={validation}"
            raise ValueError(f"U: {steps} steps; with {given} there must be 16 to fit and 4 to judge by")
        return cls((u[:, :cut], y[:, :cut]), u, y, cut, warmup)


def _candidates(split: _Split, length: int | None, prior: Any, intercept: bool) -> list[tuple[str, dict[str, Any]]]:
    """Options of a `SpectralRegressor` by their names."""
    u, y = split.training
    automatic = isinstance(prior, str) and prior == "auto"
    own: dict[str, Any] = {
        "prior": "positive" if automatic else prior,
        "ridge": "auto",
        "length": u.shape[1] if length is None else length,
    }
    own |= {"num_filters": prior.count if isinstance(prior, FilterBank) else "auto", "fit_intercept": intercept}
    name = own["prior"] if isinstance(own["prior"], str) else getattr(prior, "name", "own bank")
    result = [(f"{name}, no y-term", own | {"autoregression": None})]
    if not (intercept and split.warmup):  # the level then comes from outputs that were measured
        result.insert(0, (f"{name}, fixed y-term", own))
    rows = u.shape[0] * u.shape[1] // y.shape[2]
    for lags in OUTPUT_LAGS:
        if lags == OUTPUT_LAGS[0] or rows >= ROWS_A_LAG * lags:
            learned = {"autoregression": "learned", "objective": "next", "output_lags": lags, "input_lags": lags + 1}
            result.append((f"{name}, {lags} learned output lags", own | learned))
    if automatic and u.shape[1] >= 32:
        suggestion = suggest_prior(u, y, widest=WIDEST)
        if suggestion.prior != "positive" or suggestion.preconditioning:
            extra = own | suggestion.options | {"ridge": "auto", "length": own["length"]}
            label = suggestion.prior if isinstance(suggestion.prior, str) else suggestion.prior.name
            result.append((f"{label} (suggested)", extra))
    return result


def _fit(options: dict[str, Any], u: Tensor, y: Tensor, warmup: int) -> SpectralRegressor:
    """A fit; without the constant where the y-term knows the level, or integrates so that there is none."""
    term = options.get("autoregression", "fixed")
    if options["fit_intercept"] and warmup and term == "fixed":
        options = options | {"fit_intercept": False}
    try:
        return SpectralRegressor(**options).fit(u, y, warmup=warmup)
    except NoLevelError:
        return SpectralRegressor(**options | {"fit_intercept": False}).fit(u, y, warmup=warmup)


def _stable(model: SpectralRegressor) -> bool:
    """Whether a roll-out stays within bounds; the fixed y-term's poles lie on the circle, and are meant to."""
    return model.autoregression != "learned" or feedback_radius(model.layer) <= UNSTABLE


def _rollout(model: Any, U: Any) -> Any:
    if isinstance(model, SpectralRegressor):
        return model.predict(U)
    result = model.system.simulate(torch.as_tensor(U).double()) + model.intercept
    return result if isinstance(U, Tensor) else result.numpy()


@dataclass(frozen=True, eq=False)
class _Judged:
    """A model on the data left out."""

    model: Any
    rollout: float
    one_step: float
    squares: Tensor  # squared errors of the roll-out

    def clearly_worse_than(self, other: _Judged, weights: float = 0.0) -> bool:
        """Whether squared errors are larger by more than `WORSE` standard errors, and than that many weights fit of noise."""
        if not np.isfinite(self.rollout):
            return True
        difference = (self.squares - other.squares).flatten()
        steps = len(difference) / self.squares.shape[2]
        fitted = weights / steps * other.squares.mean()
        return bool(difference.mean() > WORSE * difference.std() / len(difference) ** 0.5 + fitted)


def _judge(model: Any, split: _Split) -> _Judged:
    """Errors on the data left out; a roll-out that would grow counts as infinite."""
    target = split.y[:, split.start :]
    power = float(target.square().mean().clamp(min=torch.finfo(torch.float64).tiny))
    squares = [
        (torch.as_tensor(prediction).reshape(split.y.shape)[:, split.start :] - target).square()
        for prediction in (_rollout(model, split.u), model.predict_next(split.u, split.y))
    ]
    rollout, one_step = (float(x.mean()) / power if torch.isfinite(x).all() else np.inf for x in squares)
    stable = not isinstance(model, SpectralRegressor) or _stable(model)
    return _Judged(model, rollout if stable else np.inf, one_step, squares[0])
