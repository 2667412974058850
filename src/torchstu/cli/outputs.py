"""What commands on a recording share: its arguments, and checks of where they are to write, made before the work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def add_recording(parser: Any, made: str) -> None:
    """The arguments that name a recording, its columns and a new folder; ``made`` says what the folder will hold."""
    parser.add_argument("data", metavar="DATA", help="CSV (.csv, .csv.gz) or Parquet file with a header, rows in time order")
    parser.add_argument(
        "--inputs", metavar="A,B", required=True, help="names of the input columns; quoted as in CSV if with a comma"
    )
    parser.add_argument("--outputs", metavar="Y", required=True, help="names of the output columns")
    parser.add_argument("--output", metavar="FOLDER", required=True, help=f"new folder for {made}")
    parser.add_argument("--time", metavar="COLUMN", help="column of times; it is checked to increase")


def check_new(path: str) -> Path:
    """A path that does not exist and can be made.

    Raises:
        ValueError: an empty name.
        FileExistsError: something is there.
        OSError: it cannot be written there.
    """
    if not path:
        raise ValueError("--output: '' is no name; give a folder that does not exist")
    target = Path(path)
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{path}: exists already; give a folder that does not")
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    _check_folder(path, folder)
    return target


def check_file(path: str, *suffixes: str, option: str = "--output") -> None:
    """A file that can be written, or written over.

    Raises:
        ValueError: another suffix.
        OSError: it cannot be written there; its folder must exist.
    """
    if not path.lower().endswith(suffixes):
        raise ValueError(f"{option}: {path!r}; it must end in {' or '.join(suffixes)}")
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; it must be a file")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: cannot be written, there is no folder {folder}")
    _check_folder(path, folder)


def _check_folder(path: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=".torchstu.", dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path}: cannot be written, {folder} takes no new files ({error.strerror})") from error
