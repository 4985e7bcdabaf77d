"""Means of ratings, some of which could not be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from trimtab.errors import InputError

Unreadable = Literal["exclude", "zero"]
"""What an unreadable rating counts as: nothing, or 0."""


def harmonic(parts: Sequence[float | None]) -> float | None:
    """Harmonic mean of the ratings of one text, 0 if one of them is 0.

    None if one of them is unreadable, even beside a 0: were only such texts kept, as zeros, and the others left
    out, every unreadable reply would push the mean over texts downwards.

    Args:
        parts: Ratings, at least one, none below 0.

    Raises:
        InputError: No ratings, or one that is negative or not a number.
    """
    if not parts:
        raise InputError("a harmonic mean of no ratings was asked for; give one rating or more")
    readable = [part for part in parts if part is not None]
    if any(not part >= 0 for part in readable):
        raise InputError(f"ratings {list(parts)!r}; a harmonic mean takes numbers of 0 or more")
    if len(readable) < len(parts):
        return None
    return len(readable) / sum(1 / part for part in readable) if all(readable) else 0.0


def counted(values: Iterable[float | None], unreadable: Unreadable = "exclude") -> list[float]:
    """The values that a mean is taken of.

    Args:
        values: With None for what could not be read.
        unreadable: `exclude` leaves those out, `zero` puts 0 in their place.

    Raises:
        InputError: Another word for `unreadable`.
    """
    if unreadable == "exclude":
        return [float(value) for value in values if value is not None]
    if unreadable == "zero":
        return [0.0 if value is None else float(value) for value in values]
    raise InputError(f"unreadable={unreadable!r}; choose 'exclude' or 'zero'")


def mean(values: Iterable[float | None], unreadable: Unreadable = "exclude") -> float | None:
    """Arithmetic mean of what counts (see `counted`), None where nothing does."""
    kept = counted(values, unreadable)
    return math.fsum(kept) / len(kept) if kept else None


def perplexity(nll: float) -> float:
    """exp of a mean negative log-likelihood a token, in nats; infinite where that is too large for a float."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
