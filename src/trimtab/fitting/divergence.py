"""Losses of next-token distributions, in float32, with their analytic gradients. n tokens, v vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trimtab.fitting.preference import Preference

LEAST = -1e30
"""Stands for -inf in a logarithm that is about to be multiplied by a probability of 0."""
FLOOR = -200.0
"""Least log-probability of a teacher that a student is held against: a token that it rules out must not make a loss
infinite."""


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
    """

    loss: Callable[[Tensor, Tensor], TokenLoss]
    reference: Literal["teacher", "response"]
    preference: Preference | None = None
    judged: Literal["source", "base"] = "source"


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
    d JS / d log p = p (log p - log m) / 2 before the softmax's own projection. Terms with p = 0 count 0, as 0 log 0.

    Args:
        logits: (n, v) student logits, any dtype; computed in float32. A token the model rules out has -inf.
        teacher: (n, v) float32 teacher log-probabilities, -inf allowed.
    """
    shifted = logits.float() - logits.amax(dim=-1, keepdim=True).float()
    p = shifted.exp()
    total = p.sum(dim=-1, keepdim=True)
    p.div_(total)
    log_p = shifted.sub_(total.log())  # one exponential serves p and log p
    q = teacher.exp()
    log_m = torch.add(p, q).mul_(0.5).clamp_min_(torch.finfo(torch.float32).tiny).log_()
    ratio_p = log_p.sub_(log_m).clamp_min_(LEAST).mul_(p)  # p (log p - log m)
    kl_p = ratio_p.sum(dim=-1)
    kl_q = torch.sub(teacher, log_m, out=log_m).clamp_min_(LEAST).mul_(q).sum(dim=-1)
    gradient = ratio_p.sub_(p.mul_(kl_p[:, None])).mul_(0.5)
    return TokenLoss(0.5 * (kl_p + kl_q), gradient)


def forward_kl(logits: Tensor, teacher: Tensor) -> TokenLoss:
    """KL(q || p) of each token, q the teacher's distribution and p the student's: covers all that the teacher may say.

    Gradient p - q. This is the usual name; the published code of CDAS calls it reverse. Arguments as in
    `jensen_shannon`.
    """
    log_p, q = logits.float().log_softmax(dim=-1), teacher.exp()
    value = (teacher - log_p).clamp_min_(LEAST).mul_(q).sum(dim=-1)
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
