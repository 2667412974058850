"""Regret: what a learner lost by learning on the way, against the best fixed weights in hindsight and against any rival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from torchstu.layers.stu import STU
from torchstu.learn.online import OnlineSpectralFilter
from torchstu.learn.online_features import FeatureStream
from torchstu.learn.online_input import check_finite, real_array

_ROWS_AT_ONCE = 1024
"""Rows of the design matrix reduced by one QR."""


class RegretCurve(NamedTuple):
    """Losses Σ_{t≤T} ‖y_t - ŷ_t‖² at some T, of a learner and of those it is compared with."""

    steps: np.ndarray
    """T, (M,) integers."""
    loss: np.ndarray
    """(M,) of the learner."""
    hindsight: np.ndarray
    """(M,) the least that fixed weights reach on the first T steps, chosen knowing them: least squares, no ridge."""
    certificate: np.ndarray
    """(M,) `OnlineSpectralFilter.regret_bound`: what the learner knew of its regret without looking back."""
    rival: np.ndarray | None
    """(M,) of the predictions given to compare with, such as those of the true system or of its Kalman filter."""

    @property
    def regret(self) -> np.ndarray:
        """loss - hindsight, (M,)."""
        return self.loss - self.hindsight

    @property
    def average(self) -> np.ndarray:
        """Regret over T, (M,)."""
        return self.regret / self.steps

    @property
    def average_against_rival(self) -> np.ndarray:
        """(loss - loss of the rival) over T, (M,).

        Raises:
            ValueError: no rival was given.
        """
        if self.rival is None:
            raise ValueError("rival: None; give its predictions to regret_curve")
        return (self.loss - self.rival) / self.steps

    def slope(self, start: int = 1) -> float:
        """a of the least-squares line log(average) = a log(T) + c over T of at least ``start``.

        The theorems' rates: -1/2 for gradient descent; for recursive least squares log(T)/T, whose own slope is
        -1 + 1/log(T).

        Raises:
            ValueError: fewer than two positive averages there.
        """
        kept = (self.steps >= start) & (self.average > 0)
        if kept.sum() < 2:
            raise ValueError(f"start: {start}; fewer than two positive averages from there on")
        return float(np.polyfit(np.log(self.steps[kept]), np.log(self.average[kept]), 1)[0])


def regret_curve(
    model: OnlineSpectralFilter, U: Any, Y: Any, at: Sequence[int] | None = None, rival: Any = None
) -> RegretCurve:
    """Run a new learner over a sequence and compare its loss with the best in hindsight.

    Args:
        model: one that has seen nothing yet; it has learned from the sequence afterwards.
        U: (T, D_in), or (n, T, D_in) as the model's ``batch_size`` says.
        Y: (T, D_out) or (n, T, D_out), nothing missing.
        at: increasing numbers of steps at which to compare; None means 40 from 10 to T, evenly on a logarithmic scale.
        rival: predictions of another, shaped as Y.

    Raises:
        ValueError: a model that has seen something, shapes that do not fit, values not finite, steps out of order or range.
        TypeError: not numbers.
    """
    if model.steps:
        raise ValueError(f"model: has seen {model.steps} steps; regret is counted from the first")
    inputs, outputs = check_finite("U", real_array("U", U), False), check_finite("Y", real_array("Y", Y), False)
    if inputs.ndim not in (2, 3) or inputs.shape[:-1] != outputs.shape[:-1]:
        raise ValueError(f"Y: shape {outputs.shape}; beside U {inputs.shape} it must have as many steps")
    total = inputs.shape[-2]
    steps = np.unique(np.geomspace(min(10, total), total, 40).round().astype(int)) if at is None else np.asarray(at)
    if steps.dtype.kind not in "iu" or steps.ndim != 1 or not len(steps) or steps[0] < 1 or steps[-1] > total:
        raise ValueError(f"at: {at!r}; it must be integers from 1 to {total}")
    if (np.diff(steps) <= 0).any():
        raise ValueError(f"at: {at!r}; it must increase")
    rivals = None
    if rival is not None:
        predicted = check_finite("rival", real_array("rival", rival), False)
        if predicted.shape != outputs.shape:
            raise ValueError(f"rival: shape {predicted.shape}; it must be that of Y, {outputs.shape}")
        rivals = _cumulative(np.square(outputs - predicted), steps)
    predictions, certificate, start = np.empty_like(outputs), [], 0
    for stop in steps:
        piece = (..., slice(start, stop), slice(None))
        predictions[piece] = model.run(inputs[piece], outputs[piece])
        certificate.append(model.regret_bound)
        start = stop
    predictions[..., start:, :] = outputs[..., start:, :]
    loss = _cumulative(np.square(outputs - predictions), steps)
    hindsight = hindsight_loss(model.to_layer(), inputs, outputs, steps)
    return RegretCurve(steps, loss, hindsight, np.array(certificate), rivals)


def hindsight_loss(layer: STU, U: np.ndarray, Y: np.ndarray, at: Sequence[int] | np.ndarray) -> np.ndarray:
    """min_m Σ_{t≤T} ‖y_t - ŷ_t(m)‖² at every T of ``at``, (M,): next-step predictions from true outputs, from rest.

    Only the geometry of the layer counts. The design matrix is reduced by QR as it comes, so the residual is never a
    difference of large numbers, and memory does not grow with T.

    Args:
        layer: says which STU.
        U: (T, D_in) or (n, T, D_in). Y: (T, D_out) or (n, T, D_out).
        at: increasing numbers of steps, at most T.
    """
    u, y = U.reshape(-1, *U.shape[-2:]), Y.reshape(-1, *Y.shape[-2:])
    triangle, result, start = np.empty((0, 0)), [], 0
    pieces = _design(layer, u[:, : at[-1]], y[:, : at[-1]])
    pending: list[np.ndarray] = []
    targets = iter(at)
    goal = next(targets)
    for piece in pieces:  # (n, c, P + D_out)
        first = 0
        while goal is not None and start + piece.shape[1] >= goal:
            here = goal - start
            pending.append(piece[:, first:here].reshape(-1, piece.shape[2]))
            triangle, pending, first = _reduce(triangle, pending), [], here
            result.append(_residual(triangle, y.shape[2]))
            goal = next(targets, None)
        pending.append(piece[:, first:].reshape(-1, piece.shape[2]))
        start += piece.shape[1]
        if sum(map(len, pending)) >= _ROWS_AT_ONCE:
            triangle, pending = _reduce(triangle, pending), []
    return np.array(result)


def _design(layer: STU, u: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of features and target side by side, (n, c, P + D_out)."""
    stream, start = FeatureStream(layer, len(u)), 0
    lags = layer.output_lags
    known = np.concatenate([np.zeros((len(y), lags, y.shape[2])), y], axis=1)
    for features in stream.blocks(u):
        steps = features.shape[1]
        target, parts = y[:, start : start + steps], [features]
        if layer.autoregression == "fixed":
            target = target - known[:, start : start + steps]
        elif layer.autoregression == "learned":
            parts += [known[:, start + lags - i : start + lags - i + steps] for i in range(1, lags + 1)]
        yield np.concatenate([*parts, target], axis=2)
        start += steps


def _reduce(triangle: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    stacked = np.concatenate([*rows, triangle] if triangle.size else rows)
    return np.asarray(np.linalg.qr(stacked, mode="r"))


def _residual(triangle: np.ndarray, d_out: int) -> float:
    """The least squares' residual of what was reduced to [R Q; 0 E]; R may be singular."""
    width = triangle.shape[1] - d_out
    R, Q, rest = triangle[:width, :width], triangle[:width, width:], triangle[width:, width:]
    norms = np.maximum(np.linalg.norm(R, axis=0), np.finfo(float).tiny)
    m = np.linalg.lstsq(R / norms, Q, rcond=1e-14)[0]
    return float(np.square(R / norms @ m - Q).sum() + np.square(rest).sum())


def _cumulative(squares: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Sums over outputs, sequences and the first T steps, at every T."""
    each = squares.sum(axis=-1)
    each = each.sum(axis=0) if each.ndim == 2 else each
    return np.asarray(each.cumsum()[steps - 1])
