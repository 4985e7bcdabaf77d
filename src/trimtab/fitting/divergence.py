"""Losses of next-token distributions, in float32, with their analytic gradients. n tokens, v vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trimtab.fitting.preference import Preference

LEAST = -86.0
"""The least logarithm of a probability: half of e to this is about the smallest number that float32 holds in full."""
CACHE_ELEMENTS = 2**18
"""Numbers of one tensor that are worked on at a time on a CPU: 1 MiB, so that a few such tensors stay in its cache."""
FLOOR = -200.0
"""Least log-probability in a Kullback-Leibler divergence of the side that must not rule out what the other may say: a
token with -inf must not make a loss infinite."""


class TokenLoss(NamedTuple):
    """A loss a token and its gradient.

    Attributes:
        value: (n,) float32.
        gradient: (n, v) float32, d value / d logits.
    """

    value: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Objective:
    """What a trained edit is to come near.

    Attributes:
        loss: (logits (n, v), reference) -> loss and gradient a token.
        reference: `teacher`, its log-probabilities (n, v), or `response`, the tokens of the response itself (n,).
        preference: Puts the answers' log-probabilities (`loss` is then the cross-entropy of their tokens) together to
            a loss of two answers, of which the first is preferred; None for a loss of single tokens.
        judged: Whose log-probabilities a preference is measured against: those of the `source` or the `base` prompt,
            without an edit.
        lengths: What a preference takes for the length of an answer: its own tokens, or also those of the prompt.
    """

    loss: Callable[[Tensor, Tensor], TokenLoss]
    reference: Literal["teacher", "response"]
    preference: Preference | None = None
    judged: Literal["source", "base"] = "source"
    lengths: Literal["response", "sequence"] = "response"


def cross_entropy(logits: Tensor, labels: Tensor) -> TokenLoss:
    """-log p of each token's label, p the softmax of its logits; gradient p - onehot(label).

    Args:
        logits: (n, v), any dtype; computed in float32.
        labels: (n,) int64.
    """
    log_p = logits.float().log_softmax(dim=-1)
    value = -log_p.gather(1, labels[:, None])[:, 0]
    gradient = log_p.exp_()
    gradient[torch.arange(len(labels), device=labels.device), labels] -= 1.0
    return TokenLoss(value, gradient)


def jensen_shannon(logits: Tensor, teacher: Tensor) -> TokenLoss:
    """Jensen-Shannon divergence of each token's student distribution p from its teacher distribution q.

    JS = 1/2 sum_v p (log p - log m) + 1/2 sum_v q (log q - log m), m = (p + q) / 2, natural log, so 0 <= JS <= log 2.
    d JS / d log p = p (log p - log m) / 2 before the softmax's own projection. Logarithms below `LEAST`, where float32
    has no probabilities any more, count as `LEAST`, so a term with p = 0 counts 0, as 0 log 0.

    A dozen operations on a large vocabulary would each wait for memory, so they are made for a few rows at a time,
    which stay in a core's cache.

    Args:
        logits: (n, v) student logits, any dtype; computed in float32. A token the model rules out has -inf.
        teacher: (n, v) float32 teacher log-probabilities, -inf allowed.
    """
    gradient = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    rows = len(logits) if logits.device.type != "cpu" else max(1, CACHE_ELEMENTS // logits.shape[-1])
    parts = zip(logits.split(rows), teacher.split(rows), gradient.split(rows), strict=True)
    values = [_jensen_shannon(part.float(), q.clamp_min(LEAST), out) for part, q, out in parts]
    return TokenLoss(torch.cat(values) if values else gradient.new_empty(0), gradient)


def _jensen_shannon(logits: Tensor, log_q: Tensor, gradient: Tensor) -> Tensor:
    """The divergence (n,) of some rows; their gradient is written into `gradient`."""
    log_p = logits - logits.amax(dim=-1, keepdim=True)
    p, q = log_p.exp(), log_q.exp()  # q is never 0, so neither is m
    total = p.sum(dim=-1, keepdim=True)  # more exact over 256k entries than log_softmax
    p.div_(total)
    log_p.sub_(total.log_()).clamp_min_(LEAST)
    log_m = torch.lerp(p, q, 0.5).log_()
    kl_q = torch.linalg.vecdot(log_q.sub_(log_m), q)
    ratio = torch.mul(log_p.sub_(log_m), p, out=gradient)  # p (log p - log m)
    kl_p = ratio.sum(dim=-1)
    ratio.addcmul_(p, kl_p[:, None], value=-1).mul_(0.5)
    return (kl_p + kl_q).mul_(0.5)


def forward_kl(logits: Tensor, teacher: Tensor) -> TokenLoss:
    """KL(q || p) of each token, q the teacher's distribution and p the student's: covers all that the teacher may say.

    Gradient p - q. This is the usual name; the published code of CDAS calls it reverse. Arguments as in
    `jensen_shannon`; in the value, the logarithm of a token that the student rules out counts as `FLOOR`.
    """
    log_p, q = logits.float().log_softmax(dim=-1), teacher.exp()
    value = (teacher - log_p.clamp_min(FLOOR)).clamp_min_(LEAST).mul_(q).sum(dim=-1)
    return TokenLoss(value, log_p.exp_().sub_(q))


def reverse_kl(logits: Tensor, teacher: Tensor) -> TokenLoss:
    """KL(p || q) of each token, p the student's distribution and q the teacher's: says nothing that the teacher won't.

    Gradient p (log p - log q - KL). This is the usual name; the published code of CDAS calls it forward. Arguments as
    in `jensen_shannon`; where the teacher rules a token out, its logarithm counts as `FLOOR`.
    """
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    ratio = log_p.sub_(teacher.clamp_min(FLOOR)).clamp_min_(LEAST).mul_(p)
    value = ratio.sum(dim=-1)
    return TokenLoss(value, ratio.sub_(p.mul_(value[:, None])))
