"""Impulse and frequency responses of what was fitted, with how sure they are; equations (6), (8) and (10).

A response is linear in the weights, h = Σ_p f_p m_p, or, with a learned y-term, linear in their small changes (the delta
method): G = x (I - Σ_j M_j z^-j)⁻¹ changes by (δx + Σ_j G δM_j z^-j)(I - Σ_j M_j z^-j)⁻¹. The rows f then give the variance.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.convert.stu_to_system import to_lds
from torchstu.layers.base import Mixer
from torchstu.layers.stu import STU
from torchstu.learn.closed_form import SpectralRegressor
from torchstu.learn.diagnostics import impulse_response
from torchstu.learn.intervals import Uncertainty
from torchstu.learn.least_squares import responses
from torchstu.learn.options import share
from torchstu.learn.rows import RowMaker
from torchstu.ops.autoregression import feedback
from torchstu.spectral.priors import positive_int
from torchstu.systems.lds import LDS

_SINGULAR = 1e-12
"""A y-term below this at a frequency has a pole there."""
_NUMBERS_AT_ONCE = 2**22


class ResponseInterval(NamedTuple):
    """A response and its interval, each (length, D_out, D_in)."""

    response: Tensor
    lower: Tensor
    upper: Tensor


class FrequencyInterval(NamedTuple):
    """A frequency response and its intervals, each (F, D_out, D_in)."""

    response: Tensor  # complex
    lower: Tensor  # of the gain |G|, at least 0
    upper: Tensor
    phase: Tensor  # half the interval of the phase, in radians, at most π


def impulse_response_interval(regressor: SpectralRegressor, length: int, level: float = 0.9) -> ResponseInterval:
    """h_i, i = 0..length-1, y_t = Σ_i h_i u_{t-i}, and the interval of each lag: h ± t s √(fᵀ (RᵀR + penalties)⁻¹ f).

    Every lag's interval holds the true value with the probability ``level``, if the errors of rows are alike and independent
    and the model is wide enough: bias of too few filters or a strong ridge is not in it. A learned y-term is linearized.

    Args:
        regressor: fitted, not made of a given layer.
        length: lags, at least 1.
        level: in (0, 1).

    Raises:
        ValueError: not fitted to data, a number out of range.
        TypeError: another kind of object.

    Source: design (10); ``docs/identify.md``.
    """
    length, level = positive_int("length", length), share("level", level)
    maker, uncertainty = _fit_of(regressor)
    response = impulse_response(regressor.layer, length).double()
    half = _spread(_impulse_variance(maker, uncertainty, regressor.layer, response), uncertainty, level)
    return ResponseInterval(response, response - half, response + half)


def frequency_response(model: Any, frequencies: Any, sample_time: float | None = None) -> Tensor:
    """G(f) = Σ_i h_i e^{-2πi·f·i}, complex (F, D_out, D_in), exact: from the realization of the bank, or by solving with A.

    Args:
        model: a `SpectralRegressor`, an `STU`, another linear layer that `to_lds` knows, or an `LDS`.
        frequencies: (F,), in cycles per step, in [-1/2, 1/2]; in Hz if there is a sample time.
        sample_time: seconds per step, above 0.

    Raises:
        ValueError: frequencies out of range or where the response is infinite: the fixed y-term has poles at 0 and 1/2 cycles
            per step.
        TypeError: another kind of model.

    Source: design (7) and (8).
    """
    z = _unit_circle(frequencies, sample_time)
    layer = model.layer if hasattr(model, "layer") and not isinstance(model, (Mixer, LDS)) else model
    if isinstance(layer, STU):
        return _stu_response(layer, z)
    if not isinstance(layer, (LDS, Mixer)):
        raise TypeError(f"model: {type(model).__name__}; it must be a SpectralRegressor, a linear layer or an LDS")
    return _lds_response(layer if isinstance(layer, LDS) else to_lds(layer, 0.0), z)


def frequency_response_interval(
    regressor: SpectralRegressor, frequencies: Any, level: float = 0.9, sample_time: float | None = None
) -> FrequencyInterval:
    """G(f) with intervals of gain |G| and phase φ, both by the delta method.

    A small change δG changes |G| by Re(δG e^{-iφ}) and φ by Im(δG e^{-iφ})/|G|, both linear in the weights of the fit.
    Good where the gain is some times its own uncertainty. The same assumptions as in `impulse_response_interval`.

    Args:
        regressor, level: as in `impulse_response_interval`.
        frequencies, sample_time: as in `frequency_response`.

    Raises:
        ValueError, TypeError: as both.

    Source: design (10); ``docs/identify.md``.
    """
    level, z = share("level", level), _unit_circle(frequencies, sample_time)
    maker, uncertainty = _fit_of(regressor)
    layer = regressor.layer
    response = _stu_response(layer, z)
    direction = torch.where(
        response.abs() > 0, response.conj() / response.abs().clamp(min=torch.finfo(torch.float64).tiny), 1.0
    )
    gain, angle = _frequency_variances(maker, uncertainty, layer, z, response, direction)
    half, across = _spread(gain, uncertainty, level), _spread(angle, uncertainty, level)
    magnitude = response.abs()
    phase = torch.where(across < math.pi * magnitude, across / magnitude.clamp(min=torch.finfo(torch.float64).tiny), math.pi)
    return FrequencyInterval(response, (magnitude - half).clamp(min=0.0), magnitude + half, phase)


def _fit_of(regressor: Any) -> tuple[RowMaker, Uncertainty]:
    if not isinstance(regressor, SpectralRegressor):
        raise TypeError(f"regressor: {type(regressor).__name__}; it must be a fitted SpectralRegressor")
    return regressor._fitted.maker, regressor._uncertainty


def _spread(variance: Tensor, uncertainty: Uncertainty, level: float) -> Tensor:
    """Half the interval from a variance (T, D_out, D_in)."""
    return uncertainty.quantile(level)[:, None] * variance.sqrt()


def _impulse_variance(maker: RowMaker, uncertainty: Uncertainty, layer: STU, response: Tensor) -> Tensor:
    """(T, D_out, D_in)."""
    length = len(response)
    unit, variances = responses(maker, length), []
    for i in range(maker.layer.d_in):
        rows = _kernel_rows(maker, unit, i)
        if layer.autoregression != "learned":
            variances.append(_in_pieces(uncertainty, rows) * uncertainty.variance)
            continue
        before = [torch.nn.functional.pad(response[:, :, i], (0, 0, j, 0))[:length] for j in range(1, layer.output_lags + 1)]
        rows[:, maker.groups["outputs"]] = torch.cat(before, dim=1)
        variances.append(_fed_back_variance(uncertainty, layer, rows))
    return torch.stack(variances, dim=2)


def _fed_back_variance(uncertainty: Uncertainty, layer: STU, rows: Tensor) -> Tensor:
    """Variance (T, D_out) of changes of the equations, rows (T, P), that go through the learned y-term."""
    M_y = layer.whole("M_y").detach().double()
    total = torch.zeros(len(rows), layer.d_out, dtype=torch.float64)
    for disturbed in range(layer.d_out):
        drive = torch.zeros(rows.shape[1], len(rows), layer.d_out, dtype=torch.float64)  # a sequence a column
        drive[:, :, disturbed] = rows.T
        reached = feedback(drive, M_y).permute(2, 1, 0)  # (D_out, T, P)
        total += (uncertainty.of_rows(reached)[..., disturbed] * uncertainty.variance[disturbed]).T
    return total


def _frequency_variances(
    maker: RowMaker, uncertainty: Uncertainty, layer: STU, z: Tensor, response: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the change of G along its own direction and across it, (F, D_out, D_in) each."""
    unit, through = _unit_responses(layer, z), _through(layer, z)
    along, across = (torch.zeros(response.shape, dtype=torch.float64) for _ in range(2))
    for i in range(layer.d_in):
        rows = _kernel_rows(maker, unit, i)
        if layer.autoregression == "learned":
            lagged = [response[:, :, i] * (z**-j)[:, None] for j in range(1, layer.output_lags + 1)]
            rows[:, maker.groups["outputs"]] = torch.cat(lagged, dim=1)
        for o in range(layer.d_out):
            for disturbed in range(layer.d_out) if layer.autoregression == "learned" else [o]:
                turned = rows * (through[:, disturbed, o] * direction[:, o, i])[:, None]
                for total, part in ((along, turned.real), (across, turned.imag)):
                    total[:, o, i] += _in_pieces(uncertainty, part)[:, disturbed] * uncertainty.variance[disturbed]
    return along, across


def _kernel_rows(maker: RowMaker, unit: Tensor, channel: int) -> Tensor:
    """Rows (T, P) of an input channel from responses to unit weights (T, J)."""
    rows = unit.new_zeros(len(unit), maker.width)
    rows[:, maker.groups["kernel"]][:, channel :: maker.layer.d_in] = unit
    return rows


def _in_pieces(uncertainty: Uncertainty, rows: Tensor) -> Tensor:
    """`Uncertainty.of_rows` of many rows."""
    return torch.cat([uncertainty.of_rows(part) for part in rows.split(max(1, _NUMBERS_AT_ONCE // rows.shape[1]))])


def _unit_circle(frequencies: Any, sample_time: float | None) -> Tensor:
    """z = e^{2πi f}, (F,)."""
    f = torch.as_tensor(
        np.asarray(frequencies, dtype=np.float64) if not isinstance(frequencies, Tensor) else frequencies
    ).double()
    highest = 0.5
    if sample_time is not None:
        if isinstance(sample_time, bool) or not 0 < sample_time < math.inf:
            raise ValueError(f"sample_time: {sample_time}; it must be None or a number of seconds above 0")
        highest, f = 0.5 / sample_time, f * sample_time
    if f.ndim != 1 or not len(f) or not bool((f.abs() <= 0.5 * (1 + 1e-12)).all()):
        unit = "cycles per step" if sample_time is None else "Hz"
        raise ValueError(f"frequencies: must be a list of numbers of {unit}, at most {highest:g} in magnitude")
    return torch.polar(torch.ones_like(f), 2 * math.pi * f)


def _stu_response(layer: STU, z: Tensor) -> Tensor:
    """(F, D_out, D_in), in float64 whatever the weights are in."""
    K, scale = layer.num_filters, torch.as_tensor(layer.bank.eigenvalues**0.25)[:, None, None]
    names = ["M_phi_plus", "M_phi_minus"][: len(layer.signs)]
    banks, lags = [layer.whole(name).detach().double().cpu() for name in names], layer.whole("M_u").detach().double().cpu()
    weights = torch.cat([*(scale * bank for bank in banks), lags])
    assert len(weights) == K * len(banks) + layer.input_lags
    forced = torch.einsum("fj,jio->fio", _unit_responses(layer, z, fed_back=False), weights.to(z.dtype))
    return (forced @ _through(layer, z, fixed=True)).transpose(1, 2)


def _unit_responses(layer: STU, z: Tensor, *, fed_back: bool = True) -> Tensor:
    """Responses to unit weights, (F, J): unit-norm filters of every bank, delayed, then input lags; through a fixed y-term."""
    space, parts = layer.bank.state_space, []
    for sign in layer.signs:
        own = sign * z  # (-1)^i φ(i) has the response of φ at -z
        if space is None:
            taps = torch.as_tensor(layer.bank.filters.copy()).to(z.dtype)
            parts.append(torch.stack([_powers(w, len(taps)) @ taps for w in own]))
        else:
            parts.append(
                _solved(torch.as_tensor(space.A.copy()), torch.as_tensor(space.b.copy())[:, None], own)[
                    :, : layer.num_filters, 0
                ]
            )
    unit = torch.cat([torch.cat(parts, dim=1) * (z**-layer.delay)[:, None], _lag_powers(z, layer.input_lags)], dim=1)
    if fed_back and layer.fixed_coefficients is not None:
        unit = unit * _through(layer, z, fixed=True)[:, :1, 0]
    return unit


def _through(layer: STU, z: Tensor, *, fixed: bool = False) -> Tensor:
    """(I - Σ_j M_j z^-j)⁻¹, (F, D_out, D_out), row in and column out; of a fixed y-term only if asked for."""
    identity = torch.eye(layer.d_out, dtype=z.dtype).expand(len(z), -1, -1)
    if layer.M_y is None or (layer.autoregression == "fixed" and not fixed):
        return identity
    lagged = _lag_powers(z, layer.output_lags + 1)[:, 1:]
    open_loop = identity - torch.einsum("fj,jab->fab", lagged, layer.whole("M_y").detach().double().cpu().to(z.dtype))
    if not bool((torch.linalg.svdvals(open_loop)[:, -1] > _SINGULAR).all()):
        raise ValueError("frequencies: the y-term has a pole at one of them (the fixed one at 0 and at 1/2 cycles per step)")
    return torch.linalg.inv(open_loop)


def _lag_powers(z: Tensor, count: int) -> Tensor:
    """z^-j for j = 0..count-1, (F, count)."""
    return z[:, None] ** -torch.arange(count)


def _powers(w: Tensor, count: int) -> Tensor:
    """w^-j for j = 0..count-1."""
    return torch.polar(torch.ones(count, dtype=torch.float64), -torch.angle(w) * torch.arange(count))


def _solved(A: Tensor, B: Tensor, z: Tensor) -> Tensor:
    """(I - A z⁻¹)⁻¹ B, (F, N, D), some frequencies at a time."""
    size, parts = max(1, _NUMBERS_AT_ONCE // max(1, A.numel())), []
    identity, A, B = torch.eye(len(A), dtype=z.dtype), A.to(z.dtype), B.to(z.dtype)
    for some in z.split(size):
        solved, info = torch.linalg.solve_ex(identity - A / some[:, None, None], B.expand(len(some), -1, -1))
        if bool(info.any()) or not bool(torch.isfinite(torch.view_as_real(solved)).all()):
            raise ValueError("frequencies: the system has a pole on the unit circle at one of them")
        parts.append(solved)
    return torch.cat(parts)


def _lds_response(lds: LDS, z: Tensor) -> Tensor:
    """C (I - A z⁻¹)⁻¹ B + D."""
    return lds.C.to(z.dtype) @ _solved(lds.A, lds.B, z) + lds.D
