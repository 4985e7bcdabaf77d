"""Given texts as a steered model reads them: how likely it finds each, and how far from the plain model it is there.

Contenders, multipliers and texts are mixed in one batch, each row steered in its own way; baselines, which may change
the prompt or the model itself, come one by one behind the others. Batches are decided by all readings and not by those
that are left, so a run that is gone on with writes what an uninterrupted one writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


Plain = Mapping[Passage, Tensor]
"""What the plain model's head reads at every token of passages: (n, d) each."""


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
    finished = already = sum(reading.record["id"] in done for reading in readings)
    total = len(readings)
    if finished == total:
        return
    # of all passages, so that they do not depend on what is left, and before anything that changes the model is at work
    plain = _plain_states(model, (reading.passage for reading in readings))
    for group in _groups(readings):
        with _at_work(model, group[0].dose) as work:
            possible = [reading for reading in group if work.keeps_prompts or _is_open(reading.passage)]
            finished += len(group) - len(possible)
            by_id = {reading.record["id"]: reading for reading in possible}
            steerings: dict[tuple[int, str, float], Row] = {}
            for chunk, left in unfinished([reading.record for reading in possible], done, CHUNK):
                now = [by_id[record["id"]] for record in chunk]
                rows = _read_chunk(model, now, work, steerings, plain)
                log.append(row for row, wanted in zip(rows, left, strict=True) if wanted)
                finished += sum(left)
                if progress is not None:
                    progress(Progress("read", finished - already, total - already, time.monotonic() - began))


def _plain_states(model: Model, passages: Iterable[Passage]) -> Plain:
    """What the plain model's head reads in passages that are compared."""
    wanted = list(dict.fromkeys(passage for passage in passages if passage.is_compared))
    prompts = [_rendered(model, passage, Applied()) for passage in wanted]
    found = final_states(model, prompts, [passage.ids for passage in wanted], [None] * len(wanted)) if wanted else []
    return dict(zip(wanted, found, strict=True))


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
    plain: Plain,
) -> list[dict[str, Any]]:
    """The rows of a chunk; `steerings` keeps what a dose resolves to, so that its rows share one."""
    states = _states(model, chunk, work, [_row(model, each.dose, work, steerings) for each in chunk], plain)
    likely = likelihoods_at(model, states, [each.passage.ids for each in chunk])
    metrics: list[dict[str, float | None]] = [{NLL: _finite(-part.mean())} for part in likely]
    compared = [k for k, each in enumerate(chunk) if each.passage.is_compared and each.dose is not None]
    if compared:
        before, after = [plain[chunk[k].passage] for k in compared], [states[k] for k in compared]
        kls, jss = kl_divergences(model, before, after), js_divergences(model, before, after)
        for k, kl, js in zip(compared, kls, jss, strict=True):
            metrics[k] = {KL: _finite(kl.mean()), JS: _finite(js.mean()), **metrics[k]}
    return [
        {**each.record, "n": len(each.passage.ids), "metrics": found}
        for each, found in zip(chunk, metrics, strict=True)
    ]


def _row(model: Model, dose: Dose | None, work: Applied, steerings: dict[tuple[int, str, float], Row]) -> Row:
    """What steers a reading."""
    if dose is None or not isinstance(dose.contender.steerable, SteeringVector):
        return work.steering
    key = (id(dose.contender), dose.way, dose.multiplier)
    if key not in steerings:
        dose.contender.require_fit(model)
        steerings[key] = dose.contender.steerable.steering(dose.way, dose.multiplier, dose.contender.scale)
    return steerings[key]


def _states(model: Model, chunk: Sequence[Reading], work: Applied, rows: Sequence[Row], plain: Plain) -> list[Tensor]:
    """What the head reads; where nothing is edited just what it is compared with, as other batches round otherwise."""
    is_plain = work.keeps_prompts and model.changed_by is None
    found = {
        k: plain[each.passage]
        for k, (each, row) in enumerate(zip(chunk, rows, strict=True))
        if is_plain and each.passage.is_compared and _edits_nothing(row)
    }
    left = [k for k in range(len(chunk)) if k not in found]
    if left:
        prompts = [_rendered(model, chunk[k].passage, work) for k in left]
        steered = final_states(model, prompts, [chunk[k].passage.ids for k in left], [rows[k] for k in left])
        found |= dict(zip(left, steered, strict=True))
    return [found[k] for k in range(len(chunk))]


def _edits_nothing(row: Row) -> bool:
    """Whether a row is the plain model's, or that of a steering at strength 0."""
    return row is None or (isinstance(row, Steering) and all(edit.strength == 0 for edit in row.interventions))


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
