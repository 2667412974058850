"""A layer's step as a graph of real matrix products, by the recurrence (8): for `torch.export`, and as an ONNX file."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstu.extras import require
from torchstu.layers.base import Mixer, State
from torchstu.whole_file import whole_file

OPSET = 18


class StepModule(nn.Module):
    """One step of a layer as a function of tensors alone: (u_t, *state) -> (y_t, *next state).

    A state, a named tuple of tensors or of such tuples, is laid out flat in the order of its fields; empty tensors (as are the
    outputs of a layer without y-term) are left out. The step is that of `Mixer.step`: its cost does not depend on what
    came before.

    Args:
        layer: a `Mixer` with real states: `STU`, `ARSTU`, `TensordotSTU`, or a `SpectralSSM` of them.

    Attributes:
        state_names: of the state tensors, such as "inputs", "features", "outputs", or "layers_0_features" in a model.

    Raises:
        TypeError: no `Mixer`, or one with a complex state.
    """

    def __init__(self, layer: Mixer) -> None:
        super().__init__()
        if not isinstance(layer, Mixer):
            raise TypeError(f"layer: {type(layer).__name__}; it must be a torchstu.Mixer")
        template = layer.initial_state(1)
        leaves = dict(_leaves(template))
        for name, tensor in leaves.items():
            if tensor.is_complex():
                raise TypeError(
                    f"layer: {type(layer).__name__} has a complex state {name!r}, and the step must be real arithmetic; "
                    "use STU, ARSTU, TensordotSTU or a SpectralSSM of them"
                )
        self.layer = layer
        self._template = template
        self.state_names = tuple(name for name, tensor in leaves.items() if tensor.numel())

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """The zeros that a sequence starts with, in the order of ``state_names``."""
        return tuple(tensor for _, tensor in _leaves(self.layer.initial_state(batch_size)) if tensor.numel())

    def forward(self, u_t: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step.

        Args:
            u_t: (B, D_in).
            state: as many tensors as ``state_names``, batch first.

        Returns:
            y_t (B, D_out) and the state after it.

        Raises:
            ValueError: another number of state tensors.
        """
        if len(state) != len(self.state_names):
            raise ValueError(f"state: {len(state)} tensors; it must be {len(self.state_names)}: {', '.join(self.state_names)}")
        y, after = self.layer.mix_step(u_t, _filled(self._template, iter(state), u_t))
        return y, *(tensor for name, tensor in _leaves(after) if name in self.state_names)


def _leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of a state by name, in order."""
    if isinstance(state, Tensor):
        yield prefix, state
        return
    for name, part in zip(getattr(state, "_fields", range(len(state))), state, strict=True):
        yield from _leaves(part, f"{prefix}_{name}" if prefix else str(name))


def _filled(template: State, tensors: Iterator[Tensor], u_t: Tensor) -> State:
    """A state like the template with the given tensors in the place of those that have entries."""
    if isinstance(template, Tensor):
        return next(tensors) if template.numel() else u_t.new_zeros(u_t.shape[0], *template.shape[1:])  # len() would fix B
    parts = [_filled(part, tensors, u_t) for part in template]
    return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)


def export_onnx(layer: Mixer, path: str | os.PathLike[str]) -> None:
    """Write one step of a layer as an ONNX file, weights included, for any batch size.

    Inputs are ``u_t`` (batch, D_in) and the state by the names of `StepModule`; outputs ``y_t`` (batch, D_out) and ``next_``
    before each of those names. A sequence starts with zeros. The metadata say so: "torchstu.state" is JSON of {name: shape},
    with "batch" for the batch, "torchstu.initial_state" is "zeros", "torchstu.layer" and "torchstu.config" say what it was.
    Dropout is off. The graph has no transform, no loop and no complex number: products of matrices and sums.

    A y-term sums up the rounding of all steps: over 10,000 steps float32 weights leave 1e-6 to 1e-5 of the largest output,
    ``layer.double()`` less than 1e-11.

    Args:
        layer: as for `StepModule`, with weights of float32 or float64, on any device.
        path: of the file, ending in ".onnx"; it is written whole or not at all, replacing an older one.

    Raises:
        MissingExtraError: `pip install 'torchstu[onnx]'` has not been done.
        TypeError: a layer that `StepModule` refuses.
        ValueError: weights of another dtype, a path with another ending.
        FileNotFoundError, IsADirectoryError: no such folder; a folder in the file's place.
    """
    require("onnx", "onnx")
    require("onnx", "onnxscript")
    step = StepModule(copy.deepcopy(layer).cpu() if isinstance(layer, Mixer) else layer).eval()
    dtype = next(step.layer.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"layer: weights of {dtype}; they must be float32 or float64 (layer.float() makes them so)")
    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"path: {str(path)!r}; it must end in '.onnx'")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: {str(target.parent)!r} is no folder")
    if target.is_dir():
        raise IsADirectoryError(f"path: {str(path)!r} is a folder; it must be a file")
    model = _onnx_model(step, dtype)
    with whole_file(target) as draft:
        draft.write_bytes(model.SerializeToString())


def _onnx_model(step: StepModule, dtype: torch.dtype) -> Any:
    """The step as an ONNX model with metadata."""
    names, batch = step.state_names, torch.export.Dim("batch")
    example = (torch.zeros(2, step.layer.d_in, dtype=dtype), *step.initial_state(2))
    program = torch.export.export(step, example, dynamic_shapes=({0: batch}, tuple({0: batch} for _ in names)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)  # every tensor shares one batch
        warnings.filterwarnings("ignore", category=FutureWarning)  # torch's own, about its trees
        result = torch.onnx.export(
            program,
            input_names=["u_t", *names],
            output_names=["y_t", *(f"next_{name}" for name in names)],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert result is not None  # only without dynamo
    model = result.model_proto
    shapes = {name: ["batch", *tensor.shape[1:]] for name, tensor in zip(names, example[1:], strict=True)}
    facts = {
        "torchstu.layer": type(step.layer).__name__,
        "torchstu.config": json.dumps(step.layer.config, default=repr),
        "torchstu.state": json.dumps(shapes),
        "torchstu.initial_state": "zeros",
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model
