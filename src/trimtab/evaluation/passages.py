"""Given texts as a steered model reads them: how likely it finds each, and how far from the plain model it is there.

Contenders, multipliers and texts are mixed in one batch, each row steered in its own way; baselines, which may change
the prompt or the model itself, come one by one behind the others. Batches are decided by all readings and not by those
that are left, so a run that is gone on with writes what an uninterrupted one writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from trimtab.evaluation.conditions import Dose
from trimtab.evaluation.contenders import PLAIN
from trimtab.evaluation.jobs import IDENTITY
from trimtab.evaluation.likelihoods import unfinished
from trimtab.evaluation.records import Log, digest
from trimtab.fitting.likelihood import final_states, js_divergences, kl_divergences, likelihoods_at
from trimtab.methods.steerable import Applied, applied
from trimtab.models import Model
from trimtab.models.apply import Row
from trimtab.models.chat import RenderedPrompt
from trimtab.models.messages import Prompt
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Steering, SteeringVector

CHUNK = 256
"""Readings that are made, and go on record, together."""
KL, JS, NLL = "kl", "js", "nll"
"""Metrics of a reading, nats a token: KL(plain || steered), Jensen-Shannon, minus the mean log-probability, steered."""


@dataclass(frozen=True, eq=False)
class Passage:
    """A prompt and what stands behind it.

    Attributes:
        kind: What it is read for.
        condition: Which texts of this kind it is of.
        number: Among those.
        prompt: The prompt; a rendered one is taken as it is, and what changes prompts does not read it.
        ids: Token ids behind it, at least one.
        is_compared: Whether the steered model's distributions are compared with the plain one's.
    """

    kind: str
    condition: str
    number: int
    prompt: Prompt | RenderedPrompt
    ids: tuple[int, ...]
    is_compared: bool


@dataclass(frozen=True, eq=False)
class Reading:
    """A passage under one dose of a contender.

    Attributes:
        dose: What is at work; None for the plain model.
        passage: What is read.
    """

    dose: Dose | None
    passage: Passage

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """Its row but for the metrics, with an `id` from what it is."""
        dose, passage = self.dose, self.passage
        columns = {
            "label": PLAIN if dose is None else dose.contender.label,
            "concept": None if dose is None else dose.contender.concept,
            "way": None if dose is None else dose.way,
            "multiplier": None if dose is None else dose.multiplier,
            "kind": passage.kind,
            "condition": passage.condition,
            "item": passage.number,
        }
        return {"id": digest(columns)[:IDENTITY], **columns}


def read(model: Model, readings: Sequence[Reading], log: Log, progress: ProgressCallback | None = None) -> None:
    """Make the readings that are not on record yet.

    Args:
        model: The model, plain.
        readings: All of them, also those that are on record.
        log: Where they go: a row a reading, with what it is of, `n` tokens and `metrics`: `nll`, and for steered ones
            of passages that are compared `kl` and `js`; None for a number that is not finite.
        progress: Told of every chunk.

    Raises:
        InputError: A contender that does not fit the model.
    """
    done, began = {row["id"] for row in log.rows if "id" in row}, time.monotonic()
    plain = _Plain(model, [reading.passage for reading in readings])
    finished = sum(reading.record["id"] in done for reading in readings)
    already, total = finished, len(readings)
    for group in _groups(readings):
        with _at_work(model, group[0].dose) as work:
            possible = [reading for reading in group if work.keeps_prompts or _is_open(reading.passage)]
            by_id = {reading.record["id"]: reading for reading in possible}
            steerings: dict[tuple[int, str, float], Row] = {}
            for chunk, left in unfinished([reading.record for reading in possible], done, CHUNK):
                now = [by_id[record["id"]] for record in chunk]
                rows = _read_chunk(model, now, work, steerings, plain)
                log.append(row for row, wanted in zip(rows, left, strict=True) if wanted)
                finished += sum(left)
                if progress is not None:
                    progress(Progress("read", finished - already, total - already, time.monotonic() - began))


class _Plain:
    """The plain model's states on passages that are compared, computed when they are first asked for."""

    def __init__(self, model: Model, passages: Sequence[Passage]) -> None:
        self._model = model
        self._passages = list(dict.fromkeys(passage for passage in passages if passage.is_compared))

    @cached_property
    def _states(self) -> dict[int, Tensor]:
        prompts = [_rendered(self._model, passage, Applied()) for passage in self._passages]
        rows: list[Row] = [None] * len(prompts)  # the way that steered rows take, so that no edit means no difference
        found = final_states(self._model, prompts, [passage.ids for passage in self._passages], rows)
        return {id(passage): states for passage, states in zip(self._passages, found, strict=True)}

    def states(self, passage: Passage) -> Tensor:
        """(n, d) of one passage."""
        return self._states[id(passage)]


def _groups(readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    """Readings that can be in one batch: the plain model's and vectors', then each dose of a baseline."""
    shared: list[Reading] = []
    alone: dict[int, list[Reading]] = {}
    for reading in readings:
        is_shared = reading.dose is None or reading.dose.contender.vector is not None
        (shared if is_shared else alone.setdefault(id(reading.dose), [])).append(reading)
    yield from ([shared] if shared else [])
    yield from alone.values()


@contextmanager
def _at_work(model: Model, dose: Dose | None) -> Iterator[Applied]:
    """A baseline at work; nothing for vectors, which are at work row by row."""
    if dose is None or dose.contender.vector is not None or dose.contender.steerable is None:
        yield Applied()
        return
    dose.contender.require_fit(model)
    with applied(model, dose.contender.steerable, dose.way, dose.multiplier) as work:
        yield work


def _is_open(passage: Passage) -> bool:
    """Whether something can be put in front of it."""
    return not isinstance(passage.prompt, RenderedPrompt)


def _rendered(model: Model, passage: Passage, work: Applied) -> RenderedPrompt:
    prompt = passage.prompt
    return prompt if isinstance(prompt, RenderedPrompt) else model.chat.render(work.prompt(prompt))


def _read_chunk(
    model: Model,
    chunk: Sequence[Reading],
    work: Applied,
    steerings: dict[tuple[int, str, float], Row],
    plain: _Plain,
) -> list[dict[str, Any]]:
    """The rows of a chunk; `steerings` keeps what a dose resolves to, so that its rows share one."""
    rows: list[Row] = []
    for dose in (reading.dose for reading in chunk):
        if dose is None or not isinstance(dose.contender.steerable, SteeringVector):
            rows.append(work.steering)
            continue
        key = (id(dose.contender), dose.way, dose.multiplier)
        if key not in steerings:
            dose.contender.require_fit(model)
            steerings[key] = dose.contender.steerable.steering(dose.way, dose.multiplier, dose.contender.scale)
        rows.append(steerings[key])
    answers = [each.passage.ids for each in chunk]
    states: dict[int, Tensor] = {}
    for k, (each, row) in enumerate(zip(chunk, rows, strict=True)):
        if each.passage.is_compared and work.keeps_prompts and _edits_nothing(row) and not model.changed_by:
            states[k] = plain.states(
                each.passage
            )  # what it is compared with; a batch of another shape rounds otherwise
    left = [k for k in range(len(chunk)) if k not in states]
    if left:
        prompts = [_rendered(model, chunk[k].passage, work) for k in left]
        found = final_states(model, prompts, [answers[k] for k in left], [rows[k] for k in left])
        states |= dict(zip(left, found, strict=True))
    metrics: list[dict[str, float | None]] = [
        {NLL: _finite(-part.mean())} for part in likelihoods_at(model, [states[k] for k in range(len(chunk))], answers)
    ]
    compared = [k for k, each in enumerate(chunk) if each.passage.is_compared and each.dose is not None]
    if compared:
        before, after = [plain.states(chunk[k].passage) for k in compared], [states[k] for k in compared]
        kls, jss = kl_divergences(model, before, after), js_divergences(model, before, after)
        for k, kl, js in zip(compared, kls, jss, strict=True):
            metrics[k] = {KL: _finite(kl.mean()), JS: _finite(js.mean()), **metrics[k]}
    return [
        {**each.record, "n": len(each.passage.ids), "metrics": found}
        for each, found in zip(chunk, metrics, strict=True)
    ]


def _edits_nothing(row: Row) -> bool:
    """Whether a row is the plain model's, or that of a steering at strength 0."""
    return row is None or (isinstance(row, Steering) and all(edit.strength == 0 for edit in row.interventions))


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
