"""Models in folders: ``model.safetensors`` and ``model.json``. Written whole or not at all; loading never unpickles."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from torchstu.layers.registry import MIXERS
from torchstu.layers.spectral import SpectralMixer
from torchstu.models.pairs import PairClassifier
from torchstu.models.ssm import SpectralSSM
from torchstu.spectral.filters import FilterBank
from torchstu.spectral.priors import is_known

MODELS: dict[str, type[nn.Module]] = {**MIXERS, "SpectralSSM": SpectralSSM, "PairClassifier": PairClassifier}
FORMAT = 2
"""Format 1 had the deep model's blocks and embedding at the top; it is still read."""


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only if the block succeeds.

    Raises:
        FileExistsError: something is there already.
        OSError: it cannot be written there.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: exists already; give a folder that does not")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)
        os.rename(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def save_model(folder: str | Path, model: nn.Module, extra: dict[str, Any] | None = None) -> None:
    """Store a mixer or a deep model in a new folder.

    Args:
        folder: must not exist.
        model: any of `torchstu.models.store.MODELS`.
        extra: JSON-serializable facts to keep beside it.

    Raises:
        FileExistsError: the folder exists.
        OSError: it cannot be written.
        TypeError: a model of a class that has no name here.
        ValueError: a prior of the user's own that has no name in ``torchstu.spectral.priors.PRIORS``.
    """
    with new_folder(folder) as draft:
        write_model(draft, model, extra)


def write_model(folder: Path, model: nn.Module, extra: dict[str, Any] | None = None) -> None:
    """Write the two files of a model into an existing folder."""
    names = [name for name, kind in MODELS.items() if type(model) is kind]
    if not names:
        raise TypeError(f"model: {type(model).__name__}; it must be one of {list(MODELS)}")
    for module in model.modules():
        prior = module.bank.prior if isinstance(module, SpectralMixer) else None
        if prior is not None and not is_known(prior):
            raise ValueError(f"prior: {prior.name!r} is not in torchstu.spectral.priors.PRIORS; add it there to save it")
    config: dict[str, Any] = dict(model.config)  # type: ignore[arg-type]
    if "mixer_options" in config:
        config["mixer_options"] = _without_banks(config["mixer_options"])  # saved with the weights
    description = {
        "format": FORMAT,
        "model": names[0],
        "config": config,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "extra": extra or {},
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors))


def _without_banks(options: Any) -> Any:
    if isinstance(options, dict):
        return {name: _without_banks(value) for name, value in options.items()}
    return None if isinstance(options, FilterBank) else options


def _with_banks(config: dict[str, Any], tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    """A configuration with the user's own banks, which are stored with the weights, in the places kept for them."""
    if "mixer_options" not in config:
        return _with_bank(config, tensors, "")
    names, options = config["mixer"], config["mixer_options"]
    if isinstance(names, str):
        return config | {"mixer_options": _with_bank(options, tensors, f"{prefix}0.mixer.")}
    filled = {name: _with_bank(options[name], tensors, f"{prefix}{names.index(name)}.mixer.") for name in options}
    return config | {"mixer_options": filled}


def _with_bank(options: dict[str, Any], tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    if options.get("prior", "") is not None:
        return options
    bank = FilterBank(tensors[f"{prefix}bank_eigenvalues"].numpy(), tensors[f"{prefix}bank_filters"].numpy())
    return options | {"prior": bank}


def _renewed(description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of format 1 in today's words."""
    config = dict(description["config"])
    if description["format"] == FORMAT or description["model"] != "SpectralSSM":
        return config, tensors
    today = {"blocks.": "backbone.blocks.", "embedding.": "embedding.linear."}
    for old, new in today.items():
        tensors = {new + name.removeprefix(old) if name.startswith(old) else name: t for name, t in tensors.items()}
    return config | {"norm": "layer" if config.get("activation", "glu") else None}, tensors


def load_model(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """Load what `save_model` stored: the model on the CPU and the extra facts.

    Raises:
        FileNotFoundError: the folder or one of its files is not there.
        ValueError: a file is truncated, corrupt, or of another format.
    """
    folder = Path(folder)
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: has no {name}; it is no model folder, or an incomplete one")
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        kind, dtype, extra = MODELS[description["model"]], getattr(torch, description["dtype"]), description["extra"]
        if description["format"] not in (1, FORMAT):
            raise ValueError(f"format {description['format']}, this version reads 1 and {FORMAT}")
        config, tensors = _renewed(description, load_file(folder / "model.safetensors"))
        config = _with_banks(config, tensors, ("encoder." if kind is PairClassifier else "") + "backbone.blocks.")
        model = kind(dtype=dtype, **config)
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: is no readable model ({type(error).__name__}: {reason})") from error
    return model, extra
