"""Does a fit find the same direction again? Fits on other draws of its pairs, and with other seeds, are compared.

A direction is that of a vector's first edit, turned towards the concept where the classes' factors tell. Two of one
dimension are compared by their cosine; two subspaces by the cosine of the largest principal angle between them, the
smallest singular value of the product of their orthonormal bases, which is never negative.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.data import PairSet
from trimtab.errors import FitDivergedError, InputError
from trimtab.methods import METHODS, check_fit, fit, fit_many
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import SteeringVector, probe_directions

SEEDS, RESAMPLES = "seeds", "resamples"
"""What is changed in a fit: its seed, or which pairs it learns from."""
LAYER, SEED = "layer", "seed"
"""Settings by name."""


@dataclass(frozen=True, eq=False)
class Refit:
    """One fit more.

    Attributes:
        how: `SEEDS` or `RESAMPLES`.
        number: Among those.
        vector: What came out; None where the loss left the finite numbers.
    """

    how: str
    number: int
    vector: SteeringVector | None


def why_not(vector: SteeringVector) -> str | None:
    """Why a vector cannot be fitted again and compared, in a few words; None where it can."""
    if vector.method not in METHODS:
        return f"its method {vector.method!r} is none of trimtab's"
    try:
        axes(vector)
        layer, settings = _settings(vector)
        check_fit(vector.method, layer, settings)
    except InputError as error:
        return str(error)
    return None


def axes(vector: SteeringVector) -> Tensor:
    """The directions of a vector's first edit: orthonormal rows (r, d) float64, a single one turned to the concept.

    Raises:
        InputError: It has none.
    """
    edit = vector.edits[0]
    rows = probe_directions(edit.intervention.transform).double()
    if len(rows) > 1:
        return torch.linalg.qr(rows.T).Q.T
    unit = rows / rows.norm()
    is_turned = edit.factors is not None and edit.factors.positive.mean[0] < edit.factors.negative.mean[0]
    return -unit if is_turned else unit


def agreement(one: SteeringVector, other: SteeringVector) -> float | None:
    """The cosine of two vectors' directions, -1 to 1; None where they are read at different sites.

    Raises:
        InputError: One has no direction.
    """
    if one.edits[0].intervention.site != other.edits[0].intervention.site:
        return None
    product = axes(one) @ axes(other).T
    if product.numel() == 1:
        return float(product.clamp(-1, 1))
    return float(torch.linalg.svdvals(product).min().clamp(0, 1))


def refits(
    model: Model, vector: SteeringVector, pairs: PairSet, n: int, seed: int, progress: ProgressCallback | None = None
) -> list[Refit]:
    """Fits a vector's method again with its own settings, at its own layer, without calibration.

    Args:
        model: The model it was made for.
        vector: The vector.
        pairs: What is learnt from: all of them with other seeds, and draws of as many, with replacement.
        n: Fits of each kind; a method that is told no seed has none of the first.
        seed: Decides the draws. The seeds of the fits follow the vector's own.
        progress: Told of every fit.

    Raises:
        InputError: The vector cannot be fitted again (see `why_not`), or not on these pairs.
    """
    layer, settings = _settings(vector)
    found, began = [], time.monotonic()
    own = settings.get(SEED)
    seeds = [own + 1 + k for k in range(n)] if isinstance(own, int) else []
    total = len(seeds) + n

    def told() -> None:
        if progress is not None:
            progress(Progress("fit again", len(found), total, time.monotonic() - began))

    for k, each in enumerate(seeds):
        found.append(Refit(SEEDS, k, _fitted(model, vector.method, pairs, layer, {**settings, SEED: each})))
        told()
    drawn = {str(k): resample(pairs, seed, k) for k in range(n)}
    if isinstance(layer, str):  # it finds its places by itself, one fit at a time
        made = {name: _fitted(model, vector.method, each, layer, settings) for name, each in drawn.items()}
    else:
        many = fit_many(vector.method, model, drawn, layer=layer, calibrate=False, **settings)
        made = {name: each if isinstance(each, SteeringVector) else None for name, each in many.items()}
    found += [Refit(RESAMPLES, k, each) for k, each in enumerate(made.values())]
    told()
    return found


def resample(pairs: PairSet, seed: int, number: int) -> PairSet:
    """As many pairs, drawn with replacement; `seed` and `number` decide which."""
    draw = random.Random(f"resample {seed} {number}")
    return PairSet([draw.choice(pairs) for _ in pairs], source=f"{pairs.source}, resample {number}")


def compared(vector: SteeringVector, found: Sequence[Refit]) -> list[dict[str, Any]]:
    """Every refit with the vector (`other` is None), and every two of a kind with each other.

    Returns:
        Rows of `how`, `number`, `other`, `cosine`; None where a fit diverged or is read at another site.
    """
    rows = [
        {"how": each.how, "number": each.number, "other": None, "cosine": _cosine(vector, each.vector)}
        for each in found
    ]
    for one, other in itertools.combinations(found, 2):
        if one.how == other.how:
            cosine = None if one.vector is None else _cosine(one.vector, other.vector)
            rows.append({"how": one.how, "number": one.number, "other": other.number, "cosine": cosine})
    return rows


def _cosine(one: SteeringVector, other: SteeringVector | None) -> float | None:
    return None if other is None else agreement(one, other)


def _fitted(
    model: Model, method: str, pairs: PairSet, layer: int | Sequence[int] | str, settings: Mapping[str, Any]
) -> SteeringVector | None:
    try:
        return fit(method, model, pairs, layer=layer, calibrate=False, **settings)
    except FitDivergedError:
        return None


def _settings(vector: SteeringVector) -> tuple[int | Sequence[int] | str, dict[str, Any]]:
    """The layer and the other settings of a vector's fit, as `fit` takes them."""
    settings: dict[str, Any] = dict(vector.settings)
    layer = settings.pop(LAYER, "auto")
    return (tuple(layer) if isinstance(layer, list) else layer), settings
