"""Settings as people write them, on a command line or in YAML, brought to the kinds that their dataclass declares.

A run's identity is a hash over its settings, so 1 and 1.0, or one word and a list of one, must not be two runs.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from trimtab.errors import InputError

_SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def typed(settings: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Named values in the kinds of a settings dataclass; names that it does not have are left as they are.

    A whole number does for a number, one value for a list of one, and a text with commas for a list.

    Raises:
        InputError: A value of another kind.
    """
    hints = typing.get_type_hints(settings)
    return {name: _as(name, hints[name], value) if name in hints else value for name, value in values.items()}


def _as(name: str, hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        (kind,) = (each for each in typing.get_args(hint) if each is not type(None))
        return None if value is None else _as(name, kind, value)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        if isinstance(value, str):
            value = [_parsed(part.strip(), kind) for part in value.split(",")]
        return tuple(_as(name, kind, part) for part in (value if isinstance(value, list | tuple) else [value]))
    if hint not in _SAID:
        return value
    is_bool = isinstance(value, bool)
    if (hint is bool) is is_bool and isinstance(value, (int, float) if hint is float else hint):
        return float(value) if hint is float else value
    raise InputError(f"{name} is {value!r}; it takes {_SAID[hint]}")


def _parsed(part: str, kind: Any) -> Any:
    """A part of a text as the number that it is to be, or as it is where it is none."""
    try:
        return kind(part) if kind in (int, float) else part
    except ValueError:
        return part
