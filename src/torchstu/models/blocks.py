"""One layer of a deep model: a mixer, what is done step by step around it, and the residual sum.

Shapes: B sequences, L steps, D channels; ``real`` (B, L) bool says which steps are none of the padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import gelu, glu, silu

from torchstu.layers.base import Mixer, State
from torchstu.layers.registry import make_mixer
from torchstu.models.config import BackboneConfig

Mix = Callable[[Mixer, Tensor], tuple[Tensor, State]]
"""How a block calls its mixer: over a sequence, or for one step."""


class SequenceBatchNorm(nn.Module):
    """(x - mean) / √(var + ε) · weight + bias, with mean and variance of a channel over all real steps of the batch.

    Padding does not count, and in a process group the batch is that of all ranks. In evaluation the running statistics are
    used, so single steps give what whole sequences give.

    Args:
        width: D.
        momentum: weight of a new batch in the running statistics.
        eps: ε.

    Raises:
        ValueError: in training, fewer than two real steps in all.

    Source: Ioffe and Szegedy, arXiv 1502.03167.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(width, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(width, device=device, dtype=dtype))

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (..., D), real (...) bool; None where all are."""
        if self.training:
            mean, var = self._statistics(x, real)
        else:
            mean, var = self.running_mean, self.running_var
        return ((x - mean) * (self.weight * torch.rsqrt(var + self.eps)) + self.bias).to(x.dtype)

    def _statistics(self, x: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision cannot count that far
        weight = torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device) if real is None else real.to(x.dtype)
        over = tuple(range(x.ndim - 1))
        count = _over_ranks(weight.sum())
        if count < 2:
            raise ValueError(f"u: {int(count)} step in a batch; norm 'batch' in training needs two, or eval()")
        mean = _over_ranks((x * weight[..., None]).sum(over)) / count
        var = _over_ranks(((x - mean).square() * weight[..., None]).sum(over)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        return mean, var


def _over_ranks(x: Tensor) -> Tensor:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


NORMS: dict[str, Callable[..., nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "batch": SequenceBatchNorm}


def make_norm(config: BackboneConfig, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
    """The norm of a configuration; the identity for None."""
    return nn.Identity() if config.norm is None else NORMS[config.norm](config.d_model, device=device, dtype=dtype)


def normed(norm: nn.Module, x: Tensor, real: Tensor | None) -> Tensor:
    """Apply a norm; that over the batch leaves the padding out."""
    return norm(x, real) if isinstance(norm, SequenceBatchNorm) else norm(x)


class Block(nn.Module):
    """One layer, with h the mixer's output (or forward and backward outputs side by side) of norm(x):

    ============  ===================================================================================
    activation    output
    ============  ===================================================================================
    "glu"         x + dropout(GLU(W dropout(GELU(h))))
    "swiglu"      z + dropout(W₃ (SiLU(W₁ norm(z)) ∘ W₂ norm(z))),  z = x + dropout(h)
    None          x + W h, no norm, no biases
    ============  ===================================================================================

    With ``norm_position="post"`` the mixer gets x, and x and z are norm(…) of these sums. A bidirectional "swiglu" block
    has h = W₀ (forward, backward). The inner width of SwiGLU is 8/3 D, rounded up to a multiple of 8.

    Args:
        config: of the stack.
        index: of the layer, counted from 0.
        device, dtype: of the weights.

    Raises:
        ValueError, TypeError: of the mixer, for its options.

    Source: arXiv 2312.06837, section 5 ("glu"); arXiv 2409.10489 ("swiglu"); Shazeer, arXiv 2002.05202.
    """

    mixer: Mixer
    backward_mixer: Mixer | None

    def __init__(
        self, config: BackboneConfig, index: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        width, heard = config.d_model, config.d_model * (2 if config.bidirectional else 1)

        def mixer() -> Mixer:
            name, options = config.layer(index)
            return make_mixer(name, width, **{"length": config.length} | options, device=device, dtype=dtype)

        def weights(rows: int, columns: int, bias: bool) -> nn.Linear:
            return nn.Linear(rows, columns, bias=bias, device=device, dtype=dtype)

        self.activation, self.post = config.activation, config.norm_position == "post"
        self.norm = make_norm(config, device, dtype)
        self.mixer = mixer()
        self.backward_mixer = mixer() if config.bidirectional else None
        if config.activation == "swiglu":
            inner = -(-8 * width // 24) * 8
            self.join = weights(heard, width, False) if config.bidirectional else nn.Identity()
            self.inner_norm = make_norm(config, device, dtype)
            self.gates, self.out = weights(width, 2 * inner, False), weights(inner, width, False)
        else:
            self.linear = weights(heard, 2 * width if config.activation else width, config.activation is not None)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mix: Mix, real: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, L, D) or (B, D); ``mix`` calls the mixer. Returns the next x and what ``mix`` returned as state."""
        heard, state = mix(self.mixer, x if self.post else normed(self.norm, x, real))
        return self._gate(x, heard, real), state

    def both_ways(self, x: Tensor, lengths: Tensor | None, real: Tensor | None) -> Tensor:
        """The whole sequence read forward and backward, each sequence from its own end."""
        if self.backward_mixer is None:
            raise ValueError("bidirectional: False; this block has one mixer")
        u = x if self.post else normed(self.norm, x, real)
        backward = self.backward_mixer(reverse(u, lengths))[0]
        return self._gate(x, torch.cat([self.mixer(u)[0], reverse(backward, lengths)], dim=-1), real)

    def _gate(self, x: Tensor, heard: Tensor, real: Tensor | None) -> Tensor:
        """Everything after the mixer, step by step."""
        if self.activation is None:
            return x + self.linear(heard)
        if self.activation == "glu":
            return self._after(self.norm, x + self.dropout(glu(self.linear(self.dropout(gelu(heard))))), real)
        z = self._after(self.norm, x + self.dropout(self.join(heard)), real)
        gate, value = self.gates(z if self.post else normed(self.inner_norm, z, real)).chunk(2, dim=-1)
        return self._after(self.inner_norm, z + self.dropout(self.out(silu(gate) * value)), real)

    def _after(self, norm: nn.Module, x: Tensor, real: Tensor | None) -> Tensor:
        return normed(norm, x, real) if self.post else x


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each sequence of x (B, L, D) round, within its length; what is behind the end stays there."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    back = lengths[:, None] - 1 - steps  # (B, L)
    return x.gather(1, torch.where(back >= 0, back, steps)[..., None].expand_as(x))
