"""Checks of where a command is to write, made before its work."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_new(path: str) -> Path:
    """A path that does not exist and can be made.

    Raises:
        FileExistsError: something is there.
        OSError: it cannot be written there.
    """
    target = Path(path)
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{path}: exists already; give a folder that does not")
    check_writable(path)
    return target


def check_writable(path: str) -> Path:
    """A path whose nearest existing folder takes new files.

    Raises:
        OSError: it does not.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; it must be a file")
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".torchstu.", dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path}: cannot be written, {folder} takes no new files ({error.strerror})") from error
    return target
