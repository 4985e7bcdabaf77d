"""Put a fit into a SteeringVector: clamp interventions with factors, and the provenance that makes it checkable."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence

import torch

from trimtab._version import __version__
from trimtab.data import PairSet
from trimtab.errors import FitDivergedError
from trimtab.fitting.divergence import Objective
from trimtab.fitting.engine import FitOptions, TrainedFit, fit_interchanges
from trimtab.fitting.settings import TrainSettings
from trimtab.models.model import Model
from trimtab.models.versions import transformers_version
from trimtab.steering import Clamp, Edit, Intervention, Positions, Site, SteeringVector
from trimtab.steering.content import JSON
from trimtab.steering.factors import DIRECTIONS


def clamp_vector(method: str, model: Model, pairs: PairSet, settings: TrainSettings, fit: TrainedFit) -> SteeringVector:
    """The vector of an interchange fit, with both directions: a clamp at every site.

    Raises:
        FitDivergedError: The fit left the finite numbers; the last good vector comes with the error.
    """
    positions = Positions.parse(settings.positions)
    edits = tuple(
        Edit(Intervention(Site(layer), Clamp(rows, factors.value("elicit", 1.0)), positions), factors)
        for layer, rows, factors in zip(settings.layers, fit.directions, fit.factors, strict=True)
    )
    indices = tuple(range(len(edits)))
    return fitted_vector(method, model, pairs, settings, fit, edits, dict.fromkeys(DIRECTIONS, indices))


def clamp_vectors(
    method: str,
    model: Model,
    concepts: Sequence[PairSet],
    settings: TrainSettings,
    objective: Objective,
    options: FitOptions,
) -> list[SteeringVector | FitDivergedError]:
    """The vectors of interchange fits that are trained in lockstep; in place of one that diverged, the error.

    Raises:
        InputError: See `trimtab.fitting.fit_interchanges`.
    """
    fits = fit_interchanges(model, concepts, settings, objective, options)
    return made_vectors(concepts, fits, lambda pairs, fit: clamp_vector(method, model, pairs, settings, fit))


def made_vectors(
    concepts: Sequence[PairSet],
    fits: Sequence[TrainedFit | FitDivergedError],
    made: Callable[[PairSet, TrainedFit], SteeringVector],
) -> list[SteeringVector | FitDivergedError]:
    """What `made` makes of each fit; in place of one that diverged, the error."""
    found: list[SteeringVector | FitDivergedError] = []
    for pairs, fit in zip(concepts, fits, strict=True):
        if isinstance(fit, FitDivergedError):
            found.append(fit)
            continue
        try:
            found.append(made(pairs, fit))
        except FitDivergedError as error:
            found.append(error)
    return found


def fitted_vector(
    method: str,
    model: Model,
    pairs: PairSet,
    settings: TrainSettings,
    fit: TrainedFit,
    edits: tuple[Edit, ...],
    directions: Mapping[str, tuple[int, ...]],
) -> SteeringVector:
    """The vector of a fit.

    Args:
        method: Name of the method.
        model: The model.
        pairs: What was learnt from.
        settings: How.
        fit: What was found.
        edits: Its interventions.
        directions: Which of them each direction takes.

    Raises:
        FitDivergedError: The fit left the finite numbers; the last good vector comes with the error.
    """
    vector = SteeringVector(
        method=method,
        model=model.card(),
        edits=edits,
        directions=directions,
        settings=json_settings(settings),
        provenance=provenance(model, pairs, settings, fit),
    )
    if fit.diverged_at is not None:
        raise FitDivergedError(
            f"the loss of step {fit.diverged_at} is not finite; lower lr (now {settings.lr:g}), load the model in "
            "float32, or look for NaN in its weights",
            fit.diverged_at,
            vector,
        )
    return vector


def json_settings(settings: object) -> dict[str, JSON]:
    """A settings dataclass as the file formats keep it, which know lists and no tuples."""
    plain = dataclasses.asdict(settings)  # pyright: ignore[reportArgumentType]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def provenance(model: Model, pairs: PairSet, settings: TrainSettings, fit: TrainedFit) -> dict[str, JSON]:
    """Where a vector comes from: data, run, cache, what it was computed on, versions."""
    training: dict[str, JSON] = {
        "epochs": settings.epochs,
        "seconds": round(fit.seconds["total"], 3),
        "cache_seconds": round(fit.seconds["cache"], 3),
        "cache": {"base_states": fit.plan.base, "teacher": fit.plan.teacher, "bytes": fit.plan.bytes},
    }
    if fit.together > 1:
        training["together"] = fit.together
    if fit.diverged_at is None:
        losses = fit.trace.losses.view(fit.steps, -1).mean(dim=1)
        last_epoch = losses[-(len(losses) // settings.epochs) :]
        training |= {
            "steps": len(losses),
            "loss_first": float(losses[0]),
            "loss_last": float(losses[-1]),
            "loss_last_epoch": float(last_epoch.mean()),
        }
    return origin(model, pairs, settings.seed) | {
        "given": dict(fit.given),
        "training": training,
        "edit_ratio": dict(fit.edit_ratio),
    }


def origin(model: Model, pairs: PairSet, seed: int | None = None) -> dict[str, JSON]:
    """What every method's vector says of its data, its seed, what it was computed on and with which versions."""
    concepts = [str(concept) for concept in pairs.concepts]
    return {
        "concept": concepts[0] if len(concepts) == 1 else None,
        "data": {"source": str(pairs.source), "hash": pairs.content_hash, "pairs": len(pairs)},
        "seed": seed,
        "computed": {
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "attention": model.attention,
        },
        "versions": {
            "trimtab": __version__,
            "torch": torch.__version__,
            "transformers": transformers_version(),
            "python": platform.python_version(),
        },
    }
