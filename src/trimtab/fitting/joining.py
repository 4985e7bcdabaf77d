"""Where no layer serves both directions: one vector of two fits, each at the layer that serves its direction."""

from __future__ import annotations

import dataclasses

from trimtab.steering import SteeringVector
from trimtab.steering.content import JSON


def joined(vector: SteeringVector, direction: str, other: SteeringVector) -> SteeringVector:
    """`vector` with one direction taken from another vector of the same model, multiplier and curves included.

    Args:
        vector: Gives everything else.
        direction: What `other` does better.
        other: A vector that has this direction.

    Returns:
        A vector whose provenance names under `joined` what `direction` comes from.
    """
    kept = {way: indices for way, indices in vector.directions.items() if way != direction}
    used = sorted({index for indices in kept.values() for index in indices})
    taken = other.directions[direction]
    directions = {way: tuple(map(used.index, indices)) for way, indices in kept.items()}
    directions[direction] = tuple(range(len(used), len(used) + len(taken)))
    multipliers = {way: m for way, m in vector.multipliers.items() if way != direction}
    if direction in other.multipliers:
        multipliers[direction] = other.multipliers[direction]
    return dataclasses.replace(
        vector,
        edits=(*(vector.edits[index] for index in used), *(other.edits[index] for index in taken)),
        directions={way: directions[way] for way in vector.directions},
        multipliers=multipliers,
        provenance={**vector.provenance, **_told(vector, direction, other)},
    )


def _told(vector: SteeringVector, direction: str, other: SteeringVector) -> dict[str, JSON]:
    """What the provenance says of it: figures a direction are those of the fit that serves it."""
    told: dict[str, JSON] = {}
    ours, theirs = vector.provenance.get("edit_ratio"), other.provenance.get("edit_ratio")
    if isinstance(ours, dict) and isinstance(theirs, dict):
        told["edit_ratio"] = {**ours, **{way: ratio for way, ratio in theirs.items() if way == direction}}
    ours, theirs = vector.provenance.get("calibration"), other.provenance.get("calibration")
    if isinstance(ours, dict) and isinstance(theirs, dict):
        curves, its = ours["directions"], theirs["directions"]
        assert isinstance(curves, dict)
        assert isinstance(its, dict)
        told["calibration"] = {**ours, "directions": {**curves, direction: its[direction]}}
    was = vector.provenance.get("joined")
    entry: dict[str, JSON] = {"settings": dict(other.settings), "training": other.provenance.get("training")}
    told["joined"] = {**(was if isinstance(was, dict) else {}), direction: entry}
    return told
