"""Writes the texts of jobs: concepts, contenders and multipliers in one batch, each row steered in its own way.

Batches are decided by all jobs and not by those that are left, so a run that was killed and is gone on with makes the
same batches, and writes the same bytes, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from trimtab.errors import InputError
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.records import Log
from trimtab.methods.steerable import Baseline, Use, applied, applied_together
from trimtab.models import Model
from trimtab.models.apply import Row
from trimtab.models.chat import RenderedPrompt
from trimtab.models.messages import Message, Prompt, as_messages
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import SteeringVector

_Work = tuple[int, tuple[Use, ...], str | None, float | None]
"""What is at work: the contender (its id), what else is, the direction, the multiplier."""

GREEDY, SAMPLED = 0.0, 1.0
"""Temperatures."""


@dataclass(frozen=True)
class Writing:
    """How texts are written.

    Attributes:
        max_new_tokens: Most tokens of a text.
        temperature: 0 = greedy.
        batch_size: Rows a forward; changes nothing but the time (in float32, ties apart).
    """

    max_new_tokens: int = 128
    temperature: float = GREEDY
    batch_size: int = 32


@dataclass(frozen=True)
class _Row:
    """A job that is ready to be written."""

    job: Job
    asked: tuple[Message, ...] | None
    prompt: RenderedPrompt
    steering: Row


def generate(
    model: Model, jobs: Sequence[Job], log: Log, writing: Writing, progress: ProgressCallback | None = None
) -> None:
    """Write the texts that are not on record yet.

    Args:
        model: The model, plain.
        jobs: All of them, also those that are on record.
        log: Where the texts go: a row a job, with the columns of `Job`, its `messages`, what was `asked` where the
            contender made something else of them (else None), `text`, token `ids`, and whether it `ended` by itself.
        writing: How.
        progress: Told of every batch.

    Raises:
        InputError: Two jobs are the same, a contender that does not fit the model, or what `Model.respond` refuses.
    """
    names = [job.id for job in jobs]
    if len(set(names)) < len(names):
        twice = next(job for k, job in enumerate(jobs) if job.id in names[:k])
        raise InputError(f"a job stands twice in the plan: {dict(twice.columns)}; give every prompt once")
    done = {row["id"] for row in log.rows}
    began, finished, total = time.monotonic(), len(done.intersection(names)), len(jobs)
    already = finished
    for group in _groups(jobs):
        if all(job.id in done for job in group):
            continue
        with ExitStack() as stack:
            rows = _ready(model, group, stack)
            for batch in _batches(rows, writing.batch_size):
                left = [row.job.id not in done for row in batch]
                if not any(left):
                    continue
                records = _written(model, batch, writing)
                log.append(record for record, wanted in zip(records, left, strict=True) if wanted)
                finished += sum(left)
                if progress is not None:  # as if it had begun where it was gone on with, for the time that is left
                    progress(Progress("generate", finished - already, total - already, time.monotonic() - began))


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that can be in one batch: all but those of contenders that change the model's weights, which come last."""
    shared: list[Job] = []
    alone: dict[_Work, list[Job]] = {}
    for job in jobs:
        given = [use.steerable for use in job.uses] or [job.contender.steerable]
        if any(isinstance(each, Baseline) and each.changes_weights for each in given):
            alone.setdefault(_work(job), []).append(job)
        else:
            shared.append(job)
    yield from ([shared] if shared else [])
    yield from alone.values()


def _work(job: Job) -> _Work:
    """What jobs have in common that can be written while the same is at work."""
    return id(job.contender), job.uses, job.way, job.multiplier


def _ready(model: Model, group: Sequence[Job], stack: ExitStack) -> list[_Row]:
    """The rows of a group; what changes the model's weights is at work until the stack is closed."""
    plain: dict[int, RenderedPrompt] = {}  # a prompt of many jobs is one object
    steerings: dict[_Work, Any] = {}
    rows = []
    for job in group:
        key = _work(job)
        if key not in steerings:
            steerings[key] = _applied(model, job, stack)
        steering, change = steerings[key]
        asked: Prompt = job.prompt if change is None else change(job.prompt)
        if asked is not job.prompt and asked != job.prompt:
            rows.append(_Row(job, as_messages(asked), model.chat.render(asked), steering))
            continue
        if id(job.prompt) not in plain:
            plain[id(job.prompt)] = model.chat.render(job.prompt)
        rows.append(_Row(job, None, plain[id(job.prompt)], steering))
    return rows


def _applied(model: Model, job: Job, stack: ExitStack) -> tuple[Row, Any]:
    """What steers a job's row, and what becomes of its prompt."""
    if job.uses:
        together = stack.enter_context(applied_together(model, job.uses))
        return together.steering, together.prompt
    steerable = job.contender.steerable
    if steerable is None:
        return None, None
    job.contender.require_fit(model)
    if isinstance(steerable, SteeringVector):
        return steerable.steering(str(job.way), job.multiplier, job.contender.scale), None
    at_work = stack.enter_context(applied(model, steerable, str(job.way), job.multiplier))
    return at_work.steering, at_work.prompt


def _batches(rows: Sequence[_Row], size: int) -> Iterator[list[_Row]]:
    """Rows of like length together, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda k: len(rows[k].prompt.ids))
    for start in range(0, len(order), size):
        yield [rows[k] for k in order[start : start + size]]


def _written(model: Model, batch: Sequence[_Row], writing: Writing) -> list[dict[str, Any]]:
    answers = model.respond(
        [row.prompt for row in batch],
        steering=[row.steering for row in batch],
        max_new_tokens=writing.max_new_tokens,
        temperature=writing.temperature,
        seed=[row.job.seed for row in batch],
        batch_size=len(batch),
    )
    return [
        {
            "id": row.job.id,
            **row.job.columns,
            "messages": [dict(turn) for turn in as_messages(row.job.prompt)],
            "asked": None if row.asked is None else [dict(turn) for turn in row.asked],
            "text": model.chat.decode(ids),
            "ids": list(ids),
            "ended": model.is_ended(ids),
        }
        for row, ids in zip(batch, answers, strict=True)
    ]
