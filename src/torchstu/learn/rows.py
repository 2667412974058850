"""The rows of the regression behind the closed form, design (10), piece by piece: memory does not grow with a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from torchstu.layers.stu import STU
from torchstu.ops.autoregression import fixed_feedback, fixed_innovation
from torchstu.ops.convolution import features
from torchstu.ops.recurrence import powers

NUMBERS_AT_ONCE = 2**21
"""Numbers of feature matrix held at a time."""
NUMBERS_UNCUT = 2**24
"""The same for one sequence within the memory, whose features are exact only as a whole."""


class Past(NamedTuple):
    """What rows need of the steps before, of N sequences side by side."""

    window: Tensor  # (N, m, D_in) inputs, oldest first
    states: Tensor  # (N, banks, R, D_in) the bank's recurrence, design (8)
    outputs: Tensor  # (N, k, D_out) true outputs, most recent first
    summed: Tensor  # (N, n, P + D_out + 1) what the fixed y-term feeds back, most recent first; see `RowMaker.rows`
    seen: int  # steps

    @classmethod
    def together(cls, parts: list[Past]) -> Past:
        """Of all sequences, side by side."""
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in cls._fields[:-1]}
        return cls(**tensors, seen=parts[0].seen)


class Rows(NamedTuple):
    """F m ≈ target, weighted 0 where a number is missing."""

    F: Tensor  # (N, T, P) in coordinates of unit-norm filters, an intercept's column first
    target: Tensor  # (N, T, D_out)
    observed: Tensor  # (N, T, D_out) bool


@dataclass(frozen=True, eq=False)
class RowMaker:
    """Rows of the objective for a layer whose weights are sought, design (10).

    With a(z) the polynomial of the fixed y-term and S its inverse, ŷ = S F m is the roll-out and a(z) y = F m the next step.

    Attributes:
        layer: gives banks, lags and y-term; its weights are not read.
        rollout: whether the error is that of the roll-out or of the next step.
        intercept: whether a constant is added to the output.
        warmup: steps at the start of a sequence that are a known past and give no rows.
    """

    layer: STU
    rollout: bool
    intercept: bool
    warmup: int
    _kept: dict[tuple[int, bool], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """a_j of the fixed y-term y_t = Σ_j a_j y_{t-j} + …; none without one."""
        return self.layer.fixed_coefficients or ()

    @property
    def kernel_width(self) -> int:
        """Columns of filters and input lags."""
        layer = self.layer
        return (layer.num_filters * len(layer.signs) + layer.input_lags) * layer.d_in

    @property
    def width(self) -> int:
        """P, columns of F."""
        learned = self.layer.output_lags * self.layer.d_out if self.layer.autoregression == "learned" else 0
        return int(self.intercept) + self.kernel_width + learned

    @cached_property
    def groups(self) -> dict[str, slice]:
        """Which columns are whose."""
        start = int(self.intercept)
        stop = start + self.kernel_width
        return {"intercept": slice(0, start), "kernel": slice(start, stop), "outputs": slice(stop, self.width)}

    @cached_property
    def scale(self) -> Tensor:
        """(P,) with m = scale · M: σ^{1/4} on the columns of filters, else 1."""
        layer = self.layer
        filters = torch.as_tensor(layer.bank.eigenvalues**0.25).repeat(len(layer.signs)).repeat_interleave(layer.d_in)
        scale = torch.ones(self.width, dtype=torch.float64)
        scale[self.groups["kernel"]][: len(filters)] = filters
        return scale

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """Values (P, D_out) of all weights by the names and in the shapes of the layer's parameters, and "intercept"."""
        layer, groups = self.layer, self.groups
        kernel = values[groups["kernel"]].view(-1, layer.d_in, layer.d_out)
        parts = kernel.split([layer.num_filters] * len(layer.signs) + [layer.input_lags])
        names = ["M_phi_plus", *(["M_phi_minus"] if len(layer.signs) == 2 else []), "M_u"]
        named = dict(zip(names, parts, strict=True))
        if layer.autoregression == "learned":
            named["M_y"] = values[groups["outputs"]].view(layer.output_lags, layer.d_out, layer.d_out)
        if self.intercept:
            named["intercept"] = values[0]
        return named

    def start(self, count: int) -> Past:
        """Sequences at rest."""
        layer, lags = self.layer, self.layer.output_lags

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(count, *shape, dtype=torch.float64)

        summed = zeros(lags, self.width + layer.d_out + 1) if self._sums else zeros(0, 0)
        states = zeros(len(layer.signs), layer.order, layer.d_in)
        return Past(zeros(layer.memory, layer.d_in), states, zeros(lags, layer.d_out), summed, 0)

    def pieces(self, count: int, steps: int, seen: int) -> Iterator[tuple[int, int]]:
        """Cuts of the next ``steps`` steps of ``count`` sequences: at the end of the warm-up, and where memory asks for one."""
        limit = NUMBERS_UNCUT if count == 1 and seen + steps <= self.layer.length else NUMBERS_AT_ONCE
        size = max(1, limit // (count * self.width))
        at, end = 0, self.warmup - seen
        while at < steps:
            stop = min(at + size, steps if at >= end else min(end, steps))
            yield at, stop
            at = stop

    def rows(self, u: Tensor, y: Tensor, past: Past) -> tuple[Rows | None, Past]:
        """Rows of the next steps, none within the warm-up, and the past of those after.

        Args:
            u: (N, T, D_in). y: (N, T, D_out), NaN where an output is missing.
            past: of the same sequences.

        Raises:
            ValueError: an output that is missing where the y-term starts from it.
        """
        known = torch.cat([past.window, u], dim=1)
        outputs = torch.cat([past.outputs.flip(1), y], dim=1)
        after = past._replace(
            window=known[:, u.shape[1] :],
            states=self.layer.absorb(past.states, self._delayed(known, u.shape[1])),
            outputs=outputs[:, y.shape[1] :].flip(1),
            seen=past.seen + u.shape[1],
        )
        if past.seen < self.warmup:
            return None, self._known_level(after)
        F = self._kernel_columns(known, u.shape[1], past)
        ones = torch.ones(*y.shape[:2], 1, dtype=torch.float64)
        if self._sums:
            return self._rollout_rows(F, y, past, after)
        target = y
        if self.layer.autoregression == "learned":
            lags = [outputs[:, self.layer.output_lags - i :][:, : y.shape[1]] for i in range(1, self.layer.output_lags + 1)]
            F = torch.cat([F, *lags], dim=2)
        elif self.coefficients:
            target = fixed_innovation(y, self.coefficients, past.outputs)
            before = (torch.arange(len(self.coefficients)) < past.seen).double()[None, :, None]
            ones = fixed_innovation(ones, self.coefficients, before.expand(len(y), -1, -1))
        if self.intercept:
            F = torch.cat([ones, F], dim=2)
        observed = torch.isfinite(target)
        if self.layer.autoregression == "learned":
            whole = torch.isfinite(F).all(dim=2, keepdim=True)
            F, observed = torch.where(whole, F, 0.0), observed & whole
        return Rows(F, torch.where(observed, target, 0.0), observed), after

    def _filters(self, steps: int, realized: bool) -> Tensor:
        """`unit_filters`, kept for the next piece of the same size."""
        key = (steps, realized)
        if key not in self._kept:
            self._kept.clear()
            self._kept[key] = unit_filters(self.layer, steps, realized=realized)
        return self._kept[key]

    @property
    def _sums(self) -> bool:
        return self.rollout and bool(self.coefficients)

    def _rollout_rows(self, F: Tensor, y: Tensor, past: Past, after: Past) -> tuple[Rows, Past]:
        """S of the columns, of the outputs known at the start, and of a constant known there: the last two have no drive."""
        drive = pad(F, (int(self.intercept), y.shape[2] + 1))
        summed = fixed_feedback(drive, self.coefficients, past.summed)
        lags = len(self.coefficients)
        after = after._replace(summed=torch.cat([past.summed.flip(1), summed], dim=1)[:, -lags:].flip(1))
        F, held, level = summed.split([self.width, y.shape[2], 1], dim=2)
        if self.intercept:
            F[..., :1] = 1 - level
        observed = torch.isfinite(y)
        return Rows(F, torch.where(observed, y, 0.0) - torch.where(observed, held, 0.0), observed), after

    def _known_level(self, after: Past) -> Past:
        """At the end of the warm-up the y-term goes on from the outputs measured there."""
        if not self._sums or after.seen != self.warmup:
            return after
        summed = after.summed.clone()
        summed[..., self.width : -1] = after.outputs
        summed[:, : self.warmup, -1] = 1.0
        if not torch.isfinite(summed).all():
            raise ValueError(
                f"Y: an output is missing in the last {len(self.coefficients)} steps of the warm-up, where the y-term starts "
                "from; choose another warmup, or autoregression=None"
            )
        return after._replace(summed=summed)

    def _delayed(self, known: Tensor, steps: int) -> Tensor:
        """What drives the bank in the last ``steps`` steps."""
        stop = known.shape[1] - self.layer.delay
        return known[:, stop - steps : stop]

    def _kernel_columns(self, known: Tensor, steps: int, past: Past) -> Tensor:
        """(N, T, kernel_width): bank by bank and filter by filter, then input lags; within each the input channels."""
        layer = self.layer
        if layer.order:
            driving = self._delayed(known, steps)
            U = features(driving, self._filters(steps, past.seen + steps > layer.length))
            if past.seen:
                U = U + _free_features(layer, past.states, steps)
        else:  # a user's own bank: its last inputs are all there is to know
            driving = known[:, : known.shape[1] - layer.delay]
            U = features(driving, unit_filters(layer, driving.shape[1]))[:, -steps:]
        start = known.shape[1] - steps
        lags = [known[:, start - i : start - i + steps] for i in range(layer.input_lags)]
        return torch.cat([U.flatten(2), *lags], dim=2)


def unit_filters(layer: STU, steps: int, *, realized: bool = False) -> Tensor:
    """(steps, banks·K): unit-norm filters of every bank, continued past L as design (8) says.

    ``realized`` takes them from the recurrence inside L too, so that features do not depend on where a sequence was cut.
    """
    space = layer.bank.state_space
    if realized and space is not None:
        filters = torch.as_tensor(space.free_response(space.b, steps)[:, : layer.num_filters].copy())
    else:
        filters = torch.as_tensor(layer.bank.continued(steps).copy())
    sign = (-1.0) ** torch.arange(steps, dtype=torch.float64)[:, None]
    return torch.cat([filters if s > 0 else sign * filters for s in layer.signs], dim=1)


def _free_features(layer: STU, states: Tensor, steps: int) -> Tensor:
    """What the steps before leave in the features, (±A)^{j+1} x: (N, banks, R, D) to (N, steps, banks·K, D)."""
    count, _, order, channels = states.shape
    parts = []
    for transition, x in zip(layer.transitions, states.unbind(1), strict=True):
        columns = transition @ x.transpose(0, 1).reshape(order, -1)
        response = powers(transition, columns, steps)[0][:, : layer.num_filters]  # (steps, K, N·D)
        parts.append(response.view(steps, layer.num_filters, count, channels))
    return torch.cat(parts, dim=1).permute(2, 0, 1, 3)
