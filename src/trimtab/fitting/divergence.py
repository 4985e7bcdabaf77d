"""Divergences between next-token distributions, in float32, with their analytic gradients. n tokens, v vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenLoss(NamedTuple):
    """A loss a token and its gradient.

    Attributes:
        value: (n,) float32.
        gradient: (n, v) float32, d value / d logits.
    """

    value: Tensor
    gradient: Tensor


def jensen_shannon(logits: Tensor, teacher: Tensor) -> TokenLoss:
    """Jensen-Shannon divergence of each token's student distribution p from its teacher distribution q.

    JS = 1/2 sum_v p (log p - log m) + 1/2 sum_v q (log q - log m), m = (p + q) / 2, natural logarithm, so 0 <= JS <= log 2.
    d JS / d log p = p (log p - log m) / 2 before the softmax's own projection; terms whose p and q both underflow count 0.

    Args:
        logits: (n, v) student logits, any dtype; computed in float32.
        teacher: (n, v) float32 teacher log-probabilities.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p, q = log_p.exp(), teacher.exp()
    log_m = torch.add(p, q).mul_(0.5).clamp_min_(torch.finfo(torch.float32).tiny).log_()
    ratio_p = torch.sub(log_p, log_m, out=log_p).mul_(p)  # p (log p - log m)
    kl_p = ratio_p.sum(dim=-1)
    kl_q = torch.sub(teacher, log_m, out=log_m).mul_(q).sum(dim=-1)
    gradient = ratio_p.sub_(p.mul_(kl_p[:, None])).mul_(0.5)
    return TokenLoss(0.5 * (kl_p + kl_q), gradient)
