"""Learning an STU by least squares, design (10), with the tail penalty of (8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from torchstu.layers.spectral import Banks
from torchstu.layers.stu import STU, Autoregression
from torchstu.learn.estimator import SequenceRegressor, in_kind
from torchstu.learn.intervals import Uncertainty, conformal_quantile, half_width
from torchstu.learn.options import Auto, options_of, share
from torchstu.learn.recordings import batches, recordings, without_channel
from torchstu.learn.stream import Fitted, Stream
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import PriorLike, positive_int


class SpectralRegressor(SequenceRegressor):
    """An STU fitted in closed form, design (10): one convex problem, one answer, no learning rate.

    ``objective="rollout"`` minimizes the error of the whole roll-out, ŷ = S F M with S the inverse of the fixed y-term (the
    lag-2 cumulative sum), which is linear in M too; ``"next"`` that of the prediction from true past outputs. To the squared
    error summed over steps and outputs are added λ Σ_k (σ_k/σ_1)^-p ‖m_k‖² (m = σ^{1/4} M, coordinates of unit-norm
    filters) and μ·(number of outputs seen)·‖response on L..16L‖² of (8); where the sequences are shorter than the memory, the
    tail starts at their end. Rows are reduced by QR as they come: memory does not grow with the data.

    Args:
        num_filters: K, or "auto": the best of some up to 48 by cross-validation.
        length: L, the memory; None means the length of the longest training sequence.
        prior, banks, autoregression, output_lags, input_lags, preconditioning: as in `STU`.
        objective: "rollout" or "next"; a learned autoregression is convex for "next" only.
        ridge: λ, at least 0, or "auto": the best by fivefold cross-validation of the objective's error. Sequences take turns in
            the folds; fewer than five are cut into five blocks of time.
        ridge_power: p, at least 0. 0 treats all filters alike, 1 is the covariance of the prior itself, Z of (1). "auto" means
            0 with a given ridge, and with ``ridge="auto"`` the best of 0, 1/2 and 1 by the same measure.
        tail_penalty: μ, at least 0, or "auto": the variance of the residual over the energy of the tail that the response in
            the memory foretells, and more where it decays; ``docs/learning.md``.
        fit_intercept: whether a constant is added to the output.
        missing: "error" refuses NaN in outputs, "mask" leaves the outputs that are NaN out of the sum.

    Attributes:
        layer: the fitted `STU` (float64). This and the following are not there before `fit`.
        intercept: (D_out,), zero without ``fit_intercept``.
        residual: relative error on the training data of the objective's prediction.
        ridge_used, ridge_power_used, tail_weight: λ, p and μ that were used.

    Source: arXiv 2312.06837; the roll-out objective and the tail penalty are ours, ``docs/learning.md``.
    """

    def __init__(
        self,
        num_filters: int | Auto = 24,
        *,
        length: int | None = None,
        prior: PriorLike | FilterBank = "positive",
        banks: Banks | None = None,
        autoregression: Autoregression | None = "fixed",
        output_lags: int | None = None,
        input_lags: int | None = None,
        preconditioning: int | None = None,
        objective: Literal["rollout", "next"] = "rollout",
        ridge: float | Auto = 0.0,
        ridge_power: float | Auto = "auto",
        tail_penalty: float | Auto = "auto",
        fit_intercept: bool = False,
        missing: Literal["error", "mask"] = "error",
    ) -> None:
        self.num_filters, self.length, self.prior, self.banks = num_filters, length, prior, banks
        self.autoregression, self.output_lags, self.input_lags = autoregression, output_lags, input_lags
        self.preconditioning, self.objective, self.ridge, self.ridge_power = preconditioning, objective, ridge, ridge_power
        self.tail_penalty, self.fit_intercept, self.missing = tail_penalty, fit_intercept, missing

    def fit(
        self, U: Any, Y: Any = None, *, sample_weight: Any = None, warmup: int = 0, continues: bool = False
    ) -> SpectralRegressor:
        """Fit to sequences, in one pass.

        Args:
            U: inputs, (N, L, D_in) or (L, D_in), array or tensor; a list of (L_i, D_in) for sequences of unequal length; or,
                without Y, batches: any iterable of (U, Y) or (U, Y, sample_weight), such as a ``DataLoader``.
            Y: outputs, shaped as U with D_out channels; where there is one, it may be left out of the shape.
            sample_weight: (N,), (N, L) or (L,): the squared error of a step counts that many times.
            warmup: steps at the start of every sequence that are a known past and not fitted: recordings that begin in the
                middle of things, where zero is no honest guess of what came before.
            continues: with batches: each goes on where the one before ended, pieces of the same sequences in time order. The
                memory ``length`` must be given then.

        Raises:
            ValueError: shapes that do not fit, values not finite, options out of range, K above L.
            TypeError: values that are not numbers.
        """
        if Y is not None and continues:
            raise ValueError("continues: True with Y; it is for batches (use partial_fit to continue sequences)")
        if Y is not None:
            whole = self._extend(None, U, Y, sample_weight, warmup, None)
            self._keep(whole, U, Y, whole.solve())
            return self
        if sample_weight is not None:
            raise ValueError("sample_weight: given beside batches; each batch must bring its own, as (U, Y, sample_weight)")
        stream: Stream | None = None
        for u, y, weight in batches(U):
            stream = self._extend(stream, u, y, weight, warmup, continues)
        if stream is None:
            raise ValueError("U: no batches; there must be at least one")
        self._keep(stream, u, y, stream.solve())
        return self

    def partial_fit(
        self, U: Any, Y: Any, *, sample_weight: Any = None, warmup: int = 0, continues: bool = False
    ) -> SpectralRegressor:
        """Fit to these sequences and all that were given before: the result is that of one `fit` to all of them.

        What is chosen by cross-validation may differ, as folds are cut call by call: give several sequences, or long pieces.

        Weights are computed when they are asked for, from a triangle whose size does not depend on the data. Ridge and tail
        penalty may be changed in between. An error leaves what was fitted before as it was.

        Args:
            U, Y, sample_weight, warmup: as in `fit`; the first call decides widths and, where ``length`` is None, the memory.
            continues: whether the sequences go on where those of the last call ended, instead of starting at rest; ``warmup``
                is then that of the call that began them.

        Raises:
            ValueError, TypeError: as `fit`; also options of the layer that were changed since the first call.
        """
        self._keep(self._extend(self.__dict__.get("_stream"), U, Y, sample_weight, warmup, continues), U, Y)
        return self

    @property
    def layer(self) -> STU:
        """The fitted `STU`."""
        return self._fitted.layer

    @property
    def intercept(self) -> Tensor:
        """(D_out,), zero without ``fit_intercept``."""
        return self._fitted.intercept

    @property
    def residual(self) -> float:
        """Relative error on the training data of the objective's prediction."""
        return self._fitted.residual

    @property
    def ridge_used(self) -> float:
        """λ."""
        return self._fitted.ridge

    @property
    def ridge_power_used(self) -> float:
        """p."""
        return self._fitted.ridge_power

    @property
    def tail_weight(self) -> float:
        """μ."""
        return self._fitted.tail_weight

    @property
    def noise_variance(self) -> Tensor:
        """s², (D_out,): squared error of the objective's prediction a row, less the degrees of freedom used."""
        return self._uncertainty.variance

    def standard_errors(self) -> dict[str, Tensor]:
        """Standard errors of the weights, by the names and in the shapes of the layer's parameters (and "intercept").

        They hold where the errors of rows are independent and of one variance, such as those of a roll-out under white
        observation noise; bias, of too few filters or of noise in past outputs, is not in them.
        """
        fitted = self._fitted
        return fitted.maker.named(self._uncertainty.standard_errors(fitted.maker))

    def predict_interval(
        self, U: Any, Y: Any = None, *, past: tuple[Any, Any] | None = None, level: float = 0.9, conformal: bool = False
    ) -> tuple[Any, Any]:
        """Lower and upper ends between which a *measured* output lies with the probability ``level``, step by step.

        With ŷ ± t s √(1 + f_tᵀ (RᵀR + penalties)⁻¹ f_t), Student's t and the row f_t of the regression: errors of one variance.
        A roll-out from a past adds the noise of the outputs that it starts from. With ``conformal`` ŷ ± the quantile of the
        errors that `calibrate` saw, whatever their distribution.

        Args:
            U: as in `predict`.
            Y: true outputs: for one step ahead, with ``objective="next"``. None: for the roll-out.
            past: as in `predict`; of the roll-out.
            level: in (0, 1).
            conformal: whether errors of `calibrate` are used.

        Returns:
            Two of the shape that `predict` returns.

        Raises:
            ValueError: intervals of another prediction than the objective's (or the calibrated one), a level out of range,
                ``conformal`` before `calibrate`.
        """
        level = share("level", level)
        if Y is not None and past is not None:
            raise ValueError("past: given with Y; one step ahead needs no past")
        if conformal and past is not None:
            raise ValueError("past: given with conformal=True, whose errors are of roll-outs from rest; leave one of them out")
        if conformal:
            quantile = self._conformal(Y is None, level)
            centre = torch.as_tensor(self.predict(U, past) if Y is None else self.predict_next(U, Y))
            quantile = quantile[0] if self._is_flat else quantile
            return in_kind(U, centre - quantile), in_kind(U, centre + quantile)
        if (Y is None) != (self.objective == "rollout" or self.autoregression is None):
            asked = "the roll-out" if Y is None else "one step ahead"
            raise ValueError(
                f"Y: intervals for {asked} of a fit with objective={self.objective!r}; calibrate and use conformal=True"
            )
        centre, half = self._homoscedastic(U, Y, past, level)
        return self._like(U, centre - half), self._like(U, centre + half)

    def calibrate(self, U: Any, Y: Any, *, one_step: bool = False) -> SpectralRegressor:
        """Keep the errors on data that the fit has not seen, for ``predict_interval(..., conformal=True)``.

        Split conformal prediction: a fresh sequence of the same kind lies within the quantile of these errors with the
        probability asked for, averaged over its steps, whatever the noise; the more sequences, the closer.

        Args:
            U, Y: as in `fit`.
            one_step: whether errors are those of `predict_next` rather than `predict`.
        """
        errors = []
        for u, y, _ in recordings(U, Y, missing=True):
            prediction = self.predict_next(u, y) if one_step else self.predict(u)
            errors.append((y - prediction.reshape(y.shape)).flatten(0, 1))
        self._errors = one_step, torch.cat(errors)
        return self

    @property
    def _fitted(self) -> Fitted:
        if "_solution" not in self.__dict__:
            stream: Stream | None = self.__dict__.get("_stream")
            if stream is None:
                raise self._not_fitted()
            self._solution = stream.solve()
        return self._solution

    @property
    def _uncertainty(self) -> Uncertainty:
        fitted = self._fitted
        if "_certainty" not in self.__dict__:
            self._certainty = fitted.uncertainty()
        return self._certainty

    def _extend(self, stream: Stream | None, U: Any, Y: Any, sample_weight: Any, warmup: int, continues: bool | None) -> Stream:
        """A stream with more sequences, the one given left as it was; ``continues`` None: nothing will follow them."""
        options = options_of(self)
        given = recordings(U, Y, sample_weight, missing=self.missing == "mask")
        shortest = min(r.u.shape[1] for r in given)
        if positive_int("warmup", warmup, minimum=0) >= shortest and continues is None:
            raise ValueError(f"warmup: {warmup}; it must be below the {shortest} steps of a sequence")
        if self.fit_intercept and self.autoregression == "fixed" and self.objective == "rollout" and warmup >= 2:
            raise ValueError("fit_intercept: True; with the fixed y-term and a warm-up the level comes from the known past")
        if continues and (self.length is None or len(given) > 1):
            reason = "sequences of unequal length" if len(given) > 1 else "length=None"
            raise ValueError(f"continues: True with {reason}; continued pieces must be equally long, and the memory be given")
        going_on = bool(continues) and stream is not None
        if stream is None:
            stream = Stream.open(options, given[0], max(r.u.shape[1] for r in given), warmup)
        else:
            stream = stream.under(options)
        for number, recording in enumerate(given):
            stream.add(recording, warmup=warmup, continues=going_on, turn=number if len(given) > 1 else None)
        return stream

    def _keep(self, stream: Stream, U: Any, Y: Any, solution: Fitted | None = None) -> None:
        for name in ("_solution", "_certainty", "_errors"):
            self.__dict__.pop(name, None)
        if solution is not None:
            self._solution = solution
        self._stream, self.n_features_in_ = stream, stream.maker.layer.d_in
        self._flat = without_channel(U, Y)

    def _homoscedastic(self, U: Any, Y: Any, past: tuple[Any, Any] | None, level: float) -> tuple[Tensor, Tensor]:
        """Centre and half width, (N, L, D_out), from the rows of the regression themselves."""
        fitted, u = self._fitted, self._inputs("U", U)
        y = u.new_zeros(*u.shape[:2], self.layer.d_out) if Y is None else self._outputs("Y", Y)
        warmup = 0
        if past is not None:
            before_u, before_y = self._past(past, len(u))
            warmup, u, y = before_u.shape[1], torch.cat([before_u, u], dim=1), torch.cat([before_y, y], dim=1)
        maker = replace(fitted.maker, warmup=warmup)
        state, halves = maker.start(len(u)), []
        for start, stop in maker.pieces(len(u), u.shape[1], 0):
            rows, state = maker.rows(u[:, start:stop], y[:, start:stop], state)
            if rows is not None:
                halves.append(half_width(self._uncertainty, maker, rows.F, level, start - warmup))
        centre = self.predict(u[:, warmup:], past) if Y is None else self.predict_next(u, y)
        return centre.reshape(len(u), -1, self.layer.d_out), torch.cat(halves, dim=1)

    def _conformal(self, rollout: bool, level: float) -> Tensor:
        one_step, errors = self.__dict__.get("_errors", (None, None))
        if errors is None or one_step == rollout:
            wanted = "" if rollout else ", one_step=True"
            raise ValueError(f"conformal: True; call calibrate(U, Y{wanted}) first, on data that the fit has not seen")
        return torch.stack([conformal_quantile(e[torch.isfinite(e)][:, None], level)[0] for e in errors.T])
