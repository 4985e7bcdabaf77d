"""Texts as points in a space of goals, and whether steering reaches the point it was asked for and moves nothing else.

Source: "A Course Correction in Steerability" (tchang1997/steerability). A goal is something measured in a text, scaled
so that the middle 95 % of a seed corpus span 0 to 1, and clipped. Of a source z0, a target z* and what was reached, z:

    e = z* - z    D = z* - z0    u = D / |D|    M = z - z0
    error = |e|    miscalibration = |e . u| / |D|
    side effect = min(1, |e - (e . u) u| / (|M| + 1e-4 (|D| + 1e-8)))
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from trimtab.errors import InputError
from trimtab.evaluation.text_measures import formality, mtld, reading_grade, word_count

MIDDLE = 0.95
MOST_ACTIVE = 3
LEAST_MOVE, MOST_MOVE = 0.1, 0.7

Goal = Callable[[str], float]
Point = tuple[float, ...]

GOALS: Mapping[str, Goal] = MappingProxyType(
    {"reading-grade": reading_grade, "variety": mtld, "words": word_count, "formality-approx": formality}
)
"""The published goals; formality by estimated parts of speech, hence its name."""


@dataclass(frozen=True)
class Scaler:
    """A linear scale a goal.

    Attributes:
        low: What becomes 0.
        high: What becomes 1.
    """

    low: Point
    high: Point

    def __post_init__(self) -> None:
        """Refuses scales that are empty or of different numbers of goals."""
        if len(self.low) != len(self.high) or any(
            not low < high for low, high in zip(self.low, self.high, strict=True)
        ):
            raise InputError(f"scales from {self.low} to {self.high}; give each goal a lower end below its upper one")

    def scaled(self, values: Sequence[float]) -> Point:
        """Measured values as a point, each coordinate clipped to 0 to 1."""
        return tuple(
            min(1.0, max(0.0, (value - low) / (high - low)))
            for value, low, high in zip(values, self.low, self.high, strict=True)
        )


@dataclass(frozen=True)
class GoalSpace:
    """What is measured in a text, and on which scales.

    Attributes:
        functions: Goals by name, text -> number; their order is that of the coordinates.
        scaler: The scales, in that order.
    """

    functions: Mapping[str, Goal]
    scaler: Scaler

    def __post_init__(self) -> None:
        """Refuses another number of scales than of goals."""
        if not self.functions or len(self.functions) != len(self.scaler.low):
            raise InputError(f"{len(self.functions)} goals on {len(self.scaler.low)} scales; give each goal one scale")

    @classmethod
    def of(cls, functions: Mapping[str, Goal], corpus: Sequence[str], middle: float = MIDDLE) -> GoalSpace:
        """Sets the scales by a corpus.

        Args:
            functions: Goals by name.
            corpus: Seed texts.
            middle: The share of them that spans 0 to 1, the same share of the rest on either side.

        Raises:
            InputError: No texts, a share that is none, or a goal that is the same in the whole middle.
        """
        if not corpus or not 0 < middle <= 1:
            raise InputError(
                f"{len(corpus)} texts and a middle of {middle}; give texts, and a share above 0 and up to 1"
            )
        ends = (1 - middle) / 2, (1 + middle) / 2
        low: list[float] = []
        high: list[float] = []
        for name, goal in functions.items():
            bottom, top = (float(end) for end in np.quantile([goal(text) for text in corpus], ends))
            if not bottom < top:
                raise InputError(
                    f"goal {name!r} is {bottom:g} in the middle of all {len(corpus)} texts, so it has no scale; "
                    "give texts that differ in it, or leave the goal out"
                )
            low.append(bottom)
            high.append(top)
        return cls(functions, Scaler(tuple(low), tuple(high)))

    def place(self, text: str) -> Point:
        """Where a text stands, coordinates from 0 to 1 in the order of the goals."""
        return self.scaler.scaled([goal(text) for goal in self.functions.values()])

    def record(self) -> dict[str, list[float]]:
        """The scale of each goal as a run's config holds it, [what is 0, what is 1]."""
        ends = zip(self.scaler.low, self.scaler.high, strict=True)
        return {name: [low, high] for name, (low, high) in zip(self.functions, ends, strict=True)}


@dataclass(frozen=True)
class Probe:
    """One thing to ask for.

    Attributes:
        source: Where the source text stands, z0.
        target: Where it is to be moved, z*; as the source in all but the active goals.
        active: Places of the goals that are to change.
    """

    source: Point
    target: Point
    active: tuple[int, ...]


def draw_probe(
    source: Sequence[float],
    draw: random.Random,
    *,
    most: int = MOST_ACTIVE,
    least_move: float = LEAST_MOVE,
    most_move: float = MOST_MOVE,
) -> Probe:
    """Draws which goals are to change and by how much, evenly over all moves that stay inside 0 to 1.

    Args:
        source: z0.
        draw: Where chance comes from.
        most: Goals that change at most; how many is drawn evenly from 1 to this.
        least_move: Smallest change of an active goal.
        most_move: Largest.

    Raises:
        InputError: A source outside 0 to 1, or a least move for which there may be no room (above 0.5).
    """
    if not source or any(not 0 <= place <= 1 for place in source):
        raise InputError(f"a source at {tuple(source)}; goals are scaled to 0 to 1")
    if most < 1 or not 0 < least_move <= min(0.5, most_move):
        raise InputError(
            f"up to {most} goals moved by {least_move} to {most_move}; give 1 goal or more, and a least move above 0, "
            "up to 0.5 and not above the largest"
        )
    active = tuple(sorted(draw.sample(range(len(source)), draw.randint(1, min(most, len(source))))))
    target = list(source)
    for k in active:
        target[k] = _moved(source[k], least_move, most_move, draw)
    return Probe(tuple(source), tuple(target), active)


@dataclass(frozen=True)
class Steer:
    """How one move went.

    Attributes:
        error: Distance of what was reached from the target.
        miscalibration: Shortfall or excess along the way asked for, as a share of it.
        side_effect: Movement across that way, as a share of all movement, 0 to 1.
    """

    error: float
    miscalibration: float
    side_effect: float


def steerability(source: Sequence[float], target: Sequence[float], reached: Sequence[float]) -> Steer:
    """Compares what was asked for with what came.

    Args:
        source: z0.
        target: z*, another point.
        reached: Where the steered text stands.

    Raises:
        InputError: Points of different spaces, or a target that is the source.
    """
    start, goal, end = (np.asarray(point, dtype=np.float64) for point in (source, target, reached))
    if start.ndim != 1 or not start.shape == goal.shape == end.shape:
        raise InputError(f"points with {len(source)}, {len(target)} and {len(reached)} goals; give three of one space")
    missing, asked, moved = goal - end, goal - start, end - start
    way = float(np.linalg.norm(asked))
    if way == 0:
        raise InputError(f"source and target are both {tuple(source)}; a probe asks for a change")
    unit = asked / way
    along = float(missing @ unit)
    across = float(np.linalg.norm(missing - along * unit))
    scale = float(np.linalg.norm(moved)) + 1e-4 * (way + 1e-8)
    return Steer(float(np.linalg.norm(missing)), abs(along) / way, min(1.0, across / scale))


def _moved(start: float, least: float, most: float, draw: random.Random) -> float:
    """A place that is `least` to `most` away and inside 0 to 1; one side has room, as `least` is at most 0.5."""
    up, down = (max(0.0, min(most, room) - least) for room in (1 - start, start))
    both = up + down
    if both == 0:  # exactly one place fits on a side
        return start + least if 1 - start >= least else start - least
    drawn = draw.random() * both
    return min(1.0, start + least + drawn) if drawn < up else max(0.0, start - least - (drawn - up))
