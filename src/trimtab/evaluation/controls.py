"""Vectors that should do nothing: what a figure of a real one is to be compared with.

All controls move the states as far as the vector they accompany does (the same mean norm of the edit over some tokens),
so what they lack is the direction alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import ContrastPair, PairSet
from trimtab.errors import InputError
from trimtab.models import Model
from trimtab.models.capture import capture
from trimtab.models.chat import RenderedPrompt
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, Intervention, Site, SiteEdit, SteeringVector

INPUTS = 32
"""Prompts on which the size of an edit is measured."""
HALVINGS = 60
"""Steps of a bisection: more than a float has digits."""


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
    for _ in range(HALVINGS):  # the size grows with the distance from the middle
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


@dataclass(frozen=True, eq=False)
class Tokens:
    """The plain model's states at some sites, of prompts behind their template prefix and of answers.

    Attributes:
        prompt: By site (n, width) float32, of the prompts' tokens.
        response: Likewise of the answers'.
    """

    prompt: Mapping[Site, Tensor]
    response: Mapping[Site, Tensor]

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[RenderedPrompt],
        answers: Sequence[Sequence[int]],
        sites: Sequence[Site],
    ) -> Tokens:
        """Reads prompts with their answers once, for all sites."""
        seen = capture(model.hf, [(*prompt.ids, *ids) for prompt, ids in zip(prompts, answers, strict=True)], sites)
        sides: tuple[dict[Site, Tensor], dict[Site, Tensor]] = ({}, {})
        for site in sites:
            parts = [states[site].float().cpu() for states in seen]
            sides[0][site] = torch.cat(
                [part[prompt.prefix_length : len(prompt.ids)] for part, prompt in zip(parts, prompts, strict=True)]
            )
            sides[1][site] = torch.cat([part[len(prompt.ids) :] for part, prompt in zip(parts, prompts, strict=True)])
        return cls(*sides)

    def at(self, intervention: Intervention) -> Tensor:
        """The states (n, width), float64, of those tokens on which an intervention may be at work."""
        site, positions = intervention.site, intervention.positions
        sides = [self.prompt[site]] * positions.on_prompt + [self.response[site]] * positions.on_response
        return torch.cat(sides).double()


def edit_size(vector: SteeringVector, way: str, multiplier: float, scale: str, tokens: Tokens) -> float:
    """How far a dose moves the states: the mean norm of each edit over tokens, summed over edits.

    Every edit is measured on the plain model's states, also where another comes before it.

    Args:
        vector: The vector.
        way: The direction.
        multiplier: At which multiplier.
        scale: What the multiplier moves along.
        tokens: At all of the vector's sites.
    """
    edits = vector.steering(way, multiplier, scale).interventions
    return sum(float(_moved(edit, tokens.at(edit)).mean()) for edit in edits)


def norm_matched(
    vector: SteeringVector, way: str, multiplier: float, scale: str, tokens: Tokens, seed: int
) -> SteeringVector:
    """A vector that moves the states as far as a dose of another does, in random directions.

    Each edit keeps its site, positions and gate. A vector that is added becomes a random one of its norm, a clamp one
    of random coordinates to values as far away, anything else a random vector of the mean size that is added.

    Args:
        vector: What it accompanies.
        way: The direction.
        multiplier: At which multiplier; the control has none of its own.
        scale: What the multiplier moves along.
        tokens: On which tokens the size is the same, at all of the vector's sites.
        seed: Draws the directions; of one seed they are the same at every multiplier, and opposite to suppress.
    """
    draws = torch.Generator().manual_seed(seed)
    edits = []
    for edit in vector.steering(way, multiplier, scale).interventions:
        states = tokens.at(edit)
        wanted = float(_moved(edit, states).mean())
        shape = (edit.transform.rank if isinstance(edit.transform, Clamp) else 1, edit.transform.width)
        rows = torch.linalg.qr(torch.randn(shape, generator=draws, dtype=torch.float64).T).Q.T.contiguous()
        sign = 1.0 if way == "elicit" else -1.0
        if isinstance(edit.transform, Add):
            length = edit.transform.vector.double().norm() * sign * math.copysign(1.0, edit.strength)
            made = dataclasses.replace(edit, transform=Add((rows[0] * length).float()))
        elif isinstance(edit.transform, Clamp):
            made = _random_clamp(edit, rows, states, wanted, sign)
        else:
            unit = dataclasses.replace(edit, transform=Add((sign * rows[0]).float()), strength=1.0)
            amount = float(_moved(unit, states).mean())
            made = dataclasses.replace(unit, strength=wanted / amount if amount else 0.0)
        edits.append(Edit(made, scales="nothing"))
    return SteeringVector(
        method="random",
        model=vector.model,
        edits=tuple(edits),
        directions={way: tuple(range(len(edits)))},
        provenance={"control_of": vector.content_hash},
    )


def _random_clamp(edit: Intervention, rows: Tensor, states: Tensor, wanted: float, sign: float) -> Intervention:
    """A clamp of orthonormal rows (r, d), float64, that moves states (n, d) by `wanted` in the mean."""
    amounts = _moved(dataclasses.replace(edit, transform=Add(rows[0].float())), states)  # strength and gate
    coordinates = states @ rows.T
    middle = coordinates.mean(dim=0)
    toward = sign * torch.ones(len(rows), dtype=torch.float64) / len(rows) ** 0.5

    def size(far: float) -> float:
        return float((amounts * (middle + far * toward - coordinates).norm(dim=1)).mean())

    least = size(0.0)
    if least >= wanted:  # the coordinates themselves are spread wider than that
        strength = edit.strength * (wanted / least if least else 0.0)
        return dataclasses.replace(edit, transform=Clamp(rows.float(), middle.float()), strength=strength)
    low, high = 0.0, 1.0
    while size(high) < wanted:
        high *= 2
    for _ in range(HALVINGS):  # convex and below at 0, so it is met once
        half = (low + high) / 2
        low, high = (half, high) if size(half) < wanted else (low, half)
    return dataclasses.replace(edit, transform=Clamp(rows.float(), (middle + low * toward).float()))


def _moved(edit: Intervention, states: Tensor) -> Tensor:
    """The norm (n,) of what an intervention adds to states (n, d), with its gate; a prompt's gate is taken as open."""
    after = SiteEdit.build([edit], states.device)(states[None], [None])[0]
    return (after - states).norm(dim=1)
