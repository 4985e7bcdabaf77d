"""What the features of an encoder do on both classes of contrast pairs.

Letters: m features, n rows of a class, s tokens of a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data import PairSet, tokenise_pairs
from trimtab.errors import InputError
from trimtab.fitting.places import captured
from trimtab.fitting.states import READINGS
from trimtab.models.model import Model
from trimtab.progress import ProgressCallback
from trimtab.steering import Site

CHUNK = 2048
"""Features whose ranks are compared at a time."""
POOLS = ("max", "mean")


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Activations of all features.

    Attributes:
        positive: (n, m) float32, each row's tokens pooled.
        negative: (n, m).
        largest: (m,), over all tokens of positive rows.
        mean: (m,), over those tokens of positive rows at which the feature is on; 0 where there are none.
    """

    positive: Tensor
    negative: Tensor
    largest: Tensor
    mean: Tensor

    def auroc(self) -> Tensor:
        """(m,) float64: how often a positive row has more of a feature than a negative one, a tie counting half."""
        return auroc(self.positive, self.negative)


def feature_stats(
    model: Model,
    pairs: PairSet,
    site: Site,
    encode: Callable[[Tensor], Tensor],
    *,
    pool: str = "max",
    reading: str = "tokens",
    max_response_tokens: int | None = None,
    truncate: bool = False,
    progress: ProgressCallback | None = None,
) -> FeatureStats:
    """Activations on the tokens of positive prompts with their responses, and of negative ones.

    Args:
        model: The model, not steered.
        pairs: Contrast pairs.
        site: Where the states are read.
        encode: States (s, d) -> activations (s, m), none below 0.
        pool: How the tokens of a row are put together: `max` or `mean`.
        reading: Which tokens of a row, see `READINGS`.
        max_response_tokens: Cut responses.
        truncate: Cut responses that do not fit the context instead of refusing them.
        progress: Told of every batch.

    Raises:
        InputError: No pairs, or such that do not fit the context, a site that is not there, or a steered model.
    """
    if not pairs:
        raise InputError(f"no pairs to learn from in {pairs.source!r}; give at least one")
    tokenised = tokenise_pairs(
        model.chat,
        pairs,
        context_length=model.context_length or sys.maxsize,
        max_response_tokens=max_response_tokens,
        truncate=truncate,
    )
    rows = [(pair.positive, pair.positive_response) for pair in tokenised]
    rows += [(pair.negative, pair.negative_response) for pair in tokenised]
    pooled: list[Tensor] = []
    largest: Tensor | None = None
    total = count = torch.zeros(())
    for number, states in captured(model, [prompt.ids + response for prompt, response in rows], [site], progress):
        prompt, response = rows[number]
        span = READINGS[reading](prompt.prefix_length, len(prompt.ids), len(prompt.ids) + len(response))
        found = encode(states[site][span.start : span.stop].float().cpu())  # (s, m)
        pooled.append(found.amax(dim=0) if pool == "max" else found.mean(dim=0))
        if number < len(tokenised):
            most = found.amax(dim=0)
            largest = most if largest is None else torch.maximum(largest, most)
            total, count = total + found.double().sum(dim=0), count + (found > 0).sum(dim=0)
    assert largest is not None
    positive, negative = torch.stack(pooled).split(len(tokenised))
    return FeatureStats(positive, negative, largest, (total / count.clamp_min(1)).float())


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """(m,) float64 of activations (n, m) and (k, m); a tie counts half."""
    n, k = len(positive), len(negative)
    found = []
    for high, low in zip(positive.T.split(CHUNK), negative.T.split(CHUNK), strict=True):
        ordered, high = low.contiguous().sort(dim=1).values, high.contiguous()
        below = torch.searchsorted(ordered, high)
        not_above = torch.searchsorted(ordered, high, right=True)
        found.append((below + not_above).sum(dim=1))
    return torch.cat(found).double() / (2 * n * k)
