"""Interchange items: what one direction of one contrast pair contributes to a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.data import TokenisedPair
from trimtab.models.chat import RenderedPrompt

Side = Literal["positive", "negative"]


@dataclass(frozen=True)
class Way:
    """What one kind of training example is made of: which side of a contrast pair is what.

    Attributes:
        direction: What it trains, `elicit` or `suppress`.
        base: Whose prompt is edited.
        wanted: Whose response is to come.
    """

    direction: Literal["elicit", "suppress"]
    base: Side
    wanted: Side

    @property
    def source(self) -> Side:
        """Whose prompt is the counterfactual."""
        return "negative" if self.base == "positive" else "positive"


ELICIT = Way("elicit", base="negative", wanted="positive")
"""The answer with the concept behind the prompt without it."""
SUPPRESS = Way("suppress", base="positive", wanted="negative")
"""The answer without the concept behind the prompt that asks for it."""
KEEP = Way("suppress", base="negative", wanted="negative")
"""The model's own answer behind the prompt without the concept: nothing is to change."""
INTERCHANGES = (ELICIT, SUPPRESS)
"""The two ways of an interchange."""


@dataclass(frozen=True)
class Item:
    """A base prompt and a source prompt with the same response behind both.

    Only tokens that can matter are kept: the last response token is predicted but never read, so no sequence holds it.
    Scored positions are the last prompt token and every response token but the last: one a response token.

    Attributes:
        base: Ids of base prompt + response without its last token.
        source: Ids of source prompt + the same response without its last token.
        base_prompt: Tokens of the base prompt.
        source_prompt: Tokens of the source prompt.
        source_position: Index of the token of `source` whose state is interchanged.
        prefix: Leading base tokens that are template prefix.
        response: Ids of the response.
    """

    base: tuple[int, ...]
    source: tuple[int, ...]
    base_prompt: int
    source_prompt: int
    source_position: int
    prefix: int
    response: tuple[int, ...]

    @property
    def n_scored(self) -> int:
        """Scored positions: one a response token."""
        return len(self.response)

    @property
    def scored(self) -> slice:
        """Scored positions of `base`."""
        return slice(self.base_prompt - 1, self.base_prompt - 1 + self.n_scored)

    @property
    def source_scored(self) -> slice:
        """Scored positions of `source`."""
        return slice(self.source_prompt - 1, self.source_prompt - 1 + self.n_scored)


def interchange_items(pairs: Sequence[TokenisedPair], ways: Sequence[Way], *, preference: bool = False) -> list[Item]:
    """For every pair an item a way, in the order of the ways; of an interchange elicit comes first, as published.

    For a `preference` another item follows each, with the response that is not wanted behind the same prompts.
    """
    items = []
    for pair in pairs:
        prompts = {"positive": pair.positive, "negative": pair.negative}
        responses = {"positive": pair.positive_response, "negative": pair.negative_response}
        for way in ways:
            base, source = prompts[way.base], prompts[way.source]
            items.append(_item(base, source, responses[way.wanted]))
            if preference:
                other = "negative" if way.wanted == "positive" else "positive"
                items.append(_item(base, source, responses[other]))
    return items


def _item(base: RenderedPrompt, source: RenderedPrompt, response: tuple[int, ...]) -> Item:
    return Item(
        base=base.ids + response[:-1],
        source=source.ids + response[:-1],
        base_prompt=len(base.ids),
        source_prompt=len(source.ids),
        source_position=source.source_position,
        prefix=base.prefix_length,
        response=response,
    )
