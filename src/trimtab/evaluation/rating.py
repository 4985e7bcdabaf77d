"""Asks a judge about every text on record that has no rating yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trimtab.clients.cost import Estimate
from trimtab.evaluation.jobs import Job
from trimtab.evaluation.judges import Judge, Question
from trimtab.evaluation.records import Log
from trimtab.models.messages import as_messages
from trimtab.progress import Progress, ProgressCallback

CHUNK = 256
"""Questions whose ratings go on record together; what a kill loses of them, an endpoint's cache still has."""

Record = Mapping[str, Any]


def rate(
    judge: Judge,
    generations: Sequence[Record],
    aspects: Callable[[Record], Iterable[str]],
    log: Log,
    progress: ProgressCallback | None = None,
) -> None:
    """Put on record the ratings that are not there yet.

    Args:
        judge: Who is asked.
        generations: Rows of `generations.jsonl`.
        aspects: What is asked about a row.
        log: Where the ratings go: `id` of the text, `aspect`, `rating` (None where no reply could be read), `reply`,
            `attempts`.
        progress: Told of every chunk.

    Raises:
        InputError: An aspect that the judge does not have, or a text that it cannot judge.
        NetworkError: An endpoint that still fails after all retries; what was rated is on record.
    """
    done = log.keys("id", "aspect")
    asked = [(row, aspect) for row in generations for aspect in aspects(row)]
    keys = [(row["id"], aspect) for row, aspect in asked]
    began, total = time.monotonic(), len(asked)
    for start in range(0, total, CHUNK):  # of all, so that what is rated together does not depend on what is there
        part = slice(start, start + CHUNK)
        if done.issuperset(keys[part]):
            continue
        verdicts = judge.rate([question_of(row, aspect) for row, aspect in asked[part]])
        log.append(
            {
                "id": name,
                "aspect": aspect,
                "rating": verdict.rating,
                "reply": verdict.reply,
                "attempts": verdict.attempts,
            }
            for (name, aspect), verdict in zip(keys[part], verdicts, strict=True)
            if (name, aspect) not in done
        )
        if progress is not None:
            progress(Progress("judge", min(start + CHUNK, total), total, time.monotonic() - began))


def question_of(row: Record, aspect: str) -> Question:
    """What is asked about a text on record."""
    return Question(aspect, row["text"], row["concept"], row["instruction"], tuple(row["messages"]))


def question_about(job: Job, aspect: str, text: str) -> Question:
    """What will be asked about a text that is not written yet."""
    return Question(aspect, text, job.concept, job.columns["instruction"], as_messages(job.prompt))


def estimate(judge: Judge, jobs: Iterable[tuple[Job, str]], words: int) -> Estimate | None:
    """What judging texts that are not written yet would cost, each taken to be of so many words."""
    text = " ".join(["word"] * words)
    # texts differ, so none of these must look like another to a cache
    return judge.estimate(
        [question_about(job, aspect, f"{text} {number}") for number, (job, aspect) in enumerate(jobs)]
    )
