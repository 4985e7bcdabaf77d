"""One fit from pairs to directions and factors: tokenise, freeze, cache, train, read the factors off the data."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.buckets import buckets
from trimtab.fitting.cache import BUILD_TOKENS, CachePlan, FrozenCache
from trimtab.fitting.divergence import Objective
from trimtab.fitting.items import Item, interchange_items
from trimtab.fitting.order import Array, array_hash, example_order, retract, start_directions
from trimtab.fitting.settings import TrainSettings
from trimtab.fitting.traces import check_trace, write_trace
from trimtab.fitting.trainer import DivergedError, InterchangeTrainer, Trace
from trimtab.models.apply import is_steered
from trimtab.models.model import Model
from trimtab.models.split import SplitModel, frozen
from trimtab.progress import ProgressCallback
from trimtab.steering import Factors, FactorStats

logger = logging.getLogger(__name__)

RATIO_ITEMS = 64


@dataclass(frozen=True)
class FitOptions:
    """What a run is given besides its settings.

    Args:
        init: Start vector (hidden,) or (rank, hidden), or the path of a `.npy`.
        order: Example indices (epochs, pairs), or the path of a `.npy`.
        trace: Where to write the run as `.npz`: `vecs` (steps + 1, hidden), `jsd` a minibatch and `n_tok` a minibatch.
            An existing file is replaced. Of a run that diverges, the steps before, if there are any.
        progress: Told of every batch of the cache and every step.
    """

    init: Array | None = None
    order: Array | None = None
    trace: str | Path | None = None
    progress: ProgressCallback | None = None


@dataclass(frozen=True)
class InterchangeFit:
    """What a fit found.

    Attributes:
        directions: W, (r, d) float32 on the CPU.
        factors: Coordinates of the source states of all training prompts, a class.
        trace: The run, or its steps before it diverged.
        edit_ratio: Median of (norm of the edit) / (norm of the state) over prompt tokens, a direction, at multiplier 1.
        given: sha256 of the start vector (float32, (rank, hidden)) and of the order (int64, (epochs, pairs)) as they
            were used, where they were given; None where the seed made them.
        plan: What was cached.
        seconds: Wall clock: of the whole fit and of building the cache.
        diverged_at: 0-based step at which the loss left the finite numbers; `directions` are then the last good ones.
    """

    directions: Tensor
    factors: Factors
    trace: Trace
    edit_ratio: dict[str, float]
    given: dict[str, str | None]
    plan: CachePlan
    seconds: dict[str, float]
    diverged_at: int | None = None


def fit_interchange(
    model: Model, pairs: PairSet, settings: TrainSettings, objective: Objective, options: FitOptions
) -> InterchangeFit:
    """Train rank-r directions on contrast pairs with a token objective.

    Raises:
        InputError: A layer the model does not have, a rank above its width, no pairs or such that do not fit the
            context, a start vector or order of the wrong shape, positions that pick no token, a template without an
            assistant header and no source tokens, or a trace that cannot be written.
        FitDivergedError: The states at the layer are not finite.
    """
    began = time.monotonic()
    model.check_layer(settings.layer)
    if is_steered(model.layout):
        raise InputError(
            "this model is being steered; leave steer() before fitting, or the vector learns the steered model"
        )
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    if options.trace is not None:
        check_trace(Path(options.trace))
    model.chat.check_source()
    if settings.rank > model.hidden_size:
        raise InputError(f"rank {settings.rank} exceeds the model's hidden size {model.hidden_size}")
    start = start_directions(options.init, settings.rank, model.hidden_size, settings.seed)
    order = example_order(options.order, settings.epochs, len(pairs), settings.seed)
    items = interchange_items(
        tokenise_pairs(
            model.chat,
            pairs,
            context_length=model.context_length or sys.maxsize,
            max_response_tokens=settings.max_response_tokens,
            truncate=settings.truncate,
        )
    )
    split = SplitModel(model.hf, model.layout)
    plan = CachePlan.choose(
        items,
        model.hidden_size,
        split.vocabulary,
        model.dtype.itemsize,
        settings.cache_bytes,
        teacher=objective.reference == "teacher",
    )
    logger.info("cache: %s", plan)
    with frozen(model.hf), torch.inference_mode(False), torch.enable_grad():
        cache = FrozenCache(split, settings.layer, items, plan, model.device, options.progress)
        cached = time.monotonic()
        if not torch.isfinite(cache.sources).all():
            raise FitDivergedError(
                f"the states at layer {settings.layer} are not finite before the first step; look for NaN in the "
                f"weights of {model.name}, or load it in another dtype",
                0,
            )
        if settings.start == "means" and options.init is None:
            start = _from_means(cache.sources.cpu(), start)
        trainer = InterchangeTrainer(split, cache, items, objective, settings)
        diverged = None
        try:
            trace = trainer.run(start.to(cache.sources.device), order, options.progress)
        except DivergedError as stop:
            diverged, trace = stop.step, stop.trace
        directions = trace.vectors[-1]
        factors = _factors(cache.sources.cpu(), directions)
        ratio = _edit_ratio(cache, items, directions, factors)
    if options.trace is not None and len(trace.losses):
        write_trace(Path(options.trace), trace)
    given = {
        "init": None if options.init is None else array_hash(start),
        "order": None if options.order is None else array_hash(order),
    }
    seconds = {"total": time.monotonic() - began, "cache": cached - began}
    return InterchangeFit(directions, factors, trace, ratio, given, plan, seconds, diverged)


def _from_means(sources: Tensor, start: Tensor) -> Tensor:
    """Start directions (r, d) of which the first is the difference of the classes' mean source states.

    The others stay random. So does the first where the means are the same.
    """
    difference = sources[0::2].mean(dim=0) - sources[1::2].mean(dim=0)
    size = difference.norm()
    if not size > torch.finfo(torch.float32).eps * sources.norm(dim=1).mean():
        return start
    return retract(torch.cat([difference[None] / size, start[1:]]))


def _factors(sources: Tensor, directions: Tensor) -> Factors:
    """Coordinates of the source states (specification of CDAS, section 6); items alternate: positive, negative."""
    values = sources @ directions.T  # (items, r)
    return Factors(positive=FactorStats.of(values[0::2]), negative=FactorStats.of(values[1::2]))


def _edit_ratio(cache: FrozenCache, items: Sequence[Item], directions: Tensor, factors: Factors) -> dict[str, float]:
    """Median of |h' - h| / |h| over prompt tokens after the prefix, for up to `RATIO_ITEMS` items a direction.

    A direction without such tokens, or with states that are not finite, has none.
    """
    ratios = {}
    for offset, direction in enumerate(("elicit", "suppress")):
        chosen = list(range(offset, len(items), 2))[:RATIO_ITEMS]
        found = []
        for group in buckets([len(items[k].base) for k in chosen], BUILD_TOKENS):
            of_group = [chosen[place] for place in group]
            for k, states in zip(of_group, cache.base(of_group), strict=True):
                tokens = states[items[k].prefix : items[k].base_prompt].float().cpu()
                moved = (factors.value(direction, 1.0) - tokens @ directions.T) @ directions
                found.append(moved.norm(dim=1) / tokens.norm(dim=1).clamp_min(1e-12))
        ratios[direction] = float(torch.cat(found).median())
    return {direction: ratio for direction, ratio in ratios.items() if math.isfinite(ratio)}
