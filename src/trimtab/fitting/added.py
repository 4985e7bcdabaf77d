"""Edits that add a trained vector, and what the methods that train one share.

    h' = h + (f + b) a s v          on the edited tokens

v the vector; the others are 1, and b 0, unless the kind of edit has them: f a row's drawn factor, b a learned shift of
all factors, a a learned amount, s the typical size of an entry of the states that are edited.

Letters: b batch, s tokens, d hidden, m sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting.draws import FactorDraw
from trimtab.fitting.edits import FACTOR, SIZE, EditKind, Parameters
from trimtab.fitting.engine import TrainedFit
from trimtab.fitting.items import ELICIT, Way
from trimtab.fitting.recipe import transforms_vector
from trimtab.fitting.settings import TrainSettings, check_number
from trimtab.models.model import Model
from trimtab.steering import Add, SteeringVector

UNITS = ("states", "one")

VECTOR, BIAS, ALPHA = "vector", "bias", "alpha"

PUBLISHED_MIDDLE = 10.0


@dataclass(frozen=True)
class AddedSettings(TrainSettings):
    """How a vector that is added is trained.

    Args:
        unit: What factors, the vector's entries and their learning rate are measured in: `states`, the typical size of
            an entry of the plain states that are edited, so that one rate suits any model; or `one`, as published,
            where the rate must suit the model.

    Raises:
        InputError: Another unit, more than one direction, or a start at the means, of which there are none.
    """

    unit: str = "states"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in UNITS:
            raise InputError(f"unit is {self.unit!r}; allowed: {', '.join(UNITS)}")
        if self.rank != 1:
            raise InputError(f"rank is {self.rank}; this method trains one vector a layer, so it must be 1")
        if self.start != "random":
            raise InputError(
                f"start is {self.start!r}; this method reads no source states, so its start can only be 'random'"
            )


def checked_factors(name: str, factors: object) -> tuple[float, ...]:
    """Factors as a tuple of positive numbers.

    Raises:
        InputError: None at all, or something else in it.
    """
    if not isinstance(factors, (list, tuple)) or not factors:
        raise InputError(f"{name} is {factors!r}; give a list of one or more numbers above 0, such as [0.5, 1.0, 1.5]")
    for factor in factors:
        check_number(f"each of {name}", factor, above=0)
    return tuple(float(factor) for factor in factors)


def bias_rate(draw: FactorDraw) -> dict[str, float]:
    """The rate of b: to the middle of the list what it is to that of the published list 2, 4 .. 20 at a rate of 1.

    A faster b makes up for small factors, and undoes negative ones.
    """
    return {BIAS: abs(draw.usual[0]) / PUBLISHED_MIDDLE}


def amount(parameters: Parameters) -> Tensor:
    """(f + b) a s of one site, one number or one a row: (1, 1) or (b, 1, 1)."""
    vector = parameters[VECTOR]
    factor = parameters[FACTOR][:, None, None] if FACTOR in parameters else vector.new_ones(1, 1)
    shifted = factor + parameters[BIAS] if BIAS in parameters else factor
    for name in (ALPHA, SIZE):
        shifted = shifted * parameters[name] if name in parameters else shifted
    return shifted


def added(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """Give h' = h + (f + b) a s v on masked tokens; differentiable.

    Args:
        states: h, (b, s, d), any dtype; computed in float32, returned in this dtype.
        sources: (b, d), not looked at.
        parameters: `vector`, v: (1, d) float32, or (b, 1, d), another one for every row; `factor`, f: (b,); `bias`,
            `alpha` and `size`: (1, 1) or (b, 1, 1). All but the first may be absent.
        mask: (b, s) bool.
    """
    moved = mask[..., None] * (amount(parameters) * parameters[VECTOR])
    return (states.float() + moved).to(states.dtype)


def null_out(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """Give h' = h - relu(<v, h> + b s) / ||v||^2 v on masked tokens; arguments as in `added`."""
    vector, x = parameters[VECTOR], states.float()
    latent = x @ vector.transpose(-1, -2)  # (b, s, 1)
    if BIAS in parameters:  # measured in what factors are measured in
        latent = latent + parameters[BIAS] * parameters.get(SIZE, 1.0)
    square = vector.square().sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (x - mask[..., None] * torch.relu(latent) / square * vector).to(states.dtype)


def added_or_nulled(states: Tensor, sources: Tensor, parameters: Parameters, mask: Tensor) -> Tensor:
    """`added` where a row's factor is not 0, `null_out` where it is: the two modes of RePS (arXiv 2505.20809)."""
    is_off = (parameters[FACTOR] == 0)[:, None, None]
    plus, minus = (edit(states, sources, parameters, mask) for edit in (added, null_out))
    return torch.where(is_off, minus, plus)


def added_kind(
    settings: AddedSettings,
    *,
    first: Callable[[Tensor], Tensor] = torch.zeros_like,
    others: Mapping[str, float] | None = None,
    rates: Mapping[str, float] | None = None,
    unclipped: frozenset[str] = frozenset(),
    draw: FactorDraw | None = None,
    ways: tuple[Way, ...] = (ELICIT,),
    apply: Callable[[Tensor, Tensor, Parameters, Tensor], Tensor] = added,
) -> EditKind:
    """A kind of edit with one vector a site.

    Args:
        settings: Whose unit counts.
        first: Random unit rows (m, 1, d) -> the vectors at the start.
        others: Its other parameters, one number a site each, and what they begin at.
        rates: As `EditKind` has them.
        unclipped: As `EditKind` has them.
        draw: How factors are drawn.
        ways: What is trained.
        apply: The edit.
    """
    constants = frozenset({SIZE}) if settings.unit == "states" else frozenset[str]()
    numbers = {**(others or {}), **dict.fromkeys(constants, 1.0)}

    def start(rows: Tensor) -> dict[str, Tensor]:
        shape = (len(rows), 1, 1)
        return {VECTOR: first(rows), **{name: torch.full(shape, value) for name, value in numbers.items()}}

    return EditKind(
        start=start,
        apply=apply,
        ways=ways,
        reads_sources=False,
        is_orthonormal=False,
        draw=draw,
        rates=rates or {},
        unclipped=unclipped,
        constants=constants,
    )


def vectors_at(fit: TrainedFit, factor: float = 1.0) -> list[Tensor]:
    """What a fit adds at each site where a factor is drawn that large: (d,) each."""
    found = []
    for site in range(len(fit.parameters[VECTOR])):
        own = {name: value[site] for name, value in fit.parameters.items()}
        found.append((amount({**own, FACTOR: torch.tensor([factor])}) * own[VECTOR]).flatten())
    return found


def added_vector(
    method: str, model: Model, pairs: PairSet, settings: TrainSettings, fit: TrainedFit, factor: float = 1.0
) -> SteeringVector:
    """The vector of a fit that adds what a factor of that size adds, and takes it away again to suppress.

    Raises:
        FitDivergedError: The fit left the finite numbers; the last good vector comes with the error.
    """
    plus = vectors_at(fit, factor)
    return transforms_vector(method, model, pairs, settings, fit, [Add(v) for v in plus], [Add(-v) for v in plus])
