"""A small disk cache of arrays: written atomically, safe under several processes, ignored where corrupt."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np

SIZE_CAP = 256 * 2**20
"""Bytes the cache may hold; the least recently used files go first."""


def cache_folder() -> Path:
    """The folder of cached filters: ``$TORCHSTU_CACHE``, or ``torchstu`` under the platform's cache folder."""
    if override := os.environ.get("TORCHSTU_CACHE"):
        return Path(override)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "torchstu"


def load(key: str) -> dict[str, np.ndarray] | None:
    """The arrays stored under ``key``, or None if there are none that can be read."""
    try:
        path = cache_folder() / f"{key}.npz"
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception:  # absent, truncated, foreign, unreadable: all mean "compute it again"
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # recently used
    return arrays


def store(key: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under ``key``; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home directory
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{uuid.uuid4().hex}", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, folder / f"{key}.npz")
        finally:
            Path(temporary).unlink(missing_ok=True)
        _trim(folder)


def clear() -> int:
    """Delete every cached file; returns how many bytes that freed."""
    freed = 0
    for path in [*cache_folder().glob("*.npz"), *cache_folder().glob(".*.tmp")]:
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    return freed


def _trim(folder: Path) -> None:
    files = []
    for path in folder.glob("*.npz"):
        with contextlib.suppress(OSError):
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= SIZE_CAP:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
