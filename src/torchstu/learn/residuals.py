"""What is left over after a fit: how much of the output it explains, and whether the rest still holds something to learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from torchstu.learn.least_squares import sequence
from torchstu.learn.options import share
from torchstu.spectral.priors import positive_int

_VARIES = 1e-12
"""A channel whose deviation is below this share of its largest value counts as constant."""
_DEPENDENT = 1e-10
"""Lagged inputs whose singular value is below this share of the largest say nothing new."""


@dataclass(frozen=True, eq=False)
class CorrelationTest:
    """Correlations of residuals lag by lag, the band they stay in by chance, and the chi-square test of all lags together.

    Attributes:
        lags: (M,) int.
        correlations: (M, D_out) of `whiteness`, (M, D_out, D_in) of `cross_correlation`.
        band: half its width: z/√n, in which one correlation lies with probability ``level`` where nothing is left.
        level: in (0, 1).
        statistic, degrees: of the chi-square test, (D_out,) or (D_out, D_in).
        p_value: the chance of a statistic as large where nothing is left; 1 where a channel does not vary.
    """

    lags: Tensor
    correlations: Tensor
    band: float
    level: float
    statistic: Tensor
    degrees: Tensor
    p_value: Tensor

    @property
    def passed(self) -> Tensor:
        """Whether the p-value is at least 1 - level, so that nothing was found; bool, shaped as `p_value`."""
        return self.p_value >= 1 - self.level


def fit_percent(prediction: Any, target: Any) -> Tensor:
    """100 (1 - ‖y - ŷ‖ / ‖y - mean(y)‖) of every output: 100 is perfect, 0 what the mean gets, below 0 worse than that.

    Control engineers call it NRMSE fit or "fit to data". A relative squared error e about the mean is 100 (1 - √e).

    Args:
        prediction: (L,), (L, D_out) or (N, L, D_out).
        target: of the same shape; NaN where there is no measurement.

    Returns:
        (D_out,), -inf where a prediction is not finite.

    Raises:
        ValueError: shapes that differ, an output that is constant or never observed.
        TypeError: values that are not numbers.

    Source: Ljung, System Identification, 1999, section 16.4.
    """
    y = _channels("target", target, missing=True).flatten(0, 1)
    predicted = torch.as_tensor(prediction).detach().double().cpu()
    if predicted.shape != torch.as_tensor(target).shape:
        raise ValueError(f"prediction: shape {tuple(predicted.shape)}; the target has {tuple(torch.as_tensor(target).shape)}")
    observed = torch.isfinite(y)
    mean = y.nanmean(dim=0)
    spread = torch.where(observed, y - mean, 0.0)
    for j, value in enumerate(spread.norm(dim=0).tolist()):
        if not value > _VARIES * float(torch.where(observed, y, 0.0)[:, j].norm()):
            raise ValueError(f"target: output {j} is constant or never observed; a fit in percent is relative to its spread")
    error = torch.where(observed, y - predicted.reshape(y.shape), 0.0)
    percent = 100 * (1 - error.norm(dim=0) / spread.norm(dim=0))
    return torch.where(torch.isfinite(percent), percent, -math.inf)


def whiteness(residuals: Any, *, lags: int = 25, level: float = 0.99) -> CorrelationTest:
    """Are residuals independent of their own past? Auto-correlations at lags 1..M and the Ljung-Box test, output by output.

    r_τ = Σ_t ε_t ε_{t-τ} / Σ_t ε_t², each mean taken off; Q = n (n + 2) Σ_τ r_τ² / (n - τ) is chi-square with M degrees of
    freedom if ε is white. Of several sequences the sums are added up, and n - τ is the number of products.

    A model that predicts one step ahead and leaves coloured residuals could have used them. A roll-out (an output-error model)
    may: its residual holds the process noise as the system filters it, and being coloured says nothing against its response.

    Args:
        residuals: y - ŷ, (L,), (L, D_out) or (N, L, D_out).
        lags: M, at least 1 and below a quarter of the steps.
        level: of the band, and 1 - level is the p-value below which `CorrelationTest.passed` is False.

    Raises:
        ValueError: options out of range, values not finite. TypeError: values that are not numbers.

    Source: Ljung and Box, On a measure of lack of fit in time series models, Biometrika 65, 1978.
    """
    e = _centred(_channels("residuals", residuals))
    lags, level = _lags(lags, e.shape[1]), share("level", level)
    n, taus = e.shape[0] * e.shape[1], torch.arange(1, lags + 1)
    power = e.square().sum(dim=(0, 1))
    sums = torch.stack([(e[:, tau:] * e[:, :-tau]).sum(dim=(0, 1)) for tau in taus.tolist()])
    correlations = torch.where(power > 0, sums / power.clamp(min=torch.finfo(e.dtype).tiny), 0.0)
    products = (e.shape[0] * (e.shape[1] - taus)).double()
    statistic = n * (n + 2) * (correlations.square() / products[:, None]).sum(dim=0)
    degrees = torch.where(power > 0, float(lags), 0.0)
    return CorrelationTest(taus, correlations, _band(level, n), level, statistic, degrees, chi_square_tail(statistic, degrees))


def cross_correlation(residuals: Any, inputs: Any, *, lags: int = 25, level: float = 0.99) -> CorrelationTest:
    """Is there anything of the inputs left in residuals? Correlations of ε_t with u_{t-τ}, τ = 0..M-1, and a chi-square test.

    Both are first filtered by the autoregression that whitens ε (order by BIC): then each correlation has variance 1/n where
    nothing is left, whatever the colour of residuals and inputs. The statistic is n R² of the regression of ε on the M lags of
    one input, chi-square with as many degrees of freedom as the lags have independent directions.

    Correlation with past inputs means a wrong or too short response: this is the test that a roll-out must pass. On the data
    that a model was fitted to, its parameters have taken up some of the correlation, and the test passes more often than
    ``level``; on other data their errors count too.

    Args:
        residuals: y - ŷ, (L,), (L, D_out) or (N, L, D_out).
        inputs: of the same steps, (L,), (L, D_in) or (N, L, D_in).
        lags: M, at least 1 and below a quarter of the steps.
        level: as in `whiteness`.

    Raises:
        ValueError: shapes that do not fit, options out of range, values not finite. TypeError: values that are not numbers.

    Source: Box, Jenkins and Reinsel, Time Series Analysis, chapter 12 (prewhitening); Ljung, System Identification, 1999, 16.6.
    """
    e, u = _centred(_channels("residuals", residuals)), _centred(_channels("inputs", inputs))
    if e.shape[:2] != u.shape[:2]:
        raise ValueError(f"inputs: shape {tuple(u.shape)}; beside residuals {tuple(e.shape)} it must have as many steps")
    lags, level = _lags(lags, e.shape[1]), share("level", level)
    shape = (e.shape[2], u.shape[2])
    correlations, statistic, degrees = (
        torch.zeros(lags, *shape).double(),
        torch.zeros(shape).double(),
        torch.zeros(shape).double(),
    )
    count = e.shape[0] * e.shape[1]
    for o in range(shape[0]):
        whitening = _whitening(e[..., o])
        white = _filtered(e[..., o], whitening)[:, lags - 1 :].reshape(-1)
        count = len(white)
        for i in range(shape[1]):
            windows = _filtered(u[..., i], whitening).unfold(1, lags, 1).flip(2).reshape(-1, lags)  # column τ is u_{t-τ}
            correlations[:, o, i], statistic[o, i], degrees[o, i] = _explained(white, windows)
    band = _band(level, count)
    return CorrelationTest(
        torch.arange(lags), correlations, band, level, statistic, degrees, chi_square_tail(statistic, degrees)
    )


def chi_square_tail(statistic: Tensor, degrees: Tensor) -> Tensor:
    """P(χ² > statistic), the regularized upper incomplete gamma function Γ(degrees/2, statistic/2); 1 at 0 degrees."""
    return torch.where(degrees > 0, torch.special.gammaincc(degrees.clamp(min=1.0) / 2, statistic / 2), 1.0)


def _explained(white: Tensor, windows: Tensor) -> tuple[Tensor, float, float]:
    """Correlations of ε (n,) with columns (n, M), n R² of the regression on them, and the rank of that."""
    power, size = white.norm(), windows.norm(dim=0)
    if not power > 0 or not size.max() > 0:
        return torch.zeros(windows.shape[1], dtype=white.dtype), 0.0, 0.0
    normed = windows / size.clamp(min=torch.finfo(white.dtype).tiny)
    left, s, _ = torch.linalg.svd(normed, full_matrices=False)
    kept = s > _DEPENDENT * s[0]
    explained = float((left[:, kept].T @ white / power).square().sum())
    return normed.T @ white / power, len(white) * explained, float(kept.sum())


def _whitening(e: Tensor) -> Tensor:
    """1, -a_1, … -a_p of the autoregression of e (N, L), by Levinson; p of least BIC up to 10 log10 of the count."""
    count = e.numel()
    most = max(0, min(int(10 * math.log10(count)), e.shape[1] // 10))
    covariance = [float((e[:, j:] * e[:, : e.shape[1] - j]).sum()) / count for j in range(most + 1)]
    best = a = torch.ones(1, dtype=e.dtype)
    error, least = covariance[0], math.inf
    for order in range(most + 1):
        if order:
            reflection = -sum(float(c) * covariance[order - j] for j, c in enumerate(a)) / error
            a = torch.cat([a, a.new_zeros(1)])
            a = a + reflection * a.flip(0)
            error *= 1 - reflection**2
        if not error > 1e-14 * covariance[0]:  # predictable to rounding: no noise to speak of
            break
        score = count * math.log(error) + order * math.log(count)
        if score < least:
            least, best = score, a
    return best


def _filtered(x: Tensor, taps: Tensor) -> Tensor:
    """Σ_j taps_j x_{t-j} of (N, L), where all of it is known: (N, L - p)."""
    return torch.nn.functional.conv1d(x[:, None], taps.flip(0)[None, None])[:, 0]


def _channels(name: str, value: Any, *, missing: bool = False) -> Tensor:
    """(L,), (L, D) or (N, L, D) as (N, L, D)."""
    return sequence(name, value[:, None] if getattr(value, "ndim", 2) == 1 else value, missing=missing)


def _centred(x: Tensor) -> Tensor:
    """Less the mean of each channel; exactly zero where a channel does not vary."""
    centred = x - x.mean(dim=(0, 1))
    largest, spread = x.abs().amax(dim=(0, 1)), centred.abs().amax(dim=(0, 1))
    return torch.where(spread > _VARIES * largest, centred, 0.0)


def _lags(lags: Any, steps: int) -> int:
    if positive_int("lags", lags) > steps // 4:
        raise ValueError(f"lags: {lags} of sequences of {steps} steps; it must be at most a quarter of them")
    return int(lags)


def _band(level: float, count: int) -> float:
    return NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(count)
