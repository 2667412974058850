"""Systems in files that other tools read: NumPy, JSON, MATLAB. Written whole or not at all.

The matrices are those of x_{t+1} = A x_t + B (u_t - u_0), y_t = y_0 + C x_t + D (u_t - u_0), the convention of python-control,
SciPy and MATLAB: reading the state *before* the step. `read_system` turns them back, equation (7).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from torchstu.convert.control import after_step, before_step, check_sample_time
from torchstu.extras import require
from torchstu.systems.lds import LDS
from torchstu.whole_file import whole_file

SUFFIXES = (".npz", ".json", ".mat")
_CONVENTION = "x[t+1] = A x[t] + B (u[t] - input_level), y[t] = output_level + C x[t] + D (u[t] - input_level)"


class StoredSystem(NamedTuple):
    """What `read_system` found."""

    system: LDS
    sample_time: float | bool
    """Seconds per step, or True where it is not known."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_level: np.ndarray
    """(D_in,) u_0, taken off the inputs."""
    output_level: np.ndarray
    """(D_out,) y_0, added to the outputs."""


def write_system(
    path: str | Path,
    lds: LDS,
    *,
    sample_time: float | bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    input_level: Any = 0.0,
    output_level: Any = 0.0,
) -> Path:
    """Write A, B, C, D of the common convention, ``sample_time``, names and levels; returns the path.

    Args:
        path: ends in .npz, .json or .mat (which needs SciPy, of the extra ``control``); written over if it exists.
        lds: the system.
        sample_time: seconds per step; True where it is not known.
        input_names, output_names: of the signals; None numbers them.
        input_level, output_level: u_0 and y_0, numbers or (D_in,) and (D_out,).

    Raises:
        ValueError: another suffix, numbers of names or levels that do not fit. OSError: it cannot be written.
        MissingExtraError: .mat without SciPy.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path: {path.name!r}; it must end in {', '.join(SUFFIXES)}")
    content: dict[str, Any] = dict(zip("ABCD", after_step(lds), strict=True))
    content["sample_time"] = check_sample_time(sample_time)
    given = {"input": (lds.d_in, input_names, input_level), "output": (lds.d_out, output_names, output_level)}
    for kind, (width, names, level) in given.items():
        names = [f"{kind}_{i + 1}" for i in range(width)] if names is None else list(names)
        if len(names) != width:
            raise ValueError(f"{kind}_names: {len(names)}; the system has {width} {kind}s")
        content[f"{kind}_names"] = names
        content[f"{kind}_level"] = np.broadcast_to(np.asarray(level, dtype=np.float64), (width,)).copy()
    content["convention"] = _CONVENTION
    with whole_file(path) as draft:
        _WRITERS[path.suffix.lower()](draft, content)
    return path


def read_system(path: str | Path) -> StoredSystem:
    """The system of a file of `write_system` (.npz or .json), with the same outputs.

    Raises:
        ValueError: another suffix, or a file that is no such system. OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"path: {path.name!r}; it must end in .npz or .json")
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            with np.load(path, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
        matrices = {name: np.array(content[name], dtype=np.float64) for name in "ABCD"}
        n, (d_out, d_in) = len(matrices["A"]), matrices["D"].shape
        shapes = {"A": (n, n), "B": (n, d_in), "C": (d_out, n), "D": (d_out, d_in)}
        system = before_step(*(matrices[name].reshape(shapes[name]) for name in "ABCD"))
        inputs, outputs = (tuple(str(name) for name in content[key]) for key in ("input_names", "output_names"))
        levels = [np.array(content[key], dtype=np.float64) for key in ("input_level", "output_level")]
        time = check_sample_time(np.asarray(content["sample_time"]).item())
        return StoredSystem(system, time, inputs, outputs, levels[0], levels[1])
    except (KeyError, TypeError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: holds no system that write_system wrote ({type(error).__name__}: {error})") from error


def _write_npz(draft: Path, content: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in content.items()}
    np.savez(draft, **arrays)


def _write_json(draft: Path, content: dict[str, Any]) -> None:
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in content.items()}
    draft.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_mat(draft: Path, content: dict[str, Any]) -> None:
    cells = {k: np.array(v, dtype=object) if k.endswith("_names") else v for k, v in content.items()}
    require("control", "scipy.io").savemat(draft, cells)


_WRITERS = {".npz": _write_npz, ".json": _write_json, ".mat": _write_mat}
