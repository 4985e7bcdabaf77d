"""Contrast pairs as token ids: both prompts rendered, each answer tokenised behind its own prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trimtab.data.pairs import ContrastPair
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.models.chat import ChatFormat, RenderedPrompt


@dataclass(frozen=True)
class TokenisedPair:
    """One contrast pair in token ids. Either response can follow either prompt: the ids are simply appended.

    Attributes:
        positive: The prompt with the concept.
        negative: The prompt without it.
        positive_response: Ids of the answer with the concept, tokenised behind the positive prompt; never empty.
        negative_response: Ids of the answer without it, tokenised behind the negative prompt; never empty.
    """

    positive: RenderedPrompt
    negative: RenderedPrompt
    positive_response: tuple[int, ...]
    negative_response: tuple[int, ...]

    @property
    def longest_prompt(self) -> int:
        """Ids of the longer prompt."""
        return max(len(self.positive.ids), len(self.negative.ids))

    @property
    def longest(self) -> int:
        """Ids of the longest sequence that the pair makes: the longer prompt with the longer response behind it."""
        return self.longest_prompt + max(len(self.positive_response), len(self.negative_response))

    def cut(self, length: int) -> TokenisedPair:
        """The pair with responses of at most this many ids."""
        return replace(
            self,
            positive_response=self.positive_response[:length],
            negative_response=self.negative_response[:length],
        )


def tokenise_pairs(
    chat: ChatFormat,
    pairs: Sequence[ContrastPair],
    *,
    context_length: int,
    max_response_tokens: int | None = None,
    truncate: bool = False,
) -> list[TokenisedPair]:
    """Renders and tokenises contrast pairs for one model.

    Args:
        chat: The model's format.
        pairs: The pairs.
        context_length: Ids that the model takes in one sequence.
        max_response_tokens: Cut every response to this many ids.
        truncate: Cut responses so that they fit the context, instead of refusing pairs that are too long. Prompts are
            never cut.

    Returns:
        One tokenised pair for each pair, in the same order.

    Raises:
        InputError: Pairs that do not fit the context (all are counted), a response without a token, a prompt that
            cannot be rendered, or `max_response_tokens` below 1.
    """
    if max_response_tokens is not None and max_response_tokens < 1:
        raise InputError(f"--max-response-tokens {max_response_tokens}: give at least 1")
    tokenised = [_tokenise(chat, pair, number) for number, pair in enumerate(pairs, 1)]
    if max_response_tokens is not None:
        tokenised = [pair.cut(max_response_tokens) for pair in tokenised]
    if truncate:
        _refuse(
            [pair.longest_prompt + 1 for pair in tokenised],
            context_length,
            "have a prompt that leaves no room for a response",
            "shorten these prompts or take them out",
        )
        return [pair.cut(context_length - pair.longest_prompt) for pair in tokenised]
    _refuse(
        [pair.longest for pair in tokenised],
        context_length,
        "are too long (each response is read behind both prompts)",
        "cut the responses with --truncate",
    )
    return tokenised


def _tokenise(chat: ChatFormat, pair: ContrastPair, number: int) -> TokenisedPair:
    try:
        positive, negative = chat.render(pair.positive_input), chat.render(pair.negative_input)
    except InputError as error:
        raise InputError(f"pair {number}: {error}") from error
    responses = chat.response_ids(positive, pair.positive_output), chat.response_ids(negative, pair.negative_output)
    for side, ids in zip(("positive_output", "negative_output"), responses, strict=True):
        if not ids:
            raise InputError(
                f"pair {number}: {side} {getattr(pair, side)!r} has no token of its own; give another answer"
            )
    return TokenisedPair(positive, negative, *responses)


def _refuse(lengths: list[int], context_length: int, what: str, remedy: str) -> None:
    """Raises if one of the lengths is beyond the context."""
    over = [length for length in lengths if length > context_length]
    if over:
        raise InputError(
            f"{len(over)} of {len(lengths)} pairs {what}: the longest needs {max(over)} tokens and the model takes "
            f"{context_length}; {remedy}"
        )
