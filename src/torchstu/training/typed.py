"""Plain values, as YAML and JSON have them, to frozen dataclasses: keys and types are checked, errors name the key's path."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(kind: type[T], values: Any, path: str = "") -> T:
    """A dataclass from a mapping; fields that are dataclasses themselves from mappings within.

    Args:
        kind: a dataclass.
        values: its fields by name.
        path: of the mapping in the whole, for errors.

    Raises:
        ValueError: an unknown or missing key, a value of another type, or one that ``kind`` itself refuses.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{path or kind.__name__}: {values!r}; it must be {describe(kind)}")
    check_names(values, _field_names(kind), path)
    hints, made = get_type_hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]
        key = join(path, field.name)
        if field.name in values:
            hint, value = hints[field.name], values[field.name]
            made[field.name] = build(hint, value, key) if is_dataclass(hint) else checked(hint, value, key)  # type: ignore[arg-type]
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{key}: missing; it must be {describe(hints[field.name])}")
    try:
        return kind(**made)
    except (TypeError, ValueError) as error:
        raise ValueError(with_path(error, path, _field_names(kind))) from error


def check_arguments(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    path: str,
    given: Iterable[str] = (),
    passed_on: Callable[..., Any] | None = None,
) -> None:
    """Hold a mapping to the keyword arguments of a function or class.

    Args:
        function: its annotations say what is allowed.
        values: the arguments by name.
        path: of the mapping in the whole, for errors.
        given: arguments that come from elsewhere, so that they may not be named here.
        passed_on: what a function gives its ``**options`` to; None: they are its own to check.

    Raises:
        ValueError: an unknown or missing argument, or a value of another type.
    """
    known = arguments_of(function) if passed_on is None else arguments_of(passed_on) | arguments_of(function)
    parameters = {name: item for name, item in known.items() if name not in set(given)}
    if inspect.isclass(function) or passed_on is not None or not _takes_any(function):
        check_names(values, parameters, path)
    for name, (hint, required) in parameters.items():
        if name in values:
            checked(hint, values[name], join(path, name))
        elif required:
            told = documented(function, name)
            raise ValueError(f"{join(path, name)}: missing; it must be {describe(hint)}{': ' * bool(told)}{told}")


def documented(function: Callable[..., Any], name: str) -> str:
    """The first sentence that a docstring says of an argument, as one line; empty if it says nothing."""
    entry = rf"^    (?:\w+, )*{name}(?:, \w+)*: (.+(?:\n {{8}}.+)*)"
    found = re.search(entry, inspect.getdoc(function) or "", re.MULTILINE)
    return " ".join(found[1].replace("``", "").split()).split(". ")[0].rstrip(".") if found else ""


def arguments_of(function: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Arguments by name: the annotation, and whether it must be given. ``**options`` of a class are those of its parent."""
    found: dict[str, tuple[Any, bool]] = {}
    constructors = [vars(k)["__init__"] for k in inspect.getmro(function) if "__init__" in vars(k)] \
        if inspect.isclass(function) else [function]  # fmt: skip
    for constructor in constructors:
        hints = get_type_hints(constructor)
        for item in inspect.signature(constructor).parameters.values():
            if item.name != "self" and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY):
                found.setdefault(item.name, (hints.get(item.name, Any), item.default is item.empty))
        if not _takes_any(constructor):
            break
    return found


def _takes_any(function: Callable[..., Any]) -> bool:
    return any(item.kind is item.VAR_KEYWORD for item in inspect.signature(function).parameters.values())


def check_names(values: Iterable[Any], known: Iterable[str], path: str) -> None:
    """Refuse keys that are not known.

    Raises:
        ValueError: with what is known, and what is like it.
    """
    names = list(known)
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, 1)
            tip = f"; did you mean {close[0]}?" if close else ""
            what = f"it must be one of {_names(names)}" if names else "there is nothing to be set"
            raise ValueError(f"{join(path, str(name))}: unknown; {what}{tip}")


def checked(hint: Any, value: Any, path: str) -> Any:
    """The value, if the annotation allows it; an integer becomes a float where one is asked for.

    Raises:
        ValueError: a value of another type.
    """
    for kind in _alternatives(hint):
        if _fits(kind, value):
            return float(value) if kind is float else value
    hint_none = " (in YAML: null)" if value == "None" and type(None) in _alternatives(hint) else ""
    raise ValueError(f"{path}: {value!r}; it must be {describe(hint)}{hint_none}")


def describe(hint: Any) -> str:
    """An annotation in words."""
    words: list[str] = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            words += [repr(choice) for choice in get_args(kind)]
        elif is_dataclass(kind):
            words.append(f"a mapping of {_names(_field_names(kind))}")  # type: ignore[arg-type]
        elif get_origin(kind) in (list, tuple) and str in get_args(kind):
            words.append("a list of texts")
        else:
            words.append(_WORDS.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind))))
    words = list(dict.fromkeys(words))
    return f"one of {', '.join(words)}" if len(words) > 2 else " or ".join(words)


def with_path(error: Exception, path: str, names: Iterable[str]) -> str:
    """An error's text with the path before it where it starts with one of the names: ``d_model: 0`` is ``model.d_model: 0``."""
    text = str(error)
    first = text.split(":")[0].split(",")[0]
    return f"{join(path, text)}" if first in set(names) else f"{path}: {text}" if path else text


@contextmanager
def errors_under(path: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Errors in the block that concern one of some arguments, by name or by the column, file or folder it gives, name its path.

    Raises:
        ValueError: in the place of a ValueError, TypeError or OSError.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        if text.startswith(path.split(".")[0] + "."):
            raise
        given = next((name for name, value in arguments.items() if _gives(name, value, text)), None)
        raise ValueError(f"{join(path, given)}: {text}" if given else with_path(error, path, arguments)) from error


def _gives(name: str, value: Any, text: str) -> bool:
    """Whether an error's text is about what an argument gives: the column that it names, else the path it starts with."""
    if column := re.search(r"column '(.*?)'", text):
        return column[1] in (value if isinstance(value, list) else [value])
    return name in ("file", "folder") and text.startswith(str(Path(str(value)).expanduser()))


def join(path: str, name: str) -> str:
    """A dotted path."""
    return f"{path}.{name}" if path else name


_WORDS: dict[Any, str] = {
    int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a text", type(None): "null",
    Any: "anything", list: "a list", tuple: "a list", dict: "a mapping",
}  # fmt: skip


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(kind: Any, value: Any) -> bool:
    origin = get_origin(kind) or kind
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (list, tuple):
        inner = [item for item in get_args(kind) if item is not Ellipsis] or [Any]
        if origin is tuple and Ellipsis not in get_args(kind) and len(inner) > 1:
            return isinstance(value, (list, tuple)) and len(value) == len(inner) and all(map(_matches, inner, value))
        return isinstance(value, (list, tuple)) and all(_matches(inner[0], item) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return isinstance(value, origin) if isinstance(origin, type) else True


def _matches(hint: Any, value: Any) -> bool:
    return any(_fits(kind, value) for kind in _alternatives(hint))


def _field_names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
