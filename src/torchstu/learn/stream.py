"""The closed form as a stream: sequences go in, one triangle stays, and the best weights come out at any time, design (10)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchstu.layers.stu import STU
from torchstu.learn.accumulation import Triangles
from torchstu.learn.intervals import Uncertainty
from torchstu.learn.least_squares import (
    TAIL_FACTOR,
    accumulate,
    energy,
    responses,
    ridge_penalty,
    ridge_shape,
    solve,
    tail_penalty,
    triangle_of,
    write_weights,
)
from torchstu.learn.options import Auto, Options
from torchstu.learn.recordings import Recording
from torchstu.learn.rows import Past, RowMaker
from torchstu.learn.selection import FOLDS, ridge_path
from torchstu.spectral.filters import FilterBank, filter_bank

MOST_FILTERS = 48
"""Filters that ``num_filters="auto"`` tries at most."""
MOST_COLUMNS = 800
"""Columns that it tries at most: every choice is one decomposition of a matrix of that size."""
FILTER_COUNTS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 40)
LEAST_RESIDUAL, LEAST_TAIL = 1e-10, 1e-9
"""Floors of the automatic tail penalty: of the residual where the response decays, of the energy foretold over that inside."""
LEAST_SHOWN = 0.1  # of the energy of noise in a window: less of a response is not told from none
MOST_GROWTH = 2.0  # of the energy over a doubling of the lag: a response that does not decay at all
RIDGE_POWERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Fitted:
    """The best weights for what was seen, and how they came about."""

    layer: STU
    maker: RowMaker
    intercept: Tensor  # (D_out,)
    residual: float
    ridge: float
    ridge_power: float
    tail_weight: float
    triangles: Triangles
    penalty: Tensor  # (r, P)
    m: Tensor  # (P, D_out)

    def uncertainty(self) -> Uncertainty:
        """Of the weights; costs one more factorization."""
        return Uncertainty.of(self.triangles, self.penalty, self.m)


@dataclass
class Stream:
    """Sums over what was seen; nothing grows with the data."""

    options: Options
    maker: RowMaker
    folds: list[Triangles]  # one, or several where something is chosen by cross-validation
    power: Tensor  # (D_out,) Σ w y²
    longest: int = 0
    past: Past | None = None
    _tails: dict[tuple[int, int], _Tail] = field(default_factory=dict)

    @classmethod
    def open(cls, options: Options, first: Recording, longest: int, warmup: int) -> Stream:
        """A stream for sequences of the channels of the first one.

        Args:
            options: of the regressor.
            first: sequences; only their widths are looked at.
            longest: steps of the longest sequence that is known, the memory where none was given.
            warmup: see `RowMaker`.
        """
        d_in, d_out = first.u.shape[2], first.y.shape[2]
        length = longest if options.length is None else options.length
        count = _most_filters(options, length, d_in) if options.num_filters == "auto" else options.num_filters
        layer = STU(d_in, d_out, length=length, num_filters=count, dtype=torch.float64, **options.layer)
        maker = RowMaker(layer, options.rollout, options.intercept, warmup)
        folds = [Triangles.empty(maker.width, d_out)] * (FOLDS if options.chooses else 1)
        return cls(options, maker, folds, torch.zeros(d_out, dtype=torch.float64))

    def under(self, options: Options) -> Stream:
        """The same sums under other penalties; a stream of its own.

        Raises:
            ValueError: options that the rows were made with.
        """
        kept = replace(options, ridge=self.options.ridge, ridge_power=self.options.ridge_power, tail=self.options.tail)
        if kept != self.options:
            raise ValueError("partial_fit: an option of the layer or the objective was changed since the first call; call fit")
        if options.chooses and len(self.folds) == 1:
            raise ValueError(
                "ridge: 'auto' was not asked for in the first call, which kept nothing apart to choose by; call fit"
            )
        return replace(self, options=options)

    def add(self, recording: Recording, *, warmup: int, continues: bool, turn: int | None = None) -> None:
        """More sequences, or more of the same ones.

        Raises:
            ValueError: widths or a number of sequences that do not go on from what was seen; values too large to square.
        """
        layer = self.maker.layer
        if (recording.u.shape[2], recording.y.shape[2]) != (layer.d_in, layer.d_out):
            raise ValueError(
                f"U, Y: {recording.u.shape[2]} and {recording.y.shape[2]} channels; "
                f"it must be {layer.d_in} and {layer.d_out}, as before"
            )
        past = self.past if continues else None
        if past is not None and len(past.window) != len(recording.u):
            raise ValueError(f"U: {len(recording.u)} sequences; {len(past.window)} are to be continued")
        maker = self.maker if past is not None else replace(self.maker, warmup=warmup)
        before = 0 if past is None else past.seen
        folds, after = accumulate(maker, self.folds, *recording, past=past, turn=turn)
        self.maker, self.folds, self.past = maker, folds, after
        self.longest = max(self.longest, after.seen)
        weight = recording.y.new_ones(recording.y.shape[:2]) if recording.weights is None else recording.weights
        skipped = max(0, maker.warmup - before)
        self.power = self.power + (weight[..., None] * recording.y.square()).nan_to_num(0.0)[:, skipped:].sum(dim=(0, 1))

    def solve(self) -> Fitted:
        """The best weights for what was seen.

        Raises:
            ValueError: no row had a weight.
        """
        triangles = Triangles.together(self.folds)
        if not (triangles.counts > 0).all():
            none = [j for j, count in enumerate(triangles.counts.tolist()) if not count]
            raise ValueError(f"Y: output {none[0]} has no observed value of positive weight after the warm-up")
        maker, ridge, power = self._select()
        triangles = self._columns(triangles, maker)
        ridged = ridge_penalty(maker, ridge, power)
        m, penalty, weight = solve(triangles, ridged), ridged, 0.0
        if self.options.tail != 0:
            tail = self._tail(maker)
            weight = self._tail_weight(maker, triangles, Uncertainty.of(triangles, ridged, m), m, tail)
            penalty = torch.cat([ridged, tail_penalty(maker, tail.rest, weight * float(triangles.counts.sum()))])
            m = solve(triangles, penalty)
        layer = maker.layer
        fitted = STU(layer.d_in, layer.d_out, dtype=torch.float64, **self._layer_arguments(layer))
        intercept = write_weights(maker, fitted, m)
        residual = float(triangles.squared_error(m).sum() / self.power.sum().clamp(min=torch.finfo(torch.float64).tiny))
        return Fitted(fitted, maker, intercept, residual, ridge, power, weight, triangles, penalty, m)

    def _layer_arguments(self, layer: STU) -> dict[str, Any]:
        return {"length": layer.length, "num_filters": layer.num_filters, **self.options.layer}

    def _select(self) -> tuple[RowMaker, float, float]:
        """Number of filters, ridge and its power: given, or of the smallest error in cross-validation."""
        options, layer = self.options, self.maker.layer
        if not options.chooses:
            return self.maker, float(options.ridge), _number(options.ridge_power)
        folds = [fold for fold in self.folds if fold.counts.any()]
        if len(folds) < 2:
            raise ValueError(
                "ridge, num_filters: 'auto' needs at least two steps or sequences to tell fits apart; give numbers"
            )
        counts = [k for k in FILTER_COUNTS if k < layer.num_filters and options.num_filters == "auto"] + [layer.num_filters]
        powers = RIDGE_POWERS if options.ridge_power == "auto" and options.ridge == "auto" else (_number(options.ridge_power),)
        ridges = None if options.ridge == "auto" else np.array([options.ridge])
        best: tuple[float, RowMaker, float, float] | None = None
        for count in counts:
            maker = self._with_filters(count)
            fewer = [self._columns(fold, maker) for fold in folds]
            for power in powers:
                path = ridge_path(fewer, ridge_shape(maker, power), ridges)
                if best is None or path.scores[path.best] < best[0]:
                    best = float(path.scores[path.best]), maker, float(path.ridges[path.best]), power
        return best[1:]  # type: ignore[index]

    def _with_filters(self, count: int) -> RowMaker:
        """Rows with the first filters of every bank only."""
        layer = self.maker.layer
        if count == layer.num_filters:
            return self.maker
        arguments = self._layer_arguments(layer) | {"num_filters": count}
        return replace(self.maker, layer=STU(layer.d_in, layer.d_out, dtype=torch.float64, **arguments))

    def _columns(self, triangles: Triangles, maker: RowMaker) -> Triangles:
        """The problem with the columns of rows with fewer filters."""
        layer, count = self.maker.layer, maker.layer.num_filters
        if count == layer.num_filters:
            return triangles
        banks, K, start = len(layer.signs), layer.num_filters, self.maker.groups["kernel"].start
        filters = [torch.arange(count * layer.d_in) + start + bank * K * layer.d_in for bank in range(banks)]
        rest = torch.arange(start + banks * K * layer.d_in, self.maker.width)
        return triangles.columns(torch.cat([torch.arange(start), *filters, rest]))

    def _tail(self, maker: RowMaker) -> _Tail:
        """Of the responses on what the data show of the memory, and from there to its sixteenfold; made once."""
        start = min(maker.layer.length, self.longest)
        key = (start, maker.layer.num_filters)
        if key not in self._tails:
            self._tails = {key: _Tail.of(maker, start)}
        return self._tails[key]

    def _tail_weight(self, maker: RowMaker, triangles: Triangles, uncertainty: Uncertainty, m: Tensor, tail: _Tail) -> float:
        """μ of (8), given or from the data, ``docs/learning.md``."""
        if self.options.tail != "auto":
            return self.options.tail
        inside, growth, beyond = tail.forecast(maker, m, uncertainty)
        if inside == 0:
            return 0.0
        count = float(triangles.counts.sum())
        error, target = (float(x.sum()) / count for x in (triangles.squared_error(m), triangles.squared_target()))
        prior = error * maker.kernel_width * maker.layer.d_out / (count * max(beyond, LEAST_TAIL * inside))
        return max(prior, LEAST_RESIDUAL * target * max(0.0, 1 - growth) / inside)


class _Tail(NamedTuple):
    """Triangular factors of the Gram matrices of the responses on windows of lags."""

    quarters: tuple[Tensor, Tensor]  # start/4..start/2 and start/2..start
    head: Tensor  # 0..start
    rest: Tensor  # start..stop
    doublings: float  # log2(stop / start)

    @classmethod
    def of(cls, maker: RowMaker, start: int) -> _Tail:
        stop = TAIL_FACTOR * maker.layer.length
        whole, half, quarter = responses(maker, stop), -(-start // 2), -(-start // 4)
        factors = [triangle_of(whole[a:b]) for a, b in ((quarter, half), (half, start), (0, start), (start, stop))]
        return cls((factors[0], factors[1]), factors[2], factors[3], math.log2(stop / start))

    def forecast(self, maker: RowMaker, m: Tensor, uncertainty: Uncertainty) -> tuple[float, float, float]:
        """Energy inside, its growth from one doubling of the lag to the next, and the energy beyond that this foretells.

        What noise adds to the energy of the last windows is taken off, down to a share of itself.
        """
        before, last = (_above_noise(maker, factor, m, uncertainty) for factor in self.quarters)
        growth = min(last / before, MOST_GROWTH) if before > 0 else 0.0
        beyond = last * sum(growth**i for i in range(1, math.ceil(self.doublings) + 1))
        return energy(maker, self.head, m), growth, beyond


def _above_noise(maker: RowMaker, factor: Tensor, m: Tensor, uncertainty: Uncertainty) -> float:
    """The energy of the response on a window, less what the errors of m are expected to have there."""
    own = torch.tensor([energy(maker, factor, S) for S in uncertainty.factors], dtype=torch.float64)
    noise = float((own * uncertainty.variance).sum())
    return max(energy(maker, factor, m) - noise, LEAST_SHOWN * noise)


def _number(power: float | Auto) -> float:
    return 0.0 if power == "auto" else power


def _most_filters(options: Options, length: int, d_in: int) -> int:
    """The most filters that are worth trying: reliable ones, as many as a matrix of stated size takes."""
    prior = options.layer["prior"]
    if isinstance(prior, FilterBank):
        raise ValueError("num_filters: 'auto' with a bank of one's own, whose number of filters is fixed; give that number")
    columns = max(4, MOST_COLUMNS // (2 * d_in))
    return min(MOST_FILTERS, columns, length, filter_bank(length, 1, prior).reliable)
