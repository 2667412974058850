"""Optional dependencies: imported where they are used, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """A feature needs packages that the core install does not have."""


def require(extra: str, module: str) -> ModuleType:
    """Import a module of an extra.

    Raises:
        MissingExtraError: it is not installed; the message names the command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is not None and error.name.split(".")[0] != package:
            raise
        raise MissingExtraError(f"{package} is not installed: pip install 'torchstu[{extra}]'") from error
