"""How the weights of an online learner move: recursive least squares, and projected online gradient descent."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from torchstu.learn.online_input import positive_number

Method = Literal["rls", "gradient", "none"]

DEFAULT_RIDGE = 1e-2
"""δ of recursive least squares: costs next to nothing without noise, and with 10 % noise 1e-6 loses 40 times as much."""
MOST_FADED = 0.5
"""Share of the regularization that may fade before recursive least squares with forgetting puts it back."""
LONGEST_PERIOD = 1024
"""Updates between two such refreshes at most."""
_OVERFLOW = "y_t: so large, or the inputs so large, that the update overflows; scale them"


class RecursiveLeastSquares:
    """Weights m (P, D_out) that minimize a regularized sum of squared errors over all that was seen, one step at a time.

    With A_0 = δ I and time counted in updates, for the features f_t (a row for each of n sequences) and targets r_t,

        A_t = γ A_{t-1} + f_tᵀ f_t,    m_t = m_{t-1} + A_t^{-1} f_tᵀ (r_t - f_t m_{t-1})

    which for γ = 1 is the minimizer of Σ_s ‖r_s - f_s m‖² + δ ‖m - m_0‖². Instead of A a square root S of its inverse is kept,
    A^{-1} = S Sᵀ, and updated by Potter's formula: nothing is inverted, no difference of squares is taken, and S Sᵀ cannot
    become indefinite. The cost is O(n P²) a step.

    **Stabilized forgetting.** With γ < 1 the data fade, and with a plain recursion δ I would fade with them: inputs that stay
    constant excite one direction, and in all others A^{-1} would grow like γ^{-t} until rounding errors excite them (measured:
    3e31, and weights of no use). So after every p updates the part of the regularization that has faded is put back, around
    the weights as they are,

        A ← A + (1 - γ^p) δ I,    m unchanged,

    with p the largest number up to 1024 at which γ^p is at least 1/2. Hence A ≥ δ I after each refresh and A ≥ δ/2 I always (if
    γ is at least 1/2, else γ δ I), and weights on which the inputs say nothing stay where they are.

    **Regret.** For γ = 1, Σ_t ‖r_t - f_t m_{t-1}‖² - min_m {Σ_t ‖r_t - f_t m‖² + δ ‖m - m_0‖²} is known exactly at all times:
    the second term is the sum of squared innovations over their variance. It is at most max_t ‖r_t - f_t m_{t-1}‖² ·
    log det(A_T / δ), so O(log T).

    Source: G. J. Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, for Potter's formula; K. S. Azoury
    and M. K. Warmuth, Machine Learning 43, 2001, for the regret; S. Gunnarsson, "Combining tracking and regularization in
    recursive least squares identification", CDC 1996, for regularization that does not fade.
    """

    def __init__(self, weights: np.ndarray, ridge: float, forgetting: float) -> None:
        self.weights, self.root = weights.copy(), np.eye(len(weights)) / math.sqrt(ridge)
        self.ridge, self.forgetting = ridge, forgetting
        self.updates, self.loss, self.hindsight = 0, 0.0, 0.0
        self.period = LONGEST_PERIOD
        if forgetting < 1:
            self.period = min(LONGEST_PERIOD, max(1, math.floor(math.log(MOST_FADED) / math.log(forgetting) + 1e-9)))

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
    def update(self, features: np.ndarray, target: np.ndarray) -> None:
        """Learn from a step: features (n, P), target (n, D_out).

        Raises:
            ValueError: the update overflows; nothing is changed then.
        """
        root, weights = (self.root if len(features) == 1 else self.root.copy()), self.weights
        fade, hindsight, change = 1 / math.sqrt(self.forgetting), 0.0, None
        errors = target - features @ weights
        for f, r in zip(features, target, strict=True):
            if change is not None:
                root -= change
            projected = (f @ root) * fade  # Sᵀ f
            energy = float(projected @ projected)
            gain = (root @ projected) * (fade / (1 + energy))
            error = r - f @ weights
            weights = weights + gain[:, None] * error
            hindsight += float(error @ error) / (1 + energy)
            share = 1 / (1 + 1 / math.sqrt(1 + energy))
            change = (gain * (share / fade))[:, None] * projected
            if not (math.isfinite(energy) and math.isfinite(hindsight) and math.isfinite(weights.sum())):
                raise ValueError(_OVERFLOW)
        loss = float(np.vdot(errors, errors))
        if not math.isfinite(loss):
            raise ValueError(_OVERFLOW)
        if change is not None:
            root -= change
        if fade != 1:
            root *= fade
        self.root, self.weights = root, weights
        self.updates, self.loss, self.hindsight = self.updates + 1, self.loss + loss, self.hindsight + hindsight
        if self.forgetting < 1 and self.updates % self.period == 0:
            self._refresh()

    def _refresh(self) -> None:
        """A ← A + (1 - γ^p) δ I: S ← S T^{-1} with Tᵀ T = I + (1 - γ^p) δ Sᵀ S."""
        restored = math.sqrt((1 - self.forgetting**self.period) * self.ridge)
        triangle = np.asarray(np.linalg.qr(np.concatenate([np.eye(len(self.root)), restored * self.root]), mode="r"))
        self.root = np.linalg.solve(triangle.T, self.root.T).T.copy()

    @property
    def regret_bound(self) -> float:
        """Loss so far less the regularized best in hindsight, exact; NaN with forgetting, which minimizes another sum."""
        return self.loss - self.hindsight if self.forgetting == 1 else math.nan

    def state(self) -> dict[str, Any]:
        """All that changes."""
        return {name: getattr(self, name) for name in ("weights", "root", "updates", "loss", "hindsight")}


class GradientDescent:
    """Weights m (P, D_out) that follow the gradient g_t = -2 f_tᵀ (r_t - f_t m_t) of the step's squared error, in a ball.

        m_{t+1} = Π(m_t - η_t g_t),    Π the projection on ‖m - m_0‖ ≤ R (Frobenius)

    With a bound G on ‖g_t‖ that is known before, η_t = R / (G √t). Without one, η_t = √2 R / √(Σ_{s≤t} ‖g_s‖²), which adapts to
    the gradients met. Both never grow, hence for every m in the ball

        Σ_t ‖r_t - f_t m_t‖² - Σ_t ‖r_t - f_t m‖² ≤ 2 R² / η_T + ½ Σ_t η_t ‖g_t‖²

    which is at most 3 R G √T for the first and 2 √2 R √(Σ_t ‖g_t‖²) ≤ 2 √2 R G √T for the second. `regret_bound` is the right
    side, with the numbers met.

    Source: M. Zinkevich, "Online convex programming and generalized infinitesimal gradient ascent", ICML 2003; as the learner
    of spectral filtering: E. Hazan, K. Singh and C. Zhang, arXiv 1711.00946. Adaptive rate: M. Streeter and H. B. McMahan,
    arXiv 1002.4862.
    """

    def __init__(self, weights: np.ndarray, radius: float, gradient_bound: float | None) -> None:
        self.start, self.weights = weights.copy(), weights.copy()
        self.radius, self.gradient_bound = radius, gradient_bound
        self.updates, self.loss, self.squares, self.rate, self.moved = 0, 0.0, 0.0, math.inf, 0.0
        self.largest_gradient = 0.0

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
    def update(self, features: np.ndarray, target: np.ndarray) -> None:
        """Learn from a step: features (n, P), target (n, D_out).

        Raises:
            ValueError: the update overflows; nothing is changed then.
        """
        error = target - features @ self.weights
        gradient = -2 * (features.T @ error)
        square, loss = float(np.vdot(gradient, gradient)), float(np.vdot(error, error))
        squares = self.squares + square
        if not (math.isfinite(squares) and math.isfinite(loss)):
            raise ValueError(_OVERFLOW)
        self.updates, self.loss, self.squares = self.updates + 1, self.loss + loss, squares
        self.largest_gradient = max(self.largest_gradient, math.sqrt(square))
        if not square:
            return
        if self.gradient_bound is None:
            self.rate = math.sqrt(2) * self.radius / math.sqrt(squares)
        else:
            self.rate = self.radius / (self.gradient_bound * math.sqrt(self.updates))
        self.moved += self.rate * square / 2
        offset = self.weights - self.rate * gradient - self.start
        distance = math.sqrt(float(np.square(offset).sum()))
        if distance > self.radius:
            offset *= self.radius / distance
        self.weights = self.start + offset

    @property
    def regret_bound(self) -> float:
        """2 R² / η_T + ½ Σ η_t ‖g_t‖²: what the loss so far can exceed that of any fixed weights in the ball by."""
        return 0.0 if math.isinf(self.rate) else 2 * self.radius**2 / self.rate + self.moved

    def state(self) -> dict[str, Any]:
        """All that changes."""
        names = ("weights", "updates", "loss", "squares", "rate", "moved", "largest_gradient")
        return {name: getattr(self, name) for name in names}


class FixedWeights:
    """Weights that stay as they are; the loss is counted.

    Source: ours, for streams on which a fitted model runs.
    """

    regret_bound = math.nan

    def __init__(self, weights: np.ndarray) -> None:
        self.weights, self.updates, self.loss = weights.copy(), 0, 0.0

    def update(self, features: np.ndarray, target: np.ndarray) -> None:
        """Count a step: features (n, P), target (n, D_out)."""
        error = target - features @ self.weights
        self.updates, self.loss = self.updates + 1, self.loss + float(np.vdot(error, error))

    def state(self) -> dict[str, Any]:
        """All that changes, and the weights."""
        return {name: getattr(self, name) for name in ("weights", "updates", "loss")}


def make_learner(
    method: Method,
    weights: np.ndarray,
    ridge: float | None,
    forgetting: float | None,
    radius: float | None,
    gradient_bound: float | None,
) -> RecursiveLeastSquares | GradientDescent | FixedWeights:
    """A method by its name, from the weights m_0 (P, D_out).

    Raises:
        ValueError: an unknown method, options out of range, missing, or of the other method. TypeError: options that are no
            numbers.
    """
    if method not in ("rls", "gradient", "none"):
        raise ValueError(f"method: {method!r}; it must be 'rls', 'gradient' or 'none'")
    of_gradient, of_rls = {"radius": radius, "gradient_bound": gradient_bound}, {"ridge": ridge, "forgetting": forgetting}
    others = {"rls": of_gradient, "gradient": of_rls, "none": of_gradient | of_rls}
    for name, value in others[method].items():
        if value is not None:
            raise ValueError(f"{name}: {value!r} with method={method!r}, which has none; it must be None")
    if method == "none":
        return FixedWeights(weights)
    if method == "rls":
        ridge = positive_number("ridge", DEFAULT_RIDGE if ridge is None else ridge)
        forgetting = positive_number("forgetting", 1.0 if forgetting is None else forgetting)
        if forgetting > 1:
            raise ValueError(f"forgetting: {forgetting!r}; it must be above 0 and at most 1")
        return RecursiveLeastSquares(weights, ridge, forgetting)
    if radius is None:
        raise ValueError("radius: None; method='gradient' needs a positive number, of the ball that the weights stay in")
    bound = None if gradient_bound is None else positive_number("gradient_bound", gradient_bound)
    return GradientDescent(weights, positive_number("radius", radius), bound)
