"""Vectors that should do nothing: what a figure of a real one is to be compared with.

Both controls move the states as far as the vector they accompany does (the same mean norm of the edit over prompt
tokens), so what they lack is the direction alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import random

import torch
from torch import Tensor

from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.models import Model
from trimtab.models.capture import capture
from trimtab.steering import Clamp, Edit, Factors, FactorStats, SteeringVector

INPUTS = 32
"""Prompts on which the size of an edit is measured."""


def without_labels(pairs: PairSet, seed: int) -> PairSet:
    """As many pairs, in none of which the sides differ in class: positive with positive, negative with negative.

    Exchanging the sides of whole pairs would shuffle nothing: an interchange is trained in both directions, so a pair
    and its mirror image are the same data. The pairing is drawn by `seed`.
    """
    draw = random.Random(f"without labels {seed}")
    made = []
    for side in ("positive", "negative"):
        sides = [(getattr(pair, f"{side}_input"), getattr(pair, f"{side}_output")) for pair in pairs]
        draw.shuffle(sides)
        made += [ContrastPair(*one, *other) for one, other in itertools.pairwise(sides)]
    draw.shuffle(made)
    return PairSet(made[: len(pairs)], source=f"{pairs.source}, without labels")


def random_directions(vector: SteeringVector, seed: int) -> Tensor:
    """Random orthonormal rows (r, d) of the vector's own shape, drawn by `seed`.

    Raises:
        InputError: The vector does not elicit by a single clamp with factors.
    """
    shape = _clamp(vector)[1].directions.shape
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn.T).Q.T.contiguous()


def matched(model: Model, vector: SteeringVector, directions: Tensor, pairs: PairSet, method: str) -> SteeringVector:
    """A clamp on other directions that moves the negative prompts as far as eliciting with the vector does.

    Args:
        model: The model.
        vector: A clamp with factors, at its stored multiplier.
        directions: (r, d) float32, orthonormal rows.
        pairs: Whose negative prompts are measured.
        method: What to call the control.

    Returns:
        A vector whose multiplier 1 is as large as the vector's own.

    Raises:
        InputError: The vector does not elicit by a single clamp with factors.
    """
    edit, clamp, factors = _clamp(vector)
    site = edit.intervention.site
    prompts = [model.chat.render(pair.negative_input) for pair in pairs[:INPUTS]]
    states = capture(model.hf, [prompt.ids for prompt in prompts], [site])
    tokens = torch.cat(
        [seen[site][prompt.prefix_length :] for seen, prompt in zip(states, prompts, strict=True)]
    ).float().cpu()  # fmt: skip
    value = factors.value("elicit", vector.multipliers.get("elicit", 1.0))
    size = _edit_size(tokens, clamp.directions, value)
    middle = (tokens @ directions.T).mean(dim=0)
    toward = torch.ones(len(directions)) / len(directions) ** 0.5
    low, high = 0.0, 2.0 * size + float((tokens @ directions.T - middle).norm(dim=1).max())
    for _ in range(60):  # the size grows with the distance from the middle
        half = (low + high) / 2
        if _edit_size(tokens, directions, middle + half * toward) < size:
            low = half
        else:
            high = half
    sides = (middle + low * toward, middle - low * toward)
    positive, negative = (FactorStats(tuple(side.tolist()), (0.0,) * len(directions), len(tokens)) for side in sides)
    made = Factors(positive, negative)
    intervention = dataclasses.replace(edit.intervention, transform=Clamp(directions, made.value("elicit", 1.0)))
    return SteeringVector(
        method=method,
        model=vector.model,
        edits=(Edit(intervention, made),),
        directions={"elicit": (0,), "suppress": (0,)},
        provenance={"control_of": vector.content_hash},
    )


def _edit_size(tokens: Tensor, directions: Tensor, value: Tensor) -> float:
    """Mean norm of what a clamp of `directions` (r, d) to `value` (r,) adds to tokens (n, d)."""
    return float((value - tokens @ directions.T).norm(dim=1).mean())


def _clamp(vector: SteeringVector) -> tuple[Edit, Clamp, Factors]:
    """The only edit that elicits, its transform and its factors."""
    chosen = [vector.edits[index] for index in vector.directions.get("elicit", ())]
    edits = [(edit, edit.intervention.transform, edit.factors) for edit in chosen]
    if len(edits) == 1:
        edit, transform, factors = edits[0]
        if isinstance(transform, Clamp) and factors is not None:
            return edit, transform, factors
    raise InputError(
        f"controls are made for vectors that elicit by one clamp with factors (cdas, das), not for this one of "
        f"{vector.method!r}"
    )
