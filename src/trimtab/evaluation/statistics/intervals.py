"""How sure a number is: percentile bootstraps over items or concepts, paired differences, intervals of rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError
from trimtab.evaluation.statistics.means import Unreadable, counted

RESAMPLES = 2000
LEVEL = 0.95
BLOCK = 2**22
"""Numbers that are drawn at once: 32 MiB."""

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Reduces the last axis: (..., n) -> (...)."""

_MEAN: Statistic = partial(np.mean, axis=-1)


@dataclass(frozen=True)
class Interval:
    """A number and how far it can be trusted.

    Attributes:
        value: The number, of the whole sample.
        low: Lower end; None where one value says nothing about its spread.
        high: Upper end, likewise.
        n: What was resampled: values, or concepts.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def cell(self) -> dict[str, float | int | None]:
        """As a table in `summary.json` holds it."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def bootstrap(
    values: Sequence[float],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    statistic: Statistic = _MEAN,
) -> Interval | None:
    """Percentile interval of a statistic, by drawing values with replacement.

    Args:
        values: All readable (see `counted`).
        seed: Decides the draws.
        resamples: Samples drawn.
        level: Share of them inside.
        statistic: Reduces the last axis, (resamples, n) -> (resamples).

    Returns:
        None without values; with one value it alone, without ends.

    Raises:
        InputError: A value that is not finite, no resamples, or a level outside 0 to 1.
    """
    _check(resamples, level)
    sample = _finite(values)
    if not len(sample):
        return None
    draws = np.random.default_rng(seed)

    def drawn(rows: int) -> Array:
        return statistic(sample[draws.integers(len(sample), size=(rows, len(sample)))])

    return _interval(float(statistic(sample)), len(sample), drawn, len(sample), resamples, level)


def clustered(
    groups: Mapping[Hashable, Sequence[float]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    within: bool = False,
) -> Interval | None:
    """Mean of the groups' means, with an interval by drawing groups: prompts of one concept are not independent.

    Args:
        groups: Values by concept, all readable; concepts without any are left out.
        seed: Decides the draws.
        resamples: Samples drawn.
        level: Share of them inside.
        within: Draw the values of each drawn group anew as well.

    Returns:
        None without values. One group alone says nothing about others: its interval is that over its values, and `n`
        their number.

    Raises:
        InputError: As `bootstrap`.
    """
    _check(resamples, level)
    filled = [_finite(values) for values in groups.values() if len(values)]
    if len(filled) < 2:
        return bootstrap(filled[0].tolist() if filled else [], seed=seed, resamples=resamples, level=level)
    means, draws = np.array([values.mean() for values in filled]), np.random.default_rng(seed)

    def drawn(rows: int) -> Array:
        which = draws.integers(len(filled), size=(rows, len(filled)))
        found = means[which]
        if within:
            for number, values in enumerate(filled):
                places = which == number
                again = draws.integers(len(values), size=(int(places.sum()), len(values)))
                found[places] = values[again].mean(axis=1)
        return found.mean(axis=1)

    width = max(len(filled), *(len(values) for values in filled))
    return _interval(float(means.mean()), len(filled), drawn, width, resamples, level)


@dataclass(frozen=True)
class Difference:
    """After minus before, on the same items.

    Attributes:
        interval: The mean difference; None where no item has both sides.
        gained: Items that went from 0 to 1; None unless every value is 0 or 1.
        lost: Items that went from 1 to 0, likewise.
        p: Two-sided p of McNemar's exact test that neither is likelier, likewise.
        left_out: Items of which a side could not be read.
    """

    interval: Interval | None
    gained: int | None
    lost: int | None
    p: float | None
    left_out: int


def paired_difference(
    before: Sequence[float | None],
    after: Sequence[float | None],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    unreadable: Unreadable = "exclude",
) -> Difference:
    """Mean change of the same items, with an interval over items.

    Args:
        before: A value an item; None where it could not be read.
        after: The same items in the same order.
        seed: Decides the draws.
        resamples: Samples drawn.
        level: Share of them inside.
        unreadable: `exclude` leaves an item out if either side is None, `zero` takes that side as 0.

    Raises:
        InputError: Other numbers of items on the two sides; as `bootstrap`.
    """
    if len(before) != len(after):
        raise InputError(f"{len(before)} values before and {len(after)} after; give the same items in the same order")
    pairs = [counted(pair, unreadable) for pair in zip(before, after, strict=True)]
    kept = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    change = [now - then for then, now in kept]
    interval = bootstrap(change, seed=seed, resamples=resamples, level=level)
    left_out = len(pairs) - len(kept)
    if not kept or any(value not in (0, 1) for pair in kept for value in pair):
        return Difference(interval, None, None, None, left_out)
    gained, lost = change.count(1), change.count(-1)
    return Difference(interval, gained, lost, _mcnemar(gained, lost), left_out)


def wilson(hits: float, n: int, *, level: float = LEVEL) -> Interval | None:
    """Wilson's interval of a rate, which is not empty at 0 and 1; None for a rate of nothing.

    Args:
        hits: How many of `n`.
        n: Trials.
        level: Share of samples whose interval holds the true rate.

    Raises:
        InputError: Fewer hits than 0 or more than `n`, or a level outside 0 to 1.
    """
    _check(1, level)
    if not 0 <= hits <= n:
        raise InputError(f"{hits} hits of {n}; a rate needs between 0 and all of them")
    if n == 0:
        return None
    z, rate = NormalDist().inv_cdf((1 + level) / 2), hits / n
    middle, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may carry an end past the rate itself where that is 0 or 1.
    return Interval(rate, max(0.0, min(rate, (middle - half) / scale)), min(1.0, max(rate, (middle + half) / scale)), n)


def _mcnemar(gained: int, lost: int) -> float:
    """Twice the smaller tail of a fair coin thrown once for each item that changed."""
    thrown = gained + lost
    tail = sum(math.comb(thrown, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**thrown)


def _interval(
    value: float, n: int, drawn: Callable[[int], Array], width: int, resamples: int, level: float
) -> Interval:
    """The percentiles of `resamples` draws, made in blocks of `width` numbers each; no ends for a single value."""
    if n == 1:
        return Interval(value, None, None, 1)
    rows = max(1, BLOCK // width)
    found = np.concatenate([drawn(min(rows, resamples - start)) for start in range(0, resamples, rows)])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def _finite(values: Sequence[float]) -> Array:
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise InputError("some values are not finite; leave out what could not be measured")
    return sample


def _check(resamples: int, level: float) -> None:
    if resamples < 1 or not 0 < level < 1:
        raise InputError(f"{resamples} resamples at level {level}; give 1 or more, and a level between 0 and 1")
