"""Preference and utility of a steered model as odds, over answers and multipliers, and the curves they follow.

What the odds and the curve are is told in `trimtab.fitting.odds`; here they are averaged over pairs of answers, some of
which have no utility odds, and both curves are fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.errors import InputError
from trimtab.fitting.odds import MIN_POINTS, DecayCurve, fit_decay_curve, pref_odds, util_odds

LEAST = MIN_POINTS + 2
"""Different multipliers that a curve of five numbers needs."""


def preference_odds(lp: float, ln: float) -> float:
    """How much likelier the positive answer is than the negative one, nats: Ln - Lp.

    Args:
        lp: Negative log-likelihood of the positive answer, nats.
        ln: That of the negative one.
    """
    return float(pref_odds(torch.tensor(lp, dtype=torch.float64), torch.tensor(ln, dtype=torch.float64)))


def utility_odds(lp: float, ln: float) -> float | None:
    """Log-odds that the answer is one of the two; None where their probabilities sum to 1 or more.

    The latter happens to losses a token, behind which stands no probability of an answer.

    Args:
        lp: Negative log-likelihood of the positive answer, nats.
        ln: That of the negative one.
    """
    try:
        return float(util_odds(torch.tensor(lp, dtype=torch.float64), torch.tensor(ln, dtype=torch.float64)))
    except InputError:
        return None


@dataclass(frozen=True)
class Odds:
    """Means over pairs of answers at one multiplier.

    Attributes:
        preference: Of all pairs, nats.
        utility: Of the pairs that have it, nats; None if no pair has.
        undefined: Pairs without utility odds.
    """

    preference: float
    utility: float | None
    undefined: int


def mean_odds(positive: Sequence[float], negative: Sequence[float]) -> Odds:
    """Both odds, averaged over pairs.

    Args:
        positive: Lp of each pair, nats.
        negative: Ln of the same pairs.

    Raises:
        InputError: No pairs, or other numbers of the two.
    """
    if not positive or len(positive) != len(negative):
        raise InputError(f"{len(positive)} positive and {len(negative)} negative losses; give one of each a pair")
    pairs = list(zip(positive, negative, strict=True))
    defined = [value for value in (utility_odds(lp, ln) for lp, ln in pairs) if value is not None]
    return Odds(
        preference=sum(preference_odds(lp, ln) for lp, ln in pairs) / len(pairs),
        utility=sum(defined) / len(defined) if defined else None,
        undefined=len(pairs) - len(defined),
    )


@dataclass(frozen=True)
class Decay:
    """The curves of both odds; None where there is none to fit.

    Attributes:
        preference: a m D(m) + c.
        utility: a D(m) + c, with a D of its own.
    """

    preference: DecayCurve | None
    utility: DecayCurve | None


def fit_decay(
    multipliers: Sequence[float], preference: Sequence[float | None], utility: Sequence[float | None]
) -> Decay:
    """Fits D(m) = (1 + (m - m0)^2 / L)^-p to both odds.

    Args:
        multipliers: m.
        preference: The preference odds at each; None where they were not measured.
        utility: The utility odds, likewise.

    Returns:
        No curve for odds that are known at fewer than six different multipliers or that are the same at all of them.

    Raises:
        InputError: Other numbers of the three, or a value that is not finite.
    """
    if not len(multipliers) == len(preference) == len(utility):
        raise InputError(
            f"{len(multipliers)} multipliers, {len(preference)} preference odds and {len(utility)} utility odds; "
            "give one of each for every multiplier"
        )
    return Decay(_curve(multipliers, preference, True), _curve(multipliers, utility, False))


def _curve(multipliers: Sequence[float], values: Sequence[float | None], times_multiplier: bool) -> DecayCurve | None:
    known = [(m, value) for m, value in zip(multipliers, values, strict=True) if value is not None]
    if len({m for m, _ in known}) < LEAST or len({value for _, value in known}) == 1:
        return None
    return fit_decay_curve([m for m, _ in known], [value for _, value in known], times_multiplier=times_multiplier)
