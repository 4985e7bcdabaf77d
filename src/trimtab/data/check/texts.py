"""Texts that should not be in contrast pairs: repeated, the same on both sides, with marks of a chat template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trimtab.data.check.findings import FEW, Finding, Placed, by_concept, found, label, named
from trimtab.data.pairs import ContrastPair
from trimtab.data.refusals import is_refusal
from trimtab.models.messages import Prompt
from trimtab.models.text_side import TextSide

MARKS = re.compile(
    r"<\|[\w .-]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<(?:bos|eos|pad)>"
    r"|^\s*(?:###\s*)?(?:instruction|response|human|user|assistant|model)\s*:\s",
    re.IGNORECASE,
)
"""Marks of chat templates in the middle of a text, and names of roles at its beginning."""

_BALANCE, _VARIETY = 3.0, 0.5
"""How many times as many pairs the largest concept may have as the smallest; share of answers that should differ."""


def folded(text: str) -> str:
    """A text for comparison: small letters, single blanks."""
    return " ".join(text.casefold().split())


def said(prompt: Prompt) -> str:
    """All that a prompt says, turn by turn."""
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def check_texts(pairs: Sequence[Placed], side: TextSide | None = None) -> Iterator[Finding]:
    """What is wrong with the texts of pairs.

    Args:
        pairs: The pairs.
        side: How the model reads, for its special tokens; None = only common marks are looked for.
    """
    same = [where for where, pair in pairs if folded(pair.positive_output) == folded(pair.negative_output)]
    yield from found("warning", "same answers", "both answers of a pair are the same, so it teaches nothing", same)
    yield from _duplicates(pairs)
    yield from _marks(pairs, side)
    yield from _refusals(pairs)
    yield from _balance(pairs)


def _duplicates(pairs: Sequence[Placed]) -> Iterator[Finding]:
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for where, pair in pairs:
        key = (label(pair), *map(folded, _texts(pair)))
        first = seen.setdefault(key, where)
        if first != where:
            twice.append(f"{where} (as {first})")
    yield from found("warning", "duplicates", "pairs stand there more than once", twice)


def _marks(pairs: Sequence[Placed], side: TextSide | None) -> Iterator[Finding]:
    special = () if side is None else tuple(token for token in side.special_texts if token.strip())
    places, shown = [], ""
    for where, pair in pairs:
        for text in _texts(pair):
            mark = MARKS.search(text)
            sign = next((token for token in special if token in text), None) or (mark and mark[0].strip())
            if sign:
                places.append(where)
                shown = shown or sign
                break
    text = f"texts with marks of a chat template, such as {shown!r}; the model's own template is put around texts"
    yield from found("warning", "template", text, places)


def _refusals(pairs: Sequence[Placed]) -> Iterator[Finding]:
    """Refusals on both sides, or in a few pairs only, are accidents; on one side of nearly all they are the concept."""
    positive = [where for where, pair in pairs if is_refusal(pair.positive_output)]
    negative = [where for where, pair in pairs if is_refusal(pair.negative_output)]
    for name, places in (("positive", positive), ("negative", negative)):
        if len(places) <= len(pairs) / 2:
            yield from found("warning", "refusals", f"{name} answers that read as refusals among others", places)
    if min(len(positive), len(negative)) > len(pairs) / 2:
        yield from found("warning", "refusals", "most answers of both sides read as refusals", positive)


def _balance(pairs: Sequence[Placed]) -> Iterator[Finding]:
    groups = by_concept(pairs)
    sizes = {concept: len(group) for concept, group in groups.items()}
    few = [f"{concept or 'all'} ({size})" for concept, size in sizes.items() if size < FEW]
    yield from found("warning", "few pairs", f"concepts with fewer than {FEW} pairs", few)
    if max(sizes.values()) > _BALANCE * min(sizes.values()):
        text = f"concepts have from {min(sizes.values())} to {max(sizes.values())} pairs"
        yield Finding("warning", "balance", text, len(sizes))
    for side in ("positive_output", "negative_output"):
        poor = []
        for concept, group in groups.items():
            different = len({folded(getattr(pair, side)) for _, pair in group})
            if len(group) >= FEW and different < _VARIETY * len(group):
                poor.append(f"{named(concept)}{different} of {len(group)}")
        name = side.removesuffix("_output")
        yield from found("note", "variety", f"few different {name} answers, so their words stand for the class", poor)


def _texts(pair: ContrastPair) -> tuple[str, str, str, str]:
    return said(pair.positive_input), pair.positive_output, said(pair.negative_input), pair.negative_output
