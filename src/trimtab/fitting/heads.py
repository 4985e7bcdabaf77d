"""Which attention heads carry a concept to the end of a prompt: their mean parts, and what each of these causes.

Letters: n query heads of a block, k width of a head, t trials.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.fitting.likelihood import log_likelihoods
from trimtab.models.chat import RenderedPrompt
from trimtab.models.model import Model
from trimtab.progress import Progress, ProgressCallback
from trimtab.steering import Affine, Intervention, Positions, Site, Steering

Head = tuple[int, int]
"""Block and query head."""


def placed(part: Tensor, head: Head) -> Intervention:
    """The edit that sets the last prompt token's part (k,) of a head to a given one."""
    site = Site(head[0], "attn_in", head=head[1])
    return Intervention(site, Affine(torch.zeros_like(part), part), Positions("last", include_prefix=True))


def indirect_effects(
    model: Model,
    prompts: Sequence[RenderedPrompt],
    responses: Sequence[Sequence[int]],
    parts: Mapping[Head, Tensor],
    *,
    in_probability: bool = False,
    progress: ProgressCallback | None = None,
) -> dict[Head, float]:
    """By how much a response becomes likelier when a head's part at the last prompt token is set to a given one.

    Args:
        model: The model, not steered.
        prompts: t prompts that do not ask for the response.
        responses: The response behind each, at least one token.
        parts: By head (k,) the part that is set.
        in_probability: Measure the probability of the whole response, instead of the mean log-probability of its
            tokens.
        progress: Told of every head.

    Returns:
        By head the mean over prompts.
    """

    def scores(found: Sequence[Tensor]) -> Tensor:
        if in_probability:
            return torch.stack([of_tokens.double().sum().exp() for of_tokens in found])
        return torch.stack([of_tokens.double().mean() for of_tokens in found])

    before, began, effects = None, time.monotonic(), {}
    for number, (head, part) in enumerate(parts.items(), 1):
        if before is None:  # of the same sort of run as what it is compared with, to the same rounding
            before = scores(log_likelihoods(model, prompts, responses, [Steering(())] * len(prompts)))
        steering = Steering((placed(part, head),), label=f"head {head[1]} of block {head[0]}")
        after = scores(log_likelihoods(model, prompts, responses, [steering] * len(prompts)))
        effects[head] = float((after - before).mean())
        if progress is not None:
            progress(Progress("heads", number, len(parts), time.monotonic() - began))
    return effects


def strongest(effects: Mapping[Head, float], n: int) -> list[Head]:
    """The n heads of the greatest effect, or all if there are fewer; of equal ones the lower block, the lower head."""
    return sorted(effects, key=lambda head: (-effects[head], head))[:n]
