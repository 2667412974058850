"""AdamW for models with spectral layers: it steps their weights in other coordinates than those in which they are stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchstu.layers.spectral import SpectralMixer
from torchstu.layers.stu import STU

Scale = tuple[float, ...] | None


class SpectralAdamW(torch.optim.AdamW):
    """AdamW that steps the weights of filters in the coordinates that suit the layer.

    A layer stores M_k beside σ_k^{1/4} φ_k. With a y-term the best M_k are of one size, since (1 - α²) α^i projects on φ_k as
    σ_k^{1/4} does, and steps of one size on M_k are right. Without one the best M_k are large, and steps of the size of the
    learning rate do not get there: there a step is taken on M̃_k = s_k M_k, which multiplies a filter of norm 1. Before the
    step, weight times s and gradient over s; after it, both back. Moments and weight decay are those of M̃. s_k is the power of
    two nearest to σ_k^{1/4}, so scaling rounds nothing: what a step leaves alone stays what it was to the last bit.

    Groups are those of `parameter_groups`; each has a key ``scale``, the s of its weights or None. Learning-rate schedules,
    closures and ``state_dict`` work as for AdamW. Outside of `step`, weights and gradients are as the layer stores them; what
    clips gradients before a step sees those.

    Args:
        module: any module.
        lr: learning rate, of all but weights with `optimizer_hints`.
        weight_decay: of all weights but biases, norms and those with hints against it; of M̃ where M̃ is stepped.
        coordinates: "auto" is M̃ in every `SpectralMixer` without a y-term; "unit" is M̃ in all of them.
        betas, eps: as of AdamW, of the scaled gradient.

    Raises:
        ValueError: numbers out of range, unknown ``coordinates``; a ``state_dict`` of an optimizer with other scales or none.

    Source: design (10); the analysis is in docs/training.md.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        coordinates: Literal["auto", "unit"] = "auto",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if coordinates not in ("auto", "unit"):
            raise ValueError(f"coordinates: {coordinates!r}; it must be 'auto' or 'unit'")
        groups = parameter_groups(module, lr, weight_decay, _automatic if coordinates == "auto" else _unit)
        super().__init__(groups, lr, betas, eps, weight_decay)
        self.defaults["scale"] = None  # of groups added later

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure, if any, is evaluated first, on the weights as stored."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            scaled = [(p, p.grad, _column(group["scale"], p)) for group in self.param_groups if group["scale"] is not None
                      for p in group["params"] if p.grad is not None]  # fmt: skip
            for weight, gradient, scale in scaled:
                weight.mul_(scale)
                gradient.div_(scale)
            _ADAMW_STEP(self)
            for weight, gradient, scale in scaled:
                weight.div_(scale)
                gradient.mul_(scale)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: its moments are those of other coordinates.
        """
        own = [group["scale"] for group in self.param_groups]
        theirs = [_as_scale(group.get("scale")) for group in state_dict["param_groups"]]
        if len(own) == len(theirs) and own != theirs:
            raise ValueError(
                "state_dict: of an optimizer with other scales or none; it must be of a SpectralAdamW of this model"
            )
        super().load_state_dict(state_dict)


_ADAMW_STEP = inspect.unwrap(torch.optim.AdamW.step)
"""AdamW's step without the wrapper that runs hooks, which has run around ours."""


def _unit(part: nn.Module) -> dict[str, Scale]:
    return dict(part.weight_scales()) if isinstance(part, SpectralMixer) else {}


def _automatic(part: nn.Module) -> dict[str, Scale]:
    return {} if isinstance(part, STU) and part.autoregression is not None else _unit(part)


def parameter_groups(
    module: nn.Module,
    learning_rate: float,
    weight_decay: float,
    scales_of: Callable[[nn.Module], dict[str, Scale]] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: each mixer's `optimizer_hints` hold, and biases and norms do not decay.

    Norms are modules whose class ends in "Norm", as torch's do; ``_no_weight_decay`` of a parameter, which published code sets,
    holds too.

    A weight that several modules share belongs to the first. With ``scales_of``, a part of the module to scales by name of its
    weights, weights of different scale are apart, and each group says its own.
    """
    groups: dict[tuple[float, bool, Scale], list[Tensor]] = {}
    known: set[Tensor] = set()
    for part in module.modules():
        hints = getattr(part, "optimizer_hints", {})
        scales = {} if scales_of is None else scales_of(part)
        for name, parameter in part.named_parameters(recurse=False):
            if parameter in known:
                continue
            known.add(parameter)
            exempt = name.startswith("bias") or type(part).__name__.endswith("Norm")
            factor, decays = hints.get(name, (1.0, not exempt and not getattr(parameter, "_no_weight_decay", False)))
            groups.setdefault((factor, decays, scales.get(name)), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * learning_rate, "weight_decay": weight_decay if decays else 0.0}
        | ({} if scales_of is None else {"scale": scale})
        for (factor, decays, scale), parameters in groups.items()
    ]


def plain_adamw(module: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW on the weights as they are stored, in the groups of `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(module, lr, weight_decay))


def _column(scale: tuple[float, ...], weight: Tensor) -> Tensor:
    """(K,) as a factor of a weight with K first."""
    return torch.tensor(scale, dtype=weight.dtype, device=weight.device).view(-1, *[1] * (weight.ndim - 1))


def _as_scale(value: Any) -> Scale:
    return None if value is None else tuple(float(x) for x in value)
