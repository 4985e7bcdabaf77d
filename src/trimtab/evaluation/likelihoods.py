"""How likely the plain model finds texts on record: what their perplexity is computed from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.evaluation.records import Log, finite
from trimtab.fitting.likelihood import log_likelihoods
from trimtab.models import Model
from trimtab.progress import Progress, ProgressCallback

CHUNK = 512
"""Texts that are measured, and go on record, together."""
NLL = "nll"
"""Name of the measure: minus the mean log-probability of a token, in nats."""


def measure_nll(
    model: Model, generations: Sequence[Mapping[str, Any]], log: Log, progress: ProgressCallback | None = None
) -> None:
    """Put on record how likely the plain model finds each text behind the protocol's prompt.

    Args:
        model: The model, plain.
        generations: Rows of `generations.jsonl`.
        log: Where it goes: `id`, `name` (`NLL`), `value`, and `n` tokens.
        progress: Told of every chunk.
    """
    began, done = time.monotonic(), {row["id"] for row in log.rows if row["name"] == NLL}
    for finished, (chunk, left) in enumerate(unfinished(generations, done, CHUNK), 1):
        prompts = [model.chat.render(row["messages"]) for row in chunk]
        found = log_likelihoods(model, prompts, [row["ids"] for row in chunk])
        log.append(
            {"id": row["id"], "name": NLL, "value": finite(-float(part.mean())), "n": len(part)}
            for row, part, wanted in zip(chunk, found, left, strict=True)
            if wanted
        )
        if progress is not None:
            total = -(-len(generations) // CHUNK)
            progress(Progress("perplexity", min(finished, total), total, time.monotonic() - began))


def unfinished(
    rows: Sequence[Mapping[str, Any]], done: set[str], size: int
) -> Iterator[tuple[Sequence[Mapping[str, Any]], list[bool]]]:
    """Chunks of which something is not done yet, and what of each.

    They are cut from all rows, so that what is computed does not depend on what was done before.
    """
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        left = [row["id"] not in done for row in chunk]
        if any(left):
            yield chunk, left
