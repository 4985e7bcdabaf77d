"""What calls to an endpoint will cost, before they are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """What a piece of work would ask of an endpoint.

    Attributes:
        calls: Requests, without retries.
        cached: How many of them the disk cache answers.
        input_tokens: Tokens sent, estimated.
        output_tokens: Tokens received, at most.
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
