"""Losses of whole answers: a preferred one against another, from the sums of their tokens' log-probabilities.

Each is a function of two numbers a pair of answers, with its gradient, so that one pass over the tokens serves: the
gradient of a sum is that of its tokens, scaled. n pairs of answers; c and j are the log-probabilities of the chosen and
the rejected answer under the edited model, |.| their tokens, c0 and j0 the same of the model without an edit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

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


class Preference(ABC):
    """A loss of pairs of answers."""

    @abstractmethod
    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """The loss of n pairs of answers.

        Args:
            chosen: c, (n,) float32 log p of the preferred answers under the edited model.
            rejected: j, (n,) of the others.
            references: (n, 2) the same of the reference.
            tokens: (n, 2) float32 lengths.
            signs: (n,) float32, 1, or -1 where the edit's factor is negative: an edit the other way round.
        """


@dataclass(frozen=True)
class Dpo(Preference):
    """-log sigmoid(beta s ((c - j) - (c0 - j0))), s the sign of the edit; of BiPO (arXiv 2406.00045) where s is drawn.

    With label smoothing e: (1 - e) of that and e of the loss of the opposite preference (arXiv 2305.18290).

    Args:
        beta: Nats of preference that count as one are 1 / beta.
        smoothing: e.

    Raises:
        InputError: A smoothing outside [0, 0.5).
    """

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 0.5:
            raise InputError(f"smoothing is {self.smoothing!r}; it must be at least 0 and below 0.5")

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """See `Preference`."""
        scale = self.beta * signs
        z = scale * (chosen - rejected - (references[:, 0] - references[:, 1]))
        value = -(1 - self.smoothing) * F.logsigmoid(z) - self.smoothing * F.logsigmoid(-z)
        slope = scale * (torch.sigmoid(z) - (1 - self.smoothing))
        return PairLoss(value, slope, -slope)


@dataclass(frozen=True)
class Ipo(Preference):
    """(s ((c - j) - (c0 - j0)) - 1 / (2 beta))^2 (arXiv 2310.12036), of sums as it is written there.

    Args:
        beta: The wanted difference is 1 / (2 beta) nats.
    """

    beta: float = 0.1

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """See `Preference`."""
        missing = signs * (chosen - rejected - (references[:, 0] - references[:, 1])) - 1 / (2 * self.beta)
        slope = 2 * signs * missing
        return PairLoss(missing.square(), slope, -slope)


@dataclass(frozen=True)
class SimPo(Preference):
    """-log sigmoid(beta s (c / |c| - j / |j|) - gamma) (arXiv 2405.14734): no reference.

    Args:
        beta: Per nat a token.
        gamma: Margin.
    """

    beta: float = 2.0
    gamma: float = 0.5

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """See `Preference`."""
        scale = self.beta * signs
        z = scale * (chosen / tokens[:, 0] - rejected / tokens[:, 1]) - self.gamma
        slope = -torch.sigmoid(-z) * scale
        return PairLoss(-F.logsigmoid(z), slope / tokens[:, 0], -slope / tokens[:, 1])


@dataclass(frozen=True)
class ScaledSimPo(Preference):
    """-log sigmoid(max(scale (c0 - j0), 1) c / |c| - j / |j| - gamma); the maximum is a number without a gradient.

    For the reference of RePS (arXiv 2505.20809) the difference in the maximum is the other way round.

    Args:
        gamma: Margin, in nats a token.
        scale: Of the reference's difference, per nat.
        reversed_reference: Take j0 - c0 in the maximum, as RePS does: answers that the plain model finds unlikely weigh
            more.
    """

    gamma: float = 0.0
    scale: float = 1.0
    reversed_reference: bool = False

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """See `Preference`; signs have no part in it."""
        difference = references[:, 0] - references[:, 1]
        weight = (self.scale * (-difference if self.reversed_reference else difference)).clamp_min(1.0) / tokens[:, 0]
        z = weight * chosen - rejected / tokens[:, 1] - self.gamma
        slope = -torch.sigmoid(-z)
        return PairLoss(-F.logsigmoid(z), slope * weight, -slope / tokens[:, 1])


@dataclass(frozen=True)
class Split(Preference):
    """a Lc + b Lj + weight relu(margin - (Lj - Lc)), L = -log p a token: the loss of SPLIT (arXiv 2602.02343).

    The first two keep both answers likely (utility), the hinge makes the chosen one likelier (preference).

    Args:
        chosen: a.
        rejected: b.
        weight: Of the hinge.
        margin: In nats a token.
    """

    chosen: float = 1.0
    rejected: float = 0.6
    weight: float = 4.0
    margin: float = 0.5

    def __call__(self, chosen: Tensor, rejected: Tensor, references: Tensor, tokens: Tensor, signs: Tensor) -> PairLoss:
        """See `Preference`; where the sign is negative the answers change their parts."""
        first, second = -chosen / tokens[:, 0], -rejected / tokens[:, 1]
        straight = signs > 0
        wanted, other = torch.where(straight, first, second), torch.where(straight, second, first)
        missing = self.margin - (other - wanted)
        value = self.chosen * wanted + self.rejected * other + self.weight * missing.clamp_min(0.0)
        pushed = self.weight * (missing > 0)
        of_wanted, of_other = self.chosen + pushed, self.rejected - pushed
        of_first, of_second = torch.where(straight, of_wanted, of_other), torch.where(straight, of_other, of_wanted)
        return PairLoss(value, -of_first / tokens[:, 0], -of_second / tokens[:, 1])
