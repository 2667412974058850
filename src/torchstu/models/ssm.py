"""The deep model: embedding, blocks of a mixer and a gated unit, pooling, readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchstu.layers.base import Mixer, State
from torchstu.models.backbone import Backbone, BackboneState, real_steps
from torchstu.models.config import Activation, BackboneConfig, Norm, NormPosition
from torchstu.models.embedding import Embedding, InputKind
from torchstu.models.pooling import PoolingName, PoolState, make_pooling
from torchstu.spectral.priors import positive_int


class SpectralSSMState(NamedTuple):
    """What a deep model remembers."""

    layers: tuple[State, ...]
    """The states of the layers' mixers, first layer first."""
    pooled: PoolState | tuple[()]
    """That of the pooling; empty for "last"."""


class SpectralSSM(Mixer):
    """A deep spectral state space model: embedding → num_layers × `Block` → pooling → readout.

    It is a mixer itself: `forward`, `step`, states and resets are those of `torchstu.Mixer`, and the output of a step is what
    the model says of the sequence up to there. `at_end` gives the output after the last step only, of sequences of unequal
    length. A bidirectional model reads whole sequences: it has `forward` without state, and `at_end`.

    Args:
        d_in: channels of the data, or the size of the vocabulary.
        d_out: channels of the output: classes, or values.
        d_model: width of the layers.
        num_layers: number of blocks.
        length: L, the memory of the mixers that have one.
        mixer: a name in `torchstu.layers.registry.MIXERS`: "TensordotSTU", "STU", "AR-STU", "LRU", "S4", "S4D", "DSS",
            "S5", "Attention" or "GRU"; or several, which the layers take in turns.
        mixer_options: further arguments of every mixer, such as ``num_filters``; of several mixers, under each one's name.
            In a deep model leave STU's y-term out, ``{"autoregression": None}``, or let AR-STU's start at zero,
            ``{"initial_feedback": "zero"}``: one layer's sums over all steps are summed by the next.
        activation: "glu" (the paper's block), "swiglu" (Flash STU's) or None: without norms and biases, so that the model is
            linear where its mixers are. See `torchstu.models.blocks.Block`.
        norm: "layer", "rms", "batch" or None; it must be None without activation.
        norm_position: "pre" or "post".
        dropout: in [0, 1); 0 without activation.
        bidirectional: whether each block also mixes the sequence backward.
        inputs: "reals" (B, L, d_in), "tokens" (B, L) integers below d_in, "pixels" (B, L, d_in) integers in 0..255.
        pooling: what the readout sees at a step: the "last" vector, the "mean" of all up to there, or their mean by learned
            "attention".
        device, dtype: of the weights.

    Raises:
        ValueError: numbers out of range, an unknown mixer or other word.
        TypeError: numbers that are not integers, an option that the mixer does not have.

    Source: arXiv 2312.06837, section 5; arXiv 2409.10489.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        d_model: int,
        num_layers: int,
        length: int,
        mixer: str | Sequence[str] = "TensordotSTU",
        mixer_options: dict[str, Any] | None = None,
        activation: Activation | None = "glu",
        norm: Norm | None = "layer",
        norm_position: NormPosition = "pre",
        dropout: float = 0.0,
        bidirectional: bool = False,
        inputs: InputKind = "reals",
        pooling: PoolingName = "last",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_out = positive_int("d_in", d_in), positive_int("d_out", d_out)
        kinds: Any = mixer if isinstance(mixer, str) else tuple(mixer)
        self.settings = BackboneConfig(
            d_model, num_layers, length, kinds, dict(mixer_options or {}), activation,
            norm, norm_position, dropout, bidirectional,
        )  # fmt: skip
        bias = activation is not None
        self.embedding = Embedding(inputs, d_in, d_model, bias, device, dtype)
        self.backbone = Backbone(self.settings, device, dtype)
        self.pooling = make_pooling(pooling, d_model, device, dtype)
        self.pooling_name = pooling
        self.readout = nn.Linear(d_model, d_out, bias=bias, device=device, dtype=dtype)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """The constructor's arguments."""
        ends = {"d_in": self.d_in, "d_out": self.d_out, "inputs": self.embedding.kind, "pooling": self.pooling_name}
        return ends | self.settings.as_dict()

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether outputs are linear in real inputs and state: no activation, no pooling, mixers that are linear."""
        return self.backbone.is_linear and self.embedding.kind == "reals" and self.pooling is None

    def check_input(self, name: str, u: Tensor, ndim: int) -> None:
        """Refuse what cannot be embedded."""
        self.embedding.check(name, u, ndim)

    def blank_input(self, batch: int, steps: int, like: Tensor) -> Tensor:
        """Zeros as inputs."""
        return self.embedding.blank(batch, steps, like)

    def initial_state(self, batch_size: int) -> SpectralSSMState:
        """All zero."""
        layers, pooling = self.backbone.initial_state(batch_size).layers, self.pooling
        weight = self.readout.weight
        return SpectralSSMState(layers, () if pooling is None else pooling.initial_state(batch_size, weight))

    def mix(self, u: Tensor, state: SpectralSSMState | None) -> tuple[Tensor, SpectralSSMState]:
        """Layer after layer over the whole sequence."""
        x, after = self.backbone.mix(self.embedding(u), None if state is None else BackboneState(state.layers))
        pooled: PoolState | tuple[()] = ()
        if self.pooling is not None:
            before = self.pooling.initial_state(len(x), x) if state is None else state.pooled
            x, pooled = self.pooling(x, before)
        return self.readout(x), SpectralSSMState(after.layers, pooled)

    def mix_step(self, u_t: Tensor, state: SpectralSSMState) -> tuple[Tensor, SpectralSSMState]:
        """Layer after layer for one step."""
        x, after = self.backbone.mix_step(self.embedding(u_t), BackboneState(state.layers))
        pooled: PoolState | tuple[()] = ()
        if self.pooling is not None:
            x, pooled = self.pooling(x[:, None], state.pooled)
            x = x[:, 0]
        return self.readout(x), SpectralSSMState(after.layers, pooled)

    def forward(
        self, u: Tensor, state: State | None = None, *, reset: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As `torchstu.Mixer.forward`; with ``lengths``, or bidirectional, of whole sequences and without state.

        Args:
            u: (B, L, d_in), or (B, L) tokens.
            state, reset: see there; None with ``lengths`` and for a bidirectional model.
            lengths: (B,) integers, the steps of each sequence that are no padding. Padding changes nothing before it.

        Returns:
            y (B, L, d_out), zero behind the end of a sequence, and the state after the last step, or None.

        Raises:
            TypeError, ValueError: see there; lengths outside 1..L; a state or resets where there can be none.
        """
        if lengths is None and not self.settings.bidirectional:
            return super().forward(u, state, reset=reset)
        if state is not None or reset is not None:
            reason = "bidirectional: True" if lengths is None else "lengths: given"
            raise ValueError(f"{reason}; whole sequences are read, with neither state nor resets")
        y = self.readout(self._whole(u, lengths, pool=True))
        return y if lengths is None else y.masked_fill(~real_steps(y, lengths)[..., None], 0), None

    def at_end(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The output after the last step of each sequence: (B, d_out); `forward` there, for less.

        Args:
            u, lengths: as in `forward`.

        Raises:
            TypeError, ValueError: as in `forward`.
        """
        return self.readout(self.features(u, lengths))

    def features(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What `at_end` reads out: the pooled sequence, (B, d_model)."""
        x = self._whole(u, lengths, pool=False)
        if self.pooling is not None:
            return self.pooling.at_end(x, lengths)
        return x[:, -1] if lengths is None else x[torch.arange(len(x), device=x.device), lengths - 1]

    def _whole(self, u: Tensor, lengths: Tensor | None, pool: bool) -> Tensor:
        self.check_input("u", u, 3)
        if lengths is not None:
            check_lengths(lengths, u)
        x = self.backbone.mix_whole(self.embedding(u), lengths)
        return x if not pool or self.pooling is None else self.pooling(x, self.pooling.initial_state(len(x), x))[0]


def check_lengths(lengths: Tensor, u: Tensor) -> None:
    """Refuse what cannot be lengths of the sequences in u (B, L, ...).

    Raises:
        TypeError: no integers. ValueError: another number of them, or outside 1..L.
    """
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int32, torch.int64):
        found = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths: {found}; it must be a tensor of integers")
    if lengths.shape != u.shape[:1]:
        raise ValueError(f"lengths: shape {tuple(lengths.shape)}; beside u {tuple(u.shape)} it must be ({len(u)},)")
    if int(lengths.min()) < 1 or int(lengths.max()) > u.shape[1]:
        raise ValueError(f"lengths: {int(lengths.min())}..{int(lengths.max())}; they must be in 1..{u.shape[1]}")
