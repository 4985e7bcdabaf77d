"""Interchange items: what one direction of one contrast pair contributes to a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data import TokenisedPair
from trimtab.models.chat import RenderedPrompt


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


def interchange_items(pairs: Sequence[TokenisedPair], ways: Sequence[str], *, preference: bool = False) -> list[Item]:
    """For every pair an item a way, in the published order: elicit (base negative, source positive), then suppress.

    Elicit is scored on the positive response, suppress on the negative one (specification of CDAS, section 1). For a
    `preference` another item follows each, with the response that is not wanted behind the same prompts.
    """
    items = []
    for pair in pairs:
        for way in ways:
            base, source = pair.negative, pair.positive
            wanted, other = pair.positive_response, pair.negative_response
            if way == "suppress":
                base, source, wanted, other = source, base, other, wanted
            items.append(_item(base, source, wanted))
            if preference:
                items.append(_item(base, source, other))
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
