"""Values from a file held against the annotations of the settings they are for."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.errors import InputError

_WORDS: Mapping[type[Any], str] = types.MappingProxyType(
    {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        dict: "keys and values",
        type(None): "nothing",
    }
)


def check_types(cls: type[Any], values: Mapping[str, Any]) -> None:
    """Raise InputError for the first value that is not of its field's type; fields of other types are not looked at.

    Args:
        cls: A dataclass with annotations.
        values: By field; names that it does not have are passed over.
    """
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name in hints and not _fits(hints[name], value):
            raise InputError(f"{name} is {value!r}; give {_said(hints[name])}")


def _fits(hint: Any, value: Any) -> bool:
    kind = typing.get_origin(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(each, value) for each in typing.get_args(hint))
    if kind is tuple or kind is Sequence:
        inner = typing.get_args(hint)[0]
        return isinstance(value, (list, tuple)) and all(_fits(inner, each) for each in value)
    if kind is Mapping or kind is dict:
        return isinstance(value, Mapping)
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in _WORDS else True


def _said(hint: Any) -> str:
    """A type in words."""
    kind = typing.get_origin(hint)
    if isinstance(hint, types.UnionType):
        said = [_said(each) for each in typing.get_args(hint) if each is not type(None)]
        return " or ".join(dict.fromkeys(said))
    if kind is tuple or kind is Sequence:
        return f"a list, each {_said(typing.get_args(hint)[0])}"
    if kind is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if kind is Mapping or kind is dict:
        return _WORDS[dict]
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")
