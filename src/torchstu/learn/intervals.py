"""How sure a closed-form fit is: standard errors, and intervals for predictions and responses, design (10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from torchstu.learn.accumulation import Triangles
from torchstu.learn.least_squares import spread
from torchstu.learn.rows import RowMaker
from torchstu.ops.autoregression import fixed_feedback


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """m of the closed form as a normal variable: mean from the fit, covariance s_j² S Sᵀ for output j.

    S Sᵀ = (RᵀR + penalties)⁻¹ is the covariance of the Bayesian posterior whose prior the penalties are; it is honest as far as
    the errors of rows are alike and independent, with variance s_j² at weight 1.

    Attributes:
        variance: s², (D_out,).
        degrees: degrees of freedom left over, (D_out,).
        factors: S (P, r), one for all outputs or one an output.
    """

    variance: Tensor
    degrees: Tensor
    factors: list[Tensor]

    @classmethod
    def of(cls, triangles: Triangles, penalty: Tensor, m: Tensor) -> Uncertainty:
        """From a solved problem: s² = squared error / (rows - parameters that the data fix)."""
        factors = spread(triangles, penalty)
        used = torch.stack([(R @ S).square().sum() for (R, _, _), S in zip(triangles.problems(), factors, strict=True)])
        counts = triangles.counts.double()
        degrees = counts - used.expand(len(counts))
        return cls(triangles.squared_error(m) / degrees.clamp(min=1.0), degrees, factors)

    def of_rows(self, rows: Tensor) -> Tensor:
        """Variance of f m over s², (..., D_out), for rows f (..., P), real or complex."""
        parts = [torch.matmul(rows, S.to(rows.dtype)).abs().square().sum(dim=-1) for S in self.factors]
        return torch.stack(parts, dim=-1).expand(*rows.shape[:-1], len(self.variance))

    def standard_errors(self, maker: RowMaker) -> Tensor:
        """Of the weights M = m / scale, (P, D_out)."""
        own = torch.stack([S.square().sum(dim=1) for S in self.factors], dim=1).expand(-1, len(self.variance))
        errors = (own * self.variance).sqrt() / maker.scale[:, None]
        return torch.where(self.degrees < 1, torch.inf, errors)

    def quantile(self, level: float) -> Tensor:
        """Half the width of the two-sided interval in standard deviations, (D_out,): Student's t, by its expansion in 1/df.

        Exact for df = 1 and 2; infinite where data that are fitted exactly say nothing on the noise.
        """
        z = NormalDist().inv_cdf((1 + level) / 2)
        d = self.degrees.clamp(min=3.0)
        t = z + (z**3 + z) / (4 * d) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
        t = torch.where(self.degrees < 3, level * math.sqrt(2 / (1 - level**2)), t)
        t = torch.where(self.degrees < 2, math.tan(math.pi * level / 2), t)
        return torch.where(self.degrees < 1, torch.inf, t)


def half_width(uncertainty: Uncertainty, maker: RowMaker, F: Tensor, level: float, start: int = 0) -> Tensor:
    """Half the interval of a new output: its own noise, what the outputs a roll-out started from pass on, and that of m.

    Args:
        uncertainty: of the fit.
        maker: that made the rows, its ``warmup`` the steps of known past.
        F: (N, T, P).
        level: share of outputs inside.
        start: steps of the roll-out before these rows.
    """
    own = torch.ones(F.shape[1], 1, dtype=torch.float64)
    known = min(maker.warmup, len(maker.coefficients)) if maker.rollout else 0
    if known:
        pulses = torch.eye(len(maker.coefficients), dtype=torch.float64)[:known, :, None]
        still = torch.zeros(known, start + F.shape[1], 1, dtype=torch.float64)
        passed_on = fixed_feedback(still, maker.coefficients, pulses)[:, start:, 0]
        own = own + passed_on.square().sum(dim=0)[:, None]
    return uncertainty.quantile(level) * (uncertainty.variance * (own + uncertainty.of_rows(F))).sqrt()


def conformal_quantile(errors: Tensor, level: float) -> Tensor:
    """The ⌈level·(n+1)⌉-th smallest |error| of each output, infinite where n is too small for the level; errors (n, D_out).

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (split conformal prediction).
    """
    rank = math.ceil(level * (len(errors) + 1))
    if rank > len(errors):
        return torch.full((errors.shape[1],), math.inf, dtype=torch.float64)
    return errors.abs().sort(dim=0).values[rank - 1]
