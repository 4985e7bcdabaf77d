"""Mean states of the two classes of contrast pairs: what closed forms are made of.

Letters: d hidden, s tokens of a row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.data import PairSet, TokenisedPair, tokenise_pairs
from trimtab.errors import InputError
from trimtab.models.apply import is_steered
from trimtab.models.capture import capture
from trimtab.models.chat import RenderedPrompt
from trimtab.models.model import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Site

BATCH = 16
"""Rows whose states are held at a time."""

Row = tuple[RenderedPrompt, tuple[int, ...]]


def class_means(
    model: Model,
    pairs: PairSet,
    layer: int,
    *,
    max_response_tokens: int | None = None,
    truncate: bool = False,
    progress: ProgressCallback | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean state of all tokens of positive prompts with their responses, and of negative ones, at a block's output.

    Tokens of the template prefix take no part; every other token counts alike.

    Args:
        model: The model, not steered.
        pairs: At least one.
        layer: 0-based block.
        max_response_tokens: Cut responses to this many tokens; None = whole.
        truncate: Cut responses that do not fit the context instead of refusing them.
        progress: Told of every batch.

    Returns:
        (d,) float32 on the CPU, twice.

    Raises:
        InputError: A layer the model does not have, no pairs, pairs that do not fit the context, a model that is being
            steered, or states that are not finite.
    """
    model.check_layer(layer)
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    if is_steered(model.layout):
        raise InputError("this model is being steered; leave steer() before fitting, or the vector learns from that")
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=max_response_tokens,
        truncate=truncate,
    )
    sides = [[_row(pair, side) for pair in tokenised] for side in ("positive", "negative")]
    started, done, means = time.monotonic(), 0, []
    for rows in sides:
        total, count = torch.zeros(model.hidden_size, dtype=torch.float64), 0
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            part, tokens = _sum_of_states(model, Site(layer), batch)
            total, count, done = total + part, count + tokens, done + len(batch)
            if progress is not None:
                progress(Progress("means", done, 2 * len(rows), time.monotonic() - started))
        means.append((total / count).float())
    if not all(bool(torch.isfinite(mean).all()) for mean in means):
        raise InputError(
            f"the states at layer {layer} are not finite; look for NaN in the weights of {model.name}, or load it in "
            "another dtype"
        )
    return means[0], means[1]


def _row(pair: TokenisedPair, side: str) -> Row:
    if side == "positive":
        return pair.positive, pair.positive_response
    return pair.negative, pair.negative_response


def _sum_of_states(model: Model, site: Site, rows: Sequence[Row]) -> tuple[Tensor, int]:
    """Sum (d,) float64 of the states of all tokens behind the template prefix, and how many they are."""
    total, count = torch.zeros(model.hidden_size, dtype=torch.float64), 0
    states = capture(model.hf, [prompt.ids + response for prompt, response in rows], [site], batch_size=len(rows))
    for (prompt, _), seen in zip(rows, states, strict=True):
        tokens = seen[site][prompt.prefix_length :]
        total += tokens.float().cpu().double().sum(dim=0)  # not every device knows float64
        count += len(tokens)
    return total, count
