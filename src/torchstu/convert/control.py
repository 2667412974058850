"""Systems for python-control and SciPy, and back, equation (7). Their outputs read the state *before* the step, ours after it.

    ours:    x_t = A x_{t-1} + B u_t,      y_t = C x_t + D u_t
    theirs:  ξ_{t+1} = A ξ_t + B u_t,      y_t = C' ξ_t + D' u_t        with ξ_t = x_{t-1}, C' = C A, D' = C B + D

A and B are the same, and so are all outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from torchstu.extras import require
from torchstu.systems.lds import LDS

_SOLVABLE = 1e-10
"""Singular values of A below this share of the largest are not divided by; what they carry becomes states of its own."""


def to_control(
    lds: LDS, sample_time: float | bool = True, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> Any:
    """The system as a ``control.StateSpace`` with the same outputs; needs the extra ``control``.

    Args:
        lds: the system.
        sample_time: seconds between steps, above 0; True is python-control's "discrete, step not given".
        inputs, outputs: names of the signals.

    Raises:
        ValueError: a sample time that is not above 0, a number of names that does not fit.
        TypeError: another kind of object.
        MissingExtraError: python-control is not installed.

    Source: python-control, ``control.StateSpace``.
    """
    time, names = check_sample_time(sample_time), {}
    for key, given, width in (("inputs", inputs, _system(lds).d_in), ("outputs", outputs, lds.d_out)):
        if given is not None and len(given) != width:
            raise ValueError(f"{key}: {len(given)} names; the system has {width}")
        if given is not None:
            names[key] = list(given)
    return require("control", "control").ss(*after_step(lds), time, **names)


def to_scipy(lds: LDS, sample_time: float | bool = True) -> Any:
    """The system as a discrete ``scipy.signal.StateSpace`` (a ``dlti``) with the same outputs; needs the extra ``control``.

    Args:
        lds: the system.
        sample_time: seconds between steps, above 0; True is SciPy's "step not given".

    Raises:
        ValueError: a sample time that is not above 0. TypeError: another kind of object.
        MissingExtraError: SciPy is not installed.

    Source: SciPy, ``scipy.signal.dlti``.
    """
    time = check_sample_time(sample_time)
    return require("control", "scipy.signal").dlti(*after_step(_system(lds)), dt=time)


def from_control(system: Any) -> LDS:
    """A discrete ``control.StateSpace`` or ``scipy.signal`` state space as an `LDS` with the same outputs.

    C solves C A = C' in the directions that A does not lose; what it loses, such as a pure delay at the output, takes states of
    its own, at most D_out. The sample time is not kept: an `LDS` counts steps.

    Args:
        system: ``control.StateSpace`` with dt True, None or above 0, or the discrete ``scipy.signal.StateSpace``; make one of a
            transfer function by ``control.ss`` or ``.to_ss()``.

    Raises:
        TypeError: no state space. ValueError: one of continuous time, values that are not finite.
    """
    home = type(system).__module__.split(".")[0]
    if home not in ("control", "scipy") or not all(hasattr(system, name) for name in "ABCD"):
        raise TypeError(f"system: {type(system).__name__}; it must be a state space of python-control or scipy.signal")
    time = system.dt
    if (time is None and home == "scipy") or (time is not None and not time > 0):
        raise ValueError("system: is of continuous time; make it discrete first (control.c2d, scipy.signal.cont2discrete)")
    return before_step(*(np.array(getattr(system, name), dtype=np.float64) for name in "ABCD"))


def after_step(lds: LDS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B, C A, C B + D: the matrices of x_{t+1} = A x_t + B u_t, y_t = C' x_t + D' u_t."""
    A, B, C, D = (getattr(lds, name).numpy() for name in "ABCD")
    return A.copy(), B.copy(), C @ A, C @ B + D


def before_step(A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray) -> LDS:
    """The `LDS` of matrices of x_{t+1} = A x_t + B u_t, y_t = C x_t + D u_t: the inverse of `after_step`.

    With A = U S Vᵀ cut at small singular values, C₁ = C V S⁻¹ Uᵀ reads the state after the step. The rest, C - C₁ A = P Q of
    rank r, reads r further states q_t = Q x_{t-1}.
    """
    states = len(A)
    if not states:
        return LDS(A, B, C, D)
    left, s, right = np.linalg.svd(A)
    kept = s > _SOLVABLE * max(s[0], np.finfo(float).tiny)
    read = (C @ right[kept].T / s[kept]) @ left[:, kept].T
    P, t, Q = np.linalg.svd(C - read @ A, full_matrices=False)
    lost = t > 1e-14 * max(np.abs(C).max(initial=0.0), np.finfo(float).tiny)
    P, Q = P[:, lost] * t[lost], Q[lost]
    extra = len(Q)
    transition = np.block([[A, np.zeros((states, extra))], [Q, np.zeros((extra, extra))]])
    return LDS(transition, np.concatenate([B, np.zeros((extra, B.shape[1]))]), np.concatenate([read, P], axis=1), D - read @ B)


def check_sample_time(value: Any) -> float | bool:
    """True, or a finite number above 0.

    Raises:
        ValueError: another number. TypeError: no number.
    """
    if value is True:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"sample_time: {value!r}; it must be a number of seconds, or True for steps")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"sample_time: {value}; it must be above 0 and finite")
    return float(value)


def _system(lds: Any) -> LDS:
    if not isinstance(lds, LDS):
        raise TypeError(f"lds: {type(lds).__name__}; it must be an LDS (to_lds makes one of a layer)")
    return lds
