"""Truncation that truncates: a text cut so that it really has no more tokens than it may have."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.models.chat import RenderedPrompt
from trimtab.models.text_side import TextSide


def cut_text(side: TextSide, text: str, most: int, prompts: Sequence[RenderedPrompt] = ()) -> str:
    """A beginning of a text that has at most so many tokens, alone and as the answer to each prompt.

    It ends where a token of the whole text ends, and never inside a character; ended one token later, it would have
    too many. Beginnings are counted themselves, for one may be split into more tokens than the whole text has up to
    there. No BOS is counted or added.

    Args:
        side: The model's.
        text: The text.
        most: Tokens, at least 1.
        prompts: Prompts that it follows as an answer.

    Returns:
        The text itself if it is short enough; nothing where not even its first character has so few tokens.
    """
    if _count(side, text, prompts) <= most:
        return text
    points = [point for point in side.cut_points(text) if point < len(text)]
    low, high = 0, len(points)
    # Every point below `low` that was looked at is short enough, and the one at `high` is not.
    while low < high:
        middle = (low + high) // 2
        if _count(side, text[: points[middle]], prompts) <= most:
            low = middle + 1
        else:
            high = middle
    return text[: points[low - 1]] if low else ""


def _count(side: TextSide, text: str, prompts: Sequence[RenderedPrompt]) -> int:
    behind = [len(side.chat.response_ids(prompt, text)) for prompt in prompts]
    return max([side.count(text), *behind])
