"""Which tokens of a prompt make one answer likelier than another: integrated gradients over their embeddings.

Letters: s tokens of a prompt, n tokens of an answer, d width of an embedding, k steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trimtab.models.model import Model
from trimtab.models.split import SplitModel, frozen

STEPS_A_FORWARD = 8
"""Interpolated prompts in one forward."""


def integrated_gradients(function: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """The attributions x * (mean gradient along the way from 0 to x), of a function of a batch.

    Their sum is the function's value at x less that at 0, up to the error of a sum of `steps` midpoints.

    Args:
        function: (b, s, d) -> (b,), differentiable.
        x: (s, d).
        steps: Points on the way, at the middle of as many equal parts of it.

    Returns:
        (s, d), in x's dtype.
    """
    shares = (torch.arange(steps, device=x.device, dtype=torch.float32) + 0.5) / steps
    total = torch.zeros_like(x, dtype=torch.float32)
    for part in shares.split(STEPS_A_FORWARD):
        with torch.enable_grad():
            points = (part[:, None, None].to(x.dtype) * x).requires_grad_()  # (b, s, d)
            (gradient,) = torch.autograd.grad(function(points).sum(), points)
        total += gradient.float().sum(dim=0)
    return (x.float() * total / steps).to(x.dtype)


def answer_score(
    model: Model, ids: Sequence[int], free: Sequence[int], answer: Sequence[int], scored: slice
) -> Callable[[Tensor], Tensor]:
    """The mean log-probability of some tokens of an answer, as a function of the embeddings of some of its prompt's.

    Args:
        model: The model.
        ids: The prompt.
        free: The s places in the prompt whose embeddings the function is given.
        answer: n tokens behind the prompt.
        scored: Which of the answer's tokens.

    Returns:
        (b, s, d) -> (b,) float32, differentiable.
    """
    row = torch.tensor([*ids, *answer[:-1]], device=model.device)
    fixed = model.hf.get_input_embeddings()(row).detach()  # (s', d)
    split, targets = SplitModel(model.hf, model.layout), torch.tensor(answer, device=model.device)[scored]
    where = torch.tensor(free, device=model.device)

    def score(embeddings: Tensor) -> Tensor:
        b = len(embeddings)
        whole = fixed.expand(b, -1, -1).index_copy(1, where, embeddings.to(fixed.dtype))
        mask = torch.ones(whole.shape[:2], dtype=torch.int64, device=whole.device)
        finals = model.layout.stack(inputs_embeds=whole, attention_mask=mask, use_cache=False)[0]
        read = finals[:, len(ids) - 1 :][:, scored]  # (b, n, d)
        logits = split.logits(read.reshape(-1, read.shape[-1])).float().log_softmax(dim=-1)
        return logits.gather(1, targets.to(logits.device).repeat(b)[:, None]).reshape(b, -1).mean(dim=1)

    return score


def token_scores(
    model: Model,
    ids: Sequence[int],
    free: Sequence[int],
    wanted: Sequence[int],
    other: Sequence[int],
    *,
    scored: slice = slice(None),
    steps: int = 20,
) -> Tensor:
    """How much each of some tokens of a prompt makes one answer likelier than another, from embeddings of zero on.

    Args:
        model: The model, not steered.
        ids: The prompt.
        free: The s places in it that are attributed to.
        wanted: One answer.
        other: The other.
        scored: Which of an answer's tokens count.
        steps: Points on the way from zero.

    Returns:
        (s,) float32 on the CPU: signed sums over an embedding.
    """
    with frozen(model.hf):
        likes, dislikes = (answer_score(model, ids, free, answer, scored) for answer in (wanted, other))
        x = model.hf.get_input_embeddings()(torch.tensor(ids, device=model.device)[list(free)]).detach()
        parts = integrated_gradients(lambda e: likes(e) - dislikes(e), x, steps)
    return parts.float().sum(dim=-1).cpu()
