"""What the spectral layers share: a filter bank as buffers, and the recurrence whose state is the bank's output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, compute_dtype
from torchstu.ops.blocks import BlockTensors, block_size
from torchstu.ops.recurrence import absorb
from torchstu.spectral.blocks import block_form
from torchstu.spectral.filters import FilterBank, resolve_bank
from torchstu.spectral.priors import PriorLike, positive_int
from torchstu.spectral.realization import StateSpace

Banks = Literal["both", "positive"]
Mode = Literal["auto", "fft", "block"]


BLOCK_TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-13}
"""Functions of the free response (8) below this share of the largest are left out."""


class SpectralMixer(Mixer):
    """A mixer over a fixed filter bank, design (2), (4) and (8).

    The filters are non-persistent buffers, made in float64 on the CPU and made again after every change of dtype or device. A
    user's own `FilterBank` is saved with the weights.

    Buffers: ``filters`` σ^{1/4} φ (L, K), ``scale`` σ^{1/4} (K,); ``transitions`` ±A (banks, R, R) and ``input_vector`` b (R,)
    in float64 where the device has it; ``increment`` A - I (R, R) and ``bank_signs`` (banks, 1, 1) in `step_dtype`. A user's
    own bank has no realization: R = 0, and the state holds the last L inputs instead.

    ``mode`` is how `forward` works, and may be set at any time; the result is the same to rounding:

    - "fft": transforms of the whole sequence, with the filters written out.
    - "block": blocks of some hundred steps and the recurrence (8) between them; needs a realization.
    - "auto": "block" where there is a realization of at most `most_block_states` and the sequence has at least
      `shortest_block_sequence` steps, else "fft"; "fft" also while a graph is exported, which "block" would bind to one length.
      The rule is measured on CPUs.
    """

    is_linear = True
    filter_weights: ClassVar[tuple[str, ...]] = ("M_phi_plus", "M_phi_minus", "M_filters", "M_filters_minus")
    """Weights that multiply σ_k^{1/4} φ_k, with k first; a layer has some of them."""
    shortest_block_sequence: ClassVar[int] = 128
    most_block_states: ClassVar[int] = 128

    filters: Tensor
    transitions: Tensor
    input_vector: Tensor
    increment: Tensor
    bank_signs: Tensor
    scale: Tensor

    def __init__(
        self, length: int, num_filters: int, prior: PriorLike | FilterBank, banks: Banks | None, mode: Mode = "auto"
    ) -> None:
        super().__init__()
        self.length, self.num_filters = positive_int("length", length), positive_int("num_filters", num_filters)
        self.bank = resolve_bank(prior, self.length, self.num_filters)
        symmetric = self.bank.prior is not None and self.bank.prior.symmetric
        if banks is None:
            banks = "both" if self.bank.prior is not None and self.bank.prior.covers_positive else "positive"
        if banks not in ("both", "positive"):
            raise ValueError(f"banks: {banks!r}; it must be None, 'both' or 'positive'")
        if banks == "both" and symmetric:
            raise ValueError(
                "banks: 'both' with the prior 'signed'; its filters have parity, so a second bank adds nothing: "
                "use None or 'positive'"
            )
        self.banks = banks
        self.signs: tuple[int, ...] = (1, -1) if banks == "both" else (1,)
        self.mode = mode

    @property
    def mode(self) -> Mode:
        """How `forward` works: "auto", "fft" or "block"."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in ("auto", "fft", "block"):
            raise ValueError(f"mode: {mode!r}; it must be 'auto', 'fft' or 'block'")
        if mode == "block" and self.bank.state_space is None:
            raise ValueError("mode: 'block' with a bank of one's own, which ends at its length; it must be 'auto' or 'fft'")
        self._mode: Mode = mode

    @property
    def order(self) -> int:
        """R, the states of the recurrence a channel and bank; 0 for a user's own bank."""
        return 0 if self.bank.state_space is None else self.bank.state_space.order

    @property
    def step_dtype(self) -> torch.dtype:
        """The dtype in which `advance` multiplies."""
        return compute_dtype(next(self.parameters()))

    def weight_scales(self) -> dict[str, tuple[float, ...]]:
        """The weights that multiply filters σ_k^{1/4} φ_k, by name, and the power of two nearest to the norm of each filter."""
        norms = np.linalg.norm(self.bank.scaled_filters, axis=0)
        scale = tuple((2.0 ** np.round(np.log2(np.where(norms > 0, norms, 1.0)))).tolist())
        return {name: scale for name in self.filter_weights if getattr(self, name, None) is not None}

    @torch.inference_mode(False)
    def make_buffers(self) -> None:
        """(Re)make the buffers from the bank, in the dtype and on the device of the weights."""
        weight = next(self.parameters())
        space, scaled = self.bank.state_space, self.bank.scaled_filters
        if space is None:
            space = StateSpace(np.zeros((0, 0)), np.zeros(0), 0.0)
        dtype, exact = compute_dtype(weight), exact_dtype(weight)
        signs = np.array(self.signs)[:, None, None]
        arrays: dict[str, tuple[np.ndarray, torch.dtype]] = {
            "filters": (scaled, dtype),
            "scale": (self.bank.eigenvalues**0.25, dtype),
            "transitions": (signs * space.A, exact),
            "input_vector": (space.b, exact),
            "increment": (space.increment, self.step_dtype),
            "bank_signs": (signs, self.step_dtype),
        }
        for name, (array, kind) in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.copy()).to(kind).to(weight.device), persistent=False)
        if self.bank.prior is None:
            for name in ("eigenvalues", "filters"):  # saved as given: in float64, whatever the weights are in
                value = torch.from_numpy(getattr(self.bank, name).copy())
                if weight.device.type == "mps":  # has no float64
                    value = value.float()
                self.register_buffer(f"bank_{name}", value if weight.is_meta else value.to(weight.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        self.make_buffers()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        names = [f"{prefix}bank_eigenvalues", f"{prefix}bank_filters"]
        if self.bank.prior is None and all(name in state_dict for name in names):
            eigenvalues, filters = (state_dict[name].double().cpu().numpy() for name in names)
            if filters.shape == self.bank.filters.shape:  # else torch reports the mismatch
                self.bank = FilterBank(eigenvalues, filters)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.make_buffers()

    def block_tensors(self, u: Tensor) -> BlockTensors | None:
        """The bank's block form for an input (B, T, D) where `mode` calls for blocks, else None."""
        short = u.shape[1] < self.shortest_block_sequence or torch.compiler.is_exporting()
        unfit = short or self.order > self.most_block_states
        if self.mode == "fft" or self.bank.state_space is None or (self.mode == "auto" and unfit):
            return None
        return self._form(u.shape[0], u.shape[1], u)

    def free_form(self, x: Tensor, steps: int) -> BlockTensors:
        """The block form for free responses of features x (B, banks, R, D), whatever the mode."""
        return self._form(len(x), steps, x)

    def _form(self, batch: int, steps: int, x: Tensor) -> BlockTensors:
        block = block_size(number(batch), number(steps), x.shape[-1])
        return BlockTensors(*constant(block_tensors, self.bank, block, len(self.signs), x.dtype, x.device))

    def taps(self, steps: int, dtype: torch.dtype | None = None) -> Tensor:
        """σ^{1/4} φ_k(i) for i < steps, (steps, K), continued past L as design (8) says; dtype of the buffers unless given."""
        dtype = dtype or self.filters.dtype
        if steps <= self.length:
            return self.filters[:steps].to(dtype)
        return constant(continued_taps, self.bank, number(steps), dtype, self.filters.device)

    def initial_features(self, batch_size: int, channels: int) -> Tensor:
        """Zero features, (B, banks, R, D)."""
        return self.filters.new_zeros(batch_size, len(self.signs), len(self.input_vector), channels)

    def absorb(self, features: Tensor, w: Tensor) -> Tensor:
        """Features (B, banks, R, D) after the inputs w (B, T, D): U_t = ±A U_{t-1} + b w_t."""
        if not self.order:
            return features
        states = [absorb(A, self.input_vector, features[:, i], w) for i, A in enumerate(self.transitions)]
        return torch.stack(states, dim=1).to(w.dtype)

    def advance(self, features: Tensor, w: Tensor) -> Tensor:
        """One step of `absorb`: U_t = ±A U_{t-1} + b w_t, w (B, D)."""
        dtype = self.increment.dtype
        x, driven = features.to(dtype), self.input_vector.to(dtype)[:, None] * w[:, None, None].to(dtype)
        grown = x + torch.matmul(self.increment, x)  # loses less than A x where A is nearly I
        return torch.addcmul(driven, grown, self.bank_signs).to(w.dtype)

    def coast(self, features: Tensor, steps: int) -> Tensor:
        """`absorb` of zeros: (±A)^steps U."""
        exact = features.to(self.transitions.dtype)
        return torch.matmul(torch.linalg.matrix_power(self.transitions, steps), exact).to(features.dtype)

    def window_features(self, window: Tensor) -> Tensor:
        """Scaled features of a user's bank from the last inputs, most recent first: (B, <=L, D) to (B, banks, K, D)."""
        sign = window.new_ones(len(self.signs), window.shape[1])
        sign[1:, 1::2] = -1
        return torch.einsum("sl,lk,bld->bskd", sign, self.filters[: window.shape[1]].to(window.dtype), window)

    def prior_config(self) -> dict[str, Any]:
        """How to find the bank again: its prior as `Prior.config`, or None for one that is saved with the weights."""
        return {"prior": None if self.bank.prior is None else self.bank.prior.config}


def number(size: int) -> int:
    """A size as a plain integer: in a graph under compilation it may be a symbol, and a table has one size."""
    return len(range(size))


def exact_dtype(tensor: Tensor) -> torch.dtype:
    """Float64 where the device of a tensor has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def block_tensors(bank: FilterBank, block: int, banks: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """The fields of `BlockTensors`, rounded once."""
    form = block_form(bank, block, BLOCK_TOLERANCE[dtype])
    sign = np.where(np.arange(1, block + 1) % 2, -1.0, 1.0)  # (-1)^(s+1), of the - bank
    arrays = (
        np.stack([[x.real, x.imag] for x in (form.even, form.odd)]),
        np.concatenate([form.drive, form.drive * sign][:banks]),
        form.jump,
        form.response.reshape(-1, len(form.jump)),
        np.concatenate([form.shapes, form.shapes * sign[:, None]][:banks], axis=1),
    )
    return tuple(torch.from_numpy(np.array(array)).to(dtype).to(device) for array in arrays)


def continued_taps(bank: FilterBank, steps: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Scaled filters on 0..steps-1, continued in float64 and rounded once, (steps, K)."""
    return torch.from_numpy(bank.continued(steps) * bank.eigenvalues**0.25).to(dtype).to(device)


_TABLES: WeakKeyDictionary[FilterBank, dict[Any, Any]] = WeakKeyDictionary()
_MOST_TABLES = 32
"""Tables kept for a bank; all layers with the bank share them, and they go when it goes."""


@torch.compiler.assume_constant_result
def constant(make: Callable[..., Any], bank: FilterBank, *key: Any) -> Any:
    """A table of a bank, made once; while a graph is exported tensors are not real, and none may be kept."""
    with torch.inference_mode(False):  # what is made in inference mode could never be saved for a backward
        if torch.compiler.is_exporting():
            return make(bank, *key)
        tables = _TABLES.setdefault(bank, {})
        if (make, *key) not in tables:
            if len(tables) >= _MOST_TABLES:
                tables.pop(next(iter(tables)))
            tables[make, *key] = make(bank, *key)
        return tables[make, *key]
