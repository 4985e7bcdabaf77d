"""A run's configuration, short enough to be read: contenders by what they have in common, long lists by their start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.report.page.command import is_location, shorten
from trimtab.report.page.numbers import counted, whole
from trimtab.report.page.room import cut, sized

_AROUND = 70
"""Bytes of HTML around a value and its key, about."""
_CONTENDERS, _HASH, _CONCEPT = "contenders", "hash", "concept"
_SPLIT = 3
"""Groups of one label and method that are told apart; of more, the settings that differ are named as such."""


@dataclass(frozen=True)
class _Caps:
    """Entries of a list, keys of an object, characters of a text and levels that are shown."""

    entries: int
    keys: int
    characters: int
    levels: int = 8


_CAPS = (_Caps(24, 60, 1_000), _Caps(12, 30, 300), _Caps(6, 20, 80), _Caps(2, 12, 66, 4), _Caps(1, 8, 66, 2))


@dataclass(frozen=True)
class IdentityView:
    """A configuration as it is shown, and what is not shown of it, in words."""

    value: Mapping[str, Any]
    left_out: str


def grouped(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration with its contenders by label, method and settings, each group with the count of its concepts."""
    contenders = identity.get(_CONTENDERS)
    if not isinstance(contenders, Sequence) or isinstance(contenders, str):
        return identity
    if not all(isinstance(each, Mapping) and "label" in each for each in contenders):
        return identity
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for each in contenders:
        kinds.setdefault(_key([each["label"], each.get("method")]), []).append(each)
    return {**identity, _CONTENDERS: [group for kind in kinds.values() for group in _groups(kind)]}


def view_identity(value: Mapping[str, Any], budget: int) -> IdentityView:
    """A configuration in so many bytes of HTML: locations and lists shortened, hashes of entries of lists dropped.

    Args:
        value: As `grouped` gives it.
        budget: Bytes of HTML.
    """
    said: set[str] = set()
    for caps in _CAPS:
        said = set()
        found = _capped(value, caps, caps.levels, said)
        if _size(found) <= budget:
            break
    else:
        found, said = {}, {"all of it"}
    if any(_HASH in each for each in _entries(value)) or _grouped(value):
        said.add("the hash of each contender and concept")
    words = f"Not shown here: {', '.join(sorted(said))}. config.json has it whole." if said else ""
    return IdentityView(found, words)


def _groups(kind: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The contenders of one label and method, as few entries as tell their settings."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in kind:
        groups.setdefault(_key(_own(each)), []).append(each)
    parts = list(groups.values()) if len(groups) <= _SPLIT else [list(kind)]
    found = []
    for part in parts:
        concepts = {_key(each.get(_CONCEPT)) for each in part if each.get(_CONCEPT) is not None}
        found.append({**_common([_own(each) for each in part]), "concepts": len(concepts)})
    return found


def _own(each: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in each.items() if key not in (_CONCEPT, _HASH)}


def _common(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all have, by key; what differs is counted."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for value in values for key in value):
        held = [value.get(key) for value in values]
        different = len({_key(one) for one in held})
        objects = [one for one in held if isinstance(one, Mapping)]
        if different == 1:
            found[key] = held[0]
        elif len(objects) == len(held):
            found[key] = _common(objects)
        else:
            found[key] = f"{whole(different)} different ones, by concept"
    return found


def _capped(value: Any, caps: _Caps, levels: int, said: set[str]) -> Any:
    if isinstance(value, str):
        if is_location(value) and (short := shorten(value)) != value:
            said.add("whole paths and addresses")
            value = short
        if len(value) > caps.characters:
            said.add("the ends of long texts")
        return cut(value, caps.characters)
    if not isinstance(value, Mapping | Sequence):
        return value
    if not levels:
        said.add("what lies deeper")
        return counted(len(value), "entry", "entries")
    if isinstance(value, Mapping):
        shown = {
            cut(str(key), caps.characters): _capped(below, caps, levels - 1, said)
            for key, below in list(value.items())[: caps.keys]
        }
        if (more := len(value) - caps.keys) > 0:
            said.add("the ends of long lists")
            shown["and"] = f"{whole(more)} more"
        return shown
    shown = [_capped(_without_hash(below), caps, levels - 1, said) for below in value[: caps.entries]]
    if (more := len(value) - caps.entries) > 0:
        said.add("the ends of long lists")
        return {"first": shown, "and": f"{whole(more)} more"}
    return shown


def _without_hash(value: Any) -> Any:
    if isinstance(value, Mapping) and _HASH in value and len(value) > 1:
        return {key: below for key, below in value.items() if key != _HASH}
    return value


def _entries(value: Any) -> list[Mapping[str, Any]]:
    """Every object that is an entry of a list, at any depth."""
    found, open_ = [], [value]
    while open_:
        one = open_.pop()
        below = list(one.values() if isinstance(one, Mapping) else one)
        if not isinstance(one, Mapping):
            found += [each for each in below if isinstance(each, Mapping)]
        open_ += [each for each in below if isinstance(each, Mapping | list | tuple)]
    return found


def _grouped(value: Mapping[str, Any]) -> bool:
    contenders = value.get(_CONTENDERS)
    return isinstance(contenders, list) and any(isinstance(e, Mapping) and "concepts" in e for e in contenders)


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return _AROUND + sum(_AROUND + sized(key) + _size(below) for key, below in value.items())
    if isinstance(value, list):
        return _AROUND + sum(map(_size, value))
    return _AROUND + sized(str(value))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
