"""Layers of the same mathematics, ours and peers', as steps: each takes the arrays of `problem.make_problem`.

A *step* is one forward pass, or in training one forward and one backward pass with gradients for the input and all weights.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Layer(NamedTuple):
    step: Callable[[], Any]
    """Returns when it is done."""
    results: Callable[[Any], dict[str, Any]]
    """What a step returned as arrays in torchstu's layout: "y" and, in training, gradients by name."""
    versions: dict[str, str]
    parameters: int


def stu(problem: dict[str, Any], train: bool, folder: Path | None, **options: Any) -> Layer:
    import torchstu

    _, length, channels, count = map(int, problem["shape"])
    layer = torchstu.STU(channels, channels, length=length, num_filters=count, **options)
    return torch_layer(layer, problem, train, lambda u: layer(u)[0], weights=True)


def ar_stu(problem: dict[str, Any], train: bool, folder: Path | None, **options: Any) -> Layer:
    import torchstu

    _, length, channels, count = map(int, problem["shape"])
    layer = torchstu.ARSTU(channels, channels, length=length, num_filters=count, **options)
    return torch_layer(layer, problem, train, lambda u: layer(u)[0], weights=True)


def tensordot_stu(problem: dict[str, Any], train: bool, folder: Path | None, **options: Any) -> Layer:
    import torchstu

    _, length, channels, count = map(int, problem["shape"])
    layer = torchstu.TensordotSTU(channels, length=length, num_filters=count, **{"banks": "tied"} | options)
    return torch_layer(layer, problem, train, lambda u: layer(u)[0], weights=True)


def mini_stu(problem: dict[str, Any], train: bool, folder: Path) -> Layer:
    import torch

    _bare_package("mini_stu", folder)
    filters, channels = problem["filters"], int(problem["shape"][2])
    layer = importlib.import_module("mini_stu.stu").MiniSTU(
        *filters.shape, channels, channels, precomputed_filters=torch.from_numpy(filters)
    )
    return torch_layer(layer, problem, train, layer, weights=True)


def flash_stu(problem: dict[str, Any], train: bool, folder: Path, use_approx: bool) -> Layer:
    import torch

    for package in ("flash_stu", "flash_stu.utils", "flash_stu.modules"):
        _bare_package(package, folder)
    filters, channels = problem["filters"], int(problem["shape"][2])
    size = importlib.import_module("flash_stu.utils.numerics").nearest_power_of_two(2 * len(filters) - 1, round_up=True)
    config = types.SimpleNamespace(
        num_eigh=filters.shape[1], n_embd=channels, use_hankel_L=False, use_approx=use_approx, use_flash_fft=False,
        torch_dtype=torch.float32, d_in_tile=None, d_out_tile=None,
    )  # fmt: skip
    module = importlib.import_module("flash_stu.modules.stu").STU(config, torch.from_numpy(filters), size)
    return torch_layer(module, problem, train, module, weights=True)


def spectral_ssm(problem: dict[str, Any], train: bool, folder: Path) -> Layer:
    """DeepMind's layer: `model.apply_stu`, all that its module's `__call__` does, compiled as one function."""
    sys.path.insert(0, str(folder))
    import jax
    import jax.numpy as jnp
    from spectral_ssm import model

    count, channels = len(problem["eigenvalues"]), problem["u"].shape[2]
    bank = (problem["eigenvalues"], problem["eigenvectors"])  # constants of the compiled function, as in their module
    params = (
        jnp.asarray(problem["M_y"].transpose(2, 0, 1)),  # (D_out, k_y, D_out)
        jnp.asarray(problem["M_u"].transpose(2, 1, 0)),  # (D_out, D_in, k_u)
        jnp.asarray(problem["M_phi_plus"].reshape(count * channels, channels)),
    )
    u, grad = jnp.asarray(problem["u"]), jnp.asarray(problem["grad"])

    def forward(params: Any, u: Any, grad: Any) -> Any:
        return model.apply_stu(params, u, bank), None

    def forward_backward(params: Any, u: Any, grad: Any) -> Any:
        y, pull_back = jax.vjp(lambda params, u: model.apply_stu(params, u, bank), params, u)
        return y, pull_back(grad)

    compiled = jax.jit(forward_backward if train else forward).lower(params, u, grad).compile()

    def results(done: Any) -> dict[str, Any]:
        y, gradients = done
        if gradients is None:
            return {"y": y}
        (m_y, m_u, m_phi), grad_u = gradients
        return {
            "y": y, "u": grad_u, "M_y": m_y.transpose(1, 2, 0), "M_u": m_u.transpose(2, 1, 0),
            "M_phi_plus": m_phi.reshape(count, channels, channels),
        }  # fmt: skip

    versions = {name: importlib.import_module(name).__version__ for name in ("jax", "jaxlib", "haiku")}
    size = sum(weight.size for weight in params)
    return Layer(lambda: jax.block_until_ready(compiled(params, u, grad)), results, versions, size)


def torch_layer(
    layer: Any, problem: dict[str, Any], train: bool, forward: Callable[[Any], Any], *, weights: bool = False
) -> Layer:
    """A step of a torch module; with ``weights``, its parameters are those of the problem, by name."""
    import torch

    with torch.no_grad():
        for name, weight in layer.named_parameters() if weights else ():
            weight.copy_(torch.from_numpy(problem[name][: len(weight)]))  # M_u is empty without input lags
    u = torch.from_numpy(problem["u"]).requires_grad_(train)
    grad = torch.from_numpy(problem["grad"])

    def train_step() -> Any:
        layer.zero_grad(set_to_none=True)
        u.grad = None
        y = forward(u)
        y.backward(grad)
        return y.detach()

    def forward_step() -> Any:
        with torch.no_grad():
            return forward(u)

    def results(y: Any) -> dict[str, Any]:
        gradients = {name: weight.grad for name, weight in layer.named_parameters() if weight.numel()} if train else {}
        return {"y": y} | ({"u": u.grad} if train else {}) | gradients

    size = sum(weight.numel() for weight in layer.parameters())
    return Layer(train_step if train else forward_step, results, {"torch": torch.__version__}, size)


def _bare_package(name: str, folder: Path) -> None:
    """A package without its ``__init__``, which imports what one layer does not need (transformers, CUDA, tqdm)."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder.joinpath(*name.split(".")))]
    sys.modules[name] = package


LAYERS: dict[str, Callable[..., Layer]] = {
    "STU": stu,
    "ARSTU": ar_stu,
    "TensordotSTU": tensordot_stu,
    "MiniSTU": mini_stu,
    "FlashSTU": flash_stu,
    "SpectralSSM": spectral_ssm,
}
