"""How good a model is: one definition of relative error, and the energy of a response beyond its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstu.layers.base import Mixer
from torchstu.layers.stu import STU
from torchstu.spectral.priors import positive_int


def relative_error(prediction: Any, target: Any) -> float:
    """Mean squared error over the mean square of the target: 0 is perfect, 1 is what predicting zero gets.

    Args:
        prediction, target: arrays or tensors of one shape.

    Raises:
        ValueError: shapes that differ, or a target that is zero everywhere.
    """
    prediction, target = torch.as_tensor(prediction).double(), torch.as_tensor(target).double()
    if prediction.shape != target.shape:
        raise ValueError(f"prediction: shape {tuple(prediction.shape)}; the target has {tuple(target.shape)}")
    power = target.square().mean()
    if not power > 0:
        raise ValueError("target: is zero everywhere, so no error is relative to it")
    return float((prediction - target).square().mean() / power)


def impulse_response(layer: Mixer, length: int) -> Tensor:
    """h_i of a linear mixer, (length, D_out, D_in), by running it on one pulse an input."""
    length, weight = positive_int("length", length), next(layer.parameters())
    pulses = torch.zeros(layer.d_in, length, layer.d_in, dtype=weight.dtype, device=weight.device)
    pulses[:, 0] = torch.eye(layer.d_in, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        return layer(pulses)[0].permute(1, 2, 0)


def feedback_radius(layer: Mixer) -> float:
    """Spectral radius of a layer's y-term, design (6): above 1 its roll-out grows without bound; 0 without a y-term.

    The fixed y-term is an integrator at ±1; a learned one can leave the unit disk.
    """
    if not isinstance(layer, STU) or layer.M_y is None:
        return 0.0
    M_y = layer.whole("M_y").detach().double().cpu()
    lags, width, _ = M_y.shape
    companion = torch.zeros(lags * width, lags * width, dtype=torch.float64)
    companion[:, :width] = M_y.flatten(0, 1)
    companion[: (lags - 1) * width, width:] = torch.eye((lags - 1) * width)
    return float(torch.linalg.eigvals(companion).abs().max())


def tail_energy(layer: Mixer, length: int, factor: int = 16) -> float:
    """Share of a linear mixer's response energy that lies in steps length..factor·length: what the data never saw."""
    squares = impulse_response(layer, factor * length).double().square().sum((1, 2))
    return float(squares[length:].sum() / squares.sum())
