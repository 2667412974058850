"""The paper's stack: embedding, blocks of a mixer and a gated linear unit, readout per step."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from torchstu.layers.base import Mixer, State
from torchstu.layers.registry import make_mixer
from torchstu.spectral.priors import Prior, positive_int


class SpectralSSMState(NamedTuple):
    """The states of the layers' mixers, first layer first."""

    layers: tuple[State, ...]


class Block(nn.Module):
    """x + dropout(GLU(W dropout(GELU(mixer(norm(x)))))."""

    mixer: Mixer

    def __init__(self, mixer: Mixer, dropout: float, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        width = mixer.d_in
        self.norm = nn.LayerNorm(width, device=device, dtype=dtype)
        self.mixer = mixer
        self.linear = nn.Linear(width, 2 * width, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)

    def gate(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Everything after the mixer, step by step."""
        return x + self.dropout(glu(self.linear(self.dropout(gelu(mixed)))))


class LinearBlock(nn.Module):
    """x + W mixer(x): what is left of `Block` without norm, activation and dropout."""

    mixer: Mixer

    def __init__(self, mixer: Mixer, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.mixer = mixer
        self.linear = nn.Linear(mixer.d_in, mixer.d_in, bias=False, device=device, dtype=dtype)

    def gate(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Everything after the mixer, step by step."""
        return x + self.linear(mixed)


class SpectralSSM(Mixer):
    """A deep spectral state space model: embedding → num_layers × `Block` → readout, one output a step.

    It is a mixer itself: `forward`, `step`, states and resets are those of `torchstu.Mixer`.

    Args:
        d_in, d_out: channels of the data.
        d_model: width of the layers.
        num_layers: number of blocks.
        length: L, the memory of the mixers that have one.
        mixer: a name in `torchstu.layers.registry.MIXERS`: "AR-STU", "STU", "TensordotSTU", "LRU", "S4", "S4D", "DSS",
            "S5", "Attention" or "GRU".
        dropout: in [0, 1); 0 without activation.
        activation: "glu" is `Block`, the paper's; None leaves out norms, activations and biases (`LinearBlock`), so that the
            model is linear where its mixers are.
        mixer_options: further arguments of every mixer, such as ``num_filters``.
        device, dtype: of the weights.

    Raises:
        ValueError: numbers out of range, an unknown mixer.

    Source: arXiv 2312.06837, section 5.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        d_model: int,
        num_layers: int,
        length: int,
        mixer: str = "AR-STU",
        dropout: float = 0.0,
        activation: Literal["glu"] | None = "glu",
        mixer_options: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_out = positive_int("d_in", d_in), positive_int("d_out", d_out)
        d_model, num_layers = positive_int("d_model", d_model), positive_int("num_layers", num_layers)
        length = positive_int("length", length)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout}; it must be in [0, 1)")
        if activation not in ("glu", None):
            raise ValueError(f"activation: {activation!r}; it must be 'glu' or None")
        if activation is None and dropout:
            raise ValueError(f"dropout: {dropout}; it must be 0 without activation")
        options = dict(mixer_options or {})
        kept = options | ({"prior": options["prior"].config} if isinstance(options.get("prior"), Prior) else {})
        self.config = {
            "d_in": d_in, "d_out": d_out, "d_model": d_model, "num_layers": num_layers, "length": length,
            "mixer": mixer, "dropout": dropout, "activation": activation, "mixer_options": kept,
        }  # fmt: skip
        bias = activation is not None
        self.embedding = nn.Linear(d_in, d_model, bias=bias, device=device, dtype=dtype)

        def block() -> Block | LinearBlock:
            part = make_mixer(mixer, d_model, **{"length": length} | options, device=device, dtype=dtype)
            return Block(part, dropout, device, dtype) if activation else LinearBlock(part, device, dtype)

        self.blocks = nn.ModuleList(block() for _ in range(num_layers))
        self.readout = nn.Linear(d_model, d_out, bias=bias, device=device, dtype=dtype)

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether it has no activation and mixers that are linear."""
        return self.config["activation"] is None and all(block.mixer.is_linear for block in self._blocks())

    def _blocks(self) -> list[Block | LinearBlock]:
        return [block for block in self.blocks if isinstance(block, (Block, LinearBlock))]

    def initial_state(self, batch_size: int) -> SpectralSSMState:
        """All zero."""
        return SpectralSSMState(tuple(block.mixer.initial_state(batch_size) for block in self._blocks()))

    def mix(self, u: Tensor, state: SpectralSSMState | None) -> tuple[Tensor, SpectralSSMState]:
        """Layer after layer over the whole sequence."""
        states, x = [], self.embedding(u.to(self.embedding.weight.dtype))
        for i, block in enumerate(self._blocks()):
            mixed, after = block.mixer.mix(block.norm(x), None if state is None else state.layers[i])
            x = block.gate(x, mixed)
            states.append(after)
        return self.readout(x), SpectralSSMState(tuple(states))

    def mix_step(self, u_t: Tensor, state: SpectralSSMState) -> tuple[Tensor, SpectralSSMState]:
        """Layer after layer for one step."""
        states, x = [], self.embedding(u_t.to(self.embedding.weight.dtype))
        for block, before in zip(self._blocks(), state.layers, strict=True):
            mixed, after = block.mixer.mix_step(block.norm(x), before)
            x = block.gate(x, mixed)
            states.append(after)
        return self.readout(x), SpectralSSMState(tuple(states))
