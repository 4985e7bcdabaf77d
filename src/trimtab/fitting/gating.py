"""Gates read off two classes: a probe of a few principal components, or a condition on prompts.

Letters: n rows of a class, d width, r components.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.errors import InputError
from trimtab.fitting.logistic import Probe, fit_probe
from trimtab.steering.gates import similarity

FLAT = 1e-9
"""Components along which rows spread less than so much of the widest's are left out."""


class Components(NamedTuple):
    """Principal components: the rows' mean (d,) and orthonormal axes (r, d), float64."""

    mean: Tensor
    axes: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Coordinates (n, r) of rows (n, d)."""
        return (rows.double() - self.mean) @ self.axes.T


def components(rows: Tensor, count: int) -> Components:
    """The first `count` principal components of rows (n, d), or as many as they have.

    Raises:
        InputError: The rows are all the same.
    """
    x = rows.double()
    mean = x.mean(dim=0)
    _, s, vh = torch.linalg.svd(x - mean, full_matrices=False)
    kept = int((s > FLAT * max(float(s[0]), float(x.norm()) * FLAT)).sum())
    if not kept or not float(s[0]) > FLAT * float(x.norm()):
        raise InputError(f"all {len(rows)} states of a probe are the same; give pairs that differ")
    return Components(mean, vh[: min(count, kept)])


def component_probe(positive: Tensor, negative: Tensor, count: int, *, c: float = 1.0) -> Probe:
    """A logistic regression on the first principal components of both classes' rows, folded into one affine score.

    Args:
        positive: (n, d) rows of the positive class.
        negative: (m, d) of the negative class.
        count: Components, at most.
        c: Inverse strength of the regularisation.

    Raises:
        InputError: As `fit_probe` and `components`.
    """
    if not len(positive) or not len(negative):
        raise InputError(f"a probe needs rows of both classes; there are {len(positive)} and {len(negative)}")
    found = components(torch.cat([positive, negative]), count)
    inner = fit_probe(found(positive), found(negative), c=c)
    weight = inner.weight.double() @ found.axes
    return Probe(weight.float(), float(inner.bias - weight @ found.mean), inner.accuracy)


def held_out_accuracy(positive: Tensor, negative: Tensor, count: int, folds: int, generator: torch.Generator) -> float:
    """The balanced accuracy of `component_probe` on rows (n, d) that it was not fitted to, over `folds` parts.

    Row i of both classes is in the same part, so that the two sides of a pair are never told from one another by their
    common content.

    Raises:
        InputError: Fewer rows than parts.
    """
    n = min(len(positive), len(negative))
    if n < folds:
        raise InputError(f"{n} rows a class cannot be split into {folds} parts; give more pairs, or set folds to less")
    parts = torch.randperm(n, generator=generator) % folds
    scores: list[float] = []
    for part in range(folds):
        out = parts == part
        probe = component_probe(positive[:n][~out], negative[:n][~out], count)
        scores.append(probe.balanced_accuracy(positive[:n][out], negative[:n][out]) * int(out.sum()))
    return sum(scores) / n


class Threshold(NamedTuple):
    """Where two classes of numbers are told apart.

    Attributes:
        value: Midway between two of the numbers.
        side: 1 if the positive class lies above, -1 if below.
        accuracy: Share on the right side, the mean of the two classes'.
    """

    value: float
    side: int
    accuracy: float


def best_threshold(positive: Tensor, negative: Tensor, *, both_sides: bool = False) -> Threshold:
    """The midpoint between neighbouring numbers (n,) that tells the classes apart best; of equals the widest gap.

    Args:
        positive: (n,) of the positive class, which lies above.
        negative: (m,) of the negative class.
        both_sides: Let the positive class lie below, if that is better.

    Raises:
        InputError: All numbers are the same.
    """
    values = torch.cat([positive, negative]).double().unique()
    if len(values) < 2:
        raise InputError(
            f"all {len(positive) + len(negative)} prompts are equally similar to the condition; give prompts that "
            "differ, or another condition_layer"
        )
    middles, gaps = (values[1:] + values[:-1]) / 2, values.diff()
    high = (positive.double()[:, None] > middles).double().mean(dim=0)
    low = (negative.double()[:, None] <= middles).double().mean(dim=0)
    accuracy = (high + low) / 2
    side = -1 if both_sides and float(1 - accuracy.min()) > float(accuracy.max()) else 1
    scores = accuracy if side > 0 else 1 - accuracy
    best = float(scores.max())
    index = int(torch.where(scores >= best - 1e-12, gaps, -1.0).argmax())
    return Threshold(float(middles[index]), side, best)


def condition_direction(positive: Tensor, negative: Tensor, how: str) -> Tensor:
    """A direction (d,) float32 that tells prompts (n, d) of two classes apart, towards the positive class.

    Args:
        positive: A row a prompt.
        negative: Row i belongs to row i of the positive class.
        how: `mean`, the difference of the means, or `pca`, the first principal component of all rows, each less the
            middle of its pair.

    Raises:
        InputError: The prompts do not differ.
    """
    gaps = positive.double() - negative.double()
    size = max(float(positive.double().norm()), float(negative.double().norm()), 1e-30)
    if not float(gaps.norm()) > torch.finfo(torch.float32).eps * size:
        raise InputError(
            f"the {len(positive)} prompts of both classes have the same states, so nothing can depend on them; give "
            "pairs whose prompts differ"
        )
    mean = gaps.mean(dim=0)
    found = mean if how == "mean" else torch.linalg.svd(gaps, full_matrices=False).Vh[0]
    sign = -1.0 if float(found @ mean) < 0 else 1.0
    return (sign * found).float()


def similarities(states: Tensor, direction: Tensor, kind: int) -> Tensor:
    """As a prompt gate sees mean states (n, d): (n,)."""
    return similarity(states.float(), direction.float(), kind)
