"""JSON that is read strictly: every refusal names the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import InputError


@dataclass(frozen=True)
class Node:
    """A value of a JSON file, and where in it the value stands.

    Attributes:
        value: The value.
        file: The file.
        key: The way to it, such as `tables[0].rows[2].label`; empty for the whole file.
    """

    value: Any
    file: Path
    key: str = ""

    def wrong(self, allowed: str) -> InputError:
        """The error of a value that is not what it should be."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return InputError(
            f"{self.file}: {self.key or 'the whole'} is {shown}; it takes {allowed}: write it by the schema of "
            "docs/design/evaluation.md"
        )

    def fields(self, required: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Node]:
        """The entries of an object; optional ones that are absent or null are left out.

        Raises:
            InputError: It is no object, a key is missing or there is one that is not known.
        """
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        known = (*required, *optional)
        for key in required:
            if key not in self.value:
                raise InputError(f"{self.file}: {self.key or 'the whole'} has no {key!r}; it takes {', '.join(known)}")
        for key in self.value:
            if key not in known:
                raise InputError(
                    f"{self.file}: {self._at(str(key))} is not known; {self.key or 'the whole'} takes "
                    f"{', '.join(known)}"
                )
        return {
            key: Node(value, self.file, self._at(key))
            for key, value in self.value.items()
            if key in required or value is not None
        }

    def entries(self) -> dict[str, Node]:
        """The entries of an object whose keys are free."""
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object")
        return {str(key): Node(value, self.file, self._at(str(key))) for key, value in self.value.items()}

    def items(self) -> tuple[Node, ...]:
        """The entries of a list."""
        if not isinstance(self.value, Sequence) or isinstance(self.value, str):
            raise self.wrong("a list")
        return tuple(Node(value, self.file, f"{self.key}[{k}]") for k, value in enumerate(self.value))

    def text(self) -> str:
        """A text."""
        if not isinstance(self.value, str):
            raise self.wrong("a text")
        return self.value

    def text_or_none(self) -> str | None:
        """A text, or null."""
        return None if self.value is None else self.text()

    def number(self) -> float:
        """A finite number."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool) or not math.isfinite(self.value):
            raise self.wrong("a finite number")
        return self.value

    def number_or_none(self) -> float | None:
        """A finite number, or null."""
        return None if self.value is None else self.number()

    def whole(self) -> int:
        """A whole number, not below 0."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.wrong("a whole number, not below 0")
        return self.value

    def numbers(self, n: int | None = None) -> tuple[float | None, ...]:
        """A list of numbers and nulls, of a length if one is given."""
        found = tuple(item.number_or_none() for item in self.items())
        if n is not None and len(found) != n:
            raise InputError(f"{self.file}: {self.key} has {len(found)} entries; it takes {n}, one for each beside it")
        return found

    def texts(self) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.text() for item in self.items())

    def _at(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key
