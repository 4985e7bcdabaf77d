"""Fits from pairs to edits and factors: tokenise, freeze, cache, train, read the factors off the data."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import FitDivergedError, InputError
from trimtab.fitting.buckets import buckets
from trimtab.fitting.cache import BUILD_TOKENS, CachePlan, FrozenCache, FrozenRuns
from trimtab.fitting.divergence import Objective
from trimtab.fitting.edits import FACTOR, INTERCHANGE, SIZE, EditKind, tangential
from trimtab.fitting.figures import mean_readings, typical_size
from trimtab.fitting.items import Item, interchange_items
from trimtab.fitting.jobs import Job, Trace
from trimtab.fitting.order import Array, array_hash, example_order, retract, start_sites
from trimtab.fitting.settings import InterchangeSettings, TrainSettings
from trimtab.fitting.states import SharedStates
from trimtab.fitting.traces import check_trace, write_trace
from trimtab.fitting.trainer import EditTrainer
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
        init: Start vector (hidden,) or (rank, hidden), of several layers (layers, rank, hidden), or the path of a
            `.npy`.
        order: Example indices (epochs, pairs), or the path of a `.npy`.
        trace: Where to write the run as `.npz`: `vecs` (steps + 1, hidden), of several layers or a rank above 1 (steps
            + 1, layers, rank, hidden) without what is 1, `jsd` a minibatch and `n_tok` a minibatch. An existing file is
            replaced. Of a run that diverges, the steps before, if there are any.
        progress: Told of every batch of the cache and every step.
        runs: Frozen parts that this fit shares with others of the same pairs at other layers.
        states: Hidden states that a closed form shares with others of the same pairs at other layers.
    """

    init: Array | None = None
    order: Array | None = None
    trace: str | Path | None = None
    progress: ProgressCallback | None = None
    runs: FrozenRuns | None = None
    states: SharedStates | None = None


@dataclass(frozen=True)
class TrainedFit:
    """What a fit found. Letters: m sites, r rank, d hidden.

    Attributes:
        parameters: Of the edit, (m, ...) float32 on the CPU.
        factors: For each site the coordinates of the source states of all training prompts, a class.
        trace: The run, or its steps before it diverged.
        edit_ratio: Median of (norm of the edit) / (norm of the state) over prompt tokens at the lowest site, a
            direction, at multiplier 1.
        given: sha256 of the start vector (float32) and of the order (int64, (epochs, pairs)) as they were used, where
            they were given; None where the seed made them.
        plan: What was cached.
        seconds: Wall clock: of the whole run (all fits that were trained together) and of building the cache.
        together: Fits that were trained together with it, itself included.
        readings: What the kind of edit reads off the plain states after training, its mean a way; empty for most.
    """

    parameters: Mapping[str, Tensor]
    factors: tuple[Factors, ...]
    trace: Trace
    edit_ratio: dict[str, float]
    given: dict[str, str | None]
    plan: CachePlan
    seconds: dict[str, float]
    together: int = 1
    readings: tuple[float, ...] = ()

    @property
    def directions(self) -> Tensor:
        """W, (m, r, d): the rows along which states are edited."""
        return next(iter(self.parameters.values()))

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return len(self.trace.vectors) - 1

    @property
    def diverged_at(self) -> int | None:
        """0-based step at which the loss left the finite numbers; the parameters are then the last good ones."""
        return self.trace.diverged_at


def fit_interchange(
    model: Model,
    pairs: PairSet,
    settings: TrainSettings,
    objective: Objective,
    options: FitOptions,
    kind: EditKind = INTERCHANGE,
) -> TrainedFit:
    """Train an edit on contrast pairs; see `fit_interchanges`.

    Raises:
        InputError: As there, or a start vector or order of the wrong shape, or a trace that cannot be written.
        FitDivergedError: The states at the layer are not finite.
    """
    if options.trace is not None:
        check_trace(Path(options.trace))
    (fit,) = fit_interchanges(model, [pairs], settings, objective, options, kind)
    if isinstance(fit, FitDivergedError):
        raise fit
    if options.trace is not None and len(fit.trace.losses):
        write_trace(Path(options.trace), fit.trace)
    return fit


def fit_interchanges(
    model: Model,
    concepts: Sequence[PairSet],
    settings: TrainSettings,
    objective: Objective,
    options: FitOptions,
    kind: EditKind = INTERCHANGE,
) -> list[TrainedFit | FitDivergedError]:
    """Train one edit a concept, all in lockstep; each comes out as it does alone.

    In place of one whose source states are not finite there is the error; the others are trained.

    Args:
        model: The model, not steered.
        concepts: Contrast pairs of each.
        settings: Of all. The number of steps follows from the pairs of each.
        objective: What the edits are to come near.
        options: A start vector and an order are for all concepts; `trace` is not looked at.
        kind: What is trained.

    Raises:
        InputError: A layer the model does not have, a rank above its width, no pairs or such that do not fit the
            context, a start vector or order of the wrong shape, positions that pick no token, or a template without an
            assistant header and no source tokens.
    """
    _check(model, concepts, settings)
    if isinstance(settings, InterchangeSettings) and settings.tangent:
        kind = tangential(kind)
    start = start_sites(
        options.init,
        len(settings.layers),
        settings.rank,
        model.hidden_size,
        settings.seed,
        is_orthonormal=kind.is_orthonormal,
    )
    tasks = [
        _Task(pairs, _items(model, pairs, settings, objective, kind),
              example_order(options.order, settings.epochs, len(pairs), settings.seed))
        for pairs in concepts
    ]  # fmt: skip
    split = SplitModel(model.hf, model.layout)
    found: list[TrainedFit | FitDivergedError] = []
    with frozen(model.hf), torch.inference_mode(False), torch.enable_grad():
        for together in _in_turns(tasks, lambda items: _plan(model, split, items, settings, objective)):
            found += _trained(model, split, together, start, settings, objective, options, kind)
    return found


@dataclass(frozen=True)
class _Task:
    """One concept to be fitted."""

    pairs: PairSet
    items: list[Item]
    order: Tensor


def _plan(
    model: Model, split: SplitModel, items: Sequence[Item], settings: TrainSettings, objective: Objective
) -> CachePlan:
    return CachePlan.choose(
        items,
        model.hidden_size,
        split.vocabulary,
        model.dtype.itemsize,
        settings.cache_bytes,
        teacher=objective.reference == "teacher",
    )


def _in_turns(tasks: Sequence[_Task], plan: Callable[[Sequence[Item]], CachePlan]) -> list[list[_Task]]:
    """The tasks in groups whose frozen parts are kept as they would be alone: what is not costs more than it saves."""
    groups: list[list[_Task]] = []
    for task in tasks:
        alone = plan(task.items)
        with_last = [*groups[-1], task] if groups else []
        joined = plan([item for one in with_last for item in one.items]) if with_last else None
        if joined is not None and (joined.base, joined.teacher) == (alone.base, alone.teacher):
            groups[-1].append(task)
        else:
            groups.append([task])
    return groups


def _trained(
    model: Model,
    split: SplitModel,
    tasks: Sequence[_Task],
    start: Tensor,
    settings: TrainSettings,
    objective: Objective,
    options: FitOptions,
    kind: EditKind,
) -> list[TrainedFit | FitDivergedError]:
    """Fits that are trained together, and errors of those whose source states are not finite."""
    began = time.monotonic()
    items = [item for task in tasks for item in task.items]
    plan = _plan(model, split, items, settings, objective)
    logger.info("cache: %s", plan)
    judged = None if objective.preference is None else objective.judged
    needs_sources = kind.reads_sources or objective.reference == "teacher" or judged == "source"
    cache = FrozenCache(
        split,
        settings.layers,
        items,
        plan,
        model.device,
        options.progress,
        judged=judged,
        runs=options.runs,
        sources=needs_sources,
    )
    cached = time.monotonic()
    sizes = [len(task.items) for task in tasks]
    good = [bool(torch.isfinite(states).all()) for states in cache.sources.split(sizes)]
    if not all(good):  # so rare that the cache is built again for the others, which then are as they would be alone
        error = FitDivergedError(
            f"the states at layer {settings.layer} are not finite before the first step; look for NaN in the "
            f"weights of {model.name}, or load it in another dtype",
            0,
        )
        kept = [task for task, is_good in zip(tasks, good, strict=True) if is_good]
        fits = iter(_trained(model, split, kept, start, settings, objective, options, kind) if kept else [])
        return [next(fits) if is_good else error for is_good in good]
    trainer = EditTrainer(split, cache, items, kind, objective, settings)
    sources, first, jobs, classes = cache.sources.cpu(), 0, [], []
    for task in tasks:
        size = len(task.items) // len(task.pairs)
        each = _classes(sources[first : first + len(task.items)], kind, size) if kind.reads_sources else []
        from_means = settings.start == "means" and options.init is None and len(each) == 2
        begun = kind.start(_from_means(each[0], each[1], start) if from_means else start)
        if options.init is not None and not kind.is_orthonormal:
            begun[next(iter(begun))] = start
        if SIZE in kind.constants:
            numbers = range(first, first + len(task.items))
            begun[SIZE] = torch.full_like(begun[SIZE], typical_size(cache, trainer.masks, numbers))
        jobs.append(Job(first, task.order, begun))
        classes.append(each)
        first += len(task.items)
    found = []
    for task, job, each, trace in zip(tasks, jobs, classes, trainer.run(jobs, options.progress), strict=True):
        factors = _factors(each, next(iter(trace.parameters.values())))
        size, numbers = len(task.items) // len(task.pairs), range(job.first, job.first + len(task.items))
        of_ways = [numbers[place * (size // len(kind.ways)) :: size] for place in range(len(kind.ways))]
        ratio = _edit_ratio(cache, items, of_ways, trace.parameters, factors, kind)
        readings = mean_readings(cache, trainer.masks, of_ways, trace.parameters, kind)
        given = {
            "init": None if options.init is None else array_hash(start),
            "order": None if options.order is None else array_hash(task.order),
        }
        found.append((trace, factors, ratio, given, readings))
    seconds = {"total": time.monotonic() - began, "cache": cached - began}
    return [
        TrainedFit(trace.parameters, factors, trace, ratio, given, plan, dict(seconds), len(tasks), readings)
        for trace, factors, ratio, given, readings in found
    ]


def _check(model: Model, concepts: Sequence[PairSet], settings: TrainSettings) -> None:
    for layer in settings.layers:
        model.check_layer(layer)
    if is_steered(model.layout):
        raise InputError(
            "this model is being steered; leave steer() before fitting, or the vector learns the steered model"
        )
    if not concepts:
        raise InputError("no concepts to fit; give contrast pairs of at least one")
    for pairs in concepts:
        if not pairs:
            raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    model.chat.check_source()
    if settings.rank > model.hidden_size:
        raise InputError(f"rank {settings.rank} exceeds the model's hidden size {model.hidden_size}")


def _items(model: Model, pairs: PairSet, settings: TrainSettings, objective: Objective, kind: EditKind) -> list[Item]:
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=settings.max_response_tokens,
        truncate=settings.truncate,
    )
    return interchange_items(tokenised, kind.ways, preference=objective.preference is not None)


def _classes(sources: Tensor, kind: EditKind, size: int) -> list[Tensor]:
    """Source states (pairs, m, d) of the positive prompts, then of the negative ones; of those that are sources.

    Of items in their order, `size` a pair.
    """
    answers, sides = size // len(kind.ways), [way.source for way in kind.ways]
    return [sources[sides.index(side) * answers :: size] for side in ("positive", "negative") if side in sides]


def _from_means(positive: Tensor, negative: Tensor, start: Tensor) -> Tensor:
    """Start directions (m, r, d) of which each site's first is the difference of the classes' mean source states.

    The others stay random. So does the first where the means are the same.
    """
    found = []
    for site, rows in enumerate(start):
        difference = positive[:, site].mean(dim=0) - negative[:, site].mean(dim=0)
        size = difference.norm()
        scale = torch.cat([positive[:, site], negative[:, site]]).norm(dim=1).mean()
        same = not size > torch.finfo(torch.float32).eps * scale
        found.append(rows if same else retract(torch.cat([difference[None] / size, rows[1:]])))
    return torch.stack(found)


def _factors(classes: Sequence[Tensor], directions: Tensor) -> tuple[Factors, ...]:
    """Coordinates of the source states at each site (specification of CDAS, section 6); none without two classes."""
    if len(classes) < 2:
        return ()
    values = [[FactorStats.of(states[:, site] @ rows.T) for states in classes] for site, rows in enumerate(directions)]
    return tuple(Factors(positive=positive, negative=negative) for positive, negative in values)


def _edit_ratio(
    cache: FrozenCache,
    items: Sequence[Item],
    of_ways: Sequence[Sequence[int]],
    parameters: Mapping[str, Tensor],
    factors: Sequence[Factors],
    kind: EditKind,
) -> dict[str, float]:
    """Median of |h' - h| / |h| at the lowest site over prompt tokens after the prefix, for some items a direction.

    A clamp is set to its factor. A direction without such tokens, or with states that are not finite, has none.
    """
    ratios, lowest = {}, {name: value[0] for name, value in parameters.items()}
    for place, (way, numbers) in enumerate(zip(kind.ways, of_ways, strict=True)):
        direction, chosen = way.direction, list(numbers)[:RATIO_ITEMS]
        drawn = {} if kind.draw is None else {FACTOR: torch.tensor([kind.draw.usual[place]])}
        found = []
        for group in buckets([len(items[k].base) for k in chosen], BUILD_TOKENS):
            of_group = [chosen[place] for place in group]
            for k, states in zip(of_group, cache.base(of_group), strict=True):
                tokens = states[items[k].prefix : items[k].base_prompt].float().cpu()
                if factors:
                    rows = lowest["directions"]
                    moved = (factors[0].value(direction, 1.0) - tokens @ rows.T) @ rows
                else:
                    mask = torch.ones(1, len(tokens), dtype=torch.bool)
                    own = {**lowest, **drawn}
                    moved = kind.apply(tokens[None], tokens[None, 0], own, mask)[0] - tokens if len(tokens) else tokens
                found.append(moved.norm(dim=1) / tokens.norm(dim=1).clamp_min(1e-12))
        ratios[direction] = float(torch.cat(found).median())
    return {direction: ratio for direction, ratio in ratios.items() if math.isfinite(ratio)}
