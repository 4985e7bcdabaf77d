"""Contrast pairs: one prompt with the concept and one without, each with its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from trimtab.models.messages import Prompt


@dataclass(frozen=True)
class ContrastPair:
    """One row of contrast data.

    Attributes:
        positive_input: Prompt that carries the concept: a text (one user turn) or messages.
        positive_output: Answer with the concept.
        negative_input: Prompt without the concept.
        negative_output: Answer without the concept.
        concept: What the concept is, in words.
        concept_id: Number of the concept in its data set.
        concept_genre: Kind of concept, such as "text", "code" or "safety".
    """

    positive_input: Prompt
    positive_output: str
    negative_input: Prompt
    negative_output: str
    concept: str | None = None
    concept_id: int | None = None
    concept_genre: str | None = None


class PairSet(Sequence[ContrastPair]):
    """Contrast pairs that were read from one place and checked; never changed afterwards.

    Args:
        pairs: The pairs, in the order of their source.
        source: Where they come from: a path, a built-in name, a Hub id, or "list".
        skipped: How many rows of the source were left out because their concept id is negative.
    """

    def __init__(self, pairs: Iterable[ContrastPair], *, source: str = "list", skipped: int = 0) -> None:
        self._pairs = tuple(pairs)
        self._source = source
        self._skipped = skipped

    @property
    def pairs(self) -> tuple[ContrastPair, ...]:
        """The pairs themselves."""
        return self._pairs

    @property
    def source(self) -> str:
        """Where they come from."""
        return self._source

    @property
    def skipped(self) -> int:
        """Rows of the source that were left out because their concept id is negative."""
        return self._skipped

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the concepts, in the order of their first pair; the number where there is no name."""
        names = (str(pair.concept_id) if pair.concept is None else pair.concept for pair in self._pairs)
        return tuple(dict.fromkeys(name for name in names if name != "None"))

    @property
    def content_hash(self) -> str:
        """SHA-256 over the rows; the same rows read from another file format have the same one."""
        rows = (json.dumps(astuple(pair), sort_keys=True, separators=(",", ":")) for pair in self._pairs)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    @overload
    def __getitem__(self, index: int) -> ContrastPair: ...
    @overload
    def __getitem__(self, index: slice) -> PairSet: ...
    def __getitem__(self, index: int | slice) -> ContrastPair | PairSet:
        if isinstance(index, slice):
            return PairSet(self._pairs[index], source=self._source)
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"PairSet({len(self)} pairs from {self._source!r})"
