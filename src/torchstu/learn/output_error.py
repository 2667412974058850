"""A stable system of low order by the error of its roll-out, from the convex solution on; ``docs/noise.md``, equation (7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torchstu.convert.stu_to_system import to_lds
from torchstu.layers.base import Mixer
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.colored_noise import filtered, noise_lags
from torchstu.learn.orders import ROUNDING, bic, grow, hopeless, look_back, parameters, reductions
from torchstu.learn.separable import Fit, Recording, descend, read_out
from torchstu.spectral.priors import positive_int
from torchstu.systems.lds import LDS
from torchstu.systems.modes import modes_of, with_inputs

_WHITENINGS = 3  # the first residual still holds what the fit has taken for a slow mode
_SHORT = 6  # steps of a last descent that will not be the answer
_CLEAN = 1e-16  # relative squared error below which what is left is no noise

Start = SpectralRegressor | Mixer | LDS
_APART = 1e-9  # eigenvalues of a system closer than this have no modes of their own
_AS_GOOD = 1.01  # error of a system's own modes over its own, up to which they describe it


@dataclass(frozen=True)
class Refinement:
    """What `refine` found.

    Attributes:
        system: the `LDS`, every |λ| < 1 unless ``kept_start``.
        order: its states.
        initial_state: x_0 of every sequence, (N, n), for `LDS.simulate`; None where sequences start from rest.
        intercept: (D_out,), to be added to the system's outputs; zero unless the start has one.
        residual: squared error of the roll-out on the data over the squares of the data.
        noise: estimated standard deviation of the observation noise, with degrees of freedom taken off.
        criterion: BIC by order, as far as orders were tried.
        noise_lags: a, (p,), of the noise e_t = Σ_i a_i e_{t-i} + white; p = 0 for white noise.
        kept_start: whether the start had the lowest BIC of all, so that ``system`` is the start itself.
    """

    system: LDS
    order: int
    initial_state: Tensor | None
    intercept: Tensor
    residual: float
    noise: float
    criterion: dict[int, float]
    kept_start: bool
    noise_lags: Tensor

    def predict_next(self, U: Tensor, Y: Tensor) -> Tensor:
        """Predictions of y_t from inputs up to t and outputs up to t-1: the roll-out, and what the noise's memory adds.

        ŷ_t + Σ_i a_i (y_{t-i} - ŷ_{t-i}); the roll-out itself where the noise is white. Sequences start from rest.

        Args:
            U: (N, L, D_in) or (L, D_in). Y: (N, L, D_out) or (L, D_out).

        Returns:
            Predictions, shaped as Y, float64.
        """
        if U.ndim != Y.ndim or U.shape[:-1] != Y.shape[:-1] or Y.shape[-1] != self.system.d_out:
            raise ValueError(
                f"Y: shape {tuple(Y.shape)}; beside U {tuple(U.shape)} it must have {self.system.d_out} channels last"
            )
        rollout = self.system.simulate(U) + self.intercept
        left = torch.as_tensor(Y).double() - rollout
        for i, a in enumerate(self.noise_lags, 1):
            rollout = rollout + a * pad(left, (0, 0, i, 0))[..., : left.shape[-2], :]
        return rollout


def refine(
    U: Any,
    Y: Any,
    start: Start | None = None,
    *,
    order: int | Literal["auto"] = "auto",
    max_order: int = 24,
    warmup: int = 0,
    initial_state: Literal["zero", "unknown"] = "zero",
    noise: Literal["white", "colored"] = "white",
    iterations: int = 50,
    trusted: bool = False,
) -> Refinement:
    """The stable system of low order whose roll-out fits best: maximum likelihood under white observation noise.

    Levenberg-Marquardt over the poles and input vectors of x_t = A x_{t-1} + B u_t, y_t = C x_t + D u_t in modal form, with C
    and D eliminated by linear least squares at every step. |λ| < 1 always. Orders grow one by one; each is fitted from the
    balanced reduction of the start's response and from the order before with the mode that takes most off its residual.

    Args:
        U: inputs, (N, L, D_in) or (L, D_in), array or tensor.
        Y: outputs, (N, L, D_out) or (L, D_out); NaN where not observed.
        start: a fitted `SpectralRegressor`, a linear layer or an `LDS`; None for modes found from the data alone. From a system
            of the order asked for the descent begins at once.
        order: n, at least 1, or "auto": the least BIC, T log(squared error / T) + parameters · log T for T observed outputs,
            over orders from 0 on until three bring nothing or the error is rounding; the start competes, with all its weights.
        max_order: the largest order that "auto" tries.
        warmup: steps at the start of every sequence that drive the system but are not fitted.
        initial_state: "zero", or "unknown" to estimate x_0 of every sequence.
        noise: "colored" fits an autoregression to the residual, filters inputs and outputs by it and fits again, three
            times over, as process noise asks for: what it does to the output has a memory. `predict_next` gains by it too.
        iterations: steps of the last descent.
        trusted: whether the start is known to serve on other data too. If it then leaves hardly any error, orders begin where
            its reductions serve, which is quicker; elsewhere, and by default, they grow from 1.

    Raises:
        ValueError: shapes that do not fit, inputs not finite, no output observed, options out of range.
        TypeError: a start of another kind, numbers that are none.

    Source: Golub and Pereyra, 1973 (variable projection); Ljung, System Identification, 1999, section 10.6; ``docs/noise.md``.
    """
    u, y = _array("U", U, missing=False), _array("Y", Y, missing=True)
    _check(u, y, start, order, max_order, warmup, initial_state, iterations)
    if noise not in ("white", "colored") or (noise == "colored" and initial_state == "unknown"):
        raise ValueError(f"noise: {noise!r}; it must be 'white' or, with initial_state='zero', 'colored'")
    search = partial(_search, start=start, order=order, max_order=max_order, iterations=iterations, trusted=trusted)
    result = search(u, y, np.zeros(0), warmup=warmup, unknown_start=initial_state == "unknown")
    for _ in range(_WHITENINGS if noise == "colored" and result.residual > _CLEAN else 0):
        rollout = (result.system.simulate(torch.as_tensor(u)) + result.intercept).numpy()
        lags = noise_lags((y - rollout)[:, warmup:])
        if not len(lags):
            break
        result = search(u, y, lags, warmup=max(warmup, min(len(lags), u.shape[1] // 2)), unknown_start=False)
    return result


def _search(
    u: np.ndarray,
    y: np.ndarray,
    lags: np.ndarray,
    *,
    start: Start | None,
    order: int | Literal["auto"],
    max_order: int,
    warmup: int,
    unknown_start: bool,
    iterations: int,
    trusted: bool,
) -> Refinement:
    """`refine` under noise of a known memory."""
    layer = start.layer if isinstance(start, SpectralRegressor) else start
    constant = isinstance(start, SpectralRegressor) and start.fit_intercept
    data = Recording(filtered(u, lags), filtered(y, lags), warmup, unknown_start, constant)
    if not data.count:
        raise ValueError("Y: no output is observed after the warm-up")
    largest = int(max_order if order == "auto" else order)
    if order != "auto" and parameters(data, largest) > data.count:
        raise ValueError(f"order: {order} has {parameters(data, largest)} unknowns; the data has {data.count} observed outputs")
    own = _own_modes(data, layer, u, y, warmup, lags) if order != "auto" else None
    error = np.inf
    if trusted and start is not None and layer is not None:
        error = _error(layer, _level(start, data), u, y, warmup, lags)
    if own is not None and own.modes.order == largest:
        fits = {largest: own}
    else:
        fits = grow(data, reductions(layer, largest, u.shape[1], data.channels), largest, order == "auto", error)
    if order == "auto" and not np.isfinite(error):
        look_back(data, fits)
    scores = {n: bic(data, fit.error, parameters(data, n)) for n, fit in fits.items()}
    n = min(scores, key=lambda k: scores[k]) if order == "auto" else int(order)
    last = _SHORT if order == "auto" and hopeless(data, fits[n], error) else iterations
    fit = descend(data, fits[n], last, 1e-6 / data.count, ROUNDING**1.1 * data.power)
    scores[n] = bic(data, fit.error, parameters(data, n))
    if order == "auto" and start is not None:
        kept = _kept(data, start, u, y, warmup, scores, lags)
        if kept is not None:
            return kept
    return _result(data, fit, scores, unknown_start, lags)


def _own_modes(
    data: Recording, layer: Mixer | LDS | None, u: np.ndarray, y: np.ndarray, warmup: int, lags: np.ndarray
) -> Fit | None:
    """The fit with the modes of a stable system that is given, if they describe it: those of a defective one do not."""
    if not isinstance(layer, LDS) or not layer.state_dim:
        return None
    values = layer.eigenvalues()
    apart = (values[:, None] - values).abs() + torch.eye(len(values))
    if float(values.abs().max()) >= 1 or float(apart.min()) < _APART:
        return None
    fit = read_out(data, with_inputs(modes_of(layer.A.numpy(), layer.B.numpy()), data.channels))
    level = torch.zeros(data.outputs, dtype=torch.float64)
    return fit if fit.error <= _AS_GOOD * _error(layer, level, u, y, warmup, lags) else None


def _level(start: Start, data: Recording) -> Tensor:
    """What the start adds to its outputs, (D_out,)."""
    return start.intercept if isinstance(start, SpectralRegressor) else torch.zeros(data.outputs, dtype=torch.float64)


def _error(layer: Mixer | LDS, level: Tensor, u: np.ndarray, y: np.ndarray, warmup: int, lags: np.ndarray) -> float:
    """Squared error of a roll-out from rest, seen through the filter of the noise."""
    inputs = torch.as_tensor(u)
    with torch.no_grad():
        outputs = layer.simulate(inputs) if isinstance(layer, LDS) else layer(inputs)[0].double()
    return float(np.nansum(filtered(y - (outputs + level).numpy(), lags)[:, warmup:] ** 2))


def _kept(
    data: Recording,
    start: Start,
    u: np.ndarray,
    y: np.ndarray,
    warmup: int,
    scores: dict[int, float],
    lags: np.ndarray,
) -> Refinement | None:
    """The start as the answer, where its BIC is below that of every order."""
    layer = start.layer if isinstance(start, SpectralRegressor) else start
    intercept = _level(start, data)
    error = _error(layer, intercept, u, y, warmup, lags)
    if isinstance(layer, LDS):
        count = parameters(data, layer.state_dim)
    else:
        count = sum(weight.numel() for weight in layer.parameters())
    if bic(data, error, count) >= min(scores.values()):
        return None
    system = layer if isinstance(layer, LDS) else to_lds(layer, 1e-13)
    noise = float(np.sqrt(error / max(data.count - count, 1)))
    return Refinement(system, system.state_dim, None, intercept, error / data.power, noise, scores, True, torch.as_tensor(lags))


def _result(data: Recording, fit: Fit, scores: dict[int, float], unknown_start: bool, lags: np.ndarray) -> Refinement:
    """The fit as an `LDS`."""
    system = fit.modes.system(fit.read, fit.direct[:, : data.inputs], data.inputs)
    started = None
    if unknown_start:
        started = torch.as_tensor(fit.modes.matrices()[1][:, data.inputs :].T.copy())
    level = fit.direct[:, data.inputs] if fit.direct.shape[1] > data.inputs else np.zeros(data.outputs)
    level = level / (1 - lags.sum())
    freedom = max(data.count - parameters(data, fit.modes.order), 1)
    noise, residual = float(np.sqrt(fit.error / freedom)), fit.error / max(data.power, np.finfo(float).tiny)
    return Refinement(
        system, fit.modes.order, started, torch.as_tensor(level), residual, noise, scores, False, torch.as_tensor(lags)
    )


def _array(name: str, value: Any, missing: bool) -> np.ndarray:
    """(N, L, D) float64; NaN only where ``missing``."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: dtype {array.dtype}; it must be real numbers")
    array = array.astype(np.float64)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{name}: shape {array.shape}; it must be (N, L, D) or (L, D), none of them 0")
    if np.isinf(array).any() or (not missing and np.isnan(array).any()):
        raise ValueError(f"{name}: has values that are not finite" + (" (NaN alone means not observed)" if missing else ""))
    return array


def _check(
    u: np.ndarray,
    y: np.ndarray,
    start: Start | None,
    order: int | str,
    max_order: int,
    warmup: int,
    initial_state: str,
    iterations: int,
) -> None:
    if u.shape[:2] != y.shape[:2]:
        raise ValueError(f"Y: shape {y.shape}; beside U {u.shape} it must have as many sequences and steps")
    if order != "auto" and (isinstance(order, str) or positive_int("order", order) > 200):
        raise ValueError(f"order: {order!r}; it must be 'auto' or from 1 to 200")
    positive_int("max_order", max_order)
    positive_int("iterations", iterations)
    if positive_int("warmup", warmup, minimum=0) >= u.shape[1]:
        raise ValueError(f"warmup: {warmup}; it must be below the {u.shape[1]} steps of a sequence")
    if initial_state not in ("zero", "unknown"):
        raise ValueError(f"initial_state: {initial_state!r}; it must be 'zero' or 'unknown'")
    if start is None:
        return
    if not isinstance(start, Start):
        raise TypeError(f"start: {type(start).__name__}; it must be a SpectralRegressor, a linear layer, an LDS or None")
    inner = start.layer if isinstance(start, SpectralRegressor) else start
    if (inner.d_in, inner.d_out) != (u.shape[2], y.shape[2]):
        raise ValueError(f"start: {inner.d_in} inputs and {inner.d_out} outputs; the data has {u.shape[2]} and {y.shape[2]}")
