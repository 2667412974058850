"""Output-error least squares over the modes of a stable system: the read-out is eliminated, poles and inputs are searched.

    ŷ_t = Σ_j Re(γ_j z_{t,j}) + D' u_t,    z_{t,j} = λ_j z_{t-1,j} + β_jᵀ u_{t-1}:

given the modes (λ, β) the best γ and D' are linear least squares, so only the modes are unknown (variable projection), and they
live where |λ| < 1 (`torchstu.systems.modes.Modes`): no step leads out of it. See ``docs/noise.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from torchstu.systems.modes import Modes

_RANK = 1e-13  # directions of the scaled columns below this share of the largest are rounding
_LONGEST = 1.5  # step in log(1 - |λ|)
_TRIALS = 8  # dampings tried in one step


class Recording:
    """Sequences as the fit needs them: the spectrum of the inputs, and the steps and outputs that count.

    Args:
        U: (N, L, D_in). Y: (N, L, D_out), not finite where it was not observed.
        warmup: steps at the start of every sequence that are not fitted.
        unknown_start: whether each sequence has an unknown state before it; it is fitted as one more input, a pulse.
        constant: whether the outputs have an unknown level.
    """

    def __init__(self, U: np.ndarray, Y: np.ndarray, warmup: int, unknown_start: bool, constant: bool) -> None:
        sequences, steps, self.inputs = U.shape
        observed = np.isfinite(Y)
        observed[:, :warmup] = False
        if unknown_start:
            pulses = np.zeros((sequences, 1 + steps, sequences))
            pulses[np.arange(sequences), 0, np.arange(sequences)] = 1.0
            U = np.concatenate([np.pad(U, ((0, 0), (1, 0), (0, 0))), pulses], axis=2)
            Y, observed = np.pad(Y, ((0, 0), (1, 0), (0, 0))), np.pad(observed, ((0, 0), (1, 0), (0, 0)))
        self.length, self.channels, self.outputs = U.shape[1], U.shape[2], Y.shape[2]
        self.size = 2 ** int(np.ceil(np.log2(2 * self.length)))
        self.spectrum = torch.fft.rfft(torch.from_numpy(U.swapaxes(1, 2).copy()), self.size)  # (N, D, F)
        direct = U[:, :, : self.inputs].reshape(-1, self.inputs)
        self.direct = np.concatenate([direct, np.ones((len(direct), 1))], axis=1) if constant else direct
        flat, mask = Y.reshape(-1, self.outputs), observed.reshape(-1, self.outputs)
        patterns, which = np.unique(mask, axis=1, return_inverse=True)
        self.parts = []
        for k in range(patterns.shape[1]):  # outputs observed at the same steps share one decomposition
            rows, own = np.flatnonzero(patterns[:, k]), np.flatnonzero(which.reshape(-1) == k)
            if len(rows):
                self.parts.append((slice(None) if len(rows) == len(flat) else rows, own, flat[np.ix_(rows, own)]))
        self.count = int(mask.sum())
        self.power = float(sum((target**2).sum() for *_, target in self.parts))

    def features(self, modes: Modes, slope: bool = False) -> list[np.ndarray]:
        """z of every mode and channel, (N (1 + L), D) each and complex for a pair; with ``slope``, its derivative by λ."""
        if not len(modes):
            return []
        kernels = modes.kernels(self.length, slope)
        halves = np.concatenate([kernels.real, kernels.imag[modes.pair]])
        waves = torch.fft.rfft(torch.from_numpy(halves), self.size)
        filtered = [torch.fft.irfft(self.spectrum * wave, self.size)[..., : self.length] for wave in waves]  # (N, D, L) each
        parts = [part.movedim(1, 2).reshape(-1, self.channels).numpy() for part in filtered]
        imaginary = iter(parts[len(modes) :])
        return [part + 1j * next(imaginary) if pair else part for part, pair in zip(parts, modes.pair, strict=False)]


class Part(NamedTuple):
    """Outputs observed at the same steps: the span of the columns there, and what they leave."""

    rows: np.ndarray | slice
    own: np.ndarray  # which outputs
    span: np.ndarray  # (T, r) orthonormal
    residual: np.ndarray  # (T, len(own))


@dataclass(frozen=True, eq=False)
class Fit:
    """The best read-out of given modes.

    Attributes:
        modes: λ and β.
        read: C', (D_out, n), of the states of `Modes.matrices`.
        direct: D' (D_out, D_in), and the level as a last column where there is one.
        error: squared error.
        features: z, as `Recording.features` has them.
    """

    modes: Modes
    read: np.ndarray
    direct: np.ndarray
    error: float
    features: list[np.ndarray]
    parts: list[Part]


def read_out(data: Recording, modes: Modes) -> Fit:
    """Eliminate C' and D': linear least squares, on columns scaled to norm 1 and cut where they are collinear to rounding."""
    features = data.features(modes)
    columns = np.empty((len(data.direct), modes.order + data.direct.shape[1]))
    for at, z, beta, pair in zip(modes.columns, features, modes.inputs, modes.pair, strict=True):
        state = z @ (beta if pair else beta.real)
        columns[:, at] = state.real
        if pair:
            columns[:, at + 1] = state.imag
    columns[:, modes.order :] = data.direct
    weights, parts, error = np.zeros((data.outputs, columns.shape[1])), [], 0.0
    for rows, own, target in data.parts:
        X = columns[rows]
        scale = np.linalg.norm(X, axis=0)
        scale[scale == 0] = 1.0
        Q, R = np.linalg.qr(X / scale)
        left, sigma, right = np.linalg.svd(R)
        kept = int((sigma > _RANK * sigma[0]).sum())
        span = Q @ left[:, :kept]
        m = right[:kept].T @ ((span.T @ target) / sigma[:kept, None])
        residual = target - (X / scale) @ m
        residual -= span @ (span.T @ residual)
        weights[own] = (m / scale[:, None]).T
        parts.append(Part(rows, own, span, residual))
        error += float((residual**2).sum())
    return Fit(modes, weights[:, : modes.order], weights[:, modes.order :], error, features, parts)


def descend(data: Recording, fit: Fit, iterations: int, tolerance: float, floor: float) -> Fit:
    """Levenberg-Marquardt steps over the modes until a step promises less than ``tolerance`` of the error.

    Args:
        data: what is fitted.
        fit: the start.
        iterations: steps at most.
        tolerance: relative decrease of the squared error below which there is no more to gain.
        floor: squared error that counts as rounding.

    Source: Golub and Pereyra, 1973; Kaufman, 1975; Moré, The Levenberg-Marquardt algorithm, 1978.
    """
    damping, scale = 1e-3, None
    for _ in range(iterations):
        if not len(fit.modes) or fit.error <= floor:
            return fit
        J, r = _linearized(data, fit)
        norms = np.linalg.norm(J, axis=0)
        if not norms.max() > 0:
            return fit
        scale = np.maximum(norms, 1e-12 * norms.max()) if scale is None else np.maximum(scale, norms)
        left, sigma, right = np.linalg.svd(J / scale, full_matrices=False)
        along = left.T @ r
        for _ in range(_TRIALS):
            step = right.T @ (sigma * along / (sigma**2 + damping)) / scale
            step, shrunk = _limited(fit.modes, step)
            promised = float(r @ r - ((r - J @ step) ** 2).sum())
            trial = read_out(data, _moved(fit.modes, step))
            gained = fit.error - trial.error
            if gained > 1e-4 * promised > 0:
                damping = max(damping * (0.1 if gained > 0.7 * promised and not shrunk else 0.5), 1e-14)
                break
            damping *= 8.0
            if promised <= tolerance * fit.error:
                return fit
        else:
            return fit
        fit = trial
        if promised <= tolerance * (fit.error + promised):
            return fit
    return fit


def _tangents(beta: np.ndarray, pair: bool) -> np.ndarray:
    """Orthonormal directions that change β other than by a factor, (D, D - 1)."""
    return np.linalg.svd((beta if pair else beta.real)[None, :])[2].conj().T[:, 1:]


def _linearized(data: Recording, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Kaufman's Jacobian of the prediction by (log s, θ, tangents of β) of every mode, and the residual.

    Both are off the span of the columns, and projected on that of their derivatives: (q D_out, P) and (q D_out,), q <= P. The
    gradient of the squared error, -2 Jᵀ r, is exact.
    """
    W, spread = _derivatives(data, fit)
    blocks, rest = [], []
    for part in fit.parts:
        off = W[part.rows]
        off = off - part.span @ (part.span.T @ off)
        Q, R = np.linalg.qr(off)
        blocks += [R @ spread[:, :, o].T for o in part.own]
        rest.append((Q.T @ part.residual).T.reshape(-1))
    return np.concatenate(blocks), np.concatenate(rest)


def _derivatives(data: Recording, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Columns (T, q) whose sums with the weights (unknown, column, output) are the derivatives of the prediction."""
    modes, slopes = fit.modes, data.features(fit.modes, slope=True)
    unknowns, width = int((1 + modes.pair).sum()) * data.channels, data.channels
    columns, spread, first = [], np.zeros((unknowns, unknowns, data.outputs)), 0
    for j, (pair, beta, s, turn) in enumerate(zip(modes.pair, modes.inputs, modes.gap, modes.direction, strict=True)):
        tangent, at = _tangents(beta, pair), modes.columns[j]
        if not pair:
            columns += [-s * turn.real * (slopes[j] @ beta.real)[:, None], fit.features[j] @ tangent]
            own = np.arange(first, first + width)
            spread[own, own] = fit.read[:, at]
            first += width
            continue
        gamma = fit.read[:, at] - 1j * fit.read[:, at + 1]
        moved = np.concatenate([(slopes[j] @ beta)[:, None], fit.features[j] @ tangent], axis=1)  # complex, (T, D)
        columns.append(np.stack([moved.real, moved.imag], axis=2).reshape(len(moved), -1))
        for k in range(width):
            factors = (-s * turn, 1j * modes.poles[j]) if k == 0 else (1.0, 1j)
            for i, factor in enumerate(factors):
                spread[first + i, first] = (gamma * factor).real
                spread[first + i, first + 1] = -(gamma * factor).imag
            first += 2
    return np.concatenate(columns, axis=1), spread


def _limited(modes: Modes, step: np.ndarray) -> tuple[np.ndarray, bool]:
    """The step, shortened where it would change a 1 - |λ| by more than a factor e^1.5 or an angle by more than 0.3."""
    logs, angles, _ = _split(modes, step)
    longest = max(float(np.abs(logs).max()) / _LONGEST, float(np.abs(angles).max()) / 0.3)
    return (step / longest, True) if longest > 1 else (step, False)


def _split(modes: Modes, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes of log s, θ and β from a vector of unknowns."""
    logs, angles, inputs = np.zeros(len(modes)), np.zeros(len(modes)), np.zeros_like(modes.inputs)
    at, width = 0, modes.inputs.shape[1]
    for j, (pair, beta) in enumerate(zip(modes.pair, modes.inputs, strict=True)):
        tangent = _tangents(beta, pair)
        if pair:
            logs[j], angles[j] = step[at], step[at + 1]
            change = step[at + 2 : at + 2 * width].reshape(width - 1, 2) @ np.array([1.0, 1j])
        else:
            logs[j], change = step[at], step[at + 1 : at + width]
        inputs[j] = tangent @ change
        at += (2 if pair else 1) * width
    return logs, angles, inputs


def _moved(modes: Modes, step: np.ndarray) -> Modes:
    logs, angles, inputs = _split(modes, step)
    gap = modes.gap * np.exp(np.clip(logs, -_LONGEST, _LONGEST))
    return Modes(gap, modes.angle + angles, modes.inputs + inputs).normalized()
