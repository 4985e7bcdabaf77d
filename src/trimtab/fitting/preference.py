"""Losses of whole answers: a preferred one against another, from the sums of their tokens' log-probabilities.

Each is a function of two numbers a pair of answers, with its gradient, so that one pass over the tokens serves: the
gradient of a sum is that of its tokens, scaled. n pairs of answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.errors import InputError


class PairLoss(NamedTuple):
    """A loss a pair of answers and its gradients.

    Attributes:
        value: (n,) float32.
        chosen: (n,) d value / d log p(chosen).
        rejected: (n,) d value / d log p(rejected).
    """

    value: Tensor
    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class Preference:
    """Which loss.

    `dpo`: -log sigmoid(beta ((c - j) - (c_ref - j_ref))), with label smoothing e: (1 - e) of that and e of the loss of
    the opposite preference. `scaled_simpo`: -log sigmoid(max(scale (c_ref - j_ref), 1) c / |c| - j / |j| - gamma); c
    and j are the log-probabilities of the chosen and the rejected answer, |.| their tokens. For the reference of RePS
    the difference in the maximum is the other way round (arXiv 2505.20809).

    Args:
        loss: `dpo` or `scaled_simpo`.
        beta: Of dpo.
        smoothing: e, of dpo.
        gamma: Margin of scaled_simpo, in nats.
        scale: Of the reference's difference in scaled_simpo, per nat.
        reversed_reference: Take j_ref - c_ref in the maximum, as RePS does.

    Raises:
        InputError: An unknown loss, or a smoothing outside [0, 0.5).
    """

    loss: Literal["dpo", "scaled_simpo"]
    beta: float = 0.1
    smoothing: float = 0.0
    gamma: float = 0.0
    scale: float = 1.0
    reversed_reference: bool = False

    def __post_init__(self) -> None:
        if self.loss not in PREFERENCES:
            raise InputError(f"loss is {self.loss!r}; allowed: {', '.join(PREFERENCES)}")
        if not 0 <= self.smoothing < 0.5:
            raise InputError(f"smoothing is {self.smoothing!r}; it must be at least 0 and below 0.5")

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor) -> PairLoss:
        """The loss of n pairs of answers.

        Args:
            chosen: (n,) float32 log p of the preferred answers under the edited model.
            rejected: (n,) of the others.
            references: (n, 2) the same of the reference.
            tokens: (n, 2) float32 lengths.
        """
        difference = references[:, 0] - references[:, 1]
        if self.loss == "dpo":
            z = self.beta * (chosen - rejected - difference)
            value = -(1 - self.smoothing) * F.logsigmoid(z) - self.smoothing * F.logsigmoid(-z)
            slope = self.beta * (torch.sigmoid(z) - (1 - self.smoothing))
            return PairLoss(value, slope, -slope)
        weight = (self.scale * (-difference if self.reversed_reference else difference)).clamp_min(1.0) / tokens[:, 0]
        z = weight * chosen - rejected / tokens[:, 1] - self.gamma
        slope = -torch.sigmoid(-z)
        return PairLoss(-F.logsigmoid(z), slope * weight, -slope / tokens[:, 1])


PREFERENCES = ("dpo", "scaled_simpo")
