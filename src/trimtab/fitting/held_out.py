"""Which pairs a fit learns from, and which are kept to calibrate on."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.data import PairSet, TokenisedPair

logger = logging.getLogger(__name__)

MOST_INPUTS = 64
"""Pairs that are held out of a fit to calibrate on, at most."""
FEWEST_INPUTS = 16
"""Fewer than these say nothing of a share: then none is held out, and the fit's own inputs serve."""
LONGEST = 128
"""Longest natural answer, in tokens."""


@dataclass(frozen=True)
class Split:
    """Pairs to learn from and pairs to calibrate on; the same ones if there are too few of them to hold any out."""

    train: PairSet
    calibration: PairSet

    @property
    def is_held_out(self) -> bool:
        """Whether the fit does not see what is calibrated on."""
        seen = {repr(pair) for pair in self.train}
        return not any(repr(pair) in seen for pair in self.calibration)


def hold_out(pairs: PairSet, seed: int = 0) -> Split:
    """A third of the pairs, at most `MOST_INPUTS`, drawn by `seed`, to calibrate on; the others to learn from."""
    number = min(MOST_INPUTS, len(pairs) // 3)
    if number < FEWEST_INPUTS:
        return Split(pairs, pairs)
    drawn = set(random.Random(f"hold out {seed}").sample(range(len(pairs)), number))
    rest, held = (
        PairSet([pair for k, pair in enumerate(pairs) if (k in drawn) is wanted], source=pairs.source)
        for wanted in (False, True)
    )
    return Split(rest, held)


def drawn(pairs: PairSet, most: int, seed: str) -> PairSet:
    """At most so many of the pairs, drawn by `seed`, in their order."""
    if len(pairs) <= most:
        return pairs
    drawn = sorted(random.Random(seed).sample(range(len(pairs)), most))
    return PairSet([pairs[k] for k in drawn], source=pairs.source)


def with_room(pairs: Sequence[TokenisedPair], context: int) -> Sequence[TokenisedPair]:
    """The pairs whose prompts leave room for a natural answer of the greatest length; all if these are too few.

    The longest prompt would else shorten every answer.
    """
    roomy = [pair for pair in pairs if max(len(pair.positive.ids), len(pair.negative.ids)) + LONGEST <= context]
    if len(roomy) == len(pairs):
        return pairs
    if len(roomy) >= FEWEST_INPUTS:
        logger.info("%d of %d inputs leave no room for an answer and are left out", len(pairs) - len(roomy), len(pairs))
        return roomy
    longest = max(len(prompt.ids) for pair in pairs for prompt in (pair.positive, pair.negative))
    logger.warning(
        "prompts of up to %d tokens leave %d of a context of %d for answers; calibration reads no more than these",
        longest, max(1, context - longest), context,
    )  # fmt: skip
    return pairs
