"""One implementation of one layer at one shape, in a process of its own; `layer.py` starts it and asks line by line.

Every implementation gets the same arrays (input, output gradient, filters, weights, in torchstu's layout) and turns
them into its own. A *step* is one forward and one backward pass with gradients for the input and all weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from machine import ROOT, limit_threads, peak_memory

TIMED_SECONDS = 0.3
"""A timed repeat makes as many steps as fit this many seconds, at least one, and reports their mean."""


class Layer(NamedTuple):
    step: Callable[[], Any]
    """Forward and backward; returns when both are done."""
    results: Callable[[Any], dict[str, Any]]
    """What a step returned as arrays in torchstu's layout: "y" and gradients by name."""
    versions: dict[str, str]


def torchstu_layer(problem: dict[str, Any], **options: Any) -> Layer:
    import torchstu

    filters, channels = problem["filters"], problem["u"].shape[2]
    length, count = filters.shape
    layer = torchstu.STU(channels, channels, length=length, num_filters=count, **options)
    return _torch_layer(layer, problem, lambda u: layer(u)[0])


def mini_stu_layer(problem: dict[str, Any], folder: Path) -> Layer:
    import torch

    _bare_package("mini_stu", folder)
    filters, channels = problem["filters"], problem["u"].shape[2]
    layer = importlib.import_module("mini_stu.stu").MiniSTU(
        *filters.shape, channels, channels, precomputed_filters=torch.from_numpy(filters)
    )
    return _torch_layer(layer, problem, layer)


def flash_stu_layer(problem: dict[str, Any], folder: Path) -> Layer:
    import torch

    for package in ("flash_stu", "flash_stu.utils", "flash_stu.modules"):
        _bare_package(package, folder)
    filters, channels = problem["filters"], problem["u"].shape[2]
    size = importlib.import_module("flash_stu.utils.numerics").nearest_power_of_two(2 * len(filters) - 1, round_up=True)
    config = types.SimpleNamespace(
        num_eigh=filters.shape[1], n_embd=channels, use_hankel_L=False, use_approx=False, use_flash_fft=False,
        torch_dtype=torch.float32, d_in_tile=None, d_out_tile=None,
    )  # fmt: skip
    layer = importlib.import_module("flash_stu.modules.stu").STU(config, torch.from_numpy(filters), size)
    return _torch_layer(layer, problem, layer)


def spectral_ssm_layer(problem: dict[str, Any], folder: Path) -> Layer:
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

    def forward_backward(params: Any, u: Any, grad: Any) -> Any:
        y, pull_back = jax.vjp(lambda params, u: model.apply_stu(params, u, bank), params, u)
        return y, pull_back(grad)

    compiled = jax.jit(forward_backward).lower(params, u, grad).compile()

    def results(done: Any) -> dict[str, Any]:
        y, ((m_y, m_u, m_phi), grad_u) = done
        return {
            "y": y, "u": grad_u, "M_y": m_y.transpose(1, 2, 0), "M_u": m_u.transpose(2, 1, 0),
            "M_phi_plus": m_phi.reshape(count, channels, channels),
        }  # fmt: skip

    versions = {name: importlib.import_module(name).__version__ for name in ("jax", "jaxlib", "haiku")}
    return Layer(lambda: jax.block_until_ready(compiled(params, u, grad)), results, versions)


def _torch_layer(layer: Any, problem: dict[str, Any], forward: Callable[[Any], Any]) -> Layer:
    import torch

    with torch.no_grad():
        for name, weight in layer.named_parameters():
            weight.copy_(torch.from_numpy(problem[name][: len(weight)]))  # M_u is empty without input lags
    u = torch.from_numpy(problem["u"]).requires_grad_()
    grad = torch.from_numpy(problem["grad"])

    def step() -> Any:
        layer.zero_grad(set_to_none=True)
        u.grad = None
        y = forward(u)
        y.backward(grad)
        return y.detach()

    def results(y: Any) -> dict[str, Any]:
        weights = {name: weight.grad for name, weight in layer.named_parameters() if weight.numel()}
        return {"y": y, "u": u.grad} | weights

    return Layer(step, results, {"torch": torch.__version__})


def _bare_package(name: str, folder: Path) -> None:
    """A package without its ``__init__``, which imports what one layer does not need (transformers, CUDA, tqdm)."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder.joinpath(*name.split(".")))]
    sys.modules[name] = package


LAYERS: dict[str, Callable[..., Layer]] = {
    "torchstu STU": lambda problem, folder: torchstu_layer(problem, autoregression=None, input_lags=0),
    "torchstu AR-STU": lambda problem, folder: torchstu_layer(problem, autoregression="learned", banks="positive"),
    "torchstu STU, default": lambda problem, folder: torchstu_layer(problem),
    "flash-stu-2 MiniSTU": mini_stu_layer,
    "flash-stu-2 STU": flash_stu_layer,
    "spectral_ssm STU": spectral_ssm_layer,
}


def timed(step: Callable[[], Any]) -> float:
    """Seconds a step, after one that is not timed."""
    step()
    steps, start = 0, time.perf_counter()
    while True:
        step()
        steps += 1
        elapsed = time.perf_counter() - start
        if elapsed >= TIMED_SECONDS:
            return elapsed / steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation", choices=LAYERS)
    parser.add_argument("problem", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    limit_threads(options.threads)
    sys.path.insert(0, str(ROOT / "src"))
    import numpy as np

    layer = LAYERS[options.implementation](dict(np.load(options.problem)), options.folder)
    say = lambda answer: print(json.dumps(answer), flush=True)  # noqa: E731
    say({"numpy": np.__version__} | layer.versions)
    for line in sys.stdin:
        request = json.loads(line)
        if request == "memory":
            say(peak_memory(layer.step))
        elif request == "time":
            say(timed(layer.step))
        else:  # the path where the results go
            np.savez(request, **{name: np.asarray(value) for name, value in layer.results(layer.step()).items()})
            say(True)


if __name__ == "__main__":
    main()
