"""Least squares in one pass: rows are reduced by QR as they come, and never kept, design (10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 1e150
"""Numbers whose squares can still be summed."""


@dataclass(frozen=True, eq=False)
class Triangles:
    """min Σ_rows w (f m - y)² over all rows seen, reduced to min ‖R m - Q‖² + rest.

    One triangle serves all outputs until some row counts for one output and not, or less, for another; from then on each output
    has its own.

    Attributes:
        factor: (G, P + E, P + E), upper triangular [[R, Q], [0, T]] with ‖T‖² = rest; G = 1, E = D_out or G = D_out, E = 1.
        counts: (D_out,) rows with a positive weight.
        outputs: D_out.
    """

    factor: Tensor
    counts: Tensor
    outputs: int

    @classmethod
    def empty(cls, width: int, outputs: int) -> Triangles:
        """No rows yet, P = ``width``."""
        size = width + outputs
        return cls(torch.zeros(1, size, size, dtype=torch.float64), torch.zeros(outputs, dtype=torch.int64), outputs)

    @property
    def width(self) -> int:
        """P."""
        return self.factor.shape[-1] - self.outputs // len(self.factor)

    def add(self, F: Tensor, y: Tensor, weights: Tensor) -> Triangles:
        """With more rows.

        Args:
            F: (n, P). y: (n, D_out). weights: (n, D_out), at least 0; where 0, y is not read.
        """
        counts = self.counts + (weights > 0).sum(dim=0)
        shared = bool((weights == weights[:, :1]).all())
        if shared:
            kept = weights[:, 0] > 0
            if not kept.all():
                F, y, weights = F[kept], y[kept], weights[kept]
        if shared and len(self.factor) == 1:
            root = weights[:, :1].sqrt()
            rows = torch.cat([F, y], dim=1)
            return Triangles(_reduce(self.factor, (rows if (root == 1).all() else rows * root)[None]), counts, self.outputs)
        factors = []
        for j, factor in enumerate(self.apart().factor):
            root = weights[:, j : j + 1].sqrt()
            kept = root[:, 0] > 0
            rows = torch.cat([F[kept], y[kept, j : j + 1]], dim=1) * root[kept]
            factors.append(_reduce(factor[None], rows[None]))
        return Triangles(torch.cat(factors), counts, self.outputs)

    def apart(self) -> Triangles:
        """The same with one triangle an output."""
        if len(self.factor) == self.outputs:
            return self
        width, whole = self.width, self.factor[0]
        apart = whole.new_zeros(self.outputs, width + 1, width + 1)
        apart[:, :width, :width] = whole[:width, :width]
        apart[:, :width, width] = whole[:width, width:].T
        apart[:, width, width] = whole[width:, width:].norm(dim=0)
        return Triangles(apart, self.counts, self.outputs)

    @staticmethod
    def together(parts: Sequence[Triangles]) -> Triangles:
        """The rows of all parts, which must agree in P and D_out."""
        if len(parts) == 1:
            return parts[0]
        if len({len(part.factor) for part in parts}) > 1:
            parts = [part.apart() for part in parts]
        factor = _reduce(parts[0].factor, torch.cat([part.factor for part in parts[1:]], dim=1))
        return Triangles(factor, torch.stack([part.counts for part in parts]).sum(dim=0), parts[0].outputs)

    def problems(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(R, Q, rest) of each group of outputs: (P, P), (P, E), (E,)."""
        width = self.width
        return [(f[:width, :width], f[:width, width:], f[width:, width:].square().sum(dim=0)) for f in self.factor]

    def columns(self, kept: Tensor) -> Triangles:
        """The problem with some columns only, in the order given; kept (P',) of indices."""
        index = torch.cat([kept, torch.arange(self.width, self.factor.shape[-1])])
        return Triangles(torch.linalg.qr(self.factor[:, :, index], mode="r").R, self.counts, self.outputs)

    def squared_target(self) -> Tensor:
        """Σ w y² of each output, (D_out,)."""
        return torch.cat([Q.square().sum(dim=0) + rest for _, Q, rest in self.problems()])

    def squared_error(self, m: Tensor) -> Tensor:
        """Σ w (f m - y)² of each output, (D_out,), for m (P, D_out)."""
        parts, start = [], 0
        for R, Q, rest in self.problems():
            stop = start + Q.shape[1]
            parts.append((R @ m[:, start:stop] - Q).square().sum(dim=0) + rest)
            start = stop
        return torch.cat(parts)


def _reduce(factor: Tensor, rows: Tensor) -> Tensor:
    """The triangle (G, W, W) of rows (G, n, W) below a triangle."""
    triangle = torch.linalg.qr(torch.cat([factor, rows], dim=1), mode="r").R
    if not bool((triangle.abs() < LARGEST).all()):  # NaN too
        raise ValueError("U, Y: values so large that their squares overflow; scale them")
    return triangle
