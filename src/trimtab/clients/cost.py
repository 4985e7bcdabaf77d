"""What calls to an endpoint will cost, before they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import InputError

BYTES_A_TOKEN = 4
"""Bytes of UTF-8 that are taken for one token: close for English; for other scripts nearer than characters would be."""
TOKENS_A_MESSAGE = 4
"""Tokens that a chat format is taken to put around one message."""


@dataclass(frozen=True)
class Prices:
    """What an endpoint asks for a million tokens, in any currency.

    Args:
        input: A million tokens sent.
        output: A million tokens received.

    Raises:
        InputError: A price is negative or not finite.
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            price = getattr(self, name)
            if not math.isfinite(price) or price < 0:
                raise InputError(f"the {name} price is {price}; give what a million tokens cost, 0 or more")

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """The price of so many tokens sent and received."""
        return (self.input * input_tokens + self.output * output_tokens) / 1_000_000


@dataclass(frozen=True)
class Estimate:
    """What a piece of work would ask of an endpoint.

    Attributes:
        calls: Different requests, without retries; what the cache answers is counted too.
        cached: How many of them the disk cache answers.
        input_tokens: Tokens sent by the others, estimated (`tokens_of`).
        output_tokens: Tokens received by the others, at most.
        price: In the currency of the prices given; None where none are.
    """

    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    price: float | None = None

    def __add__(self, other: Estimate) -> Estimate:
        price = None if self.price is None or other.price is None else self.price + other.price
        return Estimate(
            self.calls + other.calls,
            self.cached + other.cached,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            price,
        )


def tokens_of(messages: Sequence[Mapping[str, str]]) -> int:
    """Tokens that messages are taken to be: for each, its bytes of UTF-8 over 4, rounded up, and 4 around it.

    A rule and no tokenizer: which one an endpoint uses is not known here.
    """
    sizes = (len(message["content"].encode("utf-8", errors="backslashreplace")) for message in messages)
    return sum(math.ceil(size / BYTES_A_TOKEN) + TOKENS_A_MESSAGE for size in sizes)
