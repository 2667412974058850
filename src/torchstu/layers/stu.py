"""The spectral transform unit, the paper's Eq. 4 and Eq. 5."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from torchstu.layers.base import compute_dtype, without_autocast
from torchstu.layers.spectral import Banks, Mode, SpectralMixer, exact_dtype
from torchstu.ops.autoregression import feedback, fixed_feedback, fixed_sum, lag_windows, lagged_sum
from torchstu.ops.blocks import block_convolution, free_response
from torchstu.ops.convolution import basis_convolution
from torchstu.ops.readout import block_diagonal, read_out
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.preconditioning import feedback_coefficients
from torchstu.spectral.priors import PriorLike, positive_int

Autoregression = Literal["fixed", "learned"]
Feedback = Literal["identity", "zero"]


class STUState(NamedTuple):
    """What an STU remembers: constant in size, whatever the length (but for a user's own bank, which keeps L inputs)."""

    inputs: Tensor
    """(B, m, D_in) the last inputs, most recent first; m = max(input_lags - 1, delay)."""
    features: Tensor
    """(B, banks, R, D_in) the bank's output d steps ago, design (8)."""
    outputs: Tensor
    """(B, k_y, D_out) the last outputs, most recent first; k_y = 0 without autoregression."""


class STU(SpectralMixer):
    """Spectral transform unit, design (5) and (6).

    ŷ_t = Σ_{i=1}^{k_y} M^y_i ŷ_{t-i} + Σ_{i=1}^{k_u} M^u_i u_{t+1-i}
          + Σ_k σ_k^{1/4} (M^{φ+}_k U⁺_{t-d,k} + M^{φ-}_k U⁻_{t-d,k})

    ==============  ======================  =========================================================================
    weight          shape                   meaning; index 0 is the most recent lag, applied as x @ M, starts at zero
    ==============  ======================  =========================================================================
    ``M_u``         (k_u, D_in, D_out)      input lags
    ``M_phi_plus``  (K, D_in, D_out)        + bank
    ``M_phi_minus`` (K, D_in, D_out)        - bank, filters (-1)^i φ_k(i); None with ``banks="positive"``
    ``M_y``         (k_y, D_out, D_out)     output lags; "fixed": a buffer, the identity on lag 2, or -c_j I on lag j (9)
    ==============  ======================  =========================================================================

    With ``num_heads`` H the layer is H such units side by side, each on its part of the channels: all matrices are block
    diagonal and stored as (…, D_in, D_out/H), every row for the outputs of its head. For deep models, which mix channels
    between layers anyway: at equal parameters they are up to √H times as wide.

    Args:
        d_in, d_out: channels.
        length: L, the memory: the steps that the filters are made for. Longer sequences run on, with the filters continued
            as sums of exponentials (8).
        num_filters: K.
        num_heads: H, a divisor of both numbers of channels.
        input_lags: k_u, at least 0; None means 3, or n + 1 with preconditioning of degree n.
        autoregression: "fixed" is Eq. 4 (ŷ_{t-2} with the identity), "learned" Eq. 5, None neither y-term nor delay.
        output_lags: k_y, at least 1; used by "learned" ("fixed" has 2, or n with preconditioning; None means that, or 2).
        preconditioning: n, the degree of the monic Chebyshev polynomial p whose coefficients c are a "fixed" y-term (9):
            ŷ_t = -Σ_j c_j ŷ_{t-j} + …; the rest then has the response of p(A). It is stable. None is p(A) = A² - I.
        initial_feedback: where a "learned" ``M_y`` starts: "identity" on lag 2, the theorem's, or "zero", for deep models.
        delay: d, the steps by which the spectral part lags; None means 2 with autoregression (n with preconditioning) and 0
            without.
        banks: "both", "positive" (one bank), or None: both for the prior "positive" and sums with it, one for others.
        prior: a name, a `Prior` such as `Sector` or a sum of priors (9), the configuration of one, or a `FilterBank`.
        mode: how `forward` works, "auto", "fft" or "block": see `SpectralMixer`. The result is the same.
        device, dtype: of the weights. Filters are made in float64 and rounded once.

    Raises:
        ValueError: numbers out of range, channels that ``num_heads`` does not divide, ``banks="both"`` with "signed", a bank of
            another length or count, ``output_lags`` with "fixed", ``preconditioning`` without it, "zero" without "learned",
            an unknown ``mode``, "block" with a bank of one's own.
        TypeError: numbers that are not integers.

    Source: arXiv 2312.06837, Eq. 4 and Eq. 5; arXiv 2502.06545 for the preconditioning.
    """

    optimizer_hints: ClassVar[dict[str, tuple[float, bool]]] = {"M_y": (0.1, False)}

    M_u: nn.Parameter
    M_phi_plus: nn.Parameter
    M_phi_minus: nn.Parameter | None
    M_y: Tensor | None
    fixed_coefficients: tuple[float, ...] | None
    """a of ŷ_t = Σ_j a_j ŷ_{t-j} + …, the most recent lag first: (0, 1), or -c with preconditioning; None if not "fixed"."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        length: int,
        num_filters: int = 24,
        num_heads: int = 1,
        input_lags: int | None = None,
        autoregression: Autoregression | None = "fixed",
        output_lags: int | None = None,
        preconditioning: int | None = None,
        initial_feedback: Feedback = "identity",
        delay: int | None = None,
        banks: Banks | None = None,
        prior: PriorLike | FilterBank = "positive",
        mode: Mode = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(length, num_filters, prior, banks, mode)
        if autoregression not in ("fixed", "learned", None):
            raise ValueError(f"autoregression: {autoregression!r}; it must be 'fixed', 'learned' or None")
        if initial_feedback not in ("identity", "zero"):
            raise ValueError(f"initial_feedback: {initial_feedback!r}; it must be 'identity' or 'zero'")
        if initial_feedback == "zero" and autoregression != "learned":
            raise ValueError(f"initial_feedback: 'zero' with autoregression={autoregression!r}; that must be 'learned'")
        self.d_in, self.d_out = positive_int("d_in", d_in), positive_int("d_out", d_out)
        self.initial_feedback, self.num_heads = initial_feedback, positive_int("num_heads", num_heads)
        if self.d_in % num_heads or self.d_out % num_heads:
            raise ValueError(f"num_heads: {num_heads}; it must divide the channels, {d_in} in and {d_out} out")
        self.autoregression, self.preconditioning = autoregression, preconditioning
        self.fixed_coefficients = feedback_coefficients(autoregression, preconditioning)
        degree = 2 if self.fixed_coefficients is None else len(self.fixed_coefficients)
        if positive_int("output_lags", degree if output_lags is None else output_lags) != degree and self.fixed_coefficients:
            raise ValueError(f"output_lags: {output_lags} with autoregression='fixed'; the fixed y-term has {degree}")
        self.input_lags = degree + 1 if input_lags is None else positive_int("input_lags", input_lags, minimum=0)
        self.output_lags = 0 if autoregression is None else degree if output_lags is None else output_lags
        self.delay = (degree if autoregression else 0) if delay is None else positive_int("delay", delay, minimum=0)
        self.memory = max(self.input_lags - 1, self.delay, 0)
        if self.bank.state_space is None:
            self.memory = max(self.memory, self.delay + self.length - 1)

        def weight(lags: int, rows: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(lags, rows, self.d_out // num_heads, device=device, dtype=dtype))

        self.M_u = weight(self.input_lags, self.d_in)
        self.M_phi_plus = weight(self.num_filters, self.d_in)
        self.register_parameter("M_phi_minus", weight(self.num_filters, self.d_in) if len(self.signs) == 2 else None)
        if autoregression == "learned":
            self.M_y = weight(self.output_lags, self.d_out)
        elif autoregression is None:
            self.M_y = None
        self.make_buffers()
        self.reset_parameters()

    @property
    def step_dtype(self) -> torch.dtype:
        """Float64 with a y-term, which sums the rounding of slow features over all steps."""
        return super().step_dtype if self.autoregression is None else exact_dtype(self.M_u)

    def make_buffers(self) -> None:
        """(Re)make filters and, for "fixed", the constant ``M_y``."""
        super().make_buffers()
        if self.fixed_coefficients is not None:
            identity = torch.eye(self.d_out, dtype=self.filters.dtype, device=self.filters.device)
            self.register_buffer("M_y", torch.stack([a * identity for a in self.fixed_coefficients]), persistent=False)

    def reset_parameters(self) -> None:
        """All weights to zero, a learned ``M_y`` to the identity on lag 2 (where there is one) unless it starts at zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        if self.autoregression == "learned" and self.initial_feedback == "identity" and self.output_lags >= 2:
            with torch.no_grad():
                self.M_y[1].copy_(torch.eye(self.d_out // self.num_heads).repeat(self.num_heads, 1))  # type: ignore[index]

    def whole(self, name: str) -> Tensor:
        """A weight with the zeros between heads, (…, D_in, D_out); ``M_y`` as (…, D_out, D_out), "fixed" or learned."""
        weight = getattr(self, name)
        return weight if weight.shape[-1] == self.d_out else block_diagonal(weight, self.num_heads)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        names = ("d_in", "d_out", "length", "num_filters", "input_lags", "autoregression", "delay", "banks", "mode")
        config = {name: getattr(self, name) for name in names}
        defaults = {"output_lags": 0, "num_heads": 1, "initial_feedback": "identity", "preconditioning": None}
        config |= {name: getattr(self, name) for name, value in defaults.items() if getattr(self, name) != value}
        return config | self.prior_config()

    def initial_state(self, batch_size: int) -> STUState:
        """All zero."""
        zeros = self.filters.new_zeros
        return STUState(
            zeros(batch_size, self.memory, self.d_in),
            self.initial_features(batch_size, self.d_in),
            zeros(batch_size, self.output_lags, self.d_out),
        )

    @without_autocast
    def mix(self, u: Tensor, state: STUState | None) -> tuple[Tensor, STUState]:
        """The response to the inputs and to the state, through the feedback."""
        kind, u = torch.promote_types(u.dtype, self.M_u.dtype), u.to(compute_dtype(u, self.M_u))
        forced, inputs, features = self._innovation(u, state)
        past = None if state is None else state.outputs.to(u.dtype)
        y = self._feed_back(forced, past)
        lags = self.output_lags
        known = pad(y, (0, 0, lags, 0)) if past is None else torch.cat([past.flip(1), y], dim=1)
        outputs = known[:, known.shape[1] - lags :].flip(1)
        return y.to(kind), STUState(inputs, features, outputs)

    @without_autocast
    def mix_step(self, u_t: Tensor, state: STUState) -> tuple[Tensor, STUState]:
        """One step of the recurrence (8): R² numbers a channel and bank, whatever came before."""
        kind, u_t = torch.promote_types(u_t.dtype, self.M_u.dtype), u_t.to(compute_dtype(u_t, self.M_u))
        known = torch.cat([u_t[:, None], state.inputs.to(u_t.dtype)], dim=1)  # (B, m+1, D_in), most recent first
        features = state.features
        if self.order:
            features = self.advance(features, known[:, self.delay])
            scaled = features[:, :, : self.num_filters] * self.scale[:, None].to(features.dtype)
        else:
            scaled = self.window_features(known[:, self.delay : self.delay + self.length])
        y = read_out(scaled[:, 0], self.M_phi_plus.to(u_t.dtype), self.num_heads)
        if self.M_phi_minus is not None:
            y = y + read_out(scaled[:, 1], self.M_phi_minus.to(u_t.dtype), self.num_heads)
        if self.input_lags:
            y = y + read_out(known[:, : self.input_lags], self.M_u.to(u_t.dtype), self.num_heads)
        if self.M_y is not None:
            past = state.outputs.to(u_t.dtype)
            fixed = self.fixed_coefficients
            y = y + (read_out(past, self.M_y.to(u_t.dtype), self.num_heads) if fixed is None else fixed_sum(past, fixed))
            outputs = torch.cat([y[:, None], past[:, :-1]], dim=1)
        else:
            outputs = state.outputs
        return y.to(kind), STUState(known[:, : self.memory], features, outputs)

    @without_autocast
    def mix_free(self, state: STUState, steps: int) -> tuple[Tensor, STUState]:
        """Once the inputs kept are used up only features and outputs are left."""
        head = steps if not self.order else min(steps, self.memory)
        parts = []
        if head:
            y, state = super().mix_free(state, head)
            parts.append(y)
        if rest := steps - head:
            dtype = compute_dtype(state.features, self.M_u)
            features, past = state.features.to(dtype), state.outputs.to(dtype)
            form, weights = self.free_form(features, rest), self._spectral_weights(dtype)
            forced = free_response(features, rest, form, weights, self.num_heads)
            parts.append(self._feed_back(forced, past))
            known = torch.cat([past.flip(1), parts[-1]], dim=1)
            outputs = known[:, known.shape[1] - self.output_lags :].flip(1)
            state = STUState(torch.zeros_like(state.inputs), self.coast(features, rest), outputs)
        return torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1), state

    @without_autocast
    def mix_next(self, u: Tensor, y: Tensor, state: STUState | None) -> Tensor:
        """ŷ_t from inputs up to t and true outputs up to t-1: design (6) without the feedback of predictions."""
        kind = torch.promote_types(u.dtype, self.M_u.dtype)
        forced, _, _ = self._innovation(u.to(compute_dtype(u, self.M_u)), state)
        if self.M_y is None:
            return forced.to(kind)
        past = None if state is None else state.outputs.to(forced.dtype)
        return (forced + lagged_sum(y.to(forced.dtype), self.whole("M_y").to(forced.dtype), past)).to(kind)

    @without_autocast
    def mix_observed(self, u: Tensor, y: Tensor, state: STUState | None) -> STUState:
        """The state after known inputs and outputs: the y-term goes on from what was measured."""
        inputs, features = self._innovation(u.to(compute_dtype(u, self.M_u)), state)[1:]
        outputs = self.initial_state(len(u)).outputs if state is None else state.outputs
        known = torch.cat([outputs.flip(1).to(inputs.dtype), y.to(inputs.dtype)], dim=1)
        return STUState(inputs, features, known[:, known.shape[1] - self.output_lags :].flip(1))

    def _spectral_weights(self, dtype: torch.dtype) -> Tensor:
        """(banks, K, D_in, D_out/H)."""
        banks: list[Tensor] = [self.M_phi_plus] if self.M_phi_minus is None else [self.M_phi_plus, self.M_phi_minus]
        return torch.stack(banks).to(dtype)

    def _innovation(self, u: Tensor, state: STUState | None) -> tuple[Tensor, Tensor, Tensor]:
        """ŷ_t less its y-term, (B, L, D_out), and the next state's inputs and features."""
        steps, m = u.shape[1], self.memory
        known = pad(u, (0, 0, m, 0)) if state is None else torch.cat([state.inputs.flip(1).to(u.dtype), u], dim=1)
        features = (self.initial_features(len(u), self.d_in) if state is None else state.features).to(u.dtype)
        delayed, weights = known[:, m - self.delay :][:, :steps], self._spectral_weights(u.dtype)
        form = self.block_tensors(delayed)
        if form is None:
            forced = self._convolve(delayed if state is None else known[:, : m - self.delay + steps], steps)
            if state is not None and self.order:
                forced = forced + free_response(features, steps, self.free_form(features, steps), weights, self.num_heads)
            features = self.absorb(features, delayed)
        else:
            forced, states = block_convolution(delayed, features, form, weights, self.num_heads)
            features = self.absorb(states[:, -1], delayed[:, steps - steps % form.block :])
        if self.input_lags:
            forced = forced + lag_windows(known, self.input_lags, steps) @ self.whole("M_u").to(u.dtype).flatten(0, 1)
        return forced, known[:, steps:].flip(1), features

    def _convolve(self, known: Tensor, steps: int) -> Tensor:
        """The spectral part of the last ``steps`` inputs by transforms; earlier ones count for a bank without a realization."""
        known = known[:, known.shape[1] - steps :] if self.order else known
        taps = self.taps(known.shape[1], known.dtype)
        minus = None if self.M_phi_minus is None else self.M_phi_minus.to(known.dtype)
        return basis_convolution(known, taps, self.M_phi_plus.to(known.dtype), minus, self.num_heads)[:, -steps:]

    def _feed_back(self, x: Tensor, past: Tensor | None) -> Tensor:
        if self.autoregression is None:
            return x
        if self.fixed_coefficients is not None:
            return fixed_feedback(x, self.fixed_coefficients, past)
        return feedback(x, self.whole("M_y").to(x.dtype), past)


class ARSTU(STU):
    """The paper's AR-STU, Eq. 5: an `STU` whose y-term is learned, design (6)."""

    def __init__(self, d_in: int, d_out: int, *, length: int, **options: Any) -> None:
        if options.setdefault("autoregression", "learned") != "learned":
            raise ValueError(f"autoregression: {options['autoregression']!r}; ARSTU has 'learned' (STU has the others)")
        super().__init__(d_in, d_out, length=length, **options)
