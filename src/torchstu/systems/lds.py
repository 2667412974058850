"""Linear dynamical systems x_t = A x_{t-1} + B u_t, y_t = C x_t + D u_t, design (7)."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstu.spectral.priors import positive_int


class LDS:
    """A linear dynamical system in float64.

    x_t = A x_{t-1} + B u_t + w_t,  y_t = C x_t + D u_t + v_t,  t = 1, 2, …, with x_0 = 0 unless given.

    Args:
        A: (N, N), array or tensor. B: (N, D_in). C: (D_out, N). D: (D_out, D_in).

    Raises:
        ValueError: shapes that do not fit, values that are not finite.
        TypeError: complex or non-numeric matrices.
    """

    def __init__(self, A: object, B: object, C: object, D: object) -> None:
        self.A, self.B, self.C, self.D = (_matrix(n, m) for n, m in zip("ABCD", (A, B, C, D), strict=True))
        n, d_in, d_out = len(self.A), self.B.shape[1], len(self.C)
        for name, expected in {"A": (n, n), "B": (n, d_in), "C": (d_out, n), "D": (d_out, d_in)}.items():
            if tuple(getattr(self, name).shape) != expected:
                raise ValueError(f"{name}: shape {tuple(getattr(self, name).shape)}; beside the others it must be {expected}")

    @property
    def state_dim(self) -> int:
        """N."""
        return len(self.A)

    @property
    def d_in(self) -> int:
        """Input channels."""
        return self.B.shape[1]

    @property
    def d_out(self) -> int:
        """Output channels."""
        return len(self.C)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of A, (N,) complex."""
        return torch.linalg.eigvals(self.A)

    def simulate(
        self,
        u: Tensor,
        x0: Tensor | None = None,
        process_noise: float = 0.0,
        observation_noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Outputs for given inputs.

        Args:
            u: (B, L, D_in) or (L, D_in).
            x0: state before the first step, (N,) or (B, N); zero if None.
            process_noise: standard deviation of w_t, in units of the state.
            observation_noise: standard deviation of v_t, in units of the output.
            generator: source of the noise.

        Returns:
            y (B, L, D_out) or (L, D_out), float64.

        Raises:
            ValueError: shapes that do not fit, negative noise.
        """
        u = torch.as_tensor(u)
        if u.ndim not in (2, 3) or u.shape[-1] != self.d_in:
            raise ValueError(f"u: shape {tuple(u.shape)}; it must be (B, L, {self.d_in}) or (L, {self.d_in})")
        for name, value in {"process_noise": process_noise, "observation_noise": observation_noise}.items():
            if not value >= 0:
                raise ValueError(f"{name}: {value}; it must be at least 0")
        if u.ndim == 2:
            return self.simulate(u[None], x0, process_noise, observation_noise, generator)[0]
        u = u.double()
        batch, steps, _ = u.shape
        x = torch.zeros(batch, self.state_dim, dtype=u.dtype)
        if x0 is not None:
            x0 = torch.as_tensor(x0)
            if x0.shape not in ((self.state_dim,), x.shape):
                raise ValueError(f"x0: shape {tuple(x0.shape)}; it must be ({self.state_dim},) or {tuple(x.shape)}")
            x = x + x0.double()
        drive = u @ self.B.T
        if process_noise:
            drive = drive + process_noise * torch.randn(drive.shape, generator=generator, dtype=u.dtype)
        states, A_T = torch.empty_like(drive), self.A.T.contiguous()
        for t in range(steps):
            x = torch.addmm(drive[:, t], x, A_T)
            states[:, t] = x
        y = states @ self.C.T + u @ self.D.T
        if observation_noise:
            y = y + observation_noise * torch.randn(y.shape, generator=generator, dtype=u.dtype)
        return y

    def impulse_response(self, length: int) -> Tensor:
        """h_i = C A^i B + [i = 0] D, i = 0..length-1, (length, D_out, D_in): y_t = Σ_i h_i u_{t-i}."""
        length = positive_int("length", length)
        pulses = torch.eye(self.d_in, dtype=torch.float64)[:, None, :]  # a batch of one pulse an input
        u = torch.nn.functional.pad(pulses, (0, 0, 0, length - 1))
        return self.simulate(u).permute(1, 2, 0).contiguous()

    def __repr__(self) -> str:
        return f"LDS(state_dim={self.state_dim}, d_in={self.d_in}, d_out={self.d_out})"


def _matrix(name: str, value: object) -> Tensor:
    matrix = torch.as_tensor(value)
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(f"{name}: dtype {matrix.dtype}; it must be real")
    matrix = matrix.detach().double().cpu().contiguous()
    if matrix.ndim != 2:
        raise ValueError(f"{name}: shape {tuple(matrix.shape)}; it must be a matrix")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name}: has values that are not finite")
    return matrix
