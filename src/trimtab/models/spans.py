"""Token ids together with the characters they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    """One tokenised text.

    Attributes:
        ids: Token ids.
        spans: For each id the characters [start, end) that it stands for; None if the tokenizer cannot say.
        added: How many leading ids stand for no character at all.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None
    added: int = 0

    def after(self, ids: tuple[int, ...]) -> Tokens:
        """The same behind ids that stand for no character."""
        spans = None if self.spans is None else ((0, 0),) * len(ids) + self.spans
        return Tokens(ids + self.ids, spans, self.added + len(ids))

    def cut(self, border: int) -> int | None:
        """Index of the first token at or beyond a character; None if a token lies across it or there are no spans."""
        if self.spans is None:
            return None
        for index, (start, end) in enumerate(self.spans[self.added :], self.added):
            if start >= border:
                return index
            if end > border:
                return None
        return len(self.ids)

    def at(self, character: int) -> int | None:
        """Index of the token that holds a character (its last byte); None without spans."""
        if self.spans is None:
            return None
        return max(index for index, (start, _) in enumerate(self.spans) if start <= character)


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """Tokenises a text that spells out whatever special tokens it has; the tokenizer adds none.

    Args:
        tokenizer: Any tokenizer of transformers.
        text: The text. A special token written in it becomes that token.

    Returns:
        Ids, and spans if the tokenizer is a fast one.
    """
    fast = bool(tokenizer.is_fast)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
    spans = _tile(text, encoded["offset_mapping"]) if fast else None
    return Tokens(tuple(encoded["input_ids"]), spans)


def special_prefix(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that the tokenizer puts in front of a text by itself: BOS, or nothing for many models."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start])
    return ()


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """The leading ids that two sequences have in common."""
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return tuple(first[:length])


def _tile(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Gives each token the blanks in front of it back: some byte-level tokenizers trim them off their offsets."""
    spans: list[tuple[int, int]] = []
    reached = 0
    for start, end in offsets:
        blank = reached < start and text[reached:start].isspace()
        spans.append((reached if blank else start, end))
        reached = max(reached, end)
    return tuple(spans)
