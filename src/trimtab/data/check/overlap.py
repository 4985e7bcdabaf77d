"""What two sets of pairs have in common: texts of a test set that the training set shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from trimtab.data.check.findings import Finding, Level, Placed, found
from trimtab.data.check.texts import folded, said
from trimtab.data.pairs import ContrastPair


def check_overlap(pairs: Sequence[Placed], others: Sequence[Placed], source: str) -> Iterator[Finding]:
    """Texts that occur on both sides of a split, compared without case and blanks.

    Args:
        pairs: The pairs that are checked.
        others: Those of the other file.
        source: Its name.
    """
    kinds: tuple[tuple[Level, str, Callable[[ContrastPair], tuple[str, ...]]], ...] = (
        ("warning", "prompts", _prompts),
        ("note", "answers", _answers),  # short ones, such as refusals, are naturally said again
    )
    for level, what, texts_of in kinds:
        there: dict[str, str] = {}
        for where, pair in others:
            for text in texts_of(pair):
                there.setdefault(text, where)
        both = []
        for where, pair in pairs:
            shared = next((there[text] for text in texts_of(pair) if text in there), None)
            if shared is not None:
                both.append(f"{where} ({shared} there)")
        text = f"pairs with {what} that are in {source} too"
        yield from found(level, "overlap", text, both)


def _prompts(pair: ContrastPair) -> tuple[str, ...]:
    """Both prompts; of messages the user's turns as well, for a wording in a system turn hides what is asked."""
    texts = []
    for prompt in (pair.positive_input, pair.negative_input):
        texts.append(said(prompt))
        if not isinstance(prompt, str):
            texts.append("\n".join(turn["content"] for turn in prompt if turn["role"] == "user"))
    return tuple(map(folded, texts))


def _answers(pair: ContrastPair) -> tuple[str, ...]:
    return folded(pair.positive_output), folded(pair.negative_output)
