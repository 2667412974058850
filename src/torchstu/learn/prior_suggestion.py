"""Which prior a data set calls for, design (9): poles by autoregression, candidates from them, the best by held-out error."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.diagnostics import relative_error
from torchstu.learn.least_squares import sequence
from torchstu.learn.poles import Poles, estimate_poles
from torchstu.spectral.decomposition import decompose
from torchstu.spectral.filters import ReliabilityWarning
from torchstu.spectral.priors import POSITIVE, Prior, get_prior
from torchstu.spectral.products import longest_length
from torchstu.spectral.sector import Harmonics, Sector

SHARE = 1e-5
"""Poles with less of the response's energy do not make a candidate."""
PREFERENCE, FLOOR = 1.5, 1e-12
"""What "positive" may err more than the best candidate, or err at all, and still be suggested."""
_MOST_COLUMNS = 1200
_MOST_REAL = 40  # filters of "positive" and "signed"
_MOST_PEAKS = 12
_NEGATIVE = 0.02  # radians from π within which a pole counts as negative


@dataclass(frozen=True)
class Trial:
    """One fit that was tried: the options and the relative roll-out error (infinite where it overflowed) on held-out data."""

    prior: str
    num_filters: int
    autoregression: str | None
    preconditioning: int | None
    error: float


@dataclass(frozen=True)
class PriorSuggestion:
    """What `suggest_prior` found.

    Attributes:
        prior: the prior, or the name "positive".
        num_filters, autoregression, preconditioning: the options that went with it.
        error: relative roll-out error on the held-out data.
        trials: all that was tried, best first.
        reasons: why, in sentences.
    """

    prior: str | Prior
    num_filters: int
    autoregression: Any
    preconditioning: int | None
    error: float
    trials: tuple[Trial, ...]
    reasons: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for `SpectralRegressor`."""
        return _options(self.prior, self.num_filters, self.autoregression, self.preconditioning)

    def __str__(self) -> str:
        rows = [f"{'error':>9}  {'K':>4}  {'y-term':<8} prior"]
        for t in self.trials:
            term = str(t.autoregression) if t.preconditioning is None else f"degree {t.preconditioning}"
            rows.append(f"{t.error:9.2e}  {t.num_filters:4d}  {term:<8} {t.prior}")
        return "\n".join([*self.reasons, "", *rows])


def suggest_prior(U: Any, Y: Any, *, widest: float = math.pi) -> PriorSuggestion:
    """Propose a prior from data: `SpectralRegressor(**suggest_prior(U, Y).options).fit(U, Y)`.

    A long ARX model gives poles, weighted by their share of the response's energy. They make candidates: "positive" (always),
    "signed", "positive" with Chebyshev preconditioning of degree 5, and where there are complex poles a `Sector` up to the
    largest angle or an arc that holds them, with all radii and with those of the poles, its sum with "positive", and
    `Harmonics` around at most 12 sharp peaks. Each is fitted to the first three quarters of the data with two numbers of
    filters and judged by its roll-out on the last quarter: of the sequences, or of the steps of a single one. The smallest
    error decides; "positive" is kept within a factor `PREFERENCE` of it or below `FLOOR`. Nothing is random.

    Args:
        U: inputs, (N, L, D_in) or (L, D_in), array or tensor.
        Y: outputs, (N, L, D_out) or (L, D_out).
        widest: half the angle, in radians, of the widest arc that is tried: wide ones cost the most and tell the least.

    Raises:
        ValueError: shapes that do not fit, fewer than 32 steps, values not finite, an output that is zero in one of the parts.
        TypeError: values that are not numbers.

    Source: ours; ``docs/oscillation.md``.
    """
    U, Y = sequence("U", U), sequence("Y", Y)
    if U.shape[:2] != Y.shape[:2]:
        raise ValueError(f"Y: shape {tuple(Y.shape)}; beside U {tuple(U.shape)} it must have as many sequences and steps")
    if U.shape[1] < 32:
        raise ValueError(f"U: {U.shape[1]} steps; to see where poles lie there must be at least 32")
    split = _Split(U, Y)
    poles = estimate_poles(split.U, split.Y)
    trials: list[tuple[float, Trial, str | Prior]] = []
    skipped: list[str] = []
    for prior, term, degree in _candidates(poles, split.memory, widest, skipped):
        for count in _counts(prior, split, skipped):
            error = split.error(prior, count, term, degree)
            name = prior if isinstance(prior, str) else prior.name
            trials.append((error, Trial(name, count, term, degree, error), prior))
    trials.sort(key=lambda trial: trial[0])
    best = trials[0]
    plain = next(trial for trial in trials if trial[1].prior == "positive" and trial[1].preconditioning is None)
    chosen = plain if plain[0] <= max(PREFERENCE * best[0], FLOOR) else best
    _, trial, prior = chosen
    reasons = (*_account(poles, split.memory, trial, plain[1]), *dict.fromkeys(skipped))
    listed = tuple(t for _, t, _ in trials)
    return PriorSuggestion(prior, trial.num_filters, trial.autoregression, trial.preconditioning, trial.error, listed, reasons)


def _options(prior: str | Prior, count: int, term: Any, degree: int | None) -> dict[str, Any]:
    options = {"prior": prior, "num_filters": count, "autoregression": term}
    return options if degree is None else options | {"preconditioning": degree, "output_lags": degree}


class _Split:
    """Data to fit and data to judge by."""

    def __init__(self, U: Tensor, Y: Tensor) -> None:
        count, steps, _ = U.shape
        self.whole = (U, Y)
        if count > 1:
            fitted = count - max(1, count // 4)
            self.U, self.Y, self.judged, self.start = U[:fitted], Y[:fitted], slice(fitted, None), 0
        else:
            self.start = 3 * steps // 4
            self.U, self.Y, self.judged = U[:, : self.start], Y[:, : self.start], slice(None)
        self.memory = self.U.shape[1]
        for name, part in {"fitted": self.Y, "held out": Y[self.judged, self.start :]}.items():
            if not part.square().sum() > 0:
                raise ValueError(f"Y: is zero everywhere in the part that is {name}")

    @property
    def room(self) -> int:
        """Weights an input that the data can decide on."""
        rows = self.U.shape[0] * self.U.shape[1]
        return max(1, min(_MOST_COLUMNS, rows // 3) // self.U.shape[2])

    def error(self, prior: str | Prior, count: int, term: Any, degree: int | None) -> float:
        """Relative roll-out error on what was held out."""
        model = SpectralRegressor(**_options(prior, count, term, degree))
        U, Y = (part[self.judged] for part in self.whole)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReliabilityWarning)
            layer = model.fit(self.U, self.Y).layer
        layer.mode = "fft"  # tables for blocks would not pay for one roll-out
        with torch.no_grad():
            prediction = layer(U)[0]
        error = relative_error(prediction[:, self.start :], Y[:, self.start :])
        return error if math.isfinite(error) else math.inf


def _candidates(
    poles: Poles, memory: int, widest: float, skipped: list[str]
) -> list[tuple[str | Prior, str | None, int | None]]:
    """Prior, autoregression and degree of preconditioning of what is worth a fit."""
    found: list[tuple[str | Prior, str | None, int | None]] = [
        ("positive", "fixed", None), ("signed", "fixed", None), ("positive", "fixed", 5),
    ]  # fmt: skip
    values = poles.values[poles.shares >= SHARE]
    rotating = _rotating(values, memory)
    if not len(rotating):
        return found
    lowest = max(0.0, 1 - 2 * (1 - float(values.abs().min())))
    wide = _around(rotating.angle(), memory, (0.0, 1.0))
    sectors = [wide] + ([_around(rotating.angle(), memory, (lowest, 1.0))] if lowest > 0.5 else [])
    priors: list[Prior] = [*sectors, POSITIVE + wide]
    if isinstance(wide, Sector) and wide.max_angle > widest:
        skipped.append(f"{wide.name} was not tried: arcs up to {widest:g} radians are.")
        priors = []
    peaks = _peaks(rotating, memory)
    if len(peaks) <= _MOST_PEAKS:
        low = (lowest, 1.0) if lowest > 0.5 else (0.0, 1.0)
        sharp = Harmonics([2 * math.pi / angle for angle in peaks], width=2 / memory, radius=low)
        straight = len(values) > len(rotating)
        priors.append(POSITIVE + sharp if straight else sharp)
    for prior in priors:
        if memory > longest_length(prior):
            skipped.append(f"{prior.name} was not tried: sequences of {memory} steps are longer than it allows.")
        else:
            found.append((prior, None, None))
    return found


def _around(angles: Tensor, memory: int, radius: tuple[float, float]) -> Prior:
    """A sector that holds the angles, or an arc where they keep clear of 0; 5 % and 4/memory to spare."""
    low, high = float(angles.min()), float(angles.max())
    top = min(math.pi, 1.05 * high + 4 / memory)
    if low < high / 2:
        return Sector(top, radius=radius)
    middle = (low + high) / 2
    return Harmonics([2 * math.pi / middle], width=1.05 * (high - low) / 2 + 4 / memory, radius=radius)


def _rotating(values: Tensor, memory: int) -> Tensor:
    """Poles that turn by a radian or more within the memory, and are not all but negative."""
    return values[(values.angle() > 1 / memory) & (values.angle() < math.pi - _NEGATIVE)]


def _peaks(rotating: Tensor, memory: int) -> list[float]:
    """Angles of the poles, those within 1/memory of each other as one; most energy first."""
    peaks: list[float] = []
    for angle in rotating.angle().tolist():
        if all(abs(angle - peak) > 1 / memory for peak in peaks):
            peaks.append(angle)
    return peaks


def _counts(prior: str | Prior, split: _Split, skipped: list[str]) -> list[int]:
    """Numbers of filters: all that float64 and the data support, and half of them; for real poles 40 and 24 where they do."""
    measure = get_prior(prior)
    banks, real = 2 if measure.covers_positive else 1, isinstance(prior, str)
    supported = min(decompose(measure, split.memory).reliable, _MOST_REAL if real else _MOST_COLUMNS)
    most = max(1, min(supported, split.memory // 2, split.room // banks))
    if most < supported and not real:
        skipped.append(f"{measure.name} has {supported} filters; the data decide on {most}.")
    return sorted({most, min(24, most) if real else max(1, most // 2)})


def _account(poles: Poles, memory: int, trial: Trial, plain: Trial) -> list[str]:
    """Why, in sentences."""
    strong = poles.values[poles.shares >= SHARE]
    rotating = _rotating(strong, memory)
    reasons = [f"An autoregression of {poles.lags} lags has {len(strong)} poles with more than {SHARE:.0e} of the energy."]
    if len(rotating):
        angle, size = float(rotating.angle().max()), rotating.abs()
        reasons.append(
            f"{len(rotating)} of them rotate, with magnitudes {float(size.min()):.4f} to {float(size.max()):.4f} and angles up "
            f"to {angle:.3f} radians a step (periods from {2 * math.pi / angle:.1f})."
        )
    else:
        reasons.append("None of them rotates: real filters span such a system.")
    if trial.prior == plain.prior and trial.preconditioning is None:
        reasons.append(f"'positive' leaves {plain.error:.1e} on held-out data, and nothing is better by {PREFERENCE:g} times.")
    else:
        reasons.append(f"{trial.prior} leaves {trial.error:.1e} on held-out data; 'positive' leaves {plain.error:.1e}.")
    return reasons
