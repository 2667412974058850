"""The Kalman filter of a known system: the floor of one-step prediction, design (7)."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from torchstu.spectral.priors import positive_int
from torchstu.systems.lds import LDS

_CONVERGED, _LOOK = 1e-12, 16  # largest change of P, relative, between two looks


class KalmanFilter:
    """The best linear prediction of y_t from u_1..u_t and y_1..y_{t-1}, of a system that is known, with its noises.

    x_t = A x_{t-1} + B u_t + w_t,  y_t = C x_t + D u_t + v_t,  w_t ~ N(0, q² I),  v_t ~ N(0, r² I),  x_0 known. With P the
    covariance of the error of the state before y_t is seen,

        S = C P Cᵀ + r² I,   K = P Cᵀ S⁻¹,   P⁺ = (I - K C) P (I - K C)ᵀ + r² K Kᵀ,   P <- A P⁺ Aᵀ + q² I,

    Joseph's form, in float64; a symmetric A is taken to its eigenvectors first. Gains do not depend on the data: they are
    computed once for all sequences, and only until they have converged; from there on the last is kept.

    Args:
        system: the `LDS`.
        process_noise: q, standard deviation in units of the state, as in `LDS.simulate`.
        observation_noise: r, in units of the output.

    Raises:
        TypeError: a system that is none, noises that are no numbers. ValueError: negative noises.

    Source: Kalman, 1960; Anderson and Moore, Optimal Filtering, 1979.
    """

    def __init__(self, system: LDS, process_noise: float, observation_noise: float) -> None:
        if not isinstance(system, LDS):
            raise TypeError(f"system: {type(system).__name__}; it must be an LDS")
        for name, value in {"process_noise": process_noise, "observation_noise": observation_noise}.items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{name}: {type(value).__name__}; it must be a number")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value}; it must be at least 0 and finite")
        self.system, self.process_noise, self.observation_noise = system, float(process_noise), float(observation_noise)
        self._basis: Tensor | None = None
        self._A, self._B, self._C = system.A, system.B, system.C
        if torch.equal(system.A, system.A.T):  # orthogonal coordinates leave q² I as it is
            self._A, self._basis = torch.linalg.eigh(system.A)
            self._B, self._C = self._basis.T @ system.B, system.C @ self._basis

    def gains(self, steps: int) -> tuple[list[Tensor], Tensor]:
        """Gains by step and the covariance of the last prediction's error.

        Args:
            steps: at most so many; fewer come back once the gain has converged.

        Returns:
            K of the steps 1, 2, …, (N, D_out) each, and S = C P Cᵀ + r² I of the last of them, (D_out, D_out).
        """
        basis = self._basis
        found, S = self._gains(positive_int("steps", steps))
        return found if basis is None else [basis @ K for K in found], S

    def _gains(self, steps: int) -> tuple[list[Tensor], Tensor]:
        """`gains` in the coordinates of the recursion: (I - K C) P costs N² D_out there, and A P Aᵀ too if A is diagonal."""
        A, C, q2, r2 = self._A, self._C, self.process_noise**2, self.observation_noise**2
        P, R = q2 * torch.eye(C.shape[1], dtype=torch.float64), r2 * torch.eye(len(C), dtype=torch.float64)
        decay = torch.outer(A, A) if A.ndim == 1 else None
        found, S, before = [], R, P.clone()
        for step in range(1, steps + 1):
            PC = P @ C.T
            S = C @ PC + R
            K = PC @ torch.linalg.pinv(S, hermitian=True)
            found.append(K)
            after = PC - K @ (S - R)  # (I - K C) P Cᵀ
            P.addmm_(torch.cat([K, after - r2 * K], 1), torch.cat([PC, K], 1).T, alpha=-1.0)  # Joseph's form, of rank 2 D_out
            P = P.mul_(decay) if decay is not None else A @ P @ A.T
            P.diagonal().add_(q2)
            if step % _LOOK == 0:
                P = (P + P.T) / 2
                if (P - before).abs().max() <= _CONVERGED * before.abs().max():
                    break
                before = P.clone()
        return found, S

    def predict_next(self, U: Tensor, Y: Tensor, x0: Tensor | None = None) -> Tensor:
        """Predictions of y_t from inputs up to t and outputs up to t-1.

        Args:
            U: (B, L, D_in) or (L, D_in). Y: (B, L, D_out) or (L, D_out), as observed: every one of them, as gains do not depend
                on the data.
            x0: the state before the first step, (N,) or (B, N); zero if None.

        Returns:
            (B, L, D_out) or (L, D_out), float64.

        Raises:
            ValueError: shapes that do not fit, values not finite.
        """
        U, Y, system = torch.as_tensor(U), torch.as_tensor(Y), self.system
        for name, value, width in (("U", U, system.d_in), ("Y", Y, system.d_out)):
            if value.ndim not in (2, 3) or value.shape[-1] != width or 0 in value.shape:
                raise ValueError(f"{name}: shape {tuple(value.shape)}; it must be (B, L, {width}) or (L, {width})")
            if not value.isfinite().all():
                raise ValueError(f"{name}: {int((~value.isfinite()).sum())} values are not finite; all must be")
        if U.shape[:-1] != Y.shape[:-1]:
            raise ValueError(f"Y: shape {tuple(Y.shape)}; beside U {tuple(U.shape)} it must have as many sequences and steps")
        if U.ndim == 2:
            return self.predict_next(U[None], Y[None], x0)[0]
        U, Y = U.double(), Y.double()
        x = torch.zeros(len(U), system.state_dim, dtype=torch.float64)
        if x0 is not None:
            x0 = torch.as_tensor(x0)
            if x0.shape not in ((system.state_dim,), x.shape):
                raise ValueError(f"x0: shape {tuple(x0.shape)}; it must be ({system.state_dim},) or {tuple(x.shape)}")
            x = x + x0.double()
        if self._basis is not None:
            x = x @ self._basis
        gains, _ = self._gains(U.shape[1])
        drive, direct, A_T, C_T = (
            U @ self._B.T,
            U @ system.D.T,
            self._A.mT.contiguous() if self._A.ndim == 2 else self._A,
            self._C.T.contiguous(),
        )
        predictions = torch.empty_like(Y)
        for t in range(U.shape[1]):
            x = drive[:, t] + (x * A_T if A_T.ndim == 1 else x @ A_T)
            predictions[:, t] = torch.addmm(direct[:, t], x, C_T)
            x = x + (Y[:, t] - predictions[:, t]) @ gains[min(t, len(gains) - 1)].T
        return predictions
