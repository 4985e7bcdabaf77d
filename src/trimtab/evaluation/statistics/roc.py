"""How well scores tell positive texts from negative ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import InputError

Array = NDArray[np.float64]


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive text scores higher than a negative one, a tie counting half.

    Raises:
        InputError: A side without scores, or a score that is not finite. All functions of this file raise it so.
    """
    up, down = _sides(positive, negative)
    ordered = np.sort(down)
    below, not_above = np.searchsorted(ordered, up, side="left"), np.searchsorted(ordered, up, side="right")
    return float((below + not_above).sum() / (2 * len(up) * len(down)))


def youden(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The score from which on texts are best called positive: the most true minus false positives, by share.

    Of several, the highest; always one of the scores.
    """
    up, down = _sides(positive, negative)
    thresholds, hits, alarms = _counts(up, down)
    gain = hits * len(down) - alarms * len(up)  # in whole numbers, so that ties are ties
    return float(thresholds[int(np.argmax(gain))])


@dataclass(frozen=True)
class Operating:
    """What a threshold is worth.

    Attributes:
        threshold: Texts with this score or a higher one are called positive.
        precision: Share of those that are.
        recall: Share of the positive texts among them.
        f1: Harmonic mean of the two.
        accuracy: Share of all texts that are called what they are.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    accuracy: float


def best_f1(positive: Sequence[float], negative: Sequence[float]) -> Operating:
    """The threshold with the highest F1; of several, the highest."""
    up, down = _sides(positive, negative)
    thresholds, hits, alarms = _counts(up, down)
    f1 = 2 * hits / (hits + alarms + len(up))
    best = int(np.argmax(f1))
    hit, alarm = int(hits[best]), int(alarms[best])
    return Operating(
        threshold=float(thresholds[best]),
        precision=hit / (hit + alarm),
        recall=hit / len(up),
        f1=float(f1[best]),
        accuracy=(hit + len(down) - alarm) / (len(up) + len(down)),
    )


def hard_negative_accuracy(positive: Sequence[float], negative: Sequence[float], hard: Sequence[float]) -> float:
    """Mean of two accuracies, on positive texts and on hard negative ones, at the threshold that `youden` finds.

    Args:
        positive: Scores of texts with the concept.
        negative: Of texts without it, which the threshold is set by.
        hard: Of texts that only resemble it.
    """
    threshold = youden(positive, negative)
    up, near = _sides(positive, hard)
    return float(((up >= threshold).mean() + (near < threshold).mean()) / 2)


def min_max(values: Sequence[float]) -> list[float]:
    """Values moved and scaled to 0 to 1; all 0 where they are all the same."""
    if not len(values):
        return []
    sample = _finite(values, "a")
    low, span = sample.min(), np.ptp(sample)
    return ((sample - low) / span if span > 0 else np.zeros_like(sample)).tolist()


def _counts(up: Array, down: Array) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Every score as a threshold, highest first, and how many of each side reach it."""
    thresholds = np.unique(np.concatenate([up, down]))[::-1]
    reached = [len(side) - np.searchsorted(np.sort(side), thresholds, side="left") for side in (up, down)]
    return thresholds, reached[0], reached[1]


def _sides(positive: Sequence[float], negative: Sequence[float]) -> tuple[Array, Array]:
    if not len(positive) or not len(negative):
        raise InputError(f"{len(positive)} positive and {len(negative)} negative scores; give one of each or more")
    return _finite(positive, "a positive"), _finite(negative, "a negative")


def _finite(values: Sequence[float], which: str) -> Array:
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise InputError(f"{which} score is not finite; scores must be numbers")
    return sample
