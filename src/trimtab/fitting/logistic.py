"""Logistic regression of two classes of states: the probe behind several closed forms.

Letters: n rows, d width, r rank of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.errors import InputError

STEPS = 100
"""Newton steps at most; ten are usual."""
TOLERANCE = 1e-10
"""Largest entry of the gradient, a row, at which the minimum counts as found."""
FLAT = 1e-12
"""Directions in which rows spread less than so many of the widest's are left out."""


@dataclass(frozen=True, eq=False)
class Probe:
    """p(positive | h) = sigmoid(<w, h> + b).

    Attributes:
        weight: w, (d,) float32.
        bias: b.
        accuracy: Share of the rows it was fitted to that it gets right, both classes counting alike.
    """

    weight: Tensor
    bias: float
    accuracy: float

    def logits(self, states: Tensor) -> Tensor:
        """(n,) float64 of states (n, d)."""
        return states.double() @ self.weight.double() + self.bias

    def balanced_accuracy(self, positive: Tensor, negative: Tensor) -> float:
        """Share of rows (n, d) on the right side, the mean of the two classes'."""
        right = (self.logits(positive) > 0).double().mean(), (self.logits(negative) <= 0).double().mean()
        return float(sum(right)) / 2


def fit_probe(positive: Tensor, negative: Tensor, *, c: float = 1.0, standardise: bool = True) -> Probe:
    """The L2-regularised logistic regression of two classes, both of which weigh alike.

    Minimises sum_i k_i log(1 + exp(-y_i z_i)) + |w|^2 / (2 c), k_i = n / (2 n_class), as scikit-learn's
    `LogisticRegression(C=c, class_weight="balanced")` does: by Newton's method in float64, to the minimum.

    Args:
        positive: (n, d) rows of the positive class.
        negative: (m, d) of the negative class.
        c: Inverse strength of the regularisation.
        standardise: Bring every column to mean 0 and deviation 1 before; the probe is folded back, so that it reads
            states as they are. Columns that are constant take no part.

    Raises:
        InputError: A class without rows, rows that are not finite or are all the same, or a `c` that is not positive.
    """
    if not len(positive) or not len(negative):
        raise InputError(f"a probe needs rows of both classes; there are {len(positive)} and {len(negative)}")
    if not c > 0:
        raise InputError(f"c is {c!r}; it must be above 0")
    x = torch.cat([positive, negative]).double()
    if not bool(torch.isfinite(x).all()):
        raise InputError("the states of a probe are not finite; look for NaN in the model's weights")
    n, mean = len(x), x.mean(dim=0)
    spread = x.std(dim=0, correction=0)
    moves = (x.amax(dim=0) > x.amin(dim=0)) & (spread > FLAT * max(float(spread.max()), 1e-300))
    if not bool(moves.any()):
        raise InputError(f"all {n} states of a probe are the same; give pairs that differ")
    scale = torch.where(moves, spread, torch.ones_like(spread)) if standardise else torch.ones_like(spread)
    shift = mean if standardise else torch.zeros_like(mean)
    z = torch.where(moves, (x - shift) / scale, torch.zeros_like(x)) if standardise else x
    labels = torch.cat([torch.ones(len(positive)), -torch.ones(len(negative))]).double()
    weights = torch.where(labels > 0, n / (2 * len(positive)), n / (2 * len(negative)))
    w, b = _newton(z, labels, weights, c)
    weight = w / scale
    probe = Probe(weight.float(), float(b - weight @ shift), 0.0)
    return Probe(probe.weight, probe.bias, probe.balanced_accuracy(positive, negative))


def _newton(x: Tensor, labels: Tensor, weights: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """The minimum (d,), () in the span of the rows (n, d), outside of which w has no reason to lie."""
    basis = None
    if x.shape[1] > x.shape[0]:
        _, s, vh = torch.linalg.svd(x, full_matrices=False)
        basis = vh[s > FLAT * s[0]]  # (r, d)
        x = x @ basis.T
    n, width = x.shape
    augmented = torch.cat([x, x.new_ones(n, 1)], dim=1)
    ridge = torch.cat([x.new_full((width,), 1 / c), x.new_zeros(1)])
    theta = x.new_zeros(width + 1)

    def value(at: Tensor) -> Tensor:
        return (weights * F.softplus(-labels * (augmented @ at))).sum() + 0.5 * (ridge * at * at).sum()

    now = value(theta)
    for _ in range(STEPS):
        margin = labels * (augmented @ theta)
        wrong = torch.sigmoid(-margin)
        gradient = ridge * theta - augmented.T @ (weights * labels * wrong)
        if float(gradient.abs().max()) <= TOLERANCE * n:
            break
        curvature = (augmented.T * (weights * wrong * (1 - wrong))) @ augmented + torch.diag(ridge)
        curvature[-1, -1] += 1e-12  # the bias alone is not held where all rows are far on their sides
        step = torch.linalg.solve(curvature, gradient)
        length, tried = 1.0, value(theta - step)
        while not tried < now and length > 1e-8:
            length /= 2
            tried = value(theta - length * step)
        if not tried < now:
            break
        theta, now = theta - length * step, tried
    w = theta[:-1] if basis is None else theta[:-1] @ basis
    return w, theta[-1]
