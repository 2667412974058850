"""Where the poles of an unknown system lie, with their energies, from a long autoregression with inputs (ARX)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchstu.ops.autoregression import lag_windows

MOST_COLUMNS = 320
"""Regressors of the autoregression; more find no more poles in a second."""
_MOST_ROWS = 24_000
_MOST_LAGS = 64
_HORIZON = 1024  # steps of the response that is divided among the poles


class Poles(NamedTuple):
    """Poles in the closed upper half plane, in order of energy, and the share of the response's energy that each has."""

    values: Tensor  # (P,) complex
    shares: Tensor  # (P,)
    lags: int


def estimate_poles(U: Tensor, Y: Tensor) -> Poles:
    """Poles of y_t = Σ_{i=1}^{p} A_i y_{t-i} + Σ_{i=0}^{p} B_i u_{t-i}, fitted by least squares of least norm.

    For a noiseless system of at most p·D_out states they contain its own; the others have next to no energy. The response over
    the memory is divided among them by least squares, h_i = Σ_j λ_j^i R_j, and a pole's energy is that of its term.

    Args:
        U: (N, L, D_in) float64. Y: (N, L, D_out) float64.

    Source: L. Ljung, System Identification, 1999, chapter 4; R. Kumaresan and D. Tufts, IEEE Trans. ASSP 30(6), 1982, for the
    least norm.
    """
    (count, steps, d_in), d_out = U.shape, Y.shape[2]
    room = min(MOST_COLUMNS, count * steps // 3) - d_in
    lags = max(1, min(_MOST_LAGS, room // (d_in + d_out), (steps - 1) // 2))
    A, B = _autoregression(U, Y, lags)
    companion = torch.zeros(lags * d_out, lags * d_out, dtype=torch.float64)
    companion[:, :d_out] = A.flatten(0, 1)
    companion[: (lags - 1) * d_out, d_out:] = torch.eye((lags - 1) * d_out, dtype=torch.float64)
    values = torch.linalg.eigvals(companion)
    radius = float(values.abs().max())
    if radius > 1:  # noise has made it unstable: only the directions of its poles are of use
        A = A / radius ** torch.arange(1, lags + 1, dtype=torch.float64)[:, None, None]
        values = values / radius
    values = values[(values.abs() > 0.05) & (values.imag >= -1e-12)]
    values = torch.where(values.imag.abs() < 1e-9, torch.complex(values.real, torch.zeros_like(values.real)), values)
    if not len(values):
        return Poles(values, torch.zeros(0, dtype=torch.float64), lags)
    energies = _energies(values, _response(A, B, min(steps, _HORIZON)), lags)
    order = energies.argsort(descending=True)
    total = max(float(energies.sum()), torch.finfo(torch.float64).tiny)
    return Poles(values[order], energies[order] / total, lags)


def _autoregression(U: Tensor, Y: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """(lags, D_out, D_out) and (lags + 1, D_in, D_out)."""
    d_in, d_out = U.shape[2], Y.shape[2]
    rows, targets, left = [], [], _MOST_ROWS
    for u, y in zip(U, Y, strict=True):
        steps = min(len(u) - lags, left)
        known = lag_windows(y[None, : lags + steps - 1], lags, steps)[0]
        driven = lag_windows(u[None, : lags + steps], lags + 1, steps)[0]
        rows.append(torch.cat([known, driven], dim=1))
        targets.append(y[lags : lags + steps])
        left -= steps
        if left <= 0:
            break
    matrix, target = torch.cat(rows), torch.cat(targets)
    norms = matrix.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    triangle = torch.linalg.qr(torch.cat([matrix / norms, target], dim=1), mode="r").R
    width = matrix.shape[1]
    weights = torch.linalg.lstsq(triangle[:width, :width], triangle[:width, width:], rcond=1e-13, driver="gelsd").solution
    weights = weights / norms[:, None]
    return weights[: lags * d_out].view(lags, d_out, d_out), weights[lags * d_out :].view(lags + 1, d_in, d_out)


def _response(A: Tensor, B: Tensor, steps: int) -> Tensor:
    """h_i (steps, D_in, D_out)."""
    lags = len(A)
    h: list[Tensor] = []
    for t in range(steps):
        h_t = B[t] if t < len(B) else torch.zeros_like(B[0])
        for i in range(1, min(t, lags) + 1):
            h_t = h_t + h[t - i] @ A[i - 1]
        h.append(h_t)
    return torch.stack(h)


def _energies(values: Tensor, response: Tensor, start: int) -> Tensor:
    """Σ_i |λ^i|² ‖R‖² of each pole, conjugates counted, from h_i for i >= start, where the inputs' lags are over."""
    times = torch.arange(len(response) - start, dtype=torch.float64)
    waves = torch.polar((times[:, None] * values.abs().log()).exp(), times[:, None] * values.angle())
    columns = torch.cat([waves.real, waves.imag], dim=1)
    columns[:, len(values) :][:, values.imag == 0] = 0
    target = response[start:].flatten(1)
    if not torch.isfinite(target).all():
        return torch.zeros(len(values), dtype=torch.float64)
    norms = columns.norm(dim=0).clamp(min=math.sqrt(torch.finfo(torch.float64).tiny))
    weights = torch.linalg.lstsq(columns / norms, target, rcond=1e-12, driver="gelsd").solution
    energy = weights.square().sum(1)
    return energy[: len(values)] + energy[len(values) :]
