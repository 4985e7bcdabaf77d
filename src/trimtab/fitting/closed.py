"""What methods without training share: settings, states, and the vector that a direction becomes.

Shapes: d hidden, n rows of a class.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import InputError
from trimtab.fitting.engine import FitOptions
from trimtab.fitting.settings import MAX_SEED, check_number
from trimtab.fitting.states import READINGS, ClassStates, read_states
from trimtab.fitting.vectors import json_settings, origin
from trimtab.models.model import Model
from trimtab.steering import Add, Clamp, Edit, Factors, FactorStats, Intervention, Positions, Site, SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS

RULES = ("add", "clamp")


@dataclass(frozen=True)
class ClosedSettings:
    """What every closed form has to be told.

    Args:
        layer: 0-based block whose output is read and edited.
        positions: Which tokens are edited: all, prompt, response, last, f<N>+l<M>.
        reading: What of a row is learnt from: `tokens` (all behind the template prefix, each by itself), `mean` (of
            these), `prompt`, `response` (their means), `last` (the prompt's last token), `answer` (the response's).
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        seed: Seeds whatever is drawn.

    Raises:
        InputError: A setting outside its range.
    """

    layer: int
    positions: str = "all"
    reading: str = "tokens"
    max_response_tokens: int | None = None
    truncate: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        check_number("layer", self.layer, least=0, whole=True)
        check_number("seed", self.seed, least=0, most=MAX_SEED, whole=True)
        if self.max_response_tokens is not None:
            check_number("max_response_tokens", self.max_response_tokens, least=1, whole=True)
        if self.reading not in READINGS:
            raise InputError(f"reading is {self.reading!r}; allowed: {', '.join(READINGS)}")
        Positions.parse(self.positions)


@dataclass(frozen=True)
class DirectionSettings(ClosedSettings):
    """Settings of a closed form that finds one direction.

    Args:
        rule: What the direction is used for: `add` it, or `clamp` the coordinate along it to the classes' values, as
            CDAS does.

    Raises:
        InputError: A setting outside its range.
    """

    rule: str = "add"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in RULES:
            raise InputError(f"rule is {self.rule!r}; allowed: {', '.join(RULES)}")


def closed_states(
    method: str,
    model: Model,
    pairs: PairSet,
    settings: ClosedSettings,
    options: FitOptions,
    sites: Sequence[Site] | None = None,
) -> Mapping[Site, ClassStates]:
    """The classes' states at the sites of a closed form, by default at its layer; see `read_states`.

    Raises:
        InputError: As there; or a start vector, order or trace, which a closed form has no use for.
    """
    refuse_training_options(method, options)
    return read_states(
        model,
        pairs,
        [Site(settings.layer)] if sites is None else sites,
        settings.reading,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
        progress=options.progress,
        shared=options.states,
    )


def refuse_training_options(method: str, options: FitOptions) -> None:
    """Raise InputError if a run was given what only trained methods can use."""
    if (options.init, options.order, options.trace) != (None, None, None):
        raise InputError(f"{method} is not trained step by step; leave out --init, --order and --trace")


def check_differ(states: ClassStates) -> Tensor:
    """The difference of the classes' means (d,).

    Raises:
        InputError: There is none.
    """
    difference = states.difference
    scale = max(float(states.positive_mean.norm()), float(states.negative_mean.norm()), 1e-30)
    if not float(difference.norm()) > torch.finfo(torch.float32).eps * scale:
        raise InputError(
            f"both classes have the same mean state at {states.site} ({len(states.positive)} and "
            f"{len(states.negative)} rows); give pairs that differ"
        )
    return difference


def sized(direction: Tensor, states: ClassStates) -> Tensor:
    """The direction (d,), as long as the gap that the classes' means have along it, towards the positive class.

    Adding it at multiplier 1 does to the mean what the data do. Its length and sign at first do not matter.

    Raises:
        InputError: The direction is zero or not finite, or the means do not differ along it.
    """
    norm = float(direction.norm())
    if not norm > 0 or not bool(torch.isfinite(direction).all()):
        raise InputError(f"the direction found at {states.site} is zero or not finite; give pairs that differ more")
    unit = direction / norm
    gap = float(states.difference.double() @ unit.double())
    if abs(gap) <= torch.finfo(torch.float32).eps * float(states.positive_mean.norm()):
        raise InputError(
            f"the classes do not differ along the direction found at {states.site}, so it has no sign and no size; "
            "give other pairs or another layer"
        )
    return unit * gap


def auroc(direction: Tensor, states: ClassStates) -> float:
    """Chance that a positive row's coordinate along a direction (d,) lies above a negative one's; ties count half."""
    above, below = (rows.double() @ direction.double() for rows in (states.positive, states.negative))
    below = below.sort().values
    wins = torch.searchsorted(below, above, right=False) + torch.searchsorted(below, above, right=True)
    return float(wins.double().mean()) / (2 * len(below))


def check_paired(method: str, settings: ClosedSettings) -> None:
    """Raise InputError unless the settings read one row a pair of each class, which `tokens` does not."""
    if settings.reading == "tokens":
        allowed = ", ".join(name for name in READINGS if name != "tokens")
        raise InputError(f"{method} needs one state a prompt, and reading is 'tokens'; allowed: {allowed}")


def direction_vector(
    method: str,
    model: Model,
    pairs: PairSet,
    settings: DirectionSettings,
    direction: Tensor,
    states: ClassStates,
    began: float,
    figures: Mapping[str, JSON] | None = None,
) -> SteeringVector:
    """The vector that edits along `direction` (d,), whose sign points to the positive class, by the settings' rule.

    Added, it keeps its length, which is what multiplier 1 does. Clamped, its length says nothing: the coordinate along
    it is set to the classes' mean coordinates. How well the coordinate tells the rows apart is kept as `auroc`.
    """
    figures = {"auroc": auroc(direction, states), **(figures or {})}
    positions = Positions.parse(settings.positions)
    if settings.rule == "clamp":
        unit = direction / direction.norm()
        factors = Factors(
            FactorStats.of(states.positive @ unit[:, None]), FactorStats.of(states.negative @ unit[:, None])
        )
        edits = (Edit(Intervention(states.site, Clamp(unit, factors.value("elicit", 1.0)), positions), factors),)
        return closed_vector(method, model, pairs, settings, edits, dict.fromkeys(DIRECTIONS, (0,)), began, figures)
    edits = tuple(
        Edit(Intervention(states.site, Add(sign * direction), positions), scales="strength") for sign in (1.0, -1.0)
    )
    return closed_vector(method, model, pairs, settings, edits, {"elicit": (0,), "suppress": (1,)}, began, figures)


def closed_vector(
    method: str,
    model: Model,
    pairs: PairSet,
    settings: object,
    edits: tuple[Edit, ...],
    directions: Mapping[str, tuple[int, ...]],
    began: float,
    figures: Mapping[str, JSON] | None = None,
) -> SteeringVector:
    """A vector with the provenance of a closed form.

    Args:
        method: Name of the method.
        model: The model.
        pairs: What was learnt from.
        settings: How: a settings dataclass.
        edits: Its interventions.
        directions: Which of them each direction takes.
        began: `time.monotonic()` at the start of the fit.
        figures: What else is worth keeping, such as an accuracy.
    """
    plain = json_settings(settings)
    seed = plain.get("seed")
    training: dict[str, JSON] = {"seconds": round(time.monotonic() - began, 3), "steps": 0, **(figures or {})}
    return SteeringVector(
        method=method,
        model=model.card(),
        edits=edits,
        directions=directions,
        settings=plain,
        provenance=origin(model, pairs, seed if isinstance(seed, int) else None) | {"training": training},
    )
