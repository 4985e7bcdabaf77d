"""How much a text repeats itself, in any units: words of a text (`words`) or token ids."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def words(text: str) -> list[str]:
    """What white space separates, in lower case."""
    return text.lower().split()


def distinct(units: Sequence[Hashable], n: int) -> float | None:
    """Different n-grams among all n-grams, 0 to 1; None where there are fewer than `n` units."""
    grams = _grams(units, n)
    return len(set(grams)) / len(grams) if grams else None


def repetition(units: Sequence[Hashable], n: int = 4) -> float | None:
    """Share of n-grams that have occurred before, 1 - `distinct`; None where there are fewer than `n` units."""
    found = distinct(units, n)
    return None if found is None else 1 - found


def longest_repeat(units: Sequence[Hashable]) -> float | None:
    """Length of the longest n-gram that occurs twice, as a share of the whole; None without units.

    The two may overlap, so a text that ends in a loop comes near 1 however short what is looped.
    """
    if not units:
        return None
    low, high = 0, len(units) - 1
    while low < high:  # a repeated n-gram holds repeated ones of every smaller length
        middle = (low + high + 1) // 2
        grams = _grams(units, middle)
        low, high = (middle, high) if len(set(grams)) < len(grams) else (low, middle - 1)
    return low / len(units)


def _grams(units: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]
