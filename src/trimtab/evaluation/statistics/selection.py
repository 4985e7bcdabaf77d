"""Which multiplier a concept is steered with: chosen on one half of its prompts, reported on the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trimtab.errors import InputError
from trimtab.evaluation.statistics.means import Unreadable, counted, harmonic, mean

SAME_MEAN = 1e-12
"""Means that differ by less are one: sums of the same ratings in another order."""
TIE = 1e-6
"""Two texts whose scores differ by less tie; published."""


@dataclass(frozen=True)
class Halves:
    """Numbers of prompts: those that select a multiplier, and those that it is reported on."""

    select: tuple[int, ...]
    test: tuple[int, ...]


def split_half(prompts: Iterable[int], ratio: float = 0.5) -> Halves:
    """Splits a concept's prompts by their order: of n, those whose place (from 0) is below n * `ratio` select.

    Ten prompts 0 to 9 give 0 to 4 and 5 to 9, as published.

    Args:
        prompts: Their numbers, in any order; one that comes twice counts once.
        ratio: The share that selects.

    Raises:
        InputError: One of the two parts would be empty.
    """
    numbers = sorted(set(prompts))
    selecting = tuple(number for place, number in enumerate(numbers) if place < len(numbers) * ratio)
    if not 0 < len(selecting) < len(numbers):
        raise InputError(
            f"{len(numbers)} prompts of a concept with a share of {ratio} to select leave {len(selecting)} for it and "
            f"{len(numbers) - len(selecting)} to report on; give 2 prompts or more and a share between 0 and 1"
        )
    return Halves(selecting, tuple(numbers[len(selecting) :]))


def best_multiplier(scores: Mapping[float, Sequence[float | None]], unreadable: Unreadable = "exclude") -> float | None:
    """The multiplier with the highest mean score; of several, the one nearest to 0, and then the smaller one.

    Args:
        scores: Scores of texts by multiplier, None for what could not be read.
        unreadable: See `counted`.

    Returns:
        None where no multiplier has a score that counts.
    """
    means = {multiplier: mean(values, unreadable) for multiplier, values in scores.items()}
    found = {multiplier: value for multiplier, value in means.items() if value is not None}
    if not found:
        return None
    top = max(found.values())
    return min((m for m, value in found.items() if top - value < SAME_MEAN), key=lambda m: (abs(m), m))


@dataclass(frozen=True)
class Selected:
    """One concept's multiplier and what it is worth.

    Attributes:
        multiplier: Chosen on the selecting half.
        selection_score: Its mean there, which flatters it.
        test_score: Its mean on the other half; None where nothing could be read.
        oracle_multiplier: What would have been best on the test half; None where nothing could be read.
        oracle_score: Its mean there: a bound, not a result.
    """

    multiplier: float
    selection_score: float
    test_score: float | None
    oracle_multiplier: float | None
    oracle_score: float | None


def select(
    scores: Mapping[float, Mapping[int, float | None]], halves: Halves, unreadable: Unreadable = "exclude"
) -> Selected | None:
    """Chooses one concept's multiplier on one half of the prompts and scores it on the other.

    Args:
        scores: By multiplier and number of the prompt; None where the score could not be read. A prompt that is absent
            was not judged and counts nowhere.
        halves: The two halves.
        unreadable: See `counted`.

    Returns:
        None where nothing on the selecting half counts, so that nothing can be chosen.
    """

    def part(numbers: tuple[int, ...]) -> dict[float, list[float | None]]:
        return {m: [by_prompt[k] for k in numbers if k in by_prompt] for m, by_prompt in scores.items()}

    selecting, test = part(halves.select), part(halves.test)
    chosen = best_multiplier(selecting, unreadable)
    if chosen is None:
        return None
    oracle = best_multiplier(test, unreadable)
    return Selected(
        multiplier=chosen,
        selection_score=math.fsum(kept := counted(selecting[chosen], unreadable)) / len(kept),
        test_score=mean(test[chosen], unreadable),
        oracle_multiplier=oracle,
        oracle_score=None if oracle is None else mean(test[oracle], unreadable),
    )


@dataclass(frozen=True)
class WinRate:
    """How often one of two wins on the same prompts.

    Attributes:
        wins: Pairs in which ours is higher.
        ties: Pairs that differ by less than 1e-6.
        losses: Pairs in which ours is lower.
        left_out: Pairs of which a side could not be read.
    """

    wins: int
    ties: int
    losses: int
    left_out: int

    @property
    def share(self) -> float | None:
        """Wins among the pairs that were compared, ties not being wins; None without any."""
        compared = self.wins + self.ties + self.losses
        return self.wins / compared if compared else None


def win_rate(
    ours: Sequence[Sequence[float | None]],
    theirs: Sequence[Sequence[float | None]],
    unreadable: Unreadable = "exclude",
) -> WinRate:
    """Compares harmonic means text by text.

    Args:
        ours: The ratings of each text; a text scored already is a sequence of one.
        theirs: Those of the other's texts for the same prompts, in the same order.
        unreadable: `exclude` leaves a pair out if either side has an unreadable rating, `zero` scores that side 0.

    Raises:
        InputError: Other numbers of texts on the two sides.
    """
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} texts against {len(theirs)}; a win rate compares pairs on the same prompts")
    gaps: list[float] = []
    for pair in zip(ours, theirs, strict=True):
        kept = counted((harmonic(parts) for parts in pair), unreadable)
        if len(kept) == 2:
            gaps.append(kept[0] - kept[1])
    ties = sum(abs(gap) < TIE for gap in gaps)
    wins = sum(gap >= TIE for gap in gaps)
    return WinRate(wins, ties, len(gaps) - wins - ties, len(ours) - len(gaps))
